"""DeepSeek-OCR-2 with transformers, on a card or without one; the first DeepSeek-OCR is refused.

The model lives in a process of its own: a fault of CUDA spoils the process it happens in for good, a call into torch
cannot be interrupted, and the event loop must turn meanwhile.  Killing the process frees the card, whatever it does.
Left to others: what happens in there (`transformers_process.py`), a new engine after `EngineDeadError`
(`reviving.py`).
Residual risks: one process reads one batch after the other, much slower than vLLM; how much memory a batch takes on a
card was not measured (it halves itself where there is none).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import multiprocessing
import os
import re
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any, Final

from deepseek_ocr.completion import Completion, EngineInfo, Health
from deepseek_ocr.engine.model_folder import expanded
from deepseek_ocr.engine.transformers_config import check_model
from deepseek_ocr.engine.transformers_process import (
    Ask,
    Died,
    GiveUp,
    Read,
    Ready,
    Refused,
    Text,
    Unreadable,
    serve,
)
from deepseek_ocr.errors import EngineDeadError, EngineStartError, PageError
from deepseek_ocr.prompt import Task, prompt_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from deepseek_ocr.completion import PageImage
    from deepseek_ocr.prompt import Options

#: OCR-2's README publishes the prompts of the first two; what else is asked is at the caller's own risk.
TASKS: Final = frozenset({Task.DOCUMENT, Task.FREE, Task.CUSTOM})
#: The first with DeepSeek-OCR-2 (the wheel of 5.9 has none).
MIN_TRANSFORMERS: Final = (5, 10, 1)
#: Pages read together unless set.  A processor is as fast page by page.  On a card 4 pages at full context are 2 GB of
#: cache (61 kB a token) beside 6.8 GB of weights.
CPU_BATCH: Final = 1
CUDA_BATCH: Final = 4
#: Without a token for so long while pages are in flight, the model hangs.  Two cores take over a minute for the picture
#: and the prompt of one page (4e12 operations) before its first token.
CPU_HANG_S: Final = 900.0
CUDA_HANG_S: Final = 120.0
#: The state of an engine between its start and its model's first word.
LOADING: Final = "loading the model"
#: A process that closed its end of the pipe ends within this time, or is killed.
END_S: Final = 5.0


class TransformersEngine:
    """Reads pages with DeepSeek-OCR-2 in one child process."""

    def __init__(
        self,
        *,
        model: str,
        gpu: int | None = None,
        batch_size: int = 0,
        hang_s: float = 0.0,
    ) -> None:
        """`model` is a hub id or a folder, `gpu` which card, counted from 0; None = the processor.

        `batch_size` pages are read together, `hang_s` without a token is a death; 0 = what suits the device.
        """
        on_card = gpu is not None
        self._model = expanded(model)
        self._device = f"cuda:{gpu}" if on_card else "cpu"
        self._batch_size = batch_size or (CUDA_BATCH if on_card else CPU_BATCH)
        self._hang_s = hang_s or (CUDA_HANG_S if on_card else CPU_HANG_S)
        self._state = "not started"
        #: What `start` makes and `stop` ends.
        self._child: _Child | None = None
        self._ready: asyncio.Future[None] | None = None
        self._numbers = itertools.count()
        #: What is asked and not answered yet.
        self._pages: dict[int, _Page] = {}
        #: When the process was last heard of, or had nothing to do, by the clock of the loop.
        self._heard_at = 0.0
        self.info = EngineInfo(
            name="transformers",
            model=f"{model} transformers-{_version('transformers')} {'bfloat16' if on_card else 'float32'}",
            tasks=TASKS,
            needs="pixels",
            capacity=2 * self._batch_size,  # one batch that is read, one that waits
            longest_page_s=math.inf,  # without a card thousands of tokens take hours
            prompted=True,
            guarded=True,
        )

    async def start(self) -> None:
        """Load the model in a fresh process; raises `EngineStartError`.  It may be started again after `stop`."""
        check_model(self._model)
        _check_packages()
        loop = asyncio.get_running_loop()
        self._ready = loop.create_future()
        self._state = LOADING
        self._child = child = _Child((self._model, self._device, self._batch_size))
        child.listen(
            lambda message: loop.call_soon_threadsafe(self._take, message),
            lambda exitcode: loop.call_soon_threadsafe(self._end, exitcode),
        )
        try:
            await self._ready
        except BaseException:
            await self.stop()
            raise
        self._watch(loop, child)

    async def recognize(
        self, page: PageImage, options: Options, on_text: Callable[[str], None] | None = None
    ) -> Completion:
        """Read one page, alone or with others that wait; the model has one resolution, so a mode changes nothing."""
        if options.task not in TASKS:
            raise ValueError(f"the transformers engine cannot do {options.task!r}")
        started = time.perf_counter()
        if page.ink == 0:
            return Completion("", "stop", seconds=time.perf_counter() - started)
        if page.pixels is None:
            raise ValueError("the transformers engine needs the pixels of the page")
        if self._state != "ready" or self._child is None:
            raise EngineDeadError(f"the transformers engine cannot read: {self._state}")
        loop, child, number = asyncio.get_running_loop(), self._child, next(self._numbers)
        answer: asyncio.Future[Read] = loop.create_future()
        if not self._pages:
            self._heard_at = loop.time()
        self._pages[number] = _Page(answer, on_text)
        try:
            ask = Ask(
                number, page.pixels, prompt_for(options), options.max_tokens, stream=on_text is not None,
                guard=options.guard,
            )  # fmt: skip
            child.send(ask)
            read = await answer
        except asyncio.CancelledError:
            child.send(GiveUp(number))
            raise
        finally:
            del self._pages[number]
            if answer.done() and not answer.cancelled():
                answer.exception()  # it counts as seen, also where the caller was cancelled in the same moment
        return Completion(
            read.text,
            read.finish_reason,
            seconds=time.perf_counter() - started,
            prompt_tokens=read.prompt_tokens,
            completion_tokens=read.completion_tokens,
        )

    async def stop(self) -> None:
        """Kill the process; pages in flight fail with `EngineDeadError`."""
        self._state = "stopped"
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            await asyncio.to_thread(child.join)
        self._fail("it was stopped")

    def health(self) -> Health:
        """Ready once the model is loaded, until its process ends."""
        detail = f"{self._state}, on {self._device}, {len(self._pages)} pages asked for"
        return Health(ok=self._state == "ready", detail=detail)

    def pids(self) -> list[int]:
        """The process id of the model, while it runs."""
        return self._child.pids() if self._child is not None else []

    def _watch(self, loop: asyncio.AbstractEventLoop, child: _Child) -> None:
        """Kill a process that says nothing although pages are in flight; called again until it is stopped."""
        if child is not self._child:
            return
        silent_s = loop.time() - self._heard_at
        if self._pages and silent_s > self._hang_s and self._state == "ready":
            reason = f"no token for {silent_s:.0f} s with {len(self._pages)} pages in flight"
            self._state = f"dead ({reason})"
            self._fail(reason)
            child.kill()
        loop.call_later(min(1.0, self._hang_s / 4), self._watch, loop, child)

    def _take(self, message: Any) -> None:
        self._heard_at = asyncio.get_running_loop().time()
        match message:
            case Ready() if self._state == LOADING and self._ready is not None and not self._ready.done():
                self._state = "ready"
                self._ready.set_result(None)
            case Refused(reason) if self._ready is not None and not self._ready.done():
                self._ready.set_exception(EngineStartError(reason))
            case Died(reason) if self._state == "ready":
                self._state = f"dead ({reason})"
                self._fail(reason)
            case Text(number, text) if number in self._pages:
                on_text = self._pages[number].on_text
                if on_text is not None:
                    on_text(text)
            case Read(number) if number in self._pages and not self._pages[number].answer.done():
                self._pages[number].answer.set_result(message)
            case Unreadable(number, reason) if number in self._pages and not self._pages[number].answer.done():
                self._pages[number].answer.set_exception(PageError(f"the model cannot read the page: {reason}"))

    def _end(self, exitcode: int | None) -> None:
        """The process ended, for whatever reason."""
        how = f"killed by {signal.Signals(-exitcode).name}" if exitcode and exitcode < 0 else f"exit code {exitcode}"
        if self._state in {"ready", LOADING}:
            self._state = f"dead (its process ended: {how})"
        if self._ready is not None and not self._ready.done():
            self._ready.set_exception(
                EngineStartError(
                    f"the process that loads {self._model} ended ({how}): SIGKILL means that the memory did not "
                    f'suffice; a script of your own needs `if __name__ == "__main__":` around its start'
                )
            )
        self._fail(f"its process ended: {how}")

    def _fail(self, reason: str) -> None:
        for page in self._pages.values():
            if not page.answer.done():
                page.answer.set_exception(EngineDeadError(f"the transformers engine died: {reason}"))


class _Child:
    """The process of the model, with the two threads that speak with it."""

    def __init__(self, args: tuple[str, str, int]) -> None:
        context = multiprocessing.get_context("spawn")  # a forked process could not use CUDA
        self._connection, other = context.Pipe()
        # From the thread of the loop: the process dies with the thread that started it.
        self._process = context.Process(
            target=serve, args=(other, os.getpid(), *args), name="transformers", daemon=True
        )
        self._process.start()
        other.close()  # so that the end of the process closes the pipe
        #: A page of 6 MB may have to wait for room in the pipe; one thread keeps the order.
        self._sender = ThreadPoolExecutor(1, thread_name_prefix="transformers-send")
        self._listener: threading.Thread | None = None

    def listen(self, take: Callable[[Any], object], end: Callable[[int | None], object]) -> None:
        """Have a thread call `take` with each message, at last `end` with the exit code."""
        self._listener = threading.Thread(
            target=self._listen, args=(take, end), name="transformers-listen", daemon=True
        )
        self._listener.start()
        self._sender.submit(int)  # its thread starts with the other

    def _listen(self, take: Callable[[Any], object], end: Callable[[int | None], object]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed, nobody waits for anything
            with contextlib.suppress(EOFError, OSError):
                while True:
                    take(self._connection.recv())
            self._process.join(END_S)
            self._process.kill()
            self._process.join()
            end(self._process.exitcode)

    def send(self, message: Ask | GiveUp) -> None:
        """Hand a message to the sending thread.  Where it does not arrive the process has ended, as `end` tells."""
        with contextlib.suppress(RuntimeError):  # joined meanwhile
            self._sender.submit(self._connection.send, message)

    def kill(self) -> None:
        """End it, whatever it does."""
        self._process.kill()

    def join(self) -> None:
        """Wait until it and both threads have ended."""
        if self._listener is not None:
            self._listener.join()
        self._process.join()
        self._sender.shutdown(cancel_futures=True)
        self._connection.close()

    def pids(self) -> list[int]:
        """Its process id, while it runs."""
        return [self._process.pid] if self._process.pid and self._process.is_alive() else []


@dataclass(frozen=True, slots=True)
class _Page:
    """Somebody who waits for a page."""

    answer: asyncio.Future[Read]
    on_text: Callable[[str], None] | None


def _check_packages() -> None:
    """Raise `EngineStartError` where something is not installed, or too old; nothing is imported."""
    install = (
        "install it from the checkout, with `make install ENGINE=vllm` for the service, which brings both, or "
        "`pip install '.[transformers]'` for an environment of your own"
    )
    missing = [name for name in ("torch", "transformers") if _version(name) == "missing"]
    if missing:
        raise EngineStartError(f"the transformers engine needs {' and '.join(missing)}; {install}")
    version = _version("transformers")
    if tuple(int(part) for part in re.findall(r"\d+", version)[:3]) < MIN_TRANSFORMERS:
        wanted = ".".join(map(str, MIN_TRANSFORMERS))
        raise EngineStartError(
            f"transformers {version} does not know DeepSeek-OCR-2, {wanted} is the first that does; {install}"
        )


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "missing"
