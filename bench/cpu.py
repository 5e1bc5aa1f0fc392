"""What the cpu engine gains: its pages per second on all cores, against one plain RapidOCR process held to one thread.

Bar: at least 0.95 x the number of workers.  The plain process is RapidOCR as it comes, with the angle classifier off;
ours is the engine through its protocol.  Both read the same arrays: generated A4 pages at 144 dpi, 8 to 14 pt, one and
two columns, slight noise.  The character error rate of both is taken from their lines in the same layout.
Prints the ratio first.  The wall clock counts other programs too; the ratio of CPU time per page does not.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import random
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bench.accuracy_scores import Errors, character_errors
from deepseek_ocr.completion import PageImage
from deepseek_ocr.engine.cpu import CpuEngine
from deepseek_ocr.layout import Line, regions_from_lines
from deepseek_ocr.pages_pdf import mupdf
from deepseek_ocr.prompt import Options

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Image = NDArray[np.uint8]

BAR = 0.95
DPI = 144
#: Grey levels (standard deviation) of the noise, about that of an office scanner.
NOISE = 6
TEXT = (
    "the a of in and on to by for with harbour survey depth chart boat ferry early spring light water observer notes "
    "position careful measuring wrong copied night agreement committee government result figure percent document "
    "analysis quality between however therefore although 1998 2024 37% $1,250 (see e.g. Zürich naïve résumé"
)


class Sheet(NamedTuple):
    """A generated page and what stands on it."""

    image: Image
    text: str


class Run(NamedTuple):
    """What a reader took for all pages, and what it read."""

    wall_s: float
    cpu_s: float
    texts: list[str]


def sheets(count: int, seed: int) -> list[Sheet]:
    """Pages of prose."""
    return [sheet(random.Random(seed + number), columns=1 + number % 2) for number in range(count)]  # noqa: S311


def sheet(dice: random.Random, *, columns: int) -> Sheet:
    """An A4 page full of paragraphs."""
    with mupdf().open() as document:
        page, written = draw(document, dice, columns=columns)
        pixmap = page.get_pixmap(dpi=DPI)
        clean = np.frombuffer(pixmap.samples, np.uint8).reshape(pixmap.height, pixmap.width, 3)
    noise = np.random.default_rng(dice.randrange(2**32)).normal(0, NOISE, (*clean.shape[:2], 1))
    return Sheet(np.clip(clean + noise, 0, 255).astype(np.uint8), " ".join(written))


def draw(document: Any, dice: random.Random, *, columns: int) -> tuple[Any, list[str]]:
    """Add an A4 page full of paragraphs to a PDF; its lines."""
    size, font = dice.choice([8, 9, 10, 11, 12, 14]), dice.choice(["helv", "tiro"])
    written: list[str] = []
    page = document.new_page(width=595, height=842)
    for left, right in ((60, 535),) if columns == 1 else ((50, 285), (310, 545)):
        y = 60.0
        while y < 790:  # noqa: PLR2004 - the foot of the page
            for line in paragraph(dice, right - left, font, size):
                page.insert_text((left, y), line, fontsize=size, fontname=font)
                written.append(line)
                y += 1.25 * size
            y += 0.8 * size
    return page, written


def paragraph(dice: random.Random, width: float, font: str, size: float) -> list[str]:
    """Three to five lines, broken where the next word does not fit."""
    words = TEXT.split()
    lines: list[str] = []
    line = ""
    while len(lines) < dice.randint(3, 5):
        word = dice.choice(words)
        if line and mupdf().get_text_length(f"{line} {word}", font, size) > width:
            lines.append(line)
            line = ""
        line = f"{line} {word}".strip()
    return lines


def plain(images: list[Image]) -> Run:
    """One RapidOCR, as it comes, on one thread; runs in a process of its own."""
    import cv2  # noqa: PLC0415 - in that process only
    from rapidocr import RapidOCR  # noqa: PLC0415

    cv2.setNumThreads(1)
    threads = {f"EngineConfig.onnxruntime.{kind}_op_num_threads": 1 for kind in ("intra", "inter")}
    reader = RapidOCR(params={"Global.use_cls": False, "Global.log_level": "error", **threads})
    reader(images[0])  # loads the models
    wall, cpu = time.perf_counter(), time.process_time()
    results = [reader(image) for image in images]
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    texts = []
    for image, result in zip(images, results, strict=True):
        height, width = image.shape[:2]
        lines = []
        for text, corners in zip(result.txts or (), () if result.boxes is None else result.boxes, strict=True):
            (x0, y0), (x1, y1) = corners.min(axis=0), corners.max(axis=0)
            lines.append(Line(text, (x0 / width, y0 / height, x1 / width, y1 / height)))
        texts.append(" ".join(region.text for region in regions_from_lines(lines, aspect=width / height)))
    return Run(wall, cpu, texts)


async def ours(images: list[Image], engine: CpuEngine) -> Run:
    """The engine, asked for as many pages at once as it wants."""
    await engine.start()
    limit = asyncio.Semaphore(engine.info.capacity)

    async def read(index: int, image: Image) -> str:
        async with limit:
            height, width = image.shape[:2]
            completion = await engine.recognize(PageImage(index, width, height, "px", image, ink=0.1), Options())
            return " ".join(completion.text.split())

    try:
        # Every process is up and has its models, as in a daemon that has been running for a while.
        await asyncio.gather(*(read(0, images[0]) for _ in range(engine.info.capacity)))
        wall, cpu = time.perf_counter(), cpu_s(engine.pids())
        texts = await asyncio.gather(*(read(index, image) for index, image in enumerate(images)))
        return Run(time.perf_counter() - wall, cpu_s(engine.pids()) - cpu, list(texts))
    finally:
        await engine.stop()


def cpu_s(pids: list[int]) -> float:
    """CPU time these processes have used."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def error_rate(run: Run, pages: list[Sheet]) -> float:
    """Character errors per character."""
    counts = (character_errors(text, page.text) for text, page in zip(run.texts, pages, strict=True))
    return sum(counts, Errors()).rate


def main() -> int:
    """Print the comparison; 1 if it is below the bar."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pages", type=int, default=16, help="at least 2")
    parser.add_argument("--workers", type=int, default=0, help="0 = one per core")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    pages = sheets(options.pages, options.seed)
    images = [page.image for page in pages]
    engine = CpuEngine(workers=options.workers)
    workers = engine.info.capacity - 1
    half = len(images) // 2
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        # Half of the baseline before and half after, so that a machine that grows slower meanwhile favours nobody.
        before = process.submit(plain, images[:half]).result()
        all_cores = asyncio.run(ours(images, engine))
        after = process.submit(plain, images[half:]).result()
    one = Run(before.wall_s + after.wall_s, before.cpu_s + after.cpu_s, before.texts + after.texts)
    ratio = one.wall_s / all_cores.wall_s
    print(f"ratio {ratio:.2f} (bar {BAR * workers:.2f} = {BAR} x {workers} workers)")
    print(f"ratio of CPU time per page {one.cpu_s / all_cores.cpu_s:.2f} (per worker, whatever else runs)")
    for name, run in (("plain RapidOCR, one thread", one), (f"cpu engine, {workers} workers", all_cores)):
        speed, cpu = len(pages) / run.wall_s, run.cpu_s / len(pages)
        print(f"{name}: {speed:.3f} pages/s, {cpu:.2f} s CPU per page, CER {error_rate(run, pages):.5f}")
    return int(ratio < BAR * workers)


if __name__ == "__main__":
    sys.exit(main())
