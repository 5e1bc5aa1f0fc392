"""Who gets the next page: pages are the unit of work, so that a long document holds up nobody.

Higher priority first; among equal inboxes in turn; within an inbox in the order of asking.  As every job asks for
one page at a time, that order is a round robin over its documents.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class PageSlots:
    """As many pages in flight as `capacity` says."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.in_flight = 0
        #: Steady clock, seconds: since when there has been a page in flight; None while there is none.
        self.busy_since: float | None = None
        #: Waiting requests by (priority, inbox); an inbox that was served moves to the end.
        self._waiting: dict[tuple[int, str], deque[asyncio.Future[None]]] = {}

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return sum(map(len, self._waiting.values()))

    async def acquire(self, inbox: str, priority: int = 0) -> None:
        """Wait for a slot; give it back with `release`."""
        if self.in_flight < self.capacity and not self._waiting:
            self._grant()
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault((priority, inbox), deque()).append(future)
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self.release()  # the slot came in the same moment
            else:
                self._leave((priority, inbox), future)
            raise

    def release(self) -> None:
        """Give a slot back."""
        self.in_flight -= 1
        if not self.in_flight:
            self.busy_since = None
        while self.in_flight < self.capacity and (future := self._next()):
            self._grant()
            future.set_result(None)

    def releaser(self) -> Callable[[], None]:
        """`release`, for the one slot that was just given; calling it again does nothing."""
        left = [self.release]

        def release() -> None:
            if left:
                left.pop()()

        return release

    def let_all_go(self) -> None:
        """Wake everyone who waits, over capacity: they are to see that the service stops."""
        while future := self._next():
            self._grant()
            future.set_result(None)

    def _grant(self) -> None:
        self.in_flight += 1
        if self.busy_since is None:
            self.busy_since = time.monotonic()

    def _leave(self, key: tuple[int, str], future: asyncio.Future[None]) -> None:
        queue = self._waiting.get(key, deque())
        if future in queue:
            queue.remove(future)
        if not queue:
            self._waiting.pop(key, None)

    def _next(self) -> asyncio.Future[None] | None:
        while self._waiting:
            highest = max(priority for priority, _ in self._waiting)
            key = next(key for key in self._waiting if key[0] == highest)
            queue = self._waiting.pop(key)
            future = queue.popleft()
            if queue:
                self._waiting[key] = queue  # behind the others of its priority
            if not future.done():
                return future
        return None
