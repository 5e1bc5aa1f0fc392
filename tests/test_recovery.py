"""The ladder: which step is tried when, and that the best of it is kept."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepseek_ocr.attempt import reading_of
from deepseek_ocr.completion import Completion, EngineInfo, PageImage
from deepseek_ocr.document import Flag
from deepseek_ocr.errors import EngineDeadError, PageError
from deepseek_ocr.prompt import Options, Task
from deepseek_ocr.recovery import Judges, recover
from deepseek_ocr.view import WHOLE, View
from tests.ladder import FAILED, GOOD, LOOP, MODEL, NOTHING, READER, SENTENCE, answer, image, read, says
from tests.page_text import text

if TYPE_CHECKING:
    from collections.abc import Callable

#: A server of somebody else's.
UNGUARDED = replace(MODEL, guarded=False)
LONG_LOOP = (
    "Report. "
    + (
        SENTENCE + "The quay on the north side was closed for repair from March until August, and "
        "dredging took longer than planned. 412 ships called at the port, eleven fewer than in the year before. "
    )
    * 24
)
FINE = answer(GOOD)
#: Name -> engine, page, what it says, what is asked beside the first try.
LADDERS: dict[str, tuple[EngineInfo, PageImage, Callable[[View, Options], Completion | Exception], list[str]]] = {
    "good at once": (MODEL, image(), says(FINE), []),
    "guard helps": (MODEL, image(), says(FAILED, guard=FINE), ["guard 20/50"]),
    "upright helps": (MODEL, image(), says(FAILED, turn180=FINE), ["guard 20/50", "turn 180"]),
    "free helps": (MODEL, image(), says(FAILED, free=FINE), ["guard 20/50", "turn 180", "free"]),
    "halves help": (
        MODEL, image(), says(FAILED, half=FINE), ["guard 20/50", "turn 180", "free", "half at 0.0", "half at 0.5"],
    ),
    "nothing helps": (
        MODEL, image(), says(FAILED), ["guard 20/50", "turn 180", "free", "half at 0.0", "half at 0.5"],
    ),
    "a long round": (MODEL, image(), says(answer(LONG_LOOP), guard=FINE), ["guard 40/200"]),
    "cut off": (MODEL, image(), says(answer(GOOD, "length"), guard=FINE), ["guard 20/50"]),
    "no guard to set": (UNGUARDED, image(), says(FAILED, turn180=FINE), ["turn 180"]),
    "nothing read": (MODEL, image(), says(NOTHING, free=FINE), ["turn 180", "free"]),
    "nothing read of a photograph": (
        MODEL, image(empty=True), says(NOTHING), ["free", "half at 0.0", "half at 0.5"],
    ),
    "sideways": (MODEL, image(sideways=True), says(FAILED, turn90=FINE), ["turn 90"]),
    "sideways the other way": (MODEL, image(sideways=True), says(FAILED, turn270=FINE), ["turn 90", "turn 270"]),
    "sideways, and the model does not mind": (MODEL, image(sideways=True), says(FINE), []),
    "sideways, read line by line": (
        READER, image(sideways=True), says(answer(GOOD, confidence=0.9), turn270=answer(GOOD, confidence=0.9)),
        ["turn 270"],
    ),
    "columns of Chinese, read line by line": (
        READER, image(sideways=True),
        says(answer(GOOD, confidence=0.9), turn270=answer("x", confidence=0.5), turn90=answer("x", confidence=0.5)),
        ["turn 270", "turn 90"],
    ),
    "upside down, read letter by letter": (
        READER, image(), says(answer("GOOD", confidence=0.6), turn180=answer(GOOD, confidence=0.9)), ["turn 180"],
    ),
    "a script beyond the reader": (READER, image(), says(answer(GOOD, confidence=0.6)), ["turn 180"]),
    "too little time": (
        READER, image(), says(answer(GOOD, "length", confidence=0.9), half=answer(GOOD, confidence=0.9)),
        ["half at 0.0", "half at 0.5"],
    ),
    "a wide page": (
        UNGUARDED, image(wide=True), says(answer(GOOD, "length"), half=FINE), ["free", "half at 0.0", "right half"],
    ),
    "a step that fails": (
        MODEL, image(), says(FAILED, guard=PageError("no"), turn180=PageError("no"), free=FINE),
        ["guard 20/50", "turn 180", "free"],
    ),
    "a half that fails": (
        MODEL, image(), says(NOTHING, half=PageError("no")), ["turn 180", "free", "half at 0.0"],
    ),
    "turned for good": (
        MODEL, image(sideways=True), says(FAILED, turn90=answer(GOOD, "length")),
        ["turn 90", "turn 270", "turn 90 guard 20/50", "turn 90 free", "turn 90 half at 0.0", "turn 90 right half"],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("info", "page", "say", "ways"), LADDERS.values(), ids=LADDERS)
async def test_steps_and_their_order(
    info: EngineInfo, page: PageImage, say: Callable[[View, Options], Completion | Exception], ways: list[str]
) -> None:
    """Each step only where it may help, none after the first good reading, and all of it in the page."""
    result, asked = await read(say, page=page, info=info)
    assert asked.ways == ways
    attempts = result.provenance.attempts if result.provenance else ()
    assert len(attempts) == (len(ways) + 1 if ways else 0)
    helped = FINE in {say(*call) for call in asked.calls}
    assert (result.problem is None) >= helped
    assert (GOOD[:100] in text(result)) >= helped


async def test_what_was_tried_is_told() -> None:
    """Ways, outcomes, seconds and tokens of every try; the flags say that it was tried more than once."""
    page, _ = await read(says(FAILED, guard=PageError("too much"), free=answer(GOOD, tokens=500)))
    assert page.provenance
    assert [(one.way, one.outcome.split(" (")[0]) for one in page.provenance.attempts] == [
        ("document", "the engine repeated itself"),
        ("document, guard 20/50", "too much"),
        ("document, turned 180", "the engine repeated itself"),
        ("free", ""),
    ]
    assert page.provenance.attempts[-1].completion_tokens == 500
    assert page.provenance.attempts[-1].prompt_tokens == 900
    assert page.seconds == 3
    assert page.problem is None
    assert set(page.blocks[0].flags) == {Flag.FALLBACK, Flag.NO_BOX, Flag.RETRIED}


async def test_a_page_that_nothing_helps_says_so() -> None:
    """The best reading stands, cut and flagged, with the reason."""
    page, _ = await read(says(FAILED))
    assert "repeated itself" in (page.problem or "")
    assert text(page).startswith("Report of the harbour.")
    assert text(page).count("committee") <= 2
    assert {Flag.LOOP_CUT, Flag.RETRIED} <= set(page.blocks[-1].flags)


async def test_the_best_of_bad_readings_is_kept() -> None:
    """Whichever step it came from."""
    most = answer(GOOD + " the most", "length")
    for step in ("guard", "free", "half"):
        page, _ = await read(says(answer("little", "length"), **{step: most}))
        assert "the most" in text(page)
        assert "cut off" in (page.problem or "")


async def test_the_files_own_text_is_the_last_resort() -> None:
    """After all else, and only where it says more; the page keeps its problem."""
    page, asked = await read(says(FAILED), page=image(text_layer=GOOD))
    assert len(asked.calls) == 5
    assert (page.source, text(page)) == ("textlayer", GOOD)
    assert (page.problem or "").endswith("; the text is the file's own")
    assert page.blocks[0].flags == (Flag.FALLBACK,)
    page, _ = await read(says(answer(GOOD, "length"), half=NOTHING), page=image(text_layer="a stamp"))
    assert (page.source, text(page)) == ("model", GOOD)


async def test_boxes_of_a_turned_page_lie_where_the_text_stands() -> None:
    """The first line of a page that lies on its left side is read from bottom to top, at its left edge."""
    line = answer(f"<|ref|>text<|/ref|><|det|>[[0, 0, 999, 100]]<|/det|>\n{GOOD}", "length")
    page, _ = await read(says(FAILED, turn90=line), page=image(sideways=True))
    assert page.blocks[0].relative_box == (0.0, 0.0, 0.1001, 1.0)
    assert page.blocks[0].box == (0.0, 0.0, 59.56, 842.0)


async def test_halves_become_one_page() -> None:
    """Blocks of both with their places on the page, numbered on."""

    def say(view: View, options: Options) -> Completion:
        del options
        if view.box == WHOLE.box:
            return NOTHING
        words = GOOD[:900] if view.box[1] == 0 else GOOD[900:]
        return answer(f"<|ref|>text<|/ref|><|det|>[[0, 0, 999, 999]]<|/det|>\n{words}")

    page, _ = await read(say)
    assert page.problem is None
    assert [block.id for block in page.blocks] == ["p5b1", "p5b2"]
    one, other = (block.relative_box for block in page.blocks)
    assert one
    assert other
    assert one[3] == other[1] == pytest.approx(0.5, abs=0.02)
    assert text(page) == f"{GOOD[:900].strip()}\n{GOOD[900:].strip()}"


@pytest.mark.parametrize("task", [Task.FIGURE, Task.DESCRIBE, Task.LOCATE, Task.CUSTOM])
async def test_what_is_no_reading_gets_one_more_guard(task: Task) -> None:
    """A page's text in halves or from its file is no answer to such a question."""
    options = Options(task, prompt="x" * (task is Task.CUSTOM), text="x" * (task is Task.LOCATE))
    page, asked = await read(says(FAILED), options=options, page=image(text_layer=GOOD))
    assert asked.ways == ["guard 20/50"]
    assert page.source == "model"
    _, asked = await read(says(NOTHING), options=options)
    assert asked.ways == []


