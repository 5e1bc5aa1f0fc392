"""A document's outputs: pictures, keywords and exports beside the text, and what becomes of one that fails."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from daemon.assembly import Assembler, Draft
from daemon.config import Wanted
from deepseek_ocr.document import Block, Document, DocumentHead, Page
from deepseek_ocr.errors import PageError, WorkerDied
from deepseek_ocr.pages import Limits
from tests.documents import text_pdf
from tests.fakes import run_here

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from deepseek_ocr.view import View

WORDS = (
    "The ferry leaves the harbour at seven. The harbour office sells tickets for the ferry. Passengers wait in the "
    "harbour hall until the ferry has moored. In winter the ferry leaves at eight, as the harbour is dark. Whoever "
    "misses the ferry waits for the next one, or takes the bus around the bay to the other harbour."
)
EVERYTHING = Wanted(exports=("layout", "docling", "content_list"))


def page(number: int) -> Page:
    """A page with words and a figure."""
    text = Block(id=f"p{number}b1", category="text", label="text", text=WORDS, box=(50, 50, 550, 300),
                 relative_box=(0.1, 0.1, 0.9, 0.4))  # fmt: skip
    figure = Block(id=f"p{number}b2", category="figure", label="image", text="", box=(100, 400, 500, 700),
                   relative_box=(0.2, 0.5, 0.8, 0.8))  # fmt: skip
    return Page(page_number=number, width=595, height=842, unit="pt", blocks=(text, figure), source="fake", seconds=0)


def draft(folder: Path, wanted: Wanted, pages: int = 2) -> Draft:
    """A document of such pages, its source a PDF without words."""
    source = folder / "source.pdf"
    source.write_bytes(text_pdf(pages))
    head = DocumentHead(
        source_name="x.pdf", source_type="pdf", engine="fake", model="fake-1", task="document", page_count=pages
    )
    staging = folder / "staging"
    staging.mkdir()
    return Draft(
        staging, "x.pdf", source, head, lambda: [page(number) for number in range(1, pages + 1)], Limits(), wanted
    )


async def picture(_path: Path, page_index: int, _view: View) -> bytes:
    """A picture that says of which page it is."""
    return b"PNG %d" % page_index


def listing(folder: Path) -> list[str]:
    """The files of a folder and of those in it."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def docjson(one: Draft) -> Document:
    """What was written."""
    return Document.model_validate_json(one.output(".json").read_bytes())


async def test_everything_that_can_be_had(tmp_path: Path) -> None:
    """Pictures, JSON, exports, Markdown, in the order of publishing, all in processes as the service makes them."""
    one = draft(tmp_path, EVERYTHING)
    assembler = Assembler(picture)
    try:
        outputs, summary = await assembler.assemble(one, run_here)
    finally:
        assembler.close()
    assert outputs == [
        "x.pdf.images", "x.pdf.json", "x.pdf.docling.json", "x.pdf.content_list.json", "x.pdf.layout.pdf", "x.pdf.md",
    ]  # fmt: skip
    assert summary.missing == []
    names = [block.image for each in docjson(one).pages for block in each.blocks if block.image]
    assert listing(one.folder) == sorted([*(f"x.pdf.images/{name}" for name in names), *outputs[1:]])
    assert [(one.folder / "x.pdf.images" / name).read_bytes() for name in names] == [b"PNG 0", b"PNG 1"]
    markdown = one.output(".md").read_text(encoding="utf-8")
    assert all(f"](x.pdf.images/{name})" in markdown for name in names)
    document = docjson(one)
    assert document.language == "en"
    assert any("ferry" in keyword for keyword in document.keywords)
    assert document.summary
    assert document.summary.split(". ")[0] in WORDS
    assert one.output(".layout.pdf").read_bytes().startswith(b"%PDF")
    assert json.loads(one.output(".docling.json").read_bytes())["schema_name"] == "DoclingDocument"


async def test_nothing_that_is_not_wanted(tmp_path: Path) -> None:
    """Markdown and JSON alone."""
    one = draft(tmp_path, Wanted(images=False, keywords=False))
    outputs, _ = await Assembler(picture, run_here).assemble(one, run_here)
    assert outputs == ["x.pdf.json", "x.pdf.md"]
    assert listing(one.folder) == sorted(outputs)
    assert (docjson(one).keywords, docjson(one).language) == ((), None)
    assert "<!-- figure p1b2 -->" in one.output(".md").read_text(encoding="utf-8")


