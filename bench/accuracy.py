"""How well is it read?  On generated pages against plain RapidOCR and Tesseract, or on any OmniDocBench-style folder.

`python -m bench.accuracy generated [--pages N] [--seed S] [--worst N] [--write DIR]`: pages whose text is known
(`accuracy_pages.py`), read by the three of `accuracy_readers.py`.  Bar: the lowest word error rate of those that are
there; Tesseract is Debian's `tesseract-ocr` with the packages of the pages' languages, and is left out where absent.
Error rates are edits / units of the truth over all pages (`accuracy_scores.py`); seconds are wall time, one page at a
time, and mean little where other programs run.  Prints our figure first, with its ratios.

`python -m bench.accuracy folder DIR [--engine NAME | --config FILE | --predictions DIR] [--each]`: the table of the
OmniDocBench paper (`omnidocbench.py`) for what an engine reads, or for Markdown or DocJSON files that are there,
named after the pictures.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from bench.accuracy_pages import CONDITIONS, FONTS, SIZES, available_fonts, picture, sheets, write_folder
from bench.accuracy_prose import SENTENCES
from bench.accuracy_readers import Read, ours, rapidocr, say_problem, tesseract, tesseract_languages
from bench.accuracy_scores import Errors, character_errors, differences, plain_quotes, word_errors
from bench.omnidocbench import load_truth, picture_of, prediction, report, score_page
from daemon.config import load
from daemon.engines import build_engine
from deepseek_ocr.engine import Choice, build
from deepseek_ocr.markdown import page_markdown
from deepseek_ocr.prompt import Task
from deepseek_ocr.reader import Reader

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench.accuracy_pages import Picture
    from bench.omnidocbench import Score, Truth
    from deepseek_ocr.completion import Engine

OURS, RAPIDOCR, TESSERACT = "cpu engine", "plain RapidOCR", "Tesseract"
#: Differences shown of each of the worst pages.
SHOWN = 40


def generated(arguments: argparse.Namespace) -> int:
    """Read generated pages with all that are there; 1 if another one has fewer word errors."""
    pages = [picture(sheet, arguments.seed) for sheet in sheets(arguments.pages, arguments.seed, available_fonts())]
    if arguments.write:
        write_folder(arguments.write, pages)
    with tempfile.TemporaryDirectory(prefix="ocr-daemon-bench-") as folder:
        write_folder(Path(folder), pages)
        reads = read_all([Path(folder) / "images" / page.name for page in pages])
    print(tables(pages, reads))
    for page in sorted(pages, key=lambda page: -_words(page, reads[OURS]).rate)[: arguments.worst]:
        print(f"\n{page.sheet}, word error rate {_words(page, reads[OURS]).rate:.4f}; written -> read:")
        for written, read in differences(reads[OURS][page.sheet.number - 1].text, page.text)[:SHOWN]:
            print(f"  {written!r} -> {read!r}")
    rates = {name: _total(pages, read, word_errors).rate for name, read in reads.items()}
    return int(min(rates, key=lambda name: rates[name]) != OURS)


def read_all(paths: Sequence[Path]) -> dict[str, list[Read]]:
    """What each of them reads; says so where Tesseract is absent."""
    reads = {OURS: asyncio.run(ours(paths, build(Choice("cpu", "measured")))), RAPIDOCR: rapidocr(paths)}
    versions = [f"{name} {metadata.version(name)}" for name in ("rapidocr", "onnxruntime", "pymupdf")]
    languages = tesseract_languages()
    if languages:
        reads[TESSERACT] = tesseract(paths, languages)
        said = subprocess.run(["tesseract", "--version"], capture_output=True, text=True, check=True)  # noqa: S607
        versions.append(f"{said.stdout.splitlines()[0]} -l {languages}")
    else:
        print("no tesseract with a language of the pages (Debian: tesseract-ocr, tesseract-ocr-deu ...): left out")
    print(", ".join(versions))
    return reads


def tables(pages: Sequence[Picture], reads: dict[str, list[Read]]) -> str:
    """All figures: the ratio, the totals, and the word error rate under each condition."""
    totals = {name: _total(pages, read, word_errors).rate for name, read in reads.items()}
    ratios = [f"{totals[OURS] / rate:.2f} x {name}'s {rate:.4f}" for name, rate in totals.items() if name != OURS]
    lines = [f"word error rate {totals[OURS]:.4f}: {', '.join(ratios)} (bar: the lowest), {len(pages)} pages", ""]
    lines += _row("reader", "WER", "WER, plain quotes", "WER, no words broken", "CER", "s a page", head=True)
    for name, read in reads.items():
        whole = [page for page in pages if not page.sheet.hyphens]
        figures = [
            _total(pages, read, word_errors),
            _total(pages, read, lambda text, truth: word_errors(plain_quotes(text), plain_quotes(truth))),
            _total(whole, read, word_errors),
            _total(pages, read, character_errors),
        ]
        seconds = sum(one.seconds for one in read) / len(pages)
        lines += _row(name, *(f"{figure.rate:.4f}" for figure in figures), f"{seconds:.1f}")
    conditions = {"font": FONTS, "size": SIZES, "columns": (1, 2), "condition": CONDITIONS, "language": SENTENCES}
    for name, values in conditions.items():
        lines += ["", *_row(name, "pages", *(f"{reader}, WER" for reader in reads), head=True)]
        for value in values:
            chosen = [page for page in pages if getattr(page.sheet, name) == value]
            rates = (f"{_total(chosen, read, word_errors).rate:.4f}" for read in reads.values())
            lines += _row(str(value), str(len(chosen)), *rates)
    return "\n".join(lines)


def _row(*cells: str, head: bool = False) -> list[str]:
    return [f"| {' | '.join(cells)} |"] + ["|---" * len(cells) + "|"] * head


def _total(pages: Sequence[Picture], reads: Sequence[Read], errors: Callable[[str, str], Errors]) -> Errors:
    return sum((errors(reads[page.sheet.number - 1].text, page.text) for page in pages), Errors())


def _words(page: Picture, reads: Sequence[Read]) -> Errors:
    return _total([page], reads, word_errors)


def folder(arguments: argparse.Namespace) -> int:
    """Score a folder; 1 if a page has no prediction."""
    truth = load_truth(arguments.folder)
    if arguments.predictions:
        name, texts = arguments.predictions.name, [prediction(arguments.predictions, page.image) for page in truth]
    else:
        engine = (
            build_engine(load(arguments.config), [Task.DOCUMENT])[1]
            if arguments.config
            else build(Choice(arguments.engine, "asked for"))
        )
        name, texts = engine.info.name, list(asyncio.run(read_folder(arguments.folder, truth, engine)))
    scores = score_all(truth, texts)
    print(report(scores, name))
    missing = [page.image for page, text in zip(truth, texts, strict=True) if text is None]
    if missing:
        print(f"\n{len(missing)} of {len(truth)} pages have no prediction and count as empty: {', '.join(missing[:9])}")
    if arguments.each:
        print()
        for score in scores:
            print(score)
    return int(bool(missing))


def score_all(truth: Sequence[Truth], texts: Sequence[str | None]) -> list[Score]:
    """The figures of each page; a page without a text counts as empty."""
    return [score_page(page, text or "") for page, text in zip(truth, texts, strict=True)]


async def read_folder(path: Path, truth: Sequence[Truth], engine: Engine) -> list[str]:
    """The Markdown of each page, as many at once as the engine wants."""
    limit = asyncio.Semaphore(engine.info.capacity)

    async def markdown(reader: Reader, page: Truth) -> str:
        async with limit:
            file = picture_of(path, page)
            read = await reader.read_page(file, 0)
            say_problem(file, read)
            return page_markdown(read)

    async with Reader(engine) as reader:
        return await asyncio.gather(*(markdown(reader, page) for page in truth))


def main(words: Sequence[str] | None = None) -> int:
    """Run one of both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    first = commands.add_parser("generated")
    first.add_argument("--pages", type=int, default=30, help="30 have every value of every condition (default)")
    first.add_argument("--seed", type=int, default=0)
    first.add_argument("--worst", type=int, default=0, metavar="N", help="show what our engine got wrong on N pages")
    first.add_argument("--write", type=Path, metavar="DIR", help="keep the pages, in the format of OmniDocBench")
    first.set_defaults(run=generated)
    second = commands.add_parser("folder")
    second.add_argument("folder", type=Path)
    source = second.add_mutually_exclusive_group()
    source.add_argument("--engine", default="cpu", help="default: cpu")
    source.add_argument("--config", type=Path, metavar="FILE", help="the engine of a config.toml")
    source.add_argument("--predictions", type=Path, metavar="DIR", help="<picture>.md or .json, read before")
    second.add_argument("--each", action="store_true", help="a line for each page")
    second.set_defaults(run=folder)
    arguments = parser.parse_args(words)
    done: int = arguments.run(arguments)
    return done


if __name__ == "__main__":
    sys.exit(main())
