"""One thread that looks for loops in the answers of all pages while they come.

A look compresses a piece of the answer, for which Python gives up its interpreter's lock.  Where the event loop looked
by itself it had to wait for the threads that took the lock, hundreds of times a second with 900 pages at once
(bench/LOG.md).  Handing a piece over gives up nothing.
Left to others: what a loop is (`loops.py`), and giving the page up (`attempt.py`).
Residual risk: a page is given up a moment after the piece with which its loop shows.
"""

from __future__ import annotations

import asyncio
import contextlib
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from deepseek_ocr.loops import Loop, LoopWatch


class Lookout:
    """Takes pieces of answers from the event loop and tells it of loops, until it is closed.

    Its thread begins with the first piece.
    """

    def __init__(self) -> None:
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread: Thread | None = None
        self._closed = False

    def hand_over(self, watch: LoopWatch, piece: str, tell: Callable[[Loop | Exception], None]) -> None:
        """Let a watch take the next piece of its answer; pieces are taken in the order in which they come.

        The event loop calls `tell` if the watch finds a loop, with that, or if it fails, with the error.
        """
        loop = asyncio.get_running_loop()

        def look() -> None:
            try:
                found: Loop | Exception | None = watch.feed(piece)
            except Exception as error:  # noqa: BLE001 - whose page it is has to know
                found = error
            if found is not None:
                _call(loop, lambda: tell(found))

        self._do(look)

    async def caught_up(self) -> None:
        """Wait until all that was handed over has been looked at, and told; no more where it is closed."""
        if self._closed:
            return
        loop = asyncio.get_running_loop()
        reached = asyncio.Event()
        self._do(lambda: _call(loop, reached.set))
        await reached.wait()

    def close(self) -> None:
        """Let the thread end when it has looked at all it has; it looks at nothing that comes later."""
        if not self._closed:
            self._closed = True
            self._calls.put(None)

    def _do(self, call: Callable[[], None]) -> None:
        if self._closed:
            return
        if self._thread is None:
            thread = Thread(target=self._work, name="lookout", daemon=True)
            thread.start()  # may be refused
            self._thread = thread
        self._calls.put(call)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            call()


def _call(loop: asyncio.AbstractEventLoop, callback: Callable[[], object]) -> None:
    """Let the event loop call something, unless it has ended."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(callback)
