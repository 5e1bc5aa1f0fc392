"""One try at a page: an engine that loops is stopped while it writes; and the page made of what it wrote."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from deepseek_ocr.attempt import page_from, recognize
from deepseek_ocr.completion import Completion, EngineInfo, PageImage
from deepseek_ocr.document import Flag, Page, Provenance
from deepseek_ocr.engine.reviving import RevivingEngine
from deepseek_ocr.errors import PageError
from deepseek_ocr.lookout import Lookout
from deepseek_ocr.loops import find_loop
from deepseek_ocr.prompt import Mode, Options, Task
from tests.fakes import FakeEngine, completion
from tests.loop_samples import HEAD, LOOPS
from tests.page_text import text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from deepseek_ocr.loops import Loop, LoopWatch

RAW_OUTPUTS = Path(__file__).parent.parent.parent / "shared" / "raw_outputs"
#: Real loops that are seen before their end (bench/false_alarms.py).
REAL_LOOPS = ("0154", "0211", "0242", "0271", "0273", "0316")
PAGE = PageImage(0, 100, 100, "px", None, 0.1)


@pytest.fixture
def lookout() -> Iterator[Lookout]:
    """A thread that looks for loops."""
    lookout = Lookout()
    yield lookout
    lookout.close()


class StreamingEngine(FakeEngine):
    """Writes its answers in pieces of a hundred characters, each looked at before the next."""

    def __init__(self, lookout: Lookout, *answers: str | Exception) -> None:
        super().__init__()
        self._lookout = lookout
        self.info = EngineInfo("stream", "stream-1", frozenset(Task), needs="pixels", capacity=1, prompted=True)
        self._answers = list(answers)
        #: Characters written, and whether the page was given up.
        self.written = 0
        self.given_up = False

    async def recognize(
        self, page: PageImage, options: Options, on_text: Callable[[str], None] | None = None
    ) -> Completion:
        """All answers one after the other: all but the last are taken back."""
        del page, options
        try:
            for answer in self._answers:
                if isinstance(answer, Exception):
                    raise answer
                for end in range(100, len(answer) + 100, 100):
                    self.written = end
                    if on_text is not None:
                        on_text(answer[:end])
                    await self._lookout.caught_up()
        except asyncio.CancelledError:
            self.given_up = True
            raise
        return Completion(str(self._answers[-1]), "stop", 0.1, completion_tokens=7)


async def test_a_page_that_ends_is_left_alone(lookout: Lookout) -> None:
    """The completion is the engine's own, and the caller hears each piece."""
    engine, heard = StreamingEngine(lookout, HEAD), list[str]()
    completion = await recognize(engine, PAGE, Options(), heard.append, lookout=lookout)
    assert (completion.text, completion.finish_reason, completion.completion_tokens) == (HEAD, "stop", 7)
    assert heard[-1] == HEAD
    assert all(after.startswith(before) for before, after in pairwise(heard))


@pytest.mark.parametrize("name", ["a sentence", "two characters"])
async def test_a_loop_is_given_up_while_it_comes(name: str, lookout: Lookout) -> None:
    """What had come is kept, and the rest is never written."""
    text = HEAD + LOOPS[name][0] * 9
    engine = StreamingEngine(lookout, text)
    completion = await recognize(engine, PAGE, Options(), lookout=lookout)
    assert completion.finish_reason == "repetition"
    assert engine.given_up
    assert text.startswith(completion.text)
    assert len(completion.text) <= engine.written < len(text) / 2
    assert completion.completion_tokens == len(completion.text) // 3


@pytest.mark.parametrize("name", REAL_LOOPS)
async def test_real_loops_are_given_up_while_they_come(name: str, lookout: Lookout) -> None:
    """Answers of the model that looped (section 2.1 of the research), as they would have streamed."""
    path = RAW_OUTPUTS / f"{name}.txt"
    if not path.is_file():
        pytest.skip("the real answers are not here")
    text = path.read_text(encoding="utf-8")
    engine = StreamingEngine(lookout, text)
    completion = await recognize(engine, PAGE, Options(), lookout=lookout)
    assert completion.finish_reason == "repetition"
    assert engine.given_up
    assert find_loop(completion.text) == find_loop(text)


class Hasty(FakeEngine):
    """Writes each of its answers at once, and is done with the last before anybody has looked."""

    def __init__(self, *answers: str) -> None:
        super().__init__()
        self._answers = answers

    async def recognize(
        self, page: PageImage, options: Options, on_text: Callable[[str], None] | None = None
    ) -> Completion:
        """All answers one after the other: all but the last are taken back."""
        del page, options
        assert on_text is not None
        for answer in self._answers:
            on_text(answer)
        return Completion(self._answers[-1], "length", 0.1, completion_tokens=7)


