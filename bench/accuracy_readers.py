"""The three that read the generated pages, each as its user gets it: from a picture file to a text in reading order.

Ours is the `cpu` engine behind `Reader`; plain RapidOCR is the default call of its README with its own order of lines;
Tesseract is the command, with all languages of the pages that are installed.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.accuracy_pages import DPI
from bench.accuracy_prose import SENTENCES
from deepseek_ocr.reader import Reader
from deepseek_ocr.tables import parse_table

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from deepseek_ocr.completion import Engine
    from deepseek_ocr.document import Page


@dataclass(frozen=True, slots=True)
class Read:
    """What was read on a page, and how long it took (wall time)."""

    text: str
    seconds: float


async def ours(paths: Sequence[Path], engine: Engine) -> list[Read]:
    """Our pages one by one; starting the engine does not count."""
    texts = []
    async with Reader(engine, workers=1) as reader:
        for path in paths:
            started = time.perf_counter()
            page = await reader.read_page(path, 0)
            texts.append(Read(plain_text(page), time.perf_counter() - started))
            say_problem(path, page)
    return texts


def say_problem(path: Path, page: Page) -> None:
    """A page that was cut off, as on a machine with too much to do, says nothing of how well it is read: name it."""
    if page.problem:
        print(f"{path.name} was not read as it should: {page.problem}")


def plain_text(page: Page) -> str:
    """The text of the blocks, in their order, and of the cells of tables, row by row."""
    parts = []
    for block in page.blocks:
        if block.category == "table" and "<table" in block.text:
            parts += [" ".join(cell.text for cell in row) for row in parse_table(block.text).rows]
        else:
            parts.append(block.text)
    return "\n".join(parts)


def rapidocr(paths: Sequence[Path]) -> list[Read]:
    """Plain RapidOCR; its models are loaded before."""
    from rapidocr import RapidOCR  # noqa: PLC0415 - a second to load

    reader = RapidOCR(params={"Global.log_level": "error"})
    texts = []
    for path in paths:
        started = time.perf_counter()
        result = reader(str(path))
        texts.append(Read("\n".join(result.txts or ()), time.perf_counter() - started))
    return texts


def tesseract_languages() -> str:
    """Those of the pages' languages that are installed, as its command wants them; empty without Tesseract."""
    command = shutil.which("tesseract")
    if not command:
        return ""
    listed = subprocess.run([command, "--list-langs"], capture_output=True, text=True, check=True).stdout.split()  # noqa: S603
    return "+".join(language for language in SENTENCES if language in listed)


def tesseract(paths: Sequence[Path], languages: str) -> list[Read]:
    """Tesseract, one process for each page, which loads its models each time."""
    texts = []
    for path in paths:
        started = time.perf_counter()
        command = ["tesseract", str(path), "-", "--dpi", str(DPI), "-l", languages]
        done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
        texts.append(Read(done.stdout, time.perf_counter() - started))
    return texts
