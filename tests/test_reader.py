"""One page, whatever it takes: loading, recognizing, and what helps where that failed."""

from __future__ import annotations

import asyncio
import io
from dataclasses import replace
from typing import TYPE_CHECKING

import pymupdf
import pytest
import pytest_asyncio
from PIL import Image

from deepseek_ocr.completion import Completion, Region
from deepseek_ocr.document import Flag
from deepseek_ocr.errors import (
    Corrupt,
    EngineDeadError,
    PageError,
    TooManyPages,
    UnsupportedType,
    WorkerDied,
    WorkerTimeout,
)
from deepseek_ocr.pages import Limits
from deepseek_ocr.prompt import AUTO, Mode, Options, Task
from deepseek_ocr.reader import Reader
from deepseek_ocr.view import View
from tests.documents import bars, encoded, jpeg, paper, text_pdf
from tests.fakes import FakeEngine, completion
from tests.page_text import text

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

#: For tests that share `processes`.
in_one_loop = pytest.mark.asyncio(loop_scope="module")

BOX = (0.1, 0.2, 0.5, 0.25)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def processes() -> AsyncIterator[Reader]:
    """One reader for many tests: its process takes a second to start."""
    async with Reader(FakeEngine(), workers=1) as reader:
        yield reader


@pytest.fixture
def engine() -> FakeEngine:
    """An engine that says what it is told to."""
    return FakeEngine()


@pytest.fixture
def reader(processes: Reader, engine: FakeEngine) -> Iterator[Reader]:
    """A reader with that engine."""
    processes.engine, processes.limits = engine, Limits()
    yield processes
    processes.engine = FakeEngine()


@in_one_loop
async def test_a_page_is_loaded_and_recognized(reader: Reader, engine: FakeEngine, tmp_path: Path) -> None:
    """The engine gets the picture and the text layer, and what it says becomes blocks in page units."""
    path = tmp_path / "x.pdf"
    path.write_bytes(text_pdf(2, lines=3))
    engine.answers[1] = [
        Completion("Title\n\nText", "stop", 0.5, (Region("title", "Title", BOX, 0.91236), Region("odd", "Text", BOX)))
    ]
    assert (await reader.inspect(path)).page_count == 2
    page = await reader.read_page(path, 1)
    (image,) = engine.calls
    assert image.pixels is not None
    assert image.pixels.shape == (1684, 1190, 3)
    assert "Page 2" in image.text_layer[0].text
    assert (page.page_number, page.width, page.height, page.unit) == (2, 595, 842, "pt")
    assert (page.problem, page.blank, page.source, page.seconds) == (None, False, "fake", 0.5)
    assert [(block.id, block.category, block.label, block.text) for block in page.blocks] == [
        ("p2b1", "heading", "title", "Title"), ("p2b2", "text", "odd", "Text"),
    ]  # fmt: skip
    assert page.blocks[0].box == (59.5, 168.4, 297.5, 210.5)
    assert [block.confidence for block in page.blocks] == [0.9124, None]
    assert page.confidence == 0.9124


@in_one_loop
async def test_an_engine_that_needs_no_pixels_gets_none(reader: Reader, tmp_path: Path) -> None:
    """Nothing is rendered for it."""
    path = tmp_path / "x.pdf"
    path.write_bytes(text_pdf(1))
    engine = FakeEngine(needs="nothing")
    reader.engine = engine
    await reader.read_page(path, 0)
    assert engine.calls[0].pixels is None


@in_one_loop
async def test_a_blank_page_is_not_recognized(reader: Reader, engine: FakeEngine, tmp_path: Path) -> None:
    """No engine sees it, and it is said to be blank, which is no problem."""
    path = tmp_path / "x.png"
    path.write_bytes(encoded(paper((600, 800)), "PNG"))
    page = await reader.read_page(path, 0)
    assert (page.blank, page.problem, page.blocks, engine.calls) == (True, None, (), [])


