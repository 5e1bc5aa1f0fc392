"""Which pages get base where the mode is "auto", over generated pages and a folder of samples.

`python -m bench.auto_mode [FOLDER]`.  No bar: what it costs in accuracy needs the model's weights.  Generated pages are
those of `bench.accuracy_pages`: prose of 8 to 14 pt, as a scanner sees it.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from pathlib import Path

from bench.accuracy_pages import available_fonts, picture, sheets
from deepseek_ocr.errors import DocumentError, PageError
from deepseek_ocr.pages import Limits, inspect, load_page
from deepseek_ocr.prompt import AUTO

LIMITS = Limits()


def modes(path: Path) -> list[tuple[str, int]]:
    """Mode and tokens of each page that is not blank."""
    found = []
    for page_index in range(inspect(path, LIMITS).page_count):
        tiles = load_page(path, page_index, needs="tiles", limits=LIMITS, mode=AUTO).tiles
        if tiles is not None:
            found.append((str(tiles.mode), tiles.token_count))
    return found


def show(name: str, found: list[tuple[str, int]]) -> None:
    """The share of base, and tokens a page against those of gundam alone."""
    base = sum(mode == "base" for mode, _ in found)
    print(f"{name:28} {base:4} of {len(found):4} pages get base; {sum(tokens for _, tokens in found) / len(found):.0f}")


def main() -> None:
    """Print the shares."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, help="documents of any kind")
    parser.add_argument("--pages", type=int, default=90)
    arguments = parser.parse_args()
    by_size: dict[str, list[tuple[str, int]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for sheet in sheets(arguments.pages, 0, available_fonts()):
            page = picture(sheet, 0)
            path = Path(folder) / page.name
            path.write_bytes(page.data)
            by_size.setdefault(f"generated, {sheet.size:2} pt", []).extend(modes(path))
    print("pages, and image tokens a page in the mean (gundam alone: A4 903)")
    for name, found in sorted(by_size.items()):
        show(name, found)
    show("generated, all", [one for found in by_size.values() for one in found])
    if arguments.folder:
        samples, refused = [], Counter[str]()
        for path in sorted(arguments.folder.rglob("*.*")):
            try:
                samples += modes(path)
            except (DocumentError, PageError) as error:
                refused[type(error).__name__] += 1
        show(f"{arguments.folder.name}", samples)
        if refused:
            print("not read:", ", ".join(f"{count} {name}" for name, count in refused.items()))


if __name__ == "__main__":
    main()
