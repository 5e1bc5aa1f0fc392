"""The documents of `bench/gpu.py`: pages of A4 full of words, as pictures and as born-digital PDFs."""

from __future__ import annotations

import random
from multiprocessing import Pool
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

#: A4 at 144 dpi.
PAGE_PX = (1191, 1684)
PAGE_PT = (595.28, 841.89)
#: Different ones of each kind; more documents are copies of them.
PICTURES = 64
#: From one line of a page to the next, and from its edge to the first and from the last.
LINE_PX, MARGIN_PX = 22, 60
WORDS = 18


def lines(number: int) -> list[str]:
    """What stands on a page."""
    letters = random.Random(number)  # noqa: S311 - pictures, not secrets
    count = len(range(MARGIN_PX, PAGE_PX[1] - MARGIN_PX, LINE_PX))
    return [
        " ".join("".join(letters.choices("abcdefghijklmnop", k=letters.randint(2, 9))) for _ in range(WORDS))
        for _ in range(count)
    ]


def write_pictures(folder: Path) -> None:
    """The pages as PNG files."""
    with Pool() as pool:
        pool.starmap(write_picture, [(folder / f"page-{number:02}.png", number) for number in range(PICTURES)])


def write_picture(path: Path, number: int) -> None:
    """One of them."""
    from PIL import Image, ImageDraw  # noqa: PLC0415 - in stages only

    image = Image.new("RGB", PAGE_PX, "white")
    draw = ImageDraw.Draw(image)
    for row, line in enumerate(lines(number)):
        draw.text((70, MARGIN_PX + LINE_PX * row), line, fill="black")
    image.save(path, compress_level=1)


def write_pdf(path: Path, first: int, pages: int = 1) -> Path:
    """So many of the pages, beginning with that number, as a PDF with text."""
    import pymupdf  # noqa: PLC0415 - the same

    document = pymupdf.open()
    for number in range(first, first + pages):
        page = document.new_page(width=PAGE_PT[0], height=PAGE_PT[1])
        writer = pymupdf.TextWriter(page.rect)
        font = pymupdf.Font("helv")
        for row, line in enumerate(lines(number)):
            writer.append((35, (MARGIN_PX + LINE_PX * row) / 2), line, font=font, fontsize=7)
        writer.write_text(page)
    document.save(path)
    document.close()
    return path
