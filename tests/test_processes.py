"""Worker processes: what happens to one of them is felt by its own call only."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import multiprocessing
import operator
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool, _ExecutorManagerThread
from multiprocessing.process import BaseProcess
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from deepseek_ocr.errors import Corrupt, WorkerDied, WorkerTimeout
from deepseek_ocr.processes import ProcessPool, _awaitable, collect_rarely
from tests.conftest import eventually, wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@contextlib.asynccontextmanager
async def pool_of(size: int, **options: Any) -> AsyncIterator[ProcessPool]:
    """A pool whose processes are gone afterwards."""
    pool = ProcessPool(size, **options)
    try:
        yield pool
    finally:
        pids = pool.pids()
        pool.close()
        await eventually(lambda: not any(map(runs, pids)))


def runs(pid: int) -> bool:
    """Whether there is such a process that has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def test_calls_run_in_other_processes() -> None:
    """A call is made elsewhere, with its arguments, and its result or its exception comes back."""
    async with pool_of(1) as pool:
        assert pool.pids() == []
        pid = await pool.run(os.getpid)
        assert pool.pids() == [pid]
        assert pid != os.getpid()
        assert await pool.run(sorted, [2, 3, 1], reverse=True) == [3, 2, 1]
        with pytest.raises(ZeroDivisionError):
            await pool.run(operator.truediv, 1, 0)
        assert await pool.run(os.getpid) == pid  # an exception costs no process


def fail() -> None:
    """Fail as a reader does."""
    raise Corrupt("the file ends early")


async def test_errors_of_the_package_survive_the_way_back() -> None:
    """A document's fault arrives as what it was, message included."""
    async with pool_of(1) as pool:
        with pytest.raises(Corrupt, match="the file ends early"):
            await pool.run(fail)


async def test_warm_starts_every_process() -> None:
    """After `warm` all of them run."""
    async with pool_of(2) as pool:
        await pool.warm()
        assert len(pool.pids()) == 2


def say_and_wait(path: Path) -> None:
    """Write down which process this is and wait for ever."""
    path.with_suffix(".tmp").write_text(str(os.getpid()), encoding="ascii")
    path.with_suffix(".tmp").rename(path)
    signal.pause()


async def test_a_process_that_dies_takes_its_call_only(tmp_path: Path) -> None:
    """The call of a killed process fails with WorkerDied; its neighbour's comes back, and the next one is served."""
    said = [tmp_path / "dying", tmp_path / "neighbour"]
    async with pool_of(2) as pool:
        dying, neighbour = (asyncio.create_task(pool.run(say_and_wait, path)) for path in said)
        await eventually(lambda: all(path.exists() for path in said))
        os.kill(int(said[0].read_text(encoding="ascii")), signal.SIGKILL)
        with pytest.raises(WorkerDied, match="died"):
            await dying
        assert not neighbour.done()
        assert await pool.run(os.getpid) in pool.pids()
        neighbour.cancel()
        await asyncio.wait([neighbour])


async def test_a_process_that_ends_itself_has_died() -> None:
    """A crash in a library ends the call with WorkerDied, not the pool."""
    async with pool_of(1) as pool:
        for _ in range(2):
            with pytest.raises(WorkerDied):
                await pool.run(os._exit, 3)
        assert await pool.run(divmod, 7, 2) == (3, 1)


def send_half() -> None:
    """Begin an answer of a thousand bytes, and die."""
    (queue,) = [one for one in gc.get_objects() if type(one) is SimpleQueue]
    queue._writer._send(struct.pack("!i", 1000) + b"half")  # type: ignore[attr-defined] # noqa: SLF001
    os.kill(os.getpid(), signal.SIGKILL)


async def test_a_process_that_dies_while_it_answers_has_died() -> None:
    """Nobody waits for the rest, and its neighbour answers."""
    async with pool_of(1) as pool:
        with pytest.raises(WorkerDied):
            await pool.run(send_half)
        assert await pool.run(operator.add, 1, 2) == 3


async def test_a_call_that_takes_too_long_is_stopped() -> None:
    """After its time the process is killed and the call fails with WorkerTimeout; waiting for a process counts not."""
    async with pool_of(1) as pool:
        await pool.warm()
        (pid,) = pool.pids()
        slow = asyncio.create_task(pool.run_within(0.3, signal.pause))
        queued = asyncio.create_task(pool.run_within(20, os.getpid))
        with pytest.raises(WorkerTimeout, match=r"no result after 0\.3 s"):
            await slow
        assert await queued != pid
        await eventually(lambda: not runs(pid))


