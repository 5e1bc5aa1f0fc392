"""One page, whatever it takes: loading, recognizing, and what helps where that failed."""

from __future__ import annotations

import asyncio
import errno
import io
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np
import pymupdf
import pytest
import pytest_asyncio
from PIL import Image

from deepseek_ocr.attempt import page_from
from deepseek_ocr.completion import Completion, PageImage, Region
from deepseek_ocr.document import Flag, Page, Provenance
from deepseek_ocr.engine.textlayer import TextLayerEngine
from deepseek_ocr.errors import (
    Corrupt,
    EngineDeadError,
    EngineStartError,
    PageError,
    TooManyPages,
    UnsupportedType,
    WorkerDied,
    WorkerTimeout,
)
from deepseek_ocr.pages import Limits
from deepseek_ocr.processes import ProcessPool
from deepseek_ocr.prompt import AUTO, Mode, Options, Task
from deepseek_ocr.reader import PROBE_BYTES, Reader, read, read_ends
from deepseek_ocr.view import View
from tests.documents import bars, encoded, jpeg, paper, text_pdf
from tests.fakes import FakeEngine, completion

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

P = ParamSpec("P")
T = TypeVar("T")

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


def text(page: Page) -> str:
    """All text of a page."""
    return "\n".join(block.text for block in page.blocks)


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


# Processes that die and hang


