"""The engine that does not die, and what is given up: pages while it is rebuilt, and itself; nobody waits for ever."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from deepseek_ocr.errors import EngineDeadError
from deepseek_ocr.prompt import Options
from tests.conftest import eventually
from tests.revived import Revived, outcomes, page, turns

if TYPE_CHECKING:
    from collections.abc import Callable

    from deepseek_ocr.completion import Completion


async def dead_with(revived: Revived, *texts: str) -> dict[str, asyncio.Task[Completion]]:
    """Start it and let it die with these pages in flight; it waits before the rebuild until `patience` is set."""
    await revived.engine.start()
    revived.mortal.doomed = True
    revived.patience.clear()
    tasks = revived.read(*texts)
    await eventually(lambda: revived.waits)
    return tasks


# Pages that are given up


async def test_pages_are_given_up_while_it_is_rebuilt() -> None:
    """In flight at the death or waiting at the gate: whoever is cancelled is gone, the others are read."""
    revived = Revived()
    tasks = await dead_with(revived, "a", "b", "c", "d")
    late = revived.read("e", "f")
    await turns()
    for task in (tasks["a"], tasks["c"], late["e"]):
        task.cancel()
    await turns()
    revived.patience.set()
    gone = "CancelledError: "
    assert await outcomes(tasks | late) == {"a": gone, "b": "b", "c": gone, "d": "d", "e": gone, "f": "f"}
    assert revived.mortal.batches[1:] == [{"b"}, {"d"}, {"f"}]
    await revived.engine.stop()


async def test_pages_are_given_up_while_they_are_tried_again() -> None:
    """A group whose pages are all cancelled is finished, and the next one begins."""
    revived = Revived()
    tasks = await dead_with(revived, "a", "b", "c", "d")
    revived.mortal.gate.clear()
    revived.patience.set()
    await eventually(lambda: revived.mortal.in_flight == ["a", "b"])
    tasks["a"].cancel()
    tasks["b"].cancel()
    await eventually(lambda: revived.mortal.in_flight == ["c", "d"])
    revived.mortal.gate.set()
    assert await outcomes(tasks) == {"a": "CancelledError: ", "b": "CancelledError: ", "c": "c", "d": "d"}
    assert revived.engine.deaths == 1
    await revived.engine.stop()


async def test_a_well_engine_drops_a_page_that_is_given_up() -> None:
    """The engine within is told, before the caller goes on."""
    revived = Revived()
    await revived.engine.start()
    revived.mortal.gate.clear()
    tasks = revived.read("a", "b")
    await eventually(lambda: len(revived.mortal.in_flight) == 2)
    tasks["a"].cancel()
    with pytest.raises(asyncio.CancelledError):
        await tasks["a"]
    assert revived.mortal.in_flight == ["b"]
    revived.mortal.gate.set()
    assert (await tasks["b"]).text == "b"
    await revived.engine.stop()


# The end


#: Name -> what it is busy with when it is stopped: the gate that holds it there, and whether it is there.
BUSY: dict[str, tuple[Callable[[Revived], asyncio.Event], Callable[[Revived], object]]] = {
    "waiting before a rebuild": (lambda one: one.patience, lambda one: one.waits),
    "starting": (lambda one: one.mortal.start_gate, lambda one: one.mortal.starts == 2),
    "trying pages again": (lambda one: one.mortal.gate, lambda one: one.mortal.in_flight == ["a"]),
}


@pytest.mark.parametrize("end", ["stop", "give_up"])
@pytest.mark.parametrize(("gate", "busy"), BUSY.values(), ids=BUSY)
async def test_the_end_waits_for_no_rebuild(
    gate: Callable[[Revived], asyncio.Event], busy: Callable[[Revived], object], end: str
) -> None:
    """Pages in flight at the death and pages at the gate get `EngineDeadError`, at once; so does who asks later."""
    revived = Revived()
    tasks = await dead_with(revived, "a", "b")
    if gate(revived) is not revived.patience:
        gate(revived).clear()
        revived.patience.set()
    await eventually(lambda: busy(revived))
    tasks |= revived.read("late")
    await turns()
    await getattr(revived.engine, end)()
    assert {outcome.partition(":")[0] for outcome in (await outcomes(tasks)).values()} == {"EngineDeadError"}
    with pytest.raises(EngineDeadError):
        await revived.engine.recognize(page(), Options())
    assert revived.mortal.in_flight == []
    await revived.engine.stop()
    await revived.engine.stop()
    assert not revived.engine.health().ok


async def test_an_engine_that_is_given_up_reads_on_until_it_dies() -> None:
    """A drain lets pages in flight finish; a death then is the last."""
    revived = Revived()
    await revived.engine.start()
    revived.mortal.gate.clear()
    tasks = revived.read("a")
    await turns()
    await revived.engine.give_up()
    revived.mortal.gate.set()
    assert await outcomes(tasks) == {"a": "a"}
    revived.mortal.doomed = True
    assert await outcomes(revived.read("b")) == {"b": "EngineDeadError: it stumbled"}
    with pytest.raises(EngineDeadError, match="it stumbled"):
        await revived.engine.recognize(page(), Options())
    assert (revived.mortal.starts, revived.waits) == (1, [])
    await revived.engine.stop()


async def test_stop_ends_pages_in_flight() -> None:
    """Also where the engine within would never answer."""
    revived = Revived()
    await revived.engine.stop()  # before the start, too
    revived = Revived()
    await revived.engine.start()
    revived.mortal.gate.clear()
    tasks = revived.read("a")
    await turns()
    await revived.engine.stop()
    assert await outcomes(tasks) == {"a": "EngineDeadError: the engine is stopped"}
    assert revived.mortal.in_flight == []
