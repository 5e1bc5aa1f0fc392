"""What it takes to make a file's page into the tiles that the model sees, in milliseconds of one core.

`.venv/bin/python -m bench.preprocess`.  Bar: 35 ms for a born-digital PDF page of A4 in gundam mode.  Beside each kind
of file stands the old path in the same run: the page as an image at 144 dpi, a PDF with its text, and `tile` of it,
which resizes twice.  Then all cores read born-digital pages, with tiles in shared memory as the service does and, as
the baseline, sent back as objects: pages per second, what the main process spends on a page, how late its loop comes.
Sharpness is the mean difference between neighbouring pixels of the crops, new over old.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import os
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from bench.accuracy_prose import HEADINGS, paragraph
from deepseek_ocr.pages import Limits, initialize_worker, load_page
from deepseek_ocr.pages_pdf import mupdf
from deepseek_ocr.processes import ProcessPool
from deepseek_ocr.prompt import Mode
from deepseek_ocr.tile_memory import TileMemory
from deepseek_ocr.tiles import Tiles, tile

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

BAR_MS = 35.0
A4 = (595, 842)
LIMITS = Limits()
#: Pages of each kind, and how often each is timed; the median counts.
PAGES, ROUNDS = 4, 3
#: Grey levels (standard deviation) of a scanner's noise.
NOISE = 6.0
TICK_S = 0.005


class Page(NamedTuple):
    """A page of a file."""

    path: Path
    page_index: int


class Cost(NamedTuple):
    """Milliseconds of processor time, and what came of it."""

    ms: float
    tiles: Tiles


def born_digital(coloured: bool) -> bytes:
    """A PDF of full pages of prose in 11 pt, the heading blue if they are coloured."""
    dice = random.Random(0)  # noqa: S311 - pages, not secrets
    with mupdf().open() as document:
        for _ in range(PAGES):
            page = document.new_page(width=A4[0], height=A4[1])
            ink = (0, 0, 0.6) if coloured else (0, 0, 0)
            page.insert_text((60, 70), dice.choice(HEADINGS["eng"]), fontsize=18, fontname="hebo", color=ink)
            prose = " ".join(paragraph(dice, "eng") for _ in range(30))
            size = 11.0
            while page.insert_textbox((60, 90, 535, 790), prose, fontsize=size, fontname="tiro") < 0:
                prose = prose[: int(len(prose) * 0.95)]
        return bytes(document.tobytes())


def pictures(pdf: bytes, dpi: int, mode: str, noise: float) -> list[Image.Image]:
    """The pages as a scanner sees them."""
    images = []
    with mupdf().open(stream=pdf, filetype="pdf") as document:
        for page in document:
            pixmap = page.get_pixmap(dpi=dpi)
            image = Image.frombytes("RGB", (pixmap.width, pixmap.height), pixmap.samples).convert(mode)
            grain = np.random.default_rng(page.number).normal(0, noise, np.asarray(image).shape) if noise else 0
            images.append(Image.fromarray((np.asarray(image) + grain).clip(0, 255).astype(np.uint8)))
    return images


def encoded(image: Image.Image, kind: str) -> bytes:
    """The picture as a file."""
    file = io.BytesIO()
    image.save(file, kind, **({"quality": 80} if kind == "JPEG" else {}))
    return file.getvalue()


def scanned(images: list[Image.Image]) -> bytes:
    """A PDF whose pages are JPEGs."""
    with mupdf().open() as document:
        for image in images:
            page = document.new_page(width=A4[0], height=A4[1])
            page.insert_image(page.rect, stream=encoded(image, "JPEG"))
        return bytes(document.tobytes())


def documents(folder: Path) -> dict[str, list[Page]]:
    """Kind -> its pages; the first two are those the bar is for."""
    black, coloured = born_digital(coloured=False), born_digital(coloured=True)
    pdfs = {
        "PDF, born digital": black,
        "PDF, born digital, coloured heading": coloured,
        "PDF, scan, grey JPEG, 200 dpi": scanned(pictures(coloured, 200, "L", NOISE)),
        "PDF, scan, colour JPEG, 200 dpi": scanned(pictures(coloured, 200, "RGB", NOISE)),
        "PDF, scan, colour JPEG, 300 dpi": scanned(pictures(coloured, 300, "RGB", NOISE)),
    }
    files = {
        "PNG, grey, 144 dpi": [encoded(image, "PNG") for image in pictures(black, 144, "L", 0)],
        "PNG, RGB without colour, 144 dpi": [encoded(image, "PNG") for image in pictures(black, 144, "RGB", 0)],
        "PNG, coloured heading, 144 dpi": [encoded(image, "PNG") for image in pictures(coloured, 144, "RGB", 0)],
        "JPEG, grey, 300 dpi": [encoded(image, "JPEG") for image in pictures(coloured, 300, "L", NOISE)],
        "JPEG, colour, 144 dpi": [encoded(image, "JPEG") for image in pictures(coloured, 144, "RGB", NOISE)],
        "JPEG, colour, 300 dpi": [encoded(image, "JPEG") for image in pictures(coloured, 300, "RGB", NOISE)],
        "JPEG, colour, 400 dpi": [encoded(image, "JPEG") for image in pictures(coloured, 400, "RGB", NOISE)],
    }
    kinds = {}
    for number, (name, pdf) in enumerate(pdfs.items()):
        path = folder / f"{number}.pdf"
        path.write_bytes(pdf)
        kinds[name] = [Page(path, index) for index in range(PAGES)]
    for number, (name, contents) in enumerate(files.items()):
        kinds[name] = []
        for index, content in enumerate(contents):
            path = folder / f"{number}-{index}"
            path.write_bytes(content)
            kinds[name].append(Page(path, 0))
    return kinds


def new(page: Page) -> Tiles:
    """The way of a page today."""
    tiles = load_page(page.path, page.page_index, needs="tiles", limits=LIMITS, mode=Mode.GUNDAM).tiles
    if tiles is None:
        raise ValueError("the page is blank")
    return tiles


def old(page: Page) -> Tiles:
    """The way it was: an image at 144 dpi, resized twice."""
    pixels = load_page(page.path, page.page_index, needs="pixels", limits=LIMITS).pixels
    if pixels is None:
        raise ValueError("the page has no pixels")
    return tile(pixels, Mode.GUNDAM)


def cost(way: Callable[[Page], Tiles], pages: list[Page]) -> Cost:
    """The median over pages and rounds, after one round that is not counted."""
    times = []
    for round_number in range(ROUNDS + 1):
        for page in pages:
            started = time.process_time()
            tiles = way(page)
            if round_number:
                times.append(time.process_time() - started)
    return Cost(1000 * statistics.median(times), tiles)


def sharpness(crops: NDArray[np.uint8]) -> float:
    """The mean difference between neighbours, across and down."""
    levels = crops.astype(np.int16)
    return float(np.abs(np.diff(levels, axis=-1)).mean() + np.abs(np.diff(levels, axis=-2)).mean())


def compare(name: str, pages: list[Page]) -> float:
    """Print a kind; its new cost in milliseconds."""
    before, after = cost(old, pages), cost(new, pages)
    if before.tiles.grid != after.tiles.grid:
        raise ValueError(f"{name}: the grid changed from {before.tiles.grid} to {after.tiles.grid}")
    apart = np.abs(before.tiles.crops.astype(np.int16) - after.tiles.crops).mean()
    sharper = sharpness(after.tiles.crops) / sharpness(before.tiles.crops)
    print(
        f"{name:36} {after.ms:6.1f} ms, old {before.ms:6.1f} ms: {before.ms / after.ms:4.1f} x;  "
        f"crops differ by {apart:4.2f} levels, {sharper:4.2f} x as sharp"
    )
    return after.ms


async def together(pages: list[Page], count: int, workers: int, *, shared: bool) -> str:
    """All cores at once: what they reach and what the main process pays."""
    pool = ProcessPool(workers, initializer=initialize_worker)
    memory = TileMemory(2 * workers) if shared else None
    delays: list[float] = []
    numbers = iter(range(count))

    async def watch() -> None:
        while True:
            wanted = time.perf_counter() + TICK_S
            await asyncio.sleep(TICK_S)
            delays.append(time.perf_counter() - wanted)

    async def feed() -> None:
        for number in numbers:
            page = pages[number % len(pages)]
            place = memory.take() if memory else None
            await pool.run(
                load_page, page.path, page.page_index, needs="tiles", limits=LIMITS, mode=Mode.GUNDAM, place=place
            )
            if memory and place:
                memory.give_back(place)

    try:
        await pool.warm()
        await asyncio.gather(*(pool.run(new, pages[0]) for _ in range(workers)))
        watching = asyncio.create_task(watch())
        started, began = time.perf_counter(), time.process_time()
        await asyncio.gather(*(feed() for _ in range(2 * workers)))
        wall_s, main_s = time.perf_counter() - started, time.process_time() - began
        watching.cancel()
    finally:
        pool.close()
        if memory:
            memory.close()
    delays.sort()
    return (
        f"{count / wall_s:5.1f} pages/s on {workers} cores; main process {1000 * main_s / count:5.2f} ms a page, "
        f"its loop late by {1000 * delays[int(0.999 * len(delays))]:.0f} ms (p99.9), {1000 * delays[-1]:.0f} ms at most"
    )


def main() -> int:
    """Print all kinds; 1 if a born-digital page is above the bar."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pages", type=int, default=400, help="how many are read on all cores")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        kinds = documents(Path(folder))
        figures = [compare(name, pages) for name, pages in kinds.items()]
        digital = next(iter(kinds.values()))
        for shared, words in ((True, "tiles in shared memory"), (False, "tiles sent as objects")):
            print(f"{words:24}", asyncio.run(together(digital, arguments.pages, arguments.workers, shared=shared)))
    print(f"a born-digital page takes {max(figures[:2]):.1f} ms of a core, {max(figures[:2]) / BAR_MS:.2f} of the bar")
    return int(max(figures[:2]) > BAR_MS)


if __name__ == "__main__":
    sys.exit(main())