class TroubledPool(ProcessPool):
    """Processes that answer a call with what is planned for its function, and otherwise as they should."""

    def __init__(self, **plans: list[Exception]) -> None:
        super().__init__(1)
        self._plans = plans
        #: Function and time limit of each call.
        self.calls: list[tuple[str, float]] = []

    async def run_within(
        self, timeout_s: float | None, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """The next fault of the plan, or the real answer."""
        self.calls.append((function.__name__, timeout_s or 0))
        if self._plans.get(function.__name__):
            raise self._plans[function.__name__].pop(0)
        return await super().run_within(timeout_s, function, *args, **kwargs)

    @property
    def names(self) -> list[str]:
        """What was called, in order."""
        return [name for name, _ in self.calls]


DIED, SLOW = WorkerDied("it crashed"), WorkerTimeout("no result after 25 s")


@pytest.fixture
def letter(tmp_path: Path) -> Path:
    """A sound PDF of one page."""
    path = tmp_path / "x.pdf"
    path.write_bytes(text_pdf(1))
    return path


async def test_a_page_that_hangs_its_process_is_given_up_in_time(letter: Path) -> None:
    """The file itself answers, so the page is at fault: its text layer stands in, and all of it takes under 60 s."""
    pool = TroubledPool(load_page=[DIED, SLOW])
    async with Reader(FakeEngine(), pool=pool) as reader:
        pool.calls.clear()
        page = await reader.read_page(letter, 0)
    assert pool.names == ["load_page", "load_page", "read_ends", "load_page"]
    assert sum(seconds for _, seconds in pool.calls) < 60
    assert page.problem == "no result after 25 s; the text is the file's own"


@pytest.mark.parametrize("fault", [DIED, SLOW, PageError("no")], ids=["dies", "hangs", "fails"])
async def test_an_engine_without_pixels_has_nothing_less_to_ask_for(letter: Path, fault: PageError) -> None:
    """Its pages are loaded without a picture: once the same call was made again, for another 45 s or two crashes."""
    pool = TroubledPool(load_page=[fault] * 2)
    async with Reader(FakeEngine(needs="nothing"), pool=pool) as reader:
        page = await reader.read_page(letter, 0)
    assert pool.names.count("load_page") == (2 if fault is DIED else 1)
    assert (page.problem, page.source, page.blocks) == (str(fault), "none", ())


async def test_a_file_that_does_not_answer_is_no_pages_fault(letter: Path) -> None:
    """A share that hangs: an OSError, for whoever knows about shares, and no page is given up for it."""
    pool = TroubledPool(load_page=[SLOW], inspect=[SLOW], read_ends=[SLOW, SLOW])
    async with Reader(FakeEngine(), pool=pool) as reader:
        for call in (reader.read_page(letter, 0), reader.inspect(letter)):
            with pytest.raises(TimeoutError, match="the file does not answer") as caught:
                await call
            assert (caught.value.errno, caught.value.filename) == (errno.ETIMEDOUT, str(letter))


async def test_a_document_that_crashes_the_library_is_corrupt(letter: Path) -> None:
    """It dies twice when it is opened, while the same file can be read; once is nobody's fault."""
    pool = TroubledPool(inspect=[DIED, DIED, DIED])
    async with Reader(FakeEngine(), pool=pool) as reader:
        with pytest.raises(Corrupt, match="crashes the library"):
            await reader.inspect(letter)
        assert (await reader.inspect(letter)).page_count == 1


async def test_processes_that_cannot_live_are_no_documents_fault(letter: Path) -> None:
    """Where nothing at all can be done in a process, no document is called corrupt."""
    pool = TroubledPool(inspect=[DIED, DIED], read_ends=[DIED])
    async with Reader(FakeEngine(), pool=pool) as reader:
        with pytest.raises(WorkerDied):
            await reader.inspect(letter)
        reader.close()
        with pytest.raises(WorkerDied):
            await reader.inspect(letter)


async def test_a_document_that_takes_too_long_to_open_is_told_apart(letter: Path) -> None:
    """The file answers, and the time limit of opening it is what the caller hears of."""
    async with Reader(FakeEngine(), pool=TroubledPool(inspect=[SLOW])) as reader:
        with pytest.raises(WorkerTimeout):
            await reader.inspect(letter)


def test_both_ends_of_a_file_are_read(tmp_path: Path) -> None:
    """Also of a file that is shorter than what is read of each."""
    path = tmp_path / "x"
    for size, expected in ((0, 0), (10, 20), (PROBE_BYTES * 3, PROBE_BYTES * 2)):
        path.write_bytes(bytes(size))
        assert read_ends(path) == expected


async def test_reading_a_file_that_hangs_ends_in_time(tmp_path: Path) -> None:
    """A pipe that nobody writes to stands in for a file of a dead server: its process is killed."""
    os.mkfifo(tmp_path / "hangs")
    pool = ProcessPool(1)
    await pool.warm()
    try:
        with pytest.raises(WorkerTimeout):
            await pool.run_within(0.3, read_ends, tmp_path / "hangs")
    finally:
        pool.close()


# Pages from what is known


def image(**more: Any) -> PageImage:
    """A loaded page."""
    default: dict[str, Any] = {"pixels": np.zeros((1, 1, 3), np.uint8), "ink": 0.1}
    return PageImage(page_index=0, width=100, height=200, unit="px", **{**default, **more})


def test_a_damaged_page_is_never_without_a_problem() -> None:
    """What is known to be lost of a page is said, unless something worse is."""
    assert page_from(image(damage="a picture is cut off"), completion("x"), source="fake").problem == (
        "a picture is cut off"
    )
    assert page_from(image(damage="d"), completion("x"), source="fake", problem="worse").problem == "worse"


@pytest.mark.parametrize("task", [Task.DOCUMENT, Task.FREE, Task.FIGURE, Task.DESCRIBE])
def test_text_without_places_is_one_block(task: Task) -> None:
    """An engine that gives text only loses none of it: it is Markdown, and nobody knows where it stands."""
    page = page_from(image(), Completion("some *words*", "stop", 0.1), source="fake", options=Options(task))
    assert [(block.text, block.box, block.markup, block.flags) for block in page.blocks] == [
        ("some *words*", None, True, (Flag.NO_BOX,))
    ]
    assert page_from(image(), Completion(" ", "stop", 0.1), source="fake").blocks == ()


def test_the_models_tags_become_blocks() -> None:
    """A raw text of the model gives blocks in page units, and says what was odd in it."""
    raw = "<|ref|>title<|/ref|><|det|>[[0, 0, 999, 1998]]<|/det|>\n# Log\n\n<|ref|>text<|/ref|>words"
    page = page_from(image(), Completion(raw, "stop", 0.1), source="fake")
    assert [(block.category, block.text, block.box, block.flags) for block in page.blocks] == [
        ("heading", "Log", (0, 0, 100, 200), (Flag.CLAMPED,)), ("text", "words", None, (Flag.NO_BOX, Flag.RECOVERED)),
    ]  # fmt: skip
    assert page.blocks[0].raw_boxes == ((0, 0, 999, 1998),)
    assert [oddity.kind for oddity in page.oddities] == ["det_missing"]


def test_a_page_says_how_it_was_read() -> None:
    """Engine, model, mode asked for, tokens and the end of the answer are kept with the page."""
    info = replace(FakeEngine().info, mode=Mode.GUNDAM)
    answer = Completion("words", "length", 0.1, prompt_tokens=903, completion_tokens=7)
    page = page_from(image(), answer, source="fake", options=Options(mode=Mode.TINY), info=info)
    assert page.provenance == Provenance(
        engine=info.name, model=info.model, mode="tiny", finish_reason="length", prompt_tokens=903, completion_tokens=7
    )
    assert page_from(image(), answer, source="fake").provenance is None


def test_letters_that_no_file_can_hold_are_replaced() -> None:
    """A broken font's lone surrogates and NUL do not keep a page from being written."""
    page = page_from(image(), completion("a\ud800b\0c"), source="fake")
    assert text(page) == "a?bc"
    assert Page.model_validate_json(page.model_dump_json()) == page


# A whole document


async def test_read_gives_all_pages_in_order(tmp_path: Path) -> None:
    """Pages are read side by side and come in order, with an engine of one's own in three lines."""
    path = tmp_path / "x.pdf"
    path.write_bytes(text_pdf(7))
    numbers = []
    async for page in read(path, TextLayerEngine()):
        assert f"Page {page.page_number}\n" in text(page)
        numbers.append(page.page_number)
    assert numbers == [1, 2, 3, 4, 5, 6, 7]


def test_the_package_offers_its_reader() -> None:
    """`from deepseek_ocr import read` works, importing the package alone stays light, other names are errors."""
    code = """
import sys
import deepseek_ocr
assert "deepseek_ocr.reader" not in sys.modules and "pydantic" not in sys.modules
from deepseek_ocr import Reader, read
from deepseek_ocr import reader
assert (Reader, read) == (reader.Reader, reader.read)
assert not hasattr(deepseek_ocr, "write")
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent.parent)


async def test_read_stops_what_it_began(tmp_path: Path) -> None:
    """Whoever leaves after the first page leaves no task, process or engine behind."""
    path = tmp_path / "x.pdf"
    path.write_bytes(text_pdf(5))
    engine = FakeEngine(capacity=3)
    pages = read(str(path), engine)
    assert (await anext(pages)).page_number == 1
    await pages.aclose()  # type: ignore[attr-defined]
    assert (engine.starts, engine.stops) == (1, 1)


async def test_read_raises_what_concerns_the_document(tmp_path: Path) -> None:
    """A file that is no document is told at the first page, and the engine is stopped."""
    path = tmp_path / "x.pdf"
    path.write_bytes(b"plain words")
    engine = FakeEngine()
    with pytest.raises(UnsupportedType):
        async for _ in read(path, engine):
            pass
    assert engine.stops == 1


async def test_an_engine_that_cannot_start_leaves_nothing() -> None:
    """The reader is not entered, its processes end, and the engine is stopped all the same."""
    engine = FakeEngine()
    engine.start_faults = [EngineStartError("there is no card")]
    with pytest.raises(EngineStartError, match="there is no card"):
        await Reader(engine, workers=1).__aenter__()
    assert engine.stops == 1


class SlowEngine(FakeEngine):
    """Its start takes until it is cancelled, and many turns of the loop to clean up."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = asyncio.Event()
        self.cleaned_up = False

    async def start(self) -> None:
        """Never ready."""
        self.begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            for _ in range(100):
                await asyncio.sleep(0)
            self.cleaned_up = True

    async def stop(self) -> None:
        """Not while it still starts."""
        assert self.cleaned_up, "stopped in the middle of its start: it could come up afterwards"
        await super().stop()


@pytest.mark.parametrize("broken", [True, False], ids=["processes that die", "cancelled"])
async def test_an_engine_is_stopped_only_after_its_start_has_ended(broken: bool) -> None:
    """Else it could come up when nobody knows of it any more, and hold its card for good."""
    engine = SlowEngine()
    reader = Reader(engine, workers=1)
    if broken:
        reader.close()
    entering = asyncio.create_task(reader.__aenter__())
    if broken:
        with pytest.raises(EngineStartError, match="the processes that render pages cannot start"):
            await entering
    else:
        await engine.begun.wait()
        entering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await entering
    assert engine.stops == 1


async def test_rendering_processes_that_cannot_start_are_no_page_error() -> None:
    """Without processes there is no service: that is said like an engine that cannot start."""
    engine = FakeEngine()
    reader = Reader(engine, workers=1)
    reader.close()
    with pytest.raises(EngineStartError, match="the processes that render pages cannot start"):
        await reader.__aenter__()
    assert engine.stops == 1


async def test_a_closed_reader_reads_no_more(engine: FakeEngine, tmp_path: Path) -> None:
    """`close` ends the processes at once: pages on their way come back as what could not be read."""
    path = tmp_path / "x.pdf"
    path.write_bytes(text_pdf(1))
    async with Reader(engine, workers=1) as reader:
        reader.close()
        page = await asyncio.wait_for(reader.read_page(path, 0), 20)
        assert page.problem is not None
