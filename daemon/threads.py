"""Threads for what waits for a disk: a share that hangs holds up nobody else, and how long it hangs can be seen.

Residual risks: a call on a hard NFS mount cannot be ended; its thread is left behind.  Calls that are slow for want of
the processor make room for others, too.
"""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
T = TypeVar("T")

#: Calls at once where the disk is quick: more would wait for the interpreter's lock, and keep the event loop from it.
QUICK_CALLS = 12
#: One that was handed over longer ago, in seconds, most likely waits for its disk, and makes room for another.
SLOW_S = 0.025


class Threads:
    """Blocking calls of one root, in threads of its own: a share that hangs holds up nobody else.

    The number is the limit of calls that wait for the disk at once; a hard NFS mount can keep all of them for ever.
    """

    def __init__(self, name: str, count: int, slow_s: float = SLOW_S) -> None:
        self._executor = ThreadPoolExecutor(count, thread_name_prefix=f"disk-{name}")
        #: So many are handed over at once (and those that were given up and go on): with hundreds the event loop waits
        #: for the executor's lock again and again, 0.1 to 0.3 s in all, while threads hold it who end as many.
        self._handed_over = asyncio.Semaphore(2 * count)
        self._slow_s = slow_s
        #: Places of calls that were handed over less than `slow_s` ago.
        self._quick = asyncio.Semaphore(QUICK_CALLS)
        #: Long calls leave threads for those that tell whether the disk answers.
        self._long = asyncio.Semaphore(max(1, count // 4))
        #: When each running call began, by an arbitrary key.
        self._running: dict[int, float] = {}
        self._next_key = 0

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """`function(*args, **kwargs)` in a thread; cancelling gives up the result, the call only before it begins."""
        key = self._next_key
        self._next_key += 1

        def call() -> T:
            self._running[key] = time.monotonic()
            try:
                return function(*args, **kwargs)
            finally:
                del self._running[key]

        return await self._carry_out(call)

    async def run_long(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """The same for a call that may take long although the disk answers, and so tells nothing about it."""
        async with self._long:
            return await self._carry_out(functools.partial(function, *args, **kwargs))

    async def _carry_out(self, call: Callable[[], T]) -> T:
        loop = asyncio.get_running_loop()
        async with self._handed_over:
            async with self._quick:
                running = loop.run_in_executor(self._executor, call)
                try:
                    await asyncio.wait((running,), timeout=self._slow_s)
                except asyncio.CancelledError:
                    running.cancel()  # which `wait` leaves alone
                    raise
            return await running

    def stuck_s(self) -> float:
        """How long the oldest running call has been waiting for the disk."""
        return max((time.monotonic() - started for started in tuple(self._running.values())), default=0.0)

    def close(self) -> None:
        """Take no more calls; those that hang are left behind.  Nobody may wait for one any more."""
        self._executor.shutdown(wait=False, cancel_futures=True)


def threads_hang(within_s: float) -> bool:
    """Whether a thread of any root still waits for its disk after so many seconds."""
    deadline = time.monotonic() + within_s
    for thread in threading.enumerate():
        if thread.name.startswith("disk-"):
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                return True
    return False
