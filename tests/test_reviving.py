"""The engine that does not die: one rebuild per death, halves, quarantine, and everyone else is read."""

from __future__ import annotations

import asyncio
from math import ceil, log2

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from deepseek_ocr.completion import Engine, Health
from deepseek_ocr.errors import EngineDeadError, EngineStartError, PageError, WorkerDied
from deepseek_ocr.prompt import Options
from tests.conftest import eventually
from tests.fakes import FakeEngine, MortalEngine
from tests.revived import Revived, outcomes, page, turns

QUARANTINED = "the engine died twice while reading only this page"


# While all is well


async def test_a_well_engine_is_passed_through() -> None:
    """What it is, what it is asked, what it says meanwhile and its answer."""
    fake = FakeEngine()
    revived = Revived(fake)
    engine: Engine = revived.engine
    await engine.start()
    assert engine.info is fake.info
    assert engine.health() == fake.health() == Health(ok=True, detail="fake")
    assert (await engine.recognize(page(page_index=3), Options())).text == "page 4"
    await engine.stop()
    assert (fake.starts, fake.stops, revived.healths, revived.waits) == (1, 1, [], [])
    assert not engine.health().ok


async def test_the_text_so_far_is_passed_on_and_begins_anew() -> None:
    """After a death it is that of the new attempt."""
    revived = Revived()
    await revived.engine.start()
    revived.mortal.doomed = True
    heard: list[str] = []
    await revived.engine.recognize(page("text"), Options(), heard.append)
    assert heard == ["t", "te", "t", "te"]
    await revived.engine.stop()


ERRORS = {"of the page": PageError("no"), "of its process": WorkerDied("killed"), "unforeseen": ValueError("a bug")}


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
async def test_an_error_of_one_page_is_no_death(error: Exception) -> None:
    """It goes to whoever asked, and nothing is rebuilt."""
    fake = FakeEngine()
    fake.answers[0] = [error]
    revived = Revived(fake)
    await revived.engine.start()
    with pytest.raises(type(error), match=str(error)):
        await revived.engine.recognize(page(), Options())
    assert (await revived.engine.recognize(page(), Options())).text == "page 1"
    assert (fake.starts, revived.engine.deaths) == (1, 0)


async def test_an_engine_that_cannot_start_is_not_revived() -> None:
    """There is nothing to go back to: the first start fails as it would without this."""
    revived = Revived()
    revived.mortal.start_faults = [EngineStartError("no model")]
    with pytest.raises(EngineStartError, match="no model"):
        await revived.engine.start()
    assert revived.mortal.starts == 1


# A death


@pytest.mark.parametrize("deaf", [False, True], ids=["all pages fail", "only one page fails, the others hang"])
async def test_a_death_is_one_rebuild_and_costs_no_page(deaf: bool) -> None:
    """All pages in flight are read by the next life, in two halves, one after the other."""
    mortal = MortalEngine(deaf=deaf)
    revived = Revived(mortal)
    await revived.engine.start()
    mortal.doomed = True
    texts = [f"page {number}" for number in range(9)]
    assert await outcomes(revived.read(*texts)) == {text: text for text in texts}
    assert [sorted(batch) for batch in mortal.batches] == [texts, texts[:5], texts[5:]]
    assert (mortal.starts, mortal.stops, revived.engine.deaths, revived.waits) == (2, 1, 1, [1.0])
    await revived.engine.stop()


async def test_one_page_may_be_unlucky_once() -> None:
    """A page that is alone in flight at one death is read by the next life."""
    revived = Revived()
    await revived.engine.start()
    revived.mortal.doomed = True
    assert await outcomes(revived.read("alone")) == {"alone": "alone"}
    await revived.engine.stop()