async def test_a_picture_that_cannot_be_rendered_is_named(tmp_path: Path) -> None:
    """The others are there, the Markdown has a mark in its place."""

    async def failing(path: Path, page_index: int, view: View) -> bytes:
        if page_index == 0:
            raise PageError("the page is missing")
        return await picture(path, page_index, view)

    one = draft(tmp_path, Wanted(keywords=False))
    outputs, summary = await Assembler(failing, run_here).assemble(one, run_here)
    assert outputs[0] == "x.pdf.images"
    (sentence,) = summary.missing
    assert sentence.endswith("could not be made: the page is missing")
    assert [block.image is None for each in docjson(one).pages for block in each.blocks[1:]] == [True, False]
    assert "<!-- figure p1b2 -->" in one.output(".md").read_text(encoding="utf-8")


FAILURES: dict[str, Exception] = {
    "a process that dies": WorkerDied("out of memory"),
    "a library's own fault": KeyError("charts"),
    "a library's error without a number": OSError("cannot identify image file"),
    "the memory that a process may have": OSError(12, "Cannot allocate memory"),
}


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
async def test_an_export_that_fails_costs_nothing_else(tmp_path: Path, failure: Exception) -> None:
    """The text is there, the other exports are, and what is missing is named."""

    async def run(function: Callable[..., Any], /, *args: object) -> Any:
        if function.__name__ == "export_docling":
            raise failure
        return function(*args)

    one = draft(tmp_path, EVERYTHING)
    outputs, summary = await Assembler(picture, run).assemble(one, run_here)
    assert "x.pdf.docling.json" not in outputs
    assert {"x.pdf.content_list.json", "x.pdf.layout.pdf", "x.pdf.md"} <= set(outputs)
    assert [sentence.split(" could")[0] for sentence in summary.missing] == ["x.pdf.docling.json"]


async def test_a_process_that_died_once_is_no_loss(tmp_path: Path) -> None:
    """What it was at is made by the next one, as pages are."""
    died = []

    async def run(function: Callable[..., Any], /, *args: object) -> Any:
        if function not in died:
            died.append(function)
            raise WorkerDied("killed")
        return function(*args)

    _, summary = await Assembler(picture, run).assemble(draft(tmp_path, EVERYTHING), run_here)
    assert len(died) == 4
    assert summary.missing == []


async def test_what_is_missing_can_be_kept_in_the_ledger(tmp_path: Path) -> None:
    """One short line of text, also of a name that is no UTF-8.

    The ledger takes no lone surrogates: such a document could not be closed, and its inbox was paused for ever.
    """

    async def run(_function: Callable[..., Any], /, *args: object) -> Any:
        raise ValueError(f"{args[0]}\nholds \ud800 {'and more ' * 1000}")

    one = replace(draft(tmp_path, EVERYTHING), name=os.fsdecode(b"\xff.pdf"))
    _, summary = await Assembler(picture, run).assemble(one, run_here)
    assert len(summary.missing) == 4
    for sentence in summary.missing:
        assert len(sentence.encode()) < 400
        assert "\n" not in sentence
    assert summary.missing[1].startswith(r"\xff.pdf.docling.json could not be made: ")


async def test_a_full_disk_ends_the_rendering_of_pictures(tmp_path: Path) -> None:
    """Nothing writes into the folder any more when the error is out: it is removed then."""
    begun = []

    async def full(_path: Path, page_index: int, _view: View) -> bytes:
        begun.append(page_index)
        if page_index == 0:
            raise OSError(28, "No space left on device")
        await asyncio.Event().wait()
        return b""

    with pytest.raises(OSError, match="No space left"):
        await Assembler(full, run_here).assemble(draft(tmp_path, EVERYTHING, pages=9), run_here)
    assert len(begun) < 9
    assert len(asyncio.all_tasks()) == 1


async def test_a_full_disk_is_no_fault_of_an_export(tmp_path: Path) -> None:
    """It is the environment's and comes out as it is."""

    async def run(function: Callable[..., Any], /, *args: object) -> Any:
        if function.__name__ == "export_docling":
            raise OSError(28, "No space left on device")
        return function(*args)

    with pytest.raises(OSError, match="No space left"):
        await Assembler(picture, run).assemble(draft(tmp_path, EVERYTHING), run_here)