async def test_a_loop_that_is_noticed_too_late_is_one(lookout: Lookout) -> None:
    """The answer and its figures stay, and it is said to loop."""
    looping = HEAD + LOOPS["a sentence"][0] * 9
    completion = await recognize(Hasty(looping), PAGE, Options(), lookout=lookout)
    assert completion == Completion(looping, "repetition", 0.1, completion_tokens=7)


async def test_a_loop_in_what_was_taken_back_is_none(lookout: Lookout) -> None:
    """Also where it is noticed when the answer has begun anew."""
    good = HEAD * 2
    assert find_loop(good) is None
    completion = await recognize(Hasty(HEAD + LOOPS["a sentence"][0] * 9, good), PAGE, Options(), lookout=lookout)
    assert completion == Completion(good, "length", 0.1, completion_tokens=7)


async def test_who_cannot_look_says_so(lookout: Lookout) -> None:
    """An error where loops are looked for ends the page, and no other."""

    class Blind(Lookout):
        def hand_over(self, watch: LoopWatch, piece: str, tell: Callable[[Loop | BaseException], None]) -> None:
            del watch, piece
            asyncio.get_running_loop().call_soon(tell, ValueError("cannot look"))

    engine, blind = StreamingEngine(lookout, HEAD * 3), Blind()
    with pytest.raises(ValueError, match="cannot look"):
        await recognize(engine, PAGE, Options(), lookout=blind)
    blind.close()
    assert engine.given_up
    engine.given_up = False
    assert (await recognize(engine, PAGE, Options(), lookout=lookout)).finish_reason == "stop"


async def test_giving_a_page_up_is_no_death(lookout: Lookout) -> None:
    """The engine that is built anew after its deaths lets the page go, and reads the next."""
    engine = StreamingEngine(lookout, HEAD + LOOPS["a sentence"][0] * 9)
    reviving = RevivingEngine(engine)
    await reviving.start()
    assert (await recognize(reviving, PAGE, Options(), lookout=lookout)).finish_reason == "repetition"
    assert engine.given_up
    assert (await recognize(reviving, PAGE, Options(), lookout=lookout)).finish_reason == "repetition"
    assert reviving.deaths == 0
    await reviving.stop()


async def test_an_answer_that_begins_anew_is_watched_anew(lookout: Lookout) -> None:
    """Half a loop before and half after the engine's death are none; a whole one after it is noticed at its place."""
    half = "The committee met twice and took note of the report. " * 8
    assert find_loop(half) is None
    assert find_loop(half + half[4:]) is not None
    engine = StreamingEngine(lookout, half, half[4:], HEAD)
    completion = await recognize(engine, PAGE, Options(), lookout=lookout)
    assert (completion.text, completion.finish_reason, engine.given_up) == (HEAD, "stop", False)

    looping = HEAD + LOOPS["a sentence"][0] * 9
    alone = await recognize(StreamingEngine(lookout, looping), PAGE, Options(), lookout=lookout)
    anew = await recognize(StreamingEngine(lookout, half, looping), PAGE, Options(), lookout=lookout)
    assert (anew.text, anew.finish_reason) == (alone.text, "repetition")


async def test_who_gives_the_page_up_is_heard(lookout: Lookout) -> None:
    """Cancelling goes through, also when the page loops in the same moment."""
    reading: list[asyncio.Task[Completion]] = []

    class GivenUp(StreamingEngine):
        async def recognize(
            self, page: PageImage, options: Options, on_text: Callable[[str], None] | None = None
        ) -> Completion:
            try:
                return await super().recognize(page, options, on_text)
            except asyncio.CancelledError:
                reading[0].cancel()
                raise

    engine = GivenUp(lookout, HEAD + LOOPS["a sentence"][0] * 9)
    reading.append(asyncio.create_task(recognize(engine, PAGE, Options(), lookout=lookout)))
    with pytest.raises(asyncio.CancelledError):
        await reading[0]
    assert engine.given_up


async def test_an_engines_errors_come_through(lookout: Lookout) -> None:
    """Before and after a piece."""
    with pytest.raises(PageError, match="too large"):
        await recognize(StreamingEngine(lookout, HEAD, PageError("too large")), PAGE, Options(), lookout=lookout)


async def test_an_engine_that_drops_a_page_is_no_loop(lookout: Lookout) -> None:
    """A cancellation that nobody asked for is passed on."""

    class Dropping(FakeEngine):
        async def recognize(
            self, page: PageImage, options: Options, on_text: Callable[[str], None] | None = None
        ) -> Completion:
            del page, options, on_text
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await recognize(Dropping(), PAGE, Options(), lookout=lookout)


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
