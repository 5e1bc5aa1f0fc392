"""Threads for the disk: calls that wait for the disk hold up nobody else, and how long one hangs is seen."""

from __future__ import annotations

import asyncio
import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from daemon.threads import Threads
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


async def test_all_threads_are_there_from_the_start() -> None:
    """None has to be started where there is much to do."""

    def count() -> int:
        return sum(thread.name.startswith("disk-early") for thread in threading.enumerate())

    threads, gate = Threads("early", 5), threading.Event()
    assert count() == 5
    calls = [asyncio.create_task(threads.run(gate.wait)) for _ in range(20)]
    await eventually(lambda: threads.stuck_s() > 0.05)
    assert count() == 5
    gate.set()
    await asyncio.gather(*calls)
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
