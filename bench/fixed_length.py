"""The real command with an engine whose model has dummy weights, and whose answers have fixed lengths.

Dummy weights never end a text, and speed must not depend on what they say: each page gets a length from a fixed
sequence, 300 to 1,500 tokens, 905 in the mean as of A4 pages of print.  All else is the engine's own, the guard
included.  `python -m bench.fixed_length run --config FILE`.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import json
import os
import random
import sys
import threading
import time
import traceback
from array import array
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepseek_ocr.engine import vllm
from deepseek_ocr.engine.vllm_plugin import STREAM_INTERVAL

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from deepseek_ocr.completion import Completion, PageImage
    from deepseek_ocr.prompt import Options

SHORTEST, LONGEST = 300, 1500
#: The sequence begins anew after so many pages.
CYCLE = 4096
#: Of real outputs.
CHARS_PER_TOKEN = 3
#: One block over the whole page, of words that never come twice.
_TEXT = "<|ref|>text<|/ref|><|det|>[[0, 0, 999, 999]]<|/det|>\n" + " ".join(
    f"{number * 7919 % 100_003:x}" for number in range(5000)
)
#: More arguments of vLLM, as JSON; where the ids of each page are written, for the replay of the guard; 0 for none.
ARGUMENTS, IDS_FILE, GUARD = "BENCH_VLLM_ARGUMENTS", "BENCH_IDS_FILE", "BENCH_GUARD"
#: Names a file for what the threads do while the event loop is later than so.
STALLS, STALL_S = "BENCH_STALLS", 0.03
#: So often the event loop is to come to a timer.
BEAT_S = 0.01
#: Names a folder if the card is to be traced (`trace.py`), for so long, once so many pages have been read.
TRACE, TRACE_S, TRACE_AFTER = "BENCH_TRACE", 5.0, "BENCH_TRACE_AFTER"


def lengths() -> list[int]:
    """Tokens of the answers, in the order of the pages."""
    chosen = random.Random(1)  # noqa: S311 - lengths, not secrets
    return [chosen.randint(SHORTEST, LONGEST) for _ in range(CYCLE)]


class FixedLengthEngine(vllm.VllmEngine):
    """`VllmEngine` with dummy weights, which answers at fixed lengths."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lengths = itertools.cycle(lengths())
        self._guarded = os.environ.get(GUARD, "1") != "0"
        #: Where each page's ids go, all at the end: a file is written with the loop waiting for the interpreter's lock.
        self._ids_file = Path(os.environ[IDS_FILE]) if os.environ.get(IDS_FILE) else None
        self._answers: list[array[int]] = []
        #: Tokens so far, of pages in flight as well.
        self.tokens = 0
        #: Pages that were read.
        self._read = 0
        self._tracing: asyncio.Task[None] | None = None

    def engine_arguments(self) -> dict[str, Any]:
        """Dummy weights, and what the benchmark wants to try."""
        arguments: dict[str, Any] = {"load_format": "dummy"} | json.loads(os.environ.get(ARGUMENTS, "{}"))
        if not self._guarded:
            arguments["logits_processors"] = None
        if os.environ.get(TRACE):
            arguments["worker_extension_cls"] = "bench.trace.TracedWorker"
        return arguments

    async def _trace(self) -> None:
        await self._engine.collective_rpc("start_trace")
        await asyncio.sleep(TRACE_S)
        await self._engine.collective_rpc("stop_trace", args=(os.environ[TRACE],))

    def sampling_params(self, page: PageImage, options: Options, room: int) -> Any:
        """A length of the sequence, whatever the model says; the warm-up keeps its own."""
        params = super().sampling_params(page, options, room)
        params.ignore_eos = True
        if not options.max_tokens:
            params.max_tokens = next(self._lengths)
        if not self._guarded:
            params.extra_args = None
        return params

    async def recognize(
        self, page: PageImage, options: Options, on_text: Callable[[str], None] | None = None
    ) -> Completion:
        """A page that ended by its length has ended well, and said something: dummy weights stammer.

        Else each page would be given up as a loop and climb the ladder; so it is heard to say a page's worth of
        text, as much at a time as its tokens are, and the watch and the judgement have their usual work.
        """
        heard = itertools.count(STREAM_INTERVAL, STREAM_INTERVAL)

        def say(_: str) -> None:
            if on_text is not None:
                on_text(_TEXT[: next(heard) * CHARS_PER_TOKEN])

        completion = await super().recognize(page, options, say)
        self._read += 1
        if self._read == int(os.environ.get(TRACE_AFTER, "0")):
            self._tracing = asyncio.create_task(self._trace())
        text = _TEXT[: completion.completion_tokens * CHARS_PER_TOKEN]
        return replace(completion, finish_reason="stop", text=text)

    async def _generate(self, engine: Any, page: PageImage, options: Options) -> AsyncGenerator[Any, None]:
        ids: list[int] = []
        async with contextlib.aclosing(super()._generate(engine, page, options)) as outputs:
            async for output in outputs:
                ids += output.outputs[0].token_ids
                self.tokens += len(output.outputs[0].token_ids)
                yield output
        if self._ids_file is not None and not options.max_tokens:
            self._answers.append(array("I", ids))

    async def stop(self) -> None:
        """End the engine, and write what it said."""
        await super().stop()
        answers, self._answers = self._answers, []
        if self._ids_file is not None and answers:
            with self._ids_file.open("a") as file:
                file.writelines(json.dumps(ids.tolist()) + "\n" for ids in answers)


