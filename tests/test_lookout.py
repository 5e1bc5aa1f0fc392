"""Looking for loops in a thread of its own."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from deepseek_ocr.lookout import Lookout
from deepseek_ocr.loops import LoopWatch, find_loop
from tests.loop_samples import HEAD, LOOPS

if TYPE_CHECKING:
    from deepseek_ocr.loops import Loop

LOOPING = HEAD + LOOPS["a sentence"][0] * 9


def lookouts() -> list[threading.Thread]:
    """The threads that look."""
    return [thread for thread in threading.enumerate() if thread.name == "lookout"]


async def test_each_answer_is_told_of_its_own_loop_once() -> None:
    """Two answers whose pieces come in turn: one loops, and what is found is what its whole text shows."""
    before = lookouts()
    lookout = Lookout()
    assert lookouts() == before  # no thread without a piece
    looping, good = LoopWatch(), LoopWatch()
    found: list[Loop | Exception] = []
    none: list[Loop | Exception] = []
    for at in range(0, len(LOOPING), 100):
        lookout.hand_over(looping, LOOPING[at : at + 100], found.append)
        lookout.hand_over(good, HEAD[at : at + 100], none.append)
    await lookout.caught_up()
    assert (found, none) == ([find_loop(LOOPING)], [])
    lookout.close()


async def test_what_was_handed_over_is_looked_at_though_it_is_closed() -> None:
    """The thread ends after it; and whoever comes later gets another."""
    before = lookouts()
    lookout = Lookout()
    found: list[Loop | Exception] = []
    lookout.hand_over(LoopWatch(), LOOPING, found.append)
    (thread,) = set(lookouts()) - set(before)
    lookout.close()
    thread.join()
    await lookout.caught_up()
    assert found == [find_loop(LOOPING)]
    (another,) = set(lookouts()) - set(before)
    lookout.close()
    lookout.close()
    another.join()