def time_out() -> None:
    """Fail with the built-in error for something that took too long."""
    raise TimeoutError("the function's own")


async def test_a_timeout_of_the_function_is_its_own() -> None:
    """A TimeoutError that the function raises is no WorkerTimeout and costs no process."""
    async with pool_of(1) as pool:
        pid = await pool.run(os.getpid)
        with pytest.raises(TimeoutError, match="the function's own"):
            await pool.run_within(20, time_out)
        assert pool.pids() == [pid]


async def test_a_cancelled_call_costs_its_process() -> None:
    """Nobody waits for what was given up: its process is killed and the slot is free."""
    async with pool_of(1) as pool:
        await pool.warm()
        (pid,) = pool.pids()
        call = asyncio.create_task(pool.run(signal.pause))
        await asyncio.wait([call], timeout=0.05)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await pool.run(os.getpid) != pid
        await eventually(lambda: not runs(pid))


async def test_a_cancelled_call_that_has_no_process_yet_costs_none() -> None:
    """One that waits for its turn leaves the queue, and the others keep theirs."""
    async with pool_of(1) as pool:
        pid = await pool.run(os.getpid)
        busy = asyncio.create_task(pool.run(signal.sigtimedwait, {signal.SIGUSR1}, 0.2))
        waiting = [asyncio.create_task(pool.run(os.getpid)) for _ in range(2)]
        await asyncio.wait([busy], timeout=0.05)
        waiting[0].cancel()
        assert await waiting[1] == pid
        await busy


async def test_a_process_that_died_idle_is_replaced() -> None:
    """A process that was killed between two calls is no reason for the next one to fail."""
    async with pool_of(1) as pool:
        pid = await pool.run(os.getpid)
        os.kill(pid, signal.SIGKILL)
        await eventually(lambda: pool.pids() == [])
        assert await pool.run(os.getpid) != pid


@pytest.mark.parametrize("fails", [False, True], ids=["calls that return", "calls that fail"])
async def test_a_process_is_replaced_after_its_calls(fails: bool) -> None:
    """`max_calls` holds for calls that fail as well: a broken file leaks as much as a sound one."""
    async with pool_of(1, max_calls=3) as pool:
        pids = []
        for _ in range(2):
            pids.append(await pool.run(os.getpid))
            for _ in range(2):
                with contextlib.suppress(ZeroDivisionError):
                    await pool.run(operator.truediv, 1, 0 if fails else 1)
        assert pids[0] != pids[1]
        assert pool.pids() == []


async def test_an_initializer_runs_in_every_process() -> None:
    """It runs once, before the first call."""
    async with pool_of(1, initializer=os.putenv, initargs=("OCR_TEST", "1")) as pool:
        with pytest.raises(WorkerDied):
            await pool.run(os._exit, 1)
        assert await pool.run(os.system, 'test "$OCR_TEST" = 1') == 0


async def test_an_initializer_that_fails_fails_every_call() -> None:
    """Each call says that its process died, and none hangs."""
    async with pool_of(1, initializer=operator.truediv, initargs=(1, 0)) as pool:
        for _ in range(2):
            with pytest.raises(WorkerDied):
                await pool.run(os.getpid)


async def test_a_start_does_not_count_for_the_time_of_a_call() -> None:
    """A fresh process may take longer than the call."""
    async with pool_of(1, initializer=time.sleep, initargs=(3.5,)) as pool:
        assert await pool.run_within(3, os.getpid) in pool.pids()


async def test_a_process_that_does_not_start_is_given_up() -> None:
    """The call fails with WorkerTimeout, and no process is left."""
    async with pool_of(1, initializer=signal.pause, start_timeout_s=0.2) as pool:
        with pytest.raises(WorkerTimeout, match=r"did not start within 0\.2 s"):
            await pool.run(os.getpid)
        assert pool.pids() == []


async def test_a_start_that_is_broken_off() -> None:
    """A process that still starts is killed like one that works, by a caller who leaves and by the end of the pool."""
    async with pool_of(1, initializer=signal.pause) as pool:
        first = asyncio.create_task(pool.run(os.getpid))
        await eventually(pool.pids)
        first.cancel()
        second = asyncio.create_task(pool.run(os.getpid))
        with pytest.raises(asyncio.CancelledError):
            await first
        await eventually(pool.pids)
        pool.close()
        with pytest.raises(WorkerDied):
            await second
        assert pool.pids() == []


