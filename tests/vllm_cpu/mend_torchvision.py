"""Makes torchvision importable beside a torch without CUDA: `python mend_torchvision.py`, in that environment.

The registry's torchvision is built for CUDA.  Its library cannot be loaded, which torchvision bears, except in two
places that describe an operator of that library to torch whether it was loaded or not.  They are given the decorator
that all the others there have, which looks first.  Done again it changes nothing.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

UNCONDITIONAL = re.compile(r'@torch\.library\.register_fake\("torchvision::(q?nms)"\)')


def main() -> None:
    """Mend the file; ends with an error where torchvision cannot be imported thereafter."""
    found = importlib.util.find_spec("torchvision")
    if found is None or found.origin is None:
        sys.exit("torchvision is not installed here")
    path = Path(found.origin).with_name("_meta_registrations.py")
    text = path.read_text(encoding="utf-8")
    mended = UNCONDITIONAL.sub(r'@register_meta("\1")', text)
    if mended != text:
        # A new file: this one can be a hard link to uv's cache, which other environments are made from.
        new = path.with_suffix(".new")
        new.write_text(mended, encoding="utf-8")
        new.replace(path)
    import torch  # noqa: PLC0415 - torchvision as it is now
    import torchvision  # noqa: F401, PLC0415

    if torch.version.cuda is not None:
        sys.exit("this torch is built for CUDA; requirements/torch-cpu.txt names another one")


if __name__ == "__main__":
    main()
