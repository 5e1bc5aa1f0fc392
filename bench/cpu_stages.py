"""The daemon with a clock around its stages: processor time of each, for `bench.cpu_path`, which starts it.

A stage's time is its own: what runs within it under another name counts there.  Every process adds lines to a file of
its own in the folder `BENCH_STAGES`, as worker processes are killed at the end.

Residual risk: a line costs some 0.05 ms; what no stage names is left to the reader of the files, who knows the
processor time of each process.
"""

from __future__ import annotations

import concurrent.futures.process as pool
import functools
import importlib
import json
import os
import sys
import threading
import time
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    Function = Callable[..., Any]

FOLDER = "BENCH_STAGES"
MODELS, AROUND, STARTING = "models (ONNX Runtime)", "cutting out, decoding letters", "start of processes"
TRANSPORT = "transport between processes"
#: What a name in these modules stands for; in the daemon's own process those of the callers.
IN_DAEMON = {
    "deepseek_ocr.reader": {"reading_of": "blocks, headings, verdict"},
    "deepseek_ocr.recovery": {"assembled": "blocks, headings, verdict"},
    "daemon.passes": {"write_checkpoint": "checkpoints"},
    "daemon.assembly": {"write_document": "Markdown, JSON", "finish_document": "Markdown, JSON"},
    "daemon.worker": {"hash_file": "hash, manifest", "write_manifest": "hash, manifest"},
}
IN_RECOGNITION = {
    "_workable": "finding lines, around the model",
    "find_lines": "finding lines, around the model",
    "_rules": "rules of tables",
    "lettering_of": "type of lines",
    "types_of": "type of lines",
    "regions_from_lines": "paragraphs, tables",
}
#: Calls of worker processes.
CALLS = {
    "load_page": "rendering, text layer, ink",
    "inspect": "rendering, text layer, ink",
    "_read": AROUND,
    "_warm_up": STARTING,
    "_digest": "language, keywords, summary",
}

_thread = threading.local()


def note(stage: str, seconds: float) -> None:
    """Write it down."""
    with (Path(os.environ[FOLDER]) / f"{os.getpid()}.jsonl").open("a") as file:
        file.write(json.dumps([stage, seconds]) + "\n")


def clocked(function: Function, stage: str) -> Function:
    """The function, which notes the processor time of its thread, less that of stages within it."""

    @functools.wraps(function)
    def within(*args: Any, **kwargs: Any) -> Any:
        above, _thread.inner = getattr(_thread, "inner", 0.0), 0.0
        began = time.thread_time()
        try:
            return function(*args, **kwargs)
        finally:
            took = time.thread_time() - began
            note(stage, took - _thread.inner)
            _thread.inner = above + took

    return within


def clock(owner: Any, stages: dict[str, str]) -> None:
    """Put a clock around these attributes."""
    for name, stage in stages.items():
        setattr(owner, name, clocked(getattr(owner, name), stage))


def clock_daemon() -> None:
    """Clocks for the daemon's own process."""
    for module, stages in IN_DAEMON.items():
        clock(importlib.import_module(module), stages)
    clock(Connection, dict.fromkeys(("send_bytes", "recv"), TRANSPORT))
    ForkingPickler.dumps = staticmethod(clocked(ForkingPickler.dumps, TRANSPORT))  # type: ignore[method-assign]


class _Calls:
    """The queue of calls of a worker process; clocks are put around what a call is of."""

    def __init__(self, queue: Any) -> None:
        self._queue = queue
        self._get = self._first

    def __getattr__(self, name: str) -> Any:
        return getattr(self._queue, name)

    def get(self, **kwargs: Any) -> Any:
        call = self._get(**kwargs)
        if call is not None and call.fn.__name__ in CALLS:
            if call.fn.__module__ == "deepseek_ocr.engine.cpu":
                call.fn = functools.partial(recognizing, call.fn)
            else:
                call.fn = clocked(call.fn, CALLS[call.fn.__name__])
        return call

    def _first(self, **kwargs: Any) -> Any:
        """The first call loads what it is of."""
        call = self._queue.get(**kwargs)
        note(STARTING, time.process_time())
        self._get = clocked(self._queue.get, TRANSPORT)
        return call


def recognizing(function: Function, *args: Any) -> Any:
    """A call of the engine."""
    if "onnxruntime" not in sys.modules:
        began = time.thread_time()
        recognition = importlib.import_module("deepseek_ocr.recognition")
        recognition._load(*args[:2])  # noqa: SLF001 - the first call would
        note(STARTING, time.thread_time() - began)
        clock(recognition, IN_RECOGNITION)
        clock(importlib.import_module("onnxruntime").InferenceSession, {"run": MODELS})
    return clocked(function, CALLS[function.__name__])(*args)


def clock_worker() -> None:
    """Clocks for a worker process."""
    name = "_process_worker"  # nothing else sees every call
    work: Function = getattr(pool, name)

    @functools.wraps(work)
    def clocked_work(queue: Any, *args: Any) -> None:
        work(_Calls(queue), *args)

    setattr(pool, name, clocked_work)
    clock(pool, {"_sendback_result": TRANSPORT})


if __name__ == "__mp_main__":  # as every worker process loads it
    clock_worker()

if __name__ == "__main__":
    from daemon.cli import main

    clock_daemon()
    sys.exit(main())
