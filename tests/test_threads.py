"""Threads for the disk: calls that wait for the disk hold up nobody else, and how long one hangs is seen."""

from __future__ import annotations

import asyncio
import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from daemon.threads import QUICK_CALLS, Threads
from tests.conftest import eventually

if TYPE_CHECKING:
    from collections.abc import Callable


async def test_threads_run_calls_and_tell_how_long_one_hangs() -> None:
    """A call that waits for the disk is seen, others go on beside it, and when it is back nothing hangs."""
    threads, gate = Threads("test", 2), threading.Event()
    assert threads.stuck_s() == 0.0
    hanging = asyncio.create_task(threads.run(gate.wait))
    try:
        await eventually(lambda: threads.stuck_s() > 0.05)
        assert await threads.run(divmod, 7, 2) == (3, 1)
        with pytest.raises(ZeroDivisionError):
            await threads.run(divmod, 7, 0)
        assert threads.stuck_s() > 0.05
    finally:
        gate.set()
        await hanging
        threads.close()
    assert threads.stuck_s() == 0.0


async def test_closed_threads_take_no_more_calls() -> None:
    """After `close` a call is refused rather than left waiting."""
    threads = Threads("test", 1)
    threads.close()
    with pytest.raises(RuntimeError, match="shutdown"):
        await threads.run(os.getpid)


class Gate:
    """Calls that wait until it is open."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self._lock = threading.Lock()
        self.inside = self.most_inside = 0

    def __call__(self) -> None:
        """Come to it."""
        with self._lock:
            self.inside += 1
            self.most_inside = max(self.most_inside, self.inside)
        self._open.wait()
        with self._lock:
            self.inside -= 1

    def open(self) -> None:
        """Let all go."""
        self._open.set()


async def most_at_once(threads: Threads, awaited: int, *, cancel: bool = False) -> int:
    """How many of 100 calls ran at once, of which so many come to a gate before it opens; some may be cancelled."""
    gate = Gate()
    calls = [asyncio.create_task(threads.run(gate)) for _ in range(100)]
    await eventually(lambda: gate.inside == awaited)
    for call in calls[::2] if cancel else ():
        call.cancel()
    gate.open()
    await asyncio.wait(calls)
    await eventually(lambda: gate.inside == 0)
    assert [call.cancelled() for call in calls] == [cancel and number % 2 == 0 for number in range(100)]
    return gate.most_inside


async def test_few_calls_run_at_once_where_the_disk_is_quick() -> None:
    """However many threads there are; calls that are cancelled, begun or not, give their places back once."""
    threads = Threads("test", 40, slow_s=3600)
    # One that is cancelled while it runs goes on beside the next.
    for cancel in (False, True, True, False):
        assert await most_at_once(threads, QUICK_CALLS, cancel=cancel) == QUICK_CALLS or cancel
    threads.close()


async def test_calls_that_wait_for_a_slow_disk_make_room() -> None:
    """As many run as there are threads; when it is quick again, as few as before."""
    threads = Threads("test", 2 * QUICK_CALLS, slow_s=2.0)
    for at_once in (2 * QUICK_CALLS, QUICK_CALLS):
        assert await most_at_once(threads, at_once) == at_once
    threads.close()


async def test_few_calls_are_handed_over_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others wait their turn in the event loop, which has other things to do between them."""
    handed_over = []
    submit = ThreadPoolExecutor.submit

    def note(pool: ThreadPoolExecutor, call: Callable[[], None]) -> Future[None]:
        handed_over.append(call)
        return submit(pool, call)

    threads, gate, ended = Threads("test", 1), threading.Event(), list[int]()
    monkeypatch.setattr(ThreadPoolExecutor, "submit", note)

    def call(number: int) -> None:
        gate.wait()
        ended.append(number)

    calls = [asyncio.create_task(threads.run(call, number)) for number in range(100)]
    try:
        await eventually(lambda: threads.stuck_s() > 0.05)
        assert len(handed_over) == 2
        calls[50].cancel()
        gate.set()
        await asyncio.wait(calls)
        assert ended == [number for number in range(100) if number != 50]
    finally:
        gate.set()
        threads.close()


async def test_long_calls_leave_a_thread() -> None:
    """Where the disk hangs under all of them, a call that can tell still begins."""
    threads, gate = Threads("test", 3), threading.Event()
    long = [asyncio.create_task(threads.run_long(gate.wait)) for _ in range(20)]
    try:
        assert await threads.run(divmod, 7, 2) == (3, 1)
        hanging = asyncio.create_task(threads.run(gate.wait))
        await eventually(lambda: threads.stuck_s() > 0.05)
    finally:
        gate.set()
        await asyncio.wait((*long, hanging))
        threads.close()
