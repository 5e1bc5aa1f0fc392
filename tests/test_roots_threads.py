"""The threads of a root: calls that wait for the disk hold up nobody else, and how long one hangs is seen."""

from __future__ import annotations

import asyncio
import os
import threading

import pytest

from daemon.roots import Threads
from tests.conftest import eventually


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