async def test_a_page_that_kills_is_quarantined() -> None:
    """Alone in flight at two deaths, it is an error of the page, told in the log with its document, and all goes on."""
    revived = Revived()
    await revived.engine.start()
    with capture_logs([structlog.contextvars.merge_contextvars]) as logs:
        with structlog.contextvars.bound_contextvars(file="x.pdf"):
            tasks = revived.read("poison")
        assert await outcomes(tasks) == {"poison": f"PageError: {QUARANTINED}"}
        assert await outcomes(revived.read("next")) == {"next": "next"}
    assert revived.mortal.starts == 3
    told = [(one["event"], one.get("file")) for one in logs]
    assert told == [
        ("engine.died", None), ("engine.revived", None), ("page.quarantined", "x.pdf"), ("engine.died", None),
        ("engine.revived", None),
    ]  # fmt: skip
    assert logs[2]["page_number"] == 1
    await revived.engine.stop()


async def test_a_death_while_nothing_is_in_flight_blames_no_page() -> None:
    """It is noticed when somebody looks, or by the next page, which waits; before the start there is none to notice."""
    revived = Revived()
    revived.engine.notice_death()
    await revived.engine.start()
    revived.engine.notice_death()
    assert revived.engine.deaths == 0
    revived.mortal.die()
    revived.engine.notice_death()
    revived.engine.notice_death()
    await eventually(lambda: revived.engine.health().ok)
    assert (revived.engine.deaths, revived.mortal.starts, len(revived.healths)) == (1, 2, 2)
    revived.mortal.die()
    revived.mortal.doomed = True  # one death more, and it would be the page's second
    assert await outcomes(revived.read("a")) == {"a": "a"}
    assert (revived.engine.deaths, revived.mortal.batches) == (3, [{"a"}, {"a"}])
    await revived.engine.stop()
    revived.engine.notice_death()
    assert revived.engine.deaths == 3


async def test_one_poison_page_among_many() -> None:
    """It is found in log2(N) steps; everything else is read, and meanwhile nothing new is."""
    revived = Revived()
    await revived.engine.start()
    texts = ["poison", *(f"page {number}" for number in range(15))]
    tasks = revived.read(*texts)
    await eventually(lambda: revived.engine.deaths)
    late = revived.read("late")
    assert await outcomes(tasks) == {text: text for text in texts} | {"poison": f"PageError: {QUARANTINED}"}
    assert await outcomes(late) == {"late": "late"}
    assert revived.engine.deaths == 6
    assert [len(batch) for batch in revived.mortal.batches] == [16, 8, 8, 4, 4, 2, 2, 1, 1, 1, 1]
    assert revived.mortal.batches[-1] == {"late"}
    await revived.engine.stop()


async def test_a_page_the_engine_drops_is_a_death() -> None:
    """A cancellation that nobody asked for must not pass for one of the caller's."""
    fake = FakeEngine()
    fake.answers[0] = [asyncio.CancelledError()]
    revived = Revived(fake)
    await revived.engine.start()
    assert (await revived.engine.recognize(page(), Options())).text == "page 1"
    assert revived.engine.deaths == 1


# Rebuilding


def start_error(number: int) -> EngineStartError:
    """One of many."""
    return EngineStartError(f"no memory, try {number}")


async def test_a_rebuild_is_tried_for_ever() -> None:
    """With growing waits, and the reason of the latest failure for everyone to see."""
    revived = Revived(clock=lambda: 0.0)
    await revived.engine.start()
    revived.mortal.doomed = True
    revived.mortal.start_faults = [*map(start_error, range(5)), RuntimeError("unforeseen")]
    assert await outcomes(revived.read("a", "b")) == {"a": "a", "b": "b"}
    assert revived.waits == [1, 5, 15, 60, 60, 60, 60]
    assert [health.ok for health in revived.healths] == [False] * 8 + [True]
    assert [health.detail for health in revived.healths] == [
        "the engine died: it stumbled; it is built anew after 1 s (try 1)",
        "the engine died: no memory, try 0; it is built anew after 5 s (try 2)",
        "the engine died: no memory, try 1; it is built anew after 15 s (try 3)",
        "the engine died: no memory, try 2; it is built anew after 60 s (try 4)",
        "the engine died: no memory, try 3; it is built anew after 60 s (try 5)",
        "the engine died: no memory, try 4; it is built anew after 60 s (try 6)",
        "the engine died: unforeseen; it is built anew after 60 s (try 7)",
        (
            "the engine is back (deaths so far: 1, last rebuilt in 0 s (try 7)); "
            "pages that are tried again, in halves: 2"
        ),
        "alive; deaths so far: 1, last rebuilt in 0 s (try 7)",
    ]
    assert revived.engine.health() == revived.healths[-1]
    revived.mortal.doomed = True
    await outcomes(revived.read("c"))
    assert revived.waits[7:] == [1], "pages were read since"
    await revived.engine.stop()


