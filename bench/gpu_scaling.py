"""What more pages cost, and what more pages at once gain: a stage of `bench.gpu`, from PNG files, on one engine.

One page alone; then 1/64, 1/16, 1/4 of the pages and all of them (64 to 4,096), as many at once as the engine takes;
then fewer at once: readers are added step by step and none is taken away, so each step begins with a full card.  The
speed of a step is that of tokens while half as many pages as are read at once end, or some more; a page has 905.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import time
from typing import TYPE_CHECKING, Any

from bench.fixed_length import CYCLE, FixedLengthEngine, lengths
from bench.gpu_documents import PICTURES
from bench.gpu_stages import LATENCY_TOKENS, LATENCY_TRIES, report, window
from deepseek_ocr.engine.vllm_plan import VllmSettings
from deepseek_ocr.prompt import Options
from deepseek_ocr.reader import Reader

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

#: What is read before anything is measured.
WARM_UP_PAGES = 32
#: Pages at once, unless other numbers are asked for; one is a page alone, and as many as the engine takes are the run
#: over all pages.
AT_ONCE = "8,32,64,128,256,448"
#: Pages that end while a step is measured, at least.
FEWEST = 32


async def scaling(model: str, pictures: list[Path], most: int, fewer: list[int]) -> None:
    """Report each figure as soon as it is there; `most` pages are the largest run, `fewer` are so many at once."""
    begun = time.perf_counter()
    engine = FixedLengthEngine(model, settings=VllmSettings(**json.loads(os.environ.get("BENCH_VLLM_SETTINGS", "{}"))))
    async with Reader(engine) as reader:
        numbers = itertools.count()
        #: When each page was read.
        ends: list[float] = []

        async def read_one(options: Options | None = None) -> None:
            page = await reader.read_page(pictures[next(numbers) % PICTURES], 0, options or Options())
            assert not page.problem, page.problem
            ends.append(time.perf_counter())

        await asyncio.gather(*(read_one() for _ in range(WARM_UP_PAGES)))
        report(start_s=time.perf_counter() - begun, plan=str(engine.plan))
        alone = []
        for _ in range(LATENCY_TRIES):
            begun = time.perf_counter()
            await read_one(Options(max_tokens=LATENCY_TOKENS))
            alone.append(time.perf_counter() - begun)
        report(alone_s=sorted(alone))
        for count in (most // 64, most // 16, most // 4, most):
            report(**await _run(engine, read_one, ends, max(count, 1)))
        await _fewer_at_once(engine, read_one, ends, fewer)


async def _run(
    engine: FixedLengthEngine, read_one: Callable[[], Awaitable[None]], ends: list[float], count: int
) -> dict[str, Any]:
    """So many pages from an idle engine to the last of them, and the speed in their middle."""
    slots = asyncio.Semaphore(engine.info.capacity)

    async def in_turn() -> None:
        async with slots:
            await read_one()

    ends.clear()
    engine.tokens = 0
    begun = time.perf_counter()
    await asyncio.gather(*(in_turn() for _ in range(count)))
    figures = {"pages": count, "seconds": time.perf_counter() - begun, "tokens": engine.tokens}
    low, high = window(count)
    # Before the first ones are replaced, and after the last have begun, the card is not full.
    if low >= engine.plan.max_num_seqs:
        figures |= {"pages_at_once": engine.plan.max_num_seqs, "pages_s": (high - low) / (ends[high] - ends[low])}
    return figures


async def _fewer_at_once(
    engine: FixedLengthEngine, read_one: Callable[[], Awaitable[None]], ends: list[float], fewer: list[int]
) -> None:
    """Pages a second at each of these numbers of pages at once that the engine takes."""
    mean = sum(lengths()) / CYCLE

    async def read_on() -> None:
        while True:
            await read_one()

    readers: list[asyncio.Task[None]] = []

    async def until(count: int) -> None:
        while len(ends) < count:
            for failed in (reader for reader in readers if reader.done()):
                failed.result()
            await asyncio.sleep(0.01)

    try:
        for at_once in sorted(set(fewer)):
            if at_once >= engine.plan.max_num_seqs:
                break
            readers += [asyncio.create_task(read_on()) for _ in range(at_once - len(readers))]
            ends.clear()
            await until(at_once)
            engine.tokens, settled, begun = 0, len(ends), time.perf_counter()
            await until(settled + max(FEWEST, at_once // 2))
            seconds = time.perf_counter() - begun
            report(
                pages_at_once=at_once, pages_s=engine.tokens / mean / seconds, tokens_s=engine.tokens / seconds,
                seconds_measured=seconds, ended_s=(len(ends) - settled) / seconds,
            )  # fmt: skip
    finally:
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)


def table(figures: list[dict[str, Any]]) -> None:
    """Print what the stage reported."""
    for one in figures:
        if "alone_s" in one:
            print(
                f"a page alone, {LATENCY_TOKENS} tokens: {', '.join(f'{seconds:.2f}' for seconds in one['alone_s'])} s"
            )
    runs = [one for one in figures if "pages" in one]
    if runs:
        print("  pages  seconds  pages/s  s a page  s for each page beyond the row above")
    for before, run in zip([{"pages": 0, "seconds": 0.0}, *runs], runs, strict=False):
        more = (run["seconds"] - before["seconds"]) / max(run["pages"] - before["pages"], 1)
        speed = run["pages"] / run["seconds"]
        print(f"{run['pages']:7,} {run['seconds']:8.1f} {speed:8.2f} {1 / speed:9.4f} {more:9.4f}")
    steps = sorted((one for one in figures if "pages_at_once" in one), key=lambda one: int(one["pages_at_once"]))
    if steps:
        print("at once  pages/s")
    for step in steps:
        print(f"{step['pages_at_once']:7,} {step['pages_s']:8.2f}")