@pytest.mark.parametrize("task", [Task.IMAGE, Task.FREE])
async def test_other_reading_tasks_are_not_read_as_free_text(task: Task) -> None:
    """What they ask for would be lost, or is that already."""
    _, asked = await read(says(FAILED), options=Options(task))
    assert len(asked.calls) == 4
    assert {options.task for _, options in asked.calls} == {task}


async def test_without_a_picture_another_look_is_the_same() -> None:
    """An engine that reads the file's own text is asked once."""
    info = replace(READER, needs="nothing")
    _, asked = await read(says(NOTHING), info=info)
    assert asked.calls == []


@pytest.mark.parametrize("fault", [EngineDeadError("dead"), OSError(5, "share gone")], ids=["engine", "share"])
async def test_faults_that_are_not_the_pages_come_through(fault: Exception) -> None:
    """From any step: no page is marked for them."""
    with pytest.raises(type(fault)):
        await read(says(FAILED, turn180=fault))


async def test_a_ladder_can_be_left() -> None:
    """Cancelling in the middle ends it at once."""
    waiting = asyncio.Event()

    async def ask(view: View, options: Options) -> tuple[PageImage, Completion]:
        del view, options
        waiting.set()
        await asyncio.Event().wait()
        raise AssertionError

    page = image()
    first = reading_of(page, FAILED, Options())
    climbing = asyncio.create_task(recover(page, first, info=MODEL, options=Options(), ask=ask, judges=Judges()))
    await waiting.wait()
    climbing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await climbing