@in_one_loop
async def test_where_nothing_can_be_seen_no_model_is_asked(reader: Reader, engine: FakeEngine, tmp_path: Path) -> None:
    """A page without ink that has a text layer is not blank, but what a model read there would be made up."""
    path = tmp_path / "x.pdf"
    with pymupdf.open() as document:
        document.new_page().insert_text((72, 72), "unseen", render_mode=3)
        document.save(path)
    page = await reader.read_page(path, 0)
    assert (page.blank, page.problem, page.blocks, engine.calls) == (False, None, (), [])


@in_one_loop
async def test_a_page_that_an_engine_cannot_read_keeps_the_files_text(
    reader: Reader, engine: FakeEngine, tmp_path: Path
) -> None:
    """The text layer is better than nothing; the page says why and where its text comes from."""
    path = tmp_path / "x.pdf"
    path.write_bytes(text_pdf(1))
    engine.answers[0] = [PageError("the page is too much for it")]
    page = await reader.read_page(path, 0)
    assert page.problem == "the page is too much for it; the text is the file's own"
    assert page.source == "textlayer"
    assert "quick brown fox" in text(page)


@pytest.mark.parametrize("answer", [PageError("the page is too much for it"), completion("")], ids=["refused", "empty"])
@in_one_loop
async def test_the_text_of_tiles_is_asked_for_where_it_helps(
    reader: Reader, tmp_path: Path, answer: Completion | PageError
) -> None:
    """A page that came as tiles has no text with it; where its reading is bad, it still ends with the file's own."""
    path = tmp_path / "x.pdf"
    path.write_bytes(text_pdf(1))
    engine = FakeEngine(needs="tiles")
    engine.info = replace(engine.info, mode=Mode.BASE)
    reader.engine = engine
    engine.answers[0] = [answer] * 9
    page = await reader.read_page(path, 0)
    assert engine.calls[0].text_layer == ()
    assert engine.calls[0].tiles is not None
    assert page.source == "textlayer"
    assert "quick brown fox" in text(page)


@pytest.mark.parametrize(("lines", "mode"), [(30, "base"), (0, "gundam")], ids=["letter", "a line"])
@in_one_loop
async def test_the_mode_that_was_chosen_is_told(reader: Reader, tmp_path: Path, lines: int, mode: str) -> None:
    """Where the mode is chosen for each page, its provenance has the one it was read with."""
    path = tmp_path / "x.pdf"
    path.write_bytes(text_pdf(1, lines=lines))
    reader.engine = FakeEngine(needs="tiles")
    reader.engine.info = replace(reader.engine.info, mode=AUTO)
    page = await reader.read_page(path, 0)
    assert page.provenance
    assert page.provenance.mode == mode


@pytest.mark.parametrize("mode", Mode)
@in_one_loop
async def test_a_page_is_read_in_the_mode_that_is_asked_for(reader: Reader, tmp_path: Path, mode: Mode) -> None:
    """Another than the engine's own: the tiles are of that mode, and the provenance names it."""
    path = tmp_path / "x.pdf"
    path.write_bytes(text_pdf(1))
    engine = reader.engine = FakeEngine(needs="tiles")
    engine.info = replace(engine.info, mode=Mode.BASE if mode is Mode.TINY else Mode.TINY)
    page = await reader.read_page(path, 0, Options(mode=mode))
    side = {Mode.TINY: 512, Mode.SMALL: 640, Mode.BASE: 1024, Mode.LARGE: 1280, Mode.GUNDAM: 1024}[mode]
    tiles = engine.calls[0].tiles
    assert tiles is not None
    assert tiles.view.shape[-2:] == (side, side)
    assert (len(tiles.crops) > 0) == (mode is Mode.GUNDAM)
    assert page.provenance
    assert page.provenance.mode == mode


@in_one_loop
async def test_a_scan_that_an_engine_cannot_read_is_marked(reader: Reader, engine: FakeEngine, tmp_path: Path) -> None:
    """Without a text layer the page is empty and says why; it is never left out."""
    path = tmp_path / "x.jpg"
    path.write_bytes(jpeg(bars((620, 877))))
    engine.answers[0] = [WorkerTimeout("no result after 60 s")]
    page = await reader.read_page(path, 0)
    assert (page.problem, page.source, page.blocks) == ("no result after 60 s", "none", ())