async def test_a_process_that_dies_before_it_has_taken_a_large_call() -> None:
    """Nobody waits for room in its pipe: with Python 3.11.2 a thread did for ever, and the program never ended."""
    async with pool_of(1) as pool:
        await pool.warm()
        (pid,) = pool.pids()
        os.kill(pid, signal.SIGSTOP)
        call = asyncio.create_task(pool.run(len, bytes(20_000_000)))
        await asyncio.wait((call,), timeout=0.1)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(WorkerDied):
            await call


async def test_a_closed_pool_serves_nobody() -> None:
    """Calls in flight, calls that wait and calls that come later fail with WorkerDied; closing twice is allowed."""
    async with pool_of(1) as pool:
        await pool.warm()
        calls = [asyncio.create_task(pool.run(signal.pause)) for _ in range(3)]
        await asyncio.wait(calls, timeout=0.05)
        pool.close()
        pool.close()
        for call in (*calls, asyncio.create_task(pool.run(os.getpid))):
            with pytest.raises(WorkerDied):
                await call


async def test_nothing_of_a_closed_pool_ends_later() -> None:
    """An executor's thread that ended with the interpreter had it write "Exception ignored" to standard error."""
    others = set(threading.enumerate())
    async with pool_of(3, close_timeout_s=60) as pool:
        await pool.warm()
        died = pool.pids()[0]
        os.kill(died, signal.SIGKILL)
        await eventually(lambda: died not in pool.pids())
        with pytest.raises(WorkerTimeout):
            await pool.run_within(0.05, signal.pause)
        pool.close()
        assert set(threading.enumerate()) <= others


async def test_a_process_that_cannot_be_killed_does_not_keep_a_pool_from_closing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As where it waits for a share that is gone."""
    pool = ProcessPool(1, close_timeout_s=0.1)
    said = tmp_path / "said"
    call = asyncio.create_task(pool.run(say_and_wait, said))
    await eventually(said.exists)
    pid = int(said.read_text(encoding="ascii"))
    with monkeypatch.context() as patched:
        patched.setattr(BaseProcess, "kill", lambda _: None)
        pool.close()
    assert runs(pid)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(WorkerDied):
        await call


async def test_a_pool_whose_threads_the_system_refuses_can_be_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As at systemd's TasksMax: what else there is to stop comes after it."""
    pool = ProcessPool(1)

    def refuse(_: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(_ExecutorManagerThread, "start", refuse)
        with pytest.raises(RuntimeError):
            await pool.run(os.getpid)
    pool.close()
    assert not pool.pids()
    await eventually(lambda: not multiprocessing.active_children())  # its process is waited for, as at the next start


async def test_signals_of_a_terminal_are_the_parents() -> None:
    """Ctrl-C reaches the whole process group; a worker goes on, so that its page can be finished."""
    async with pool_of(1) as pool:
        pid = await pool.run(os.getpid)
        os.kill(pid, signal.SIGINT)
        assert await pool.run(os.getpid) == pid


_PARENT = """
import asyncio, os, signal
from deepseek_ocr.processes import ProcessPool

async def main():
    pool = ProcessPool(2)
    await pool.warm()
    print(*pool.pids(), flush=True)
    await pool.run(signal.pause)

if __name__ == "__main__":
    asyncio.run(main())
"""


def test_workers_end_with_their_parent(tmp_path: Path) -> None:
    """When the daemon is killed, no worker process is left behind."""
    script = tmp_path / "parent.py"
    script.write_text(_PARENT, encoding="utf-8")
    root = Path(__file__).parent.parent
    with subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(root)}
    ) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2
        parent.kill()
        wait_until(lambda: not any(map(runs, pids)))


async def test_a_call_that_is_given_up_is_not_cancelled() -> None:
    """The executor's thread can still say that its process died, once that has been killed."""
    answer: Future[int] = Future()
    waiting = _awaitable(answer)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    answer.set_exception(BrokenProcessPool())


@pytest.mark.parametrize(("pages", "objects"), [(8, 200_000), (936, 468_000)])
def test_the_collector_leaves_pages_in_flight_alone(pages: int, objects: int) -> None:
    """It looks where there is more than they need, and never sooner than for a few."""
    before = gc.get_threshold()
    try:
        collect_rarely(pages)
        assert gc.get_threshold() == (objects, 50, 20)
    finally:
        gc.set_threshold(*before)
