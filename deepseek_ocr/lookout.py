"""One thread that looks for loops in the answers of all pages while they come.

A look compresses a piece of the answer, for which Python gives up its interpreter's lock.  Where the event loop looked
by itself it had to wait for the threads that took the lock, hundreds of times a second with 900 pages at once
(bench/LOG.md).
Left to others: what a loop is (`loops.py`), and giving the page up (`attempt.py`).
Residual risk: a page is given up a moment after the piece with which its loop shows.
"""

from __future__ import annotations

import asyncio
import contextlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from deepseek_ocr.loops import Loop, LoopWatch


class Lookout:
    """Takes pieces of answers from the event loop and tells it of loops, until it is closed.

    Its thread begins with the first piece.
    """

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="lookout")

    def hand_over(self, watch: LoopWatch, piece: str, tell: Callable[[Loop | BaseException], None]) -> None:
        """Let a watch take the next piece of its answer; pieces are taken in the order in which they come.

        The event loop calls `tell` if the watch finds a loop, with that, or if it fails, with the error.
        """
        loop = asyncio.get_running_loop()

        def told(look: Future[Loop | None]) -> None:
            found = look.exception() or look.result()
            if found is not None:
                with contextlib.suppress(RuntimeError):  # the event loop has ended
                    loop.call_soon_threadsafe(tell, found)

        self._executor.submit(watch.feed, piece).add_done_callback(told)

    async def caught_up(self) -> None:
        """Wait until all that was handed over has been looked at, and told."""
        await asyncio.get_running_loop().run_in_executor(self._executor, lambda: None)

    def close(self) -> None:
        """Let the thread end when it has looked at all it has; it takes nothing that comes later."""
        self._executor.shutdown(wait=False)