LONG = " ".join(f"{number * 7919 % 10007:x}" for number in range(450))
#: Name -> what the engine says of a page with a text layer, the problem, and where the text comes from.
WEAK: dict[str, tuple[Completion, str, str]] = {
    "nothing": (completion(""), "nothing was read", "textlayer"),
    "cut off": (completion("half", finish_reason="length"), "cut off", "textlayer"),
    "cut off after most of it": (completion(LONG, finish_reason="length"), "cut off", "fake"),
    "cut off before anything": (completion("", finish_reason="length"), "cut off", "textlayer"),
    "unsure": (completion("hm", confidence=0.3), "low confidence", "textlayer"),
}


@pytest.mark.parametrize(("answer", "problem", "source"), WEAK.values(), ids=WEAK)
@in_one_loop
async def test_a_weak_reading_is_marked(
    reader: Reader, engine: FakeEngine, tmp_path: Path, answer: Completion, problem: str, source: str
) -> None:
    """However often it is tried: the best is kept, with its problem, be it the file's own text."""
    path = tmp_path / "x.pdf"
    path.write_bytes(text_pdf(1))
    engine.answers[0] = [answer] * 9
    page = await reader.read_page(path, 0)
    assert problem in (page.problem or "")
    assert page.source == source
    assert "quick brown fox" in text(page) if source == "textlayer" else LONG in text(page)
    assert page.provenance
    assert len(page.provenance.attempts) >= 2


@in_one_loop
async def test_a_page_that_lies_on_its_side_is_read_upright(reader: Reader, engine: FakeEngine, tmp_path: Path) -> None:
    """The engine gets the page turned, and what it finds lies where it stands on the page."""
    path = tmp_path / "x.pdf"
    with pymupdf.open("pdf", text_pdf(1)) as document:
        document[0].set_rotation(90)
        document.save(path)
    read = Region("text", LONG, (0.05, 0.0, 0.95, 0.65), 0.99)
    engine.answers[0] = [
        completion("||| ||", confidence=0.3), completion("|| ||", confidence=0.3), Completion(LONG, "stop", 1, (read,)),
    ]  # fmt: skip
    page = await reader.read_page(path, 0)
    assert [(image.width, image.height, image.sideways) for image in engine.calls] == [
        (842, 595, True), (595, 842, False), (595, 842, False),
    ]  # fmt: skip
    assert page.problem is None
    assert (page.width, page.height) == (842, 595)
    assert page.blocks[0].relative_box == (0.35, 0.05, 1.0, 0.95)
    assert page.blocks[0].flags == (Flag.RETRIED,)


@in_one_loop
async def test_a_part_of_a_page_is_looked_at(reader: Reader, engine: FakeEngine, tmp_path: Path) -> None:
    """The engine gets the part alone, and its answer comes as it is, also where it is none."""
    path = tmp_path / "x.pdf"
    path.write_bytes(text_pdf(1))
    engine.answers[0] = [completion("", finish_reason="length"), PageError("no")]
    view = View((0.0, 0.0, 1.0, 0.5))
    assert (await reader.look(path, 0, view, Options(Task.FREE))).finish_reason == "length"
    assert (engine.calls[0].width, engine.calls[0].height) == (595, 421)
    with pytest.raises(PageError, match="no"):
        await reader.look(path, 0, view, Options())


@in_one_loop
async def test_a_part_of_a_page_comes_as_a_picture(reader: Reader, tmp_path: Path) -> None:
    """A PNG, as fine as asked for; where nothing can be seen, or there is nothing, that is said."""
    path = tmp_path / "x.pdf"
    path.write_bytes(text_pdf(1))
    png = await reader.picture(path, 0, View((0.0, 0.0, 1.0, 0.5), side_px=640))
    with Image.open(io.BytesIO(png)) as picture:
        assert (picture.format, max(picture.size)) == ("PNG", 640)
    for view in (View((0.0, 0.9, 1.0, 1.0)), View((0.5, 0.5, 0.5, 0.5))):
        with pytest.raises(PageError):
            await reader.picture(path, 0, view)


