"""One document in; pages, blocks and Markdown out.

Usable alone, without the daemon: `from deepseek_ocr import read`.  Importing the package loads no engine and no PDF
library: what it offers is loaded when it is first asked for.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deepseek_ocr.reader import Reader, read

__all__ = ["Reader", "read"]

# ONNX Runtime 1.31 reports its use to its maker unless this is set before it is loaded, which PyMuPDF and RapidOCR do
# too.  Documents are nobody's business: it is set here, before anything of ours loads it, in worker processes too.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if not TYPE_CHECKING:  # type checkers see the names above, and no others

    def __getattr__(name: str) -> object:
        """What the package offers, from the module that has it."""
        if name in __all__:
            from deepseek_ocr import reader  # noqa: PLC0415 - it takes 0.3 s that worker processes do without

            return getattr(reader, name)
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