class LoopWatch:
    """How late the event loop comes to beats, and how long the garbage collector looks; all in milliseconds.

    Beats go on while the loop stands still: a stop of 150 ms makes fifteen of them late, as it does any timers.
    """

    def __init__(self) -> None:
        #: The beat that is due; `time.perf_counter`, as all times here.
        self.due = time.perf_counter()
        #: (beat, milliseconds)
        self.late: list[tuple[float, float]] = []
        #: The first beat of each stop alone, the same.
        self.stops: list[tuple[float, float]] = []
        #: (begin, milliseconds)
        self.looks: list[tuple[float, float]] = []
        self._look_begun = 0.0

    async def run(self) -> None:
        """Watch until it is cancelled."""
        self.due = time.perf_counter() + BEAT_S
        while True:
            await asyncio.sleep(self.due - time.perf_counter())
            self.note_awake(time.perf_counter())

    def note_awake(self, now: float) -> None:
        """The loop runs: all beats that were due come now."""
        late = []
        while self.due <= now:
            late.append((round(self.due, 2), round(1000 * (now - self.due), 2)))
            self.due += BEAT_S
        self.late += late
        self.stops += late[:1]

    def note_look(self, phase: str, _: dict[str, int]) -> None:
        """For `gc.callbacks`."""
        now = time.perf_counter()
        if phase == "start":
            self._look_begun = now
        else:
            self.looks.append((round(self._look_begun, 2), round(1000 * (now - self._look_begun), 2)))


def watch_loop(path: Path) -> None:
    """Write what a `LoopWatch` has seen when the process ends; and where the loop was when it was late (`STALLS`)."""
    import atexit  # noqa: PLC0415

    watch = LoopWatch()
    gc.callbacks.append(watch.note_look)
    original = vllm.VllmEngine.start

    async def start(self: Any) -> None:
        await original(self)
        if watch.late:  # an engine that was built anew
            return
        self.loop_watch = asyncio.create_task(watch.run())
        if os.environ.get(STALLS):
            threading.Thread(target=watch_stalls, args=(Path(os.environ[STALLS]), watch), daemon=True).start()

    vllm.VllmEngine.start = start  # type: ignore[method-assign]
    atexit.register(
        lambda: path.write_text(json.dumps({"late": watch.late, "stops": watch.stops, "collector": watch.looks}))
    )


def watch_stalls(path: Path, watch: LoopWatch) -> None:
    """Write what every thread does, a line of JSON each time, while the event loop is late."""
    loop = threading.main_thread().ident
    with path.open("a", buffering=1) as file:
        while True:
            asleep = time.perf_counter()
            time.sleep(0.005)
            now = time.perf_counter()
            if now - watch.due > STALL_S:
                late = [round(1000 * delay) for delay in (now - watch.due, now - asleep)]
                stacks = {
                    "loop" if thread == loop else str(thread): [
                        f"{Path(frame.filename).name}:{frame.lineno} {frame.name}"
                        for frame in traceback.extract_stack(stack)[-8 if thread == loop else -2 :]
                    ]
                    for thread, stack in sys._current_frames().items()  # noqa: SLF001 - there is no other way
                }
                file.write(json.dumps({"at": round(now, 2), "late_ms": late, "stacks": stacks}) + "\n")


if __name__ == "__main__":
    from daemon.cli import main

    # `build` looks the class up when it is called.
    vllm.VllmEngine = FixedLengthEngine  # type: ignore[misc]
    if os.environ.get("BENCH_LOOP_FILE"):
        watch_loop(Path(os.environ["BENCH_LOOP_FILE"]))
    sys.exit(main())
