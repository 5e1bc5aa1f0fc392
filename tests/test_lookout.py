"""Looking for loops in a thread of its own."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from deepseek_ocr.lookout import Lookout
from deepseek_ocr.loops import LoopWatch, find_loop
from deepseek_ocr.reader import Reader
from tests.conftest import eventually
from tests.documents import bars, encoded
from tests.fakes import FakeEngine
from tests.loop_samples import HEAD, LOOPS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from deepseek_ocr.completion import Completion, PageImage
    from deepseek_ocr.loops import Loop
    from deepseek_ocr.prompt import Options

#: For a thread to end that has nothing to do.
THREAD_S = 10.0
LOOPING = HEAD + LOOPS["a sentence"][0] * 9


def lookouts() -> list[threading.Thread]:
    """The threads that look."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("lookout")]


async def test_each_answer_is_told_of_its_own_loop_once() -> None:
    """Two answers whose pieces come in turn: one loops, and what is found is what its whole text shows."""
    before = lookouts()
    lookout = Lookout()
    assert lookouts() == before  # no thread without a piece
    looping, good = LoopWatch(), LoopWatch()
    found: list[Loop | BaseException] = []
    none: list[Loop | BaseException] = []
    for at in range(0, len(LOOPING), 100):
        lookout.hand_over(looping, LOOPING[at : at + 100], found.append)
        lookout.hand_over(good, HEAD[at : at + 100], none.append)
    await lookout.caught_up()
    assert (found, none) == ([find_loop(LOOPING)], [])
    lookout.close()


async def test_what_was_handed_over_is_looked_at_though_it_is_closed() -> None:
    """The thread ends after it."""
    before = lookouts()
    lookout = Lookout()
    found: list[Loop | BaseException] = []
    lookout.hand_over(LoopWatch(), LOOPING, found.append)
    (thread,) = set(lookouts()) - set(before)
    lookout.close()
    await eventually(lambda: found == [find_loop(LOOPING)])
    thread.join(THREAD_S)
    assert lookouts() == before


async def test_a_watch_that_fails_is_told_of() -> None:
    """And the thread goes on."""

    class Failing(LoopWatch):
        def feed(self, piece: str) -> Loop | None:
            raise ValueError(piece)

    lookout = Lookout()
    found: list[Loop | BaseException] = []
    lookout.hand_over(Failing(), "cannot look", found.append)
    lookout.hand_over(LoopWatch(), LOOPING, found.append)
    await lookout.caught_up()
    assert [str(found[0]), found[1:]] == ["cannot look", [find_loop(LOOPING)]]
    lookout.close()


class Telling(FakeEngine):
    """Writes a good answer at once, long enough to be looked at."""

    async def recognize(
        self, page: PageImage, options: Options, on_text: Callable[[str], None] | None = None
    ) -> Completion:
        """The same for every page."""
        assert on_text is not None
        on_text(HEAD * 2)
        return await super().recognize(page, options)


async def test_readers_that_belong_together_have_one_thread(tmp_path: Path) -> None:
    """It ends with the reader that was entered."""
    before = lookouts()
    path = tmp_path / "x.png"
    path.write_bytes(encoded(bars((600, 800)), "PNG"))
    async with Reader(Telling(), workers=1) as reader:
        for one in (reader, reader.with_engine(Telling()), reader.with_engine(Telling())):
            await one.read_page(path, 0)
        (thread,) = set(lookouts()) - set(before)
    thread.join(THREAD_S)
    assert lookouts() == before