async def test_an_engine_that_dies_over_every_page_is_not_let_loose() -> None:
    """What does not read its warm-up page is not rebuilt yet: no page is to blame for it."""
    faults: list[Exception] = [EngineDeadError("at once"), EngineStartError("it reads nonsense"), PageError("nothing")]

    async def warm_up() -> None:
        if faults:
            raise faults.pop(0)

    revived = Revived(warm_up=warm_up)
    await revived.engine.start()
    revived.mortal.doomed = True
    assert await outcomes(revived.read("a")) == {"a": "a"}
    assert (revived.mortal.starts, revived.engine.deaths, revived.waits) == (5, 1, [1, 5, 15, 60])
    await revived.engine.stop()


# Any pages, any of them poison


@settings(max_examples=300)
@given(
    pages=st.lists(st.tuples(st.booleans(), st.integers(1, 6), st.booleans()), min_size=1, max_size=24),
    late=st.lists(st.booleans(), max_size=6),
    deaf=st.booleans(),
    start_faults=st.lists(st.integers(0, 3), max_size=3),
)
def test_the_innocent_are_read_and_the_poison_is_found(
    pages: list[tuple[bool, int, bool]], late: list[bool], deaf: bool, start_faults: list[int]
) -> None:
    """Each innocent page gets its own answer, each that kills is quarantined, in few deaths, one group at a time.

    A page kills or not, takes some turns of the loop, and may be given up at some time.
    """
    texts = [f"{'poison' if poison else 'page'} {index}" for index, (poison, _, _) in enumerate(pages)]
    late_texts = [f"{'poison' if poison else 'late'} {index}" for index, poison in enumerate(late, len(pages))]
    turns_of = {text: count for text, (_, count, _) in zip(texts, pages, strict=True)}

    async def run() -> None:
        mortal = MortalEngine(turns=lambda text: turns_of.get(text, 1), deaf=deaf)
        revived = Revived(mortal)
        await revived.engine.start()
        mortal.start_faults = [start_error(number) for number in start_faults]
        tasks = revived.read(*texts)
        while not revived.engine.deaths and not all(task.done() for task in tasks.values()):
            await turns(1)
        given_up = {text for text in texts if pages[texts.index(text)][2]}
        tasks |= revived.read(*late_texts)
        await turns(3)
        for text in given_up:
            tasks[text].cancel()
        async with asyncio.timeout(10):
            results = await outcomes(tasks)
            while not revived.engine.health().ok:
                await turns()
        await revived.engine.stop()
        for text, outcome in results.items():
            expected = f"PageError: {QUARANTINED}" if "poison" in text else text
            assert outcome == expected or (text in given_up and outcome == "CancelledError: ")
        poison = sum("poison" in text for text in tasks)
        assert revived.engine.deaths <= poison * (ceil(log2(len(tasks))) + 2)
        assert mortal.starts == 1 + revived.engine.deaths + len(start_faults) * bool(revived.engine.deaths)
        _check_batches(mortal.batches)

    asyncio.run(run())


def _check_batches(batches: list[set[str]]) -> None:
    """What was in flight together: a batch seen before comes again in halves only, and with nobody else."""
    for number, batch in enumerate(batches):
        for earlier in batches[:number]:
            if batch & earlier:
                assert batch <= earlier
                assert len(batch) <= ceil(len(earlier) / 2) or len(earlier) == 1
