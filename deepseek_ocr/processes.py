"""Worker processes for CPU-heavy calls: a process that dies takes down only the call it worked on.

`concurrent.futures.ProcessPoolExecutor` gives up the whole pool when one process dies, and its processes share one
queue.  So every process here is an executor of its own with one worker; a broken one is replaced by a fresh one and
its neighbours never notice.  Processes start when they are first needed.

Left to the caller: bounding how many calls wait (each holds its arguments).
Residual risk: a call that is cancelled costs its process, as a running C function cannot be interrupted.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import multiprocessing
import os
import signal
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from deepseek_ocr.errors import WorkerDied, WorkerTimeout

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future
    from multiprocessing.process import BaseProcess
    from threading import Thread

P = ParamSpec("P")
T = TypeVar("T")

#: A process starts in a second; on an overloaded machine it was seen to take six, and one that boots has other things
#: to do as well.
START_TIMEOUT_S = 120.0
#: A process that was killed is gone in milliseconds, unless it waits for a disk that does not answer.
CLOSE_TIMEOUT_S = 1.0
#: prctl(2): the signal this process gets when its parent dies.
PR_SET_PDEATHSIG = 1
#: So many small objects more than at its last look make the garbage collector look again (Python: 700), or so many for
#: each page in flight where hundreds are.  What pages need is no garbage, some 270 objects each with vLLM's front end,
#: and a look through it stops the event loop, or the card, for 0.1 to 0.2 s (bench/LOG.md).  200,000 take some 50 MB
#: where they are garbage, the 468,000 of 936 pages some 120.
COLLECTED_AT, COLLECTED_AT_PER_PAGE = 200_000, 500
#: Looks at young objects before one at older ones, and of those before one at all (Python: 10, 10).
COLLECTED_OLDER = (50, 20)


def collect_rarely(pages: int) -> None:
    """Keep the garbage collector from looking through what so many pages in flight need."""
    gc.set_threshold(max(COLLECTED_AT, pages * COLLECTED_AT_PER_PAGE), *COLLECTED_OLDER)


class ProcessPool:
    """Up to `size` worker processes, each running one call at a time.

    `initializer(*initargs)` runs once in every new process; when it raises, each call there fails with `WorkerDied`.
    `max_calls` replaces a process after so many calls (0 = never), against slow leaks in C libraries.
    """

    def __init__(
        self,
        size: int,
        *,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        max_calls: int = 0,
        start_timeout_s: float = START_TIMEOUT_S,
        close_timeout_s: float = CLOSE_TIMEOUT_S,
    ) -> None:
        self.size = size
        self._start_timeout_s = start_timeout_s
        self._close_timeout_s = close_timeout_s
        self._initializer = initializer
        self._initargs = initargs
        self._max_calls = max_calls
        #: Idle workers, last used on top so that few calls keep few processes busy.
        self._idle: asyncio.LifoQueue[_Worker] = asyncio.LifoQueue()
        for _ in range(size):
            self._idle.put_nowait(_Worker())
        self._workers: set[_Worker] = set()
        #: The executors' threads whose processes were killed.
        self._ending: set[Thread] = set()
        self._closed = False

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """`function(*args, **kwargs)` in a worker process; raises what it raises, `WorkerDied`, or `WorkerTimeout`.

        The latter where a fresh process does not start, which is the machine's fault.
        """
        return await self.run_within(None, function, *args, **kwargs)

    async def run_within(
        self, timeout_s: float | None, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """The same, with a time limit counted from when a process is ready; raises `WorkerTimeout`."""
        worker = await self._idle.get()
        try:
            if self._closed:
                msg = "the worker processes are stopped"
                raise WorkerDied(msg)
            answer = await self._submit(worker, function, *args, **kwargs)
            worker.calls += 1
            async with asyncio.timeout(timeout_s) as limit:
                result = await answer
        except BrokenProcessPool as error:
            self._discard(worker)
            msg = "the worker process died (a crash in a library, or the system ran out of memory)"
            raise WorkerDied(msg) from error
        except TimeoutError as error:
            if not limit.expired():  # the function's own
                raise
            self._discard(worker)
            msg = f"no result after {timeout_s:g} s"
            raise WorkerTimeout(msg) from error
        except asyncio.CancelledError:
            self._discard(worker)
            raise
        else:
            return result
        finally:
            # Calls that failed count too: whoever reads a thousand broken files leaks as much.
            if self._max_calls and worker.calls >= self._max_calls:
                self._discard(worker)
            self._idle.put_nowait(worker)

    async def warm(self) -> None:
        """Start every process now, so that the first calls need not wait for it; raises as `run` does."""
        await asyncio.gather(*(self.run(os.getpid) for _ in range(self.size)))

    def pids(self) -> list[int]:
        """Process ids of the workers that run now."""
        return [pid for worker in self._workers for pid in worker.pids()]

    def close(self) -> None:
        """Kill every worker process; calls in flight fail with `WorkerDied`.

        Returns when they are gone, or after `close_timeout_s`: an executor's thread that ends while the interpreter
        does makes it complain of a closed pipe (Python 3.11).
        """
        self._closed = True
        for worker in list(self._workers):
            self._discard(worker)
        deadline = time.monotonic() + self._close_timeout_s
        for thread in self._ending:
            thread.join(max(0.0, deadline - time.monotonic()))

    async def _submit(
        self, worker: _Worker, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> asyncio.Future[T]:
        """Hand a call to the process of a worker; to a fresh one, as soon as it runs, if it has none that lives."""
        # One that died while it was idle may not have been noticed by its executor yet.
        if worker.executor is not None and worker.pids():
            with contextlib.suppress(BrokenProcessPool):
                return _awaitable(worker.executor.submit(function, *args, **kwargs))
        executor = await self._start(worker)
        return _awaitable(executor.submit(function, *args, **kwargs))

    async def _start(self, worker: _Worker) -> ProcessPoolExecutor:
        """A fresh process for a worker; raises `BrokenProcessPool`, `WorkerDied` or `WorkerTimeout`."""
        self._discard(worker)
        # spawn: the daemon has threads, and forking a threaded process can deadlock the child.
        executor = worker.executor = ProcessPoolExecutor(
            1,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_initialize,
            initargs=(os.getpid(), self._initializer, self._initargs),
        )
        self._workers.add(worker)
        ready = executor.submit(os.getpid)
        # The process has its own ends of the pipes now.  As long as this one held them, too, the executor's threads
        # would wait for ever when it dies: for the rest of an answer, or (before Python 3.11.5) until it takes a call.
        executor._result_queue._writer.close()  # type: ignore[attr-defined] # noqa: SLF001
        executor._call_queue._reader.close()  # type: ignore[attr-defined] # noqa: SLF001
        try:
            async with asyncio.timeout(self._start_timeout_s):
                await _awaitable(ready)
        except TimeoutError:
            self._discard(worker)
            msg = f"the worker process did not start within {self._start_timeout_s:g} s"
            raise WorkerTimeout(msg) from None
        if worker.executor is not executor:
            msg = "the worker processes are stopped"
            raise WorkerDied(msg)
        return executor

    def _discard(self, worker: _Worker) -> None:
        self._workers.discard(worker)
        # The system may have refused to start the last one.
        self._ending = {thread for thread in (*self._ending, worker.kill()) if thread is not None and thread.is_alive()}


class _Worker:
    """One slot of the pool; `executor` is None until a process is needed."""

    def __init__(self) -> None:
        self.executor: ProcessPoolExecutor | None = None
        self.calls = 0

    @property
    def _processes(self) -> list[BaseProcess]:
        return list((getattr(self.executor, "_processes", None) or {}).values())

    def pids(self) -> list[int]:
        return [process.pid for process in self._processes if process.is_alive() and process.pid]

    def kill(self) -> Thread | None:
        """Returns the executor's thread, which ends when the process has."""
        thread: Thread | None = getattr(self.executor, "_executor_manager_thread", None)
        for process in self._processes:
            process.kill()  # does nothing to one that was waited for: its number may be another's by now
        if self.executor is not None:
            self.executor.shutdown(wait=False, cancel_futures=True)
        self.executor = None
        self.calls = 0
        return thread


def _awaitable(answer: Future[T]) -> asyncio.Future[T]:
    """A call that is given up is not cancelled, but its process killed.

    The executor's own thread dies of a cancelled call when the process does (Python 3.11), and others wait for it.
    """
    answer.cancel = lambda: False  # type: ignore[method-assign]
    return asyncio.wrap_future(answer)


def _initialize(parent_pid: int, initializer: Callable[..., object] | None, initargs: tuple[Any, ...]) -> None:
    """What every worker process begins with."""
    tie_to_parent(parent_pid)
    if initializer is not None:
        initializer(*initargs)


def tie_to_parent(parent_pid: int) -> None:
    """End this process with its parent and leave the signals of a terminal to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent(parent_pid)


def die_with_parent(parent_pid: int) -> None:
    """End this process with its parent, to be exact with the thread of it that started this one."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:  # it died before the line above
        os._exit(1)