WORDS = st.lists(st.sampled_from(["one", "two", "<|ref|>", "text", "<|/ref|>", "<|det|>", "[[1, 2, 3, 4]]", "\n"]))
ANSWER = st.one_of(
    st.builds(
        answer,
        st.one_of(st.text(max_size=30), WORDS.map(" ".join), st.sampled_from([GOOD, LOOP, "8/" * 2000])),
        st.sampled_from(["stop", "length", "repetition", "abort", "error"]),
        st.sampled_from([None, None, 0.2, 0.99]),
    ),
    st.just(PageError("refused")),
)


@settings(max_examples=60)
@given(first=ANSWER.filter(lambda one: isinstance(one, Completion)), later=st.lists(ANSWER, max_size=6), data=st.data())
def test_whatever_an_engine_says_there_is_a_page(
    first: Completion, later: list[Completion | Exception], data: st.DataObject
) -> None:
    """It is valid, boxes lie on it, and it has a text if anything that was tried has."""
    info = data.draw(st.sampled_from([MODEL, UNGUARDED, READER]))
    page = image(sideways=data.draw(st.booleans()), text_layer=data.draw(st.sampled_from(["", GOOD])))
    said = iter([first, *later])
    result, _ = asyncio.run(read(lambda *_: next(said, answer("the end")), page=page, info=info))
    for block in result.blocks:
        assert block.relative_box is None or all(0 <= side <= 1 for side in block.relative_box)
    assert len({block.id for block in result.blocks}) == len(result.blocks)
    if reading_of(page, first, Options()).blocks:
        assert result.blocks