@in_one_loop
async def test_a_worker_that_died_is_asked_once_more(reader: Reader, engine: FakeEngine, tmp_path: Path) -> None:
    """It may have been killed for its neighbour's hunger for memory; a second death is the page's own."""
    path = tmp_path / "x.pdf"
    path.write_bytes(text_pdf(2, lines=3))
    engine.answers[0] = [WorkerDied("killed"), completion("read at last")]
    engine.answers[1] = [WorkerDied("killed"), WorkerDied("killed again")]
    page = await reader.read_page(path, 0)
    assert (text(page), page.problem) == ("read at last", None)
    page = await reader.read_page(path, 1)
    assert (page.problem, len(engine.calls)) == ("killed again; the text is the file's own", 4)


@in_one_loop
async def test_a_page_error_is_not_tried_again(reader: Reader, engine: FakeEngine, tmp_path: Path) -> None:
    """What failed for the page itself would fail once more."""
    path = tmp_path / "x.pdf"
    path.write_bytes(text_pdf(1))
    engine.answers[0] = [PageError("no"), completion("never asked for")]
    await reader.read_page(path, 0)
    assert len(engine.calls) == 1


@in_one_loop
async def test_a_page_that_cannot_be_rendered_is_marked(reader: Reader, tmp_path: Path) -> None:
    """A page that is missing from its file comes back empty, with the reason and a size; the others are read."""
    path = tmp_path / "x.pdf"
    whole = text_pdf(3, lines=3)
    path.write_bytes(whole[: len(whole) // 2])
    first, torn, missing = [await reader.read_page(path, index) for index in range(3)]
    assert (first.problem, text(first)) == (None, "page 1")
    assert "syntax error" in (torn.problem or "")
    assert text(torn) == "page 2"
    assert "missing from the file" in (missing.problem or "")
    assert (missing.page_number, missing.source, missing.blocks) == (3, "none", ())
    assert missing.width > 0


@pytest.mark.parametrize(
    ("content", "kind"), [(b"plain words", UnsupportedType), (b"%PDF-1.7\n" + bytes(99), Corrupt)], ids=["text", "torn"]
)
@in_one_loop
async def test_a_document_that_cannot_be_read_says_so(
    reader: Reader, tmp_path: Path, content: bytes, kind: type[Exception]
) -> None:
    """What concerns the whole document is raised, from `inspect` and from any page."""
    path = tmp_path / "x.pdf"
    path.write_bytes(content)
    with pytest.raises(kind):
        await reader.inspect(path)
    with pytest.raises(kind):
        await reader.read_page(path, 0)


@in_one_loop
async def test_an_engine_that_died_is_the_callers(reader: Reader, engine: FakeEngine, tmp_path: Path) -> None:
    """What concerns the whole engine is raised: no page is marked for it."""
    path = tmp_path / "x.pdf"
    path.write_bytes(text_pdf(1))
    engine.answers[0] = [EngineDeadError("it died")]
    with pytest.raises(EngineDeadError):
        await reader.read_page(path, 0)


@in_one_loop
async def test_limits_may_change_while_it_runs(reader: Reader, tmp_path: Path) -> None:
    """A reload changes `limits`; the next document is judged by them."""
    path = tmp_path / "x.pdf"
    path.write_bytes(text_pdf(2))
    await reader.inspect(path)
    reader.limits = Limits(max_pages=1)
    with pytest.raises(TooManyPages):
        await reader.inspect(path)


async def test_a_closed_reader_reads_no_more(engine: FakeEngine, tmp_path: Path) -> None:
    """`close` ends the processes at once: pages on their way come back as what could not be read."""
    path = tmp_path / "x.pdf"
    path.write_bytes(text_pdf(1))
    async with Reader(engine, workers=1) as reader:
        reader.close()
        page = await asyncio.wait_for(reader.read_page(path, 0), 20)
        assert page.problem is not None
