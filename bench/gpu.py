"""DeepSeek-OCR on one NVIDIA card: the published vLLM recipe, then ours from PNG files, then the whole daemon.

Bar: the whole daemon, guard on, reads 20 pages/s and 3 x as many as the recipe in the same run, over 2,048 pages in
steady state, half of them PDF and half PNG.  Full-size model with dummy weights (`--model`, a folder with config.json
and tokenizer), pages of A4, answers of 300 to 1,500 tokens (905 in the mean), greedy.  The reference guard is replayed
over all answers.  Each stage is a process of its own, as an engine keeps its card.

`python -m bench.gpu --model DIR --stages recipe,png,daemon`; more stages: unguarded (what the guard costs), linear (64
to 4,096 pages), kill (the engine core dies on the way), presets (24gb and 8gb).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from multiprocessing import Pool
from pathlib import Path
from typing import Any

from bench.gpu_documents import PICTURES, write_pdf, write_pictures

#: Times the recipe, and pages a second.
BAR, RATE_BAR = 3.0, 20.0
PAGES = {
    "recipe": 512,
    "png": 1024,
    "unguarded": 1024,
    "daemon": 4096,
    "kill": 256,
    "presets": 64,
}
#: Of the recipe; 256 gave less (bench/README.md).
RECIPE_SEQS = 128
#: Pages of the steady state.
STEADY = 2048
#: Pages of the stage that shows what more pages cost.
LINEAR = (64, 256, 1024, 4096)
#: A page by itself on an idle card, so many times; and a document of so many pages.
LATENCY_TRIES, LATENCY_TOKENS, LONG_DOCUMENT = 3, 905, 19
MARK = "BENCH-RESULT "
#: <td> and </td>.
TABLE_CELL = frozenset({128821, 128822})


def report(**figures: Any) -> None:
    """Hand figures to the parent."""
    print(MARK + json.dumps(figures), flush=True)


# -- the stages, each in its own process


def recipe(model: str, pictures: list[Path], count: int) -> None:
    """The published recipe: `LLM.generate` on PIL images with vLLM's own guard (vLLM recipes, DeepSeek-OCR.md)."""
    from PIL import Image  # noqa: PLC0415
    from vllm import LLM, SamplingParams  # noqa: PLC0415
    from vllm.model_executor.models.deepseek_ocr import NGramPerReqLogitsProcessor  # noqa: PLC0415

    from bench.fixed_length import lengths  # noqa: PLC0415

    engine = LLM(
        model=model, load_format="dummy", enable_prefix_caching=False, mm_processor_cache_gb=0,
        logits_processors=[NGramPerReqLogitsProcessor], max_num_seqs=RECIPE_SEQS, max_model_len=8192, seed=0,
        limit_mm_per_prompt={"image": 1}, disable_log_stats=True,
    )  # fmt: skip
    prompt = "<image>\n<|grounding|>Convert the document to markdown."
    guard = {"ngram_size": 30, "window_size": 90, "whitelist_token_ids": [128821, 128822]}
    images = [Image.open(path).convert("RGB") for path in pictures]
    pages = [{"prompt": prompt, "multi_modal_data": {"image": images[n % PICTURES]}} for n in range(count)]
    params = [
        SamplingParams(temperature=0.0, max_tokens=length, ignore_eos=True, skip_special_tokens=False, extra_args=guard)
        for length in lengths()[:count]
    ]
    engine.generate(pages[:16], [SamplingParams(temperature=0.0, max_tokens=20, ignore_eos=True)] * 16, use_tqdm=False)
    started = time.perf_counter()
    outputs = engine.generate(pages, params, use_tqdm=False)
    seconds = time.perf_counter() - started
    tokens = sum(len(output.outputs[0].token_ids) for output in outputs)
    alone = []
    for page in pages[:LATENCY_TRIES]:
        started = time.perf_counter()
        engine.generate(page, SamplingParams(temperature=0.0, max_tokens=LATENCY_TOKENS, ignore_eos=True,
                                             skip_special_tokens=False, extra_args=guard), use_tqdm=False)  # fmt: skip
        alone.append(time.perf_counter() - started)
    report(pages=count, seconds=seconds, tokens=tokens, alone_s=sorted(alone))


async def png(model: str, pictures: list[Path], count: int, folder: Path) -> None:
    """Ours without the daemon: PNG files through the reader's processes and the engine."""
    from bench.fixed_length import IDS_FILE, FixedLengthEngine  # noqa: PLC0415
    from deepseek_ocr.engine.vllm_plan import VllmSettings  # noqa: PLC0415
    from deepseek_ocr.prompt import Options  # noqa: PLC0415
    from deepseek_ocr.reader import Reader  # noqa: PLC0415

    os.environ[IDS_FILE] = str(folder / "ids.jsonl")
    settings = VllmSettings(**json.loads(os.environ.get("BENCH_VLLM_SETTINGS", "{}")))
    engine = FixedLengthEngine(model, settings=settings)
    started = time.perf_counter()
    async with Reader(engine) as reader:
        start_s = time.perf_counter() - started
        slots = asyncio.Semaphore(engine.info.capacity)
        loading: list[float] = []
        load = reader._load  # noqa: SLF001 - the stage times of the table

        async def timed_load(*args: Any) -> Any:
            begun = time.perf_counter()
            page = await load(*args)
            loading.append(time.perf_counter() - begun)
            return page

        reader._load = timed_load  # type: ignore[assignment,method-assign] # noqa: SLF001

        ends: list[float] = []

        async def one(number: int) -> None:
            async with slots:
                page = await reader.read_page(pictures[number % PICTURES], 0)
            assert not page.problem, page.problem
            ends.append(time.perf_counter())

        await asyncio.gather(*(one(number) for number in range(32)))
        alone = []
        for number in range(LATENCY_TRIES):
            started = time.perf_counter()
            await reader.read_page(pictures[number], 0, Options(max_tokens=LATENCY_TOKENS))
            alone.append(time.perf_counter() - started)
        engine.tokens = 0
        loading.clear()
        ends.clear()
        started = time.perf_counter()
        await asyncio.gather(*(one(number) for number in range(count)))
        seconds = time.perf_counter() - started
        plan = str(engine.plan)
    low, high = window(count)
    report(
        pages=count, seconds=seconds, steady=(high - low) / (ends[high] - ends[low]), tokens=engine.tokens,
        start_s=start_s, plan=plan, load_ms=1000 * sum(loading) / len(loading), alone_s=sorted(alone),
        **replay(folder / "ids.jsonl"),
    )  # fmt: skip


async def linear(model: str, pictures: list[Path]) -> None:
    """Seconds of more and more pages, one engine, from PNG files."""
    from bench.fixed_length import FixedLengthEngine  # noqa: PLC0415
    from deepseek_ocr.reader import Reader  # noqa: PLC0415

    engine = FixedLengthEngine(model)
    async with Reader(engine) as reader:
        slots = asyncio.Semaphore(engine.info.capacity)

        async def one(number: int) -> None:
            async with slots:
                await reader.read_page(pictures[number % PICTURES], 0)

        await asyncio.gather(*(one(number) for number in range(32)))
        for count in LINEAR:
            engine.tokens = 0
            started = time.perf_counter()
            await asyncio.gather(*(one(number) for number in range(count)))
            report(pages=count, seconds=time.perf_counter() - started, tokens=engine.tokens)


def window(count: int) -> tuple[int, int]:
    """The steady state of a run of so many pages: neither the first ones, which come together, nor the last ones."""
    if count < 2 * STEADY:
        return count // 4, count * 3 // 4
    return (count - STEADY) // 2, (count + STEADY) // 2


def replay(path: Path) -> dict[str, int]:
    """The reference guard over all answers: on how many pages it disagrees, and how many tokens it had banned."""
    pages = [json.loads(line) for line in path.read_text().splitlines()]
    with Pool() as pool:
        wrong = sum(pool.imap_unordered(disagrees, pages, chunksize=16))
        bans = sum(pool.imap_unordered(bans_on, pages[:64]))
    path.unlink()
    return {"replayed": len(pages), "disagreements": wrong, "bans_in_64_pages": bans}


def disagrees(ids: list[int]) -> bool:
    """Whether the reference guard had chosen otherwise somewhere."""
    from deepseek_ocr.guard import NGRAM_SIZE, WINDOW_SIZE, first_disagreement  # noqa: PLC0415

    return first_disagreement(ids, NGRAM_SIZE, WINDOW_SIZE, TABLE_CELL) is not None


def bans_on(ids: list[int]) -> int:
    """How many tokens it had banned."""
    from deepseek_ocr.guard import NGRAM_SIZE, WINDOW_SIZE, banned_tokens  # noqa: PLC0415

    return sum(len(banned_tokens(ids[:end], NGRAM_SIZE, WINDOW_SIZE, TABLE_CELL)) for end in range(len(ids)))


def daemon(model: str, pictures: list[Path], count: int, folder: Path, *, kill: bool) -> None:  # noqa: PLR0915 - one story
    """Files dropped into an inbox, Markdown in the outbox; with `kill` the engine core is killed on the way."""
    from bench.fixed_length import IDS_FILE, TRACE_AFTER  # noqa: PLC0415
    from bench.service import service  # noqa: PLC0415

    os.environ["BENCH_LOOP_FILE"] = str(folder / "loop.json")
    os.environ[IDS_FILE] = str(folder / "ids.jsonl")
    low, high = window(count)
    os.environ[TRACE_AFTER] = str(high)
    settings = {
        "ENGINE__BACKEND": "vllm", "ENGINE__MODEL": model, "WATCH__SETTLE_S": 1.0, "WATCH__RESCAN_S": 1.0,
        "SERVICE__LOG_LEVEL": "info", **json.loads(os.environ.get("BENCH_DAEMON_SETTINGS", "{}")),
    }  # fmt: skip
    files = [*pictures, *(write_pdf(folder / f"{number}.pdf", number) for number in range(0 if kill else PICTURES))]
    with service(module="bench.fixed_length", **settings) as one:
        drop = one.root / "drop"
        drop.mkdir(parents=True)
        for number in range(count):
            # Half of them pictures, half PDFs, but for the run in which the engine is killed.
            path = files[number * PICTURES % len(files) + number // 2 % PICTURES]
            shutil.copyfile(path, drop / f"{number:05}{path.suffix}")
        begun = time.perf_counter()
        one.start()
        figures: dict[str, Any] = {"start_s": time.perf_counter() - begun, "memory_at_start_mb": one.memory_mb()}
        dropped = time.perf_counter()
        for path in sorted(drop.iterdir()):
            path.rename(one.root / "inbox" / path.name)
        if kill:
            one.wait(lambda: one.finished() >= count // 4, 300, "a quarter is read")
            killed = time.time()
            cores = [pid for pid in one.pids() if b"EngineCore" in Path(f"/proc/{pid}/cmdline").read_bytes()]
            assert cores, "no engine core found"
            os.kill(cores[0], signal.SIGKILL)
            one.wait(lambda: one.events("engine.revived"), 300, "the engine is back")
            figures["engine_back_s"] = moment(one.events("engine.revived")[0]) - killed
        marks: list[tuple[float, int]] = []
        #: (documents, MB); it costs a while to ask for, so only now and then.
        memory: list[tuple[int, int]] = []

        def done() -> bool:
            finished = one.finished()
            marks.append((time.perf_counter(), finished))
            if finished >= len(memory) * count // 8:
                memory.append((finished, round(one.memory_mb())))
            return finished >= count

        one.wait(done, 560, "all are read")
        seconds = time.perf_counter() - dropped
        accounts = one.accounts()
        if kill:
            back = moment(one.events("engine.revived")[0])
            figures["first_page_s"] = min(at for at in map(moment, one.events("job.done")) if at > back) - killed
        else:
            write_pdf(drop / "long.pdf", 0, LONG_DOCUMENT)
            long_dropped = time.perf_counter()
            (drop / "long.pdf").rename(one.root / "inbox" / "long.pdf")
            one.wait(lambda: one.finished() > count, 120, "the long document is read")
            figures["long_document_s"] = time.perf_counter() - long_dropped
        markdown = sum(1 for _ in (one.root / "outbox").glob("*.md"))
        one.stop()
        first = next(mark for mark in marks if mark[1] >= low)
        last = next(mark for mark in marks if mark[1] >= high)
        # The clock is the same in all processes.
        late = [
            (round(at - dropped, 1), delay)
            for at, delay in json.loads((folder / "loop.json").read_text())
            if kill or dropped <= at <= last[0]
        ]
        delays = sorted(delay for _, delay in late)
        report(
            pages=count, seconds=seconds, steady=(last[1] - first[1]) / (last[0] - first[0]),
            steady_pages=last[1] - first[1], markdown=markdown,
            done=sum(account["status"] == "done" for account in accounts), documents=len(accounts),
            attempts=sum(account["attempts"] for account in accounts),
            loop_p999_ms=delays[int(0.999 * len(delays))], loop_max_ms=delays[-1],
            loop_worst=sorted(late, key=lambda pair: -pair[1])[:12],
            memory_mb=memory,
            **figures, **replay(folder / "ids.jsonl"),
        )  # fmt: skip


def moment(event: dict[str, Any]) -> float:
    """When an event was logged, in seconds since 1970."""
    return datetime.fromisoformat(event["time"]).timestamp()


def presets(model: str, pictures: list[Path], count: int, folder: Path) -> None:
    """Both presets on this card, with what the driver says they took."""
    for preset in ("24gb", "8gb"):
        os.environ["BENCH_VLLM_SETTINGS"] = json.dumps({"preset": preset})
        before = used_mb()
        child = subprocess.Popen(  # noqa: S603 - ourselves
            [sys.executable, "-m", "bench.gpu", "--stage", "png", "--model", model, "--pages", str(count),
             "--pictures", str(pictures[0].parent), "--folder", str(folder)],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        most, lines = 0, ""
        while child.poll() is None:
            most = max(most, used_mb() - before)
            time.sleep(0.2)
        assert child.stdout is not None
        lines = child.stdout.read()
        figures = [json.loads(line.removeprefix(MARK)) for line in lines.splitlines() if line.startswith(MARK)]
        report(preset=preset, most_mb=most, **(figures[0] if figures else {"failed": lines[-300:]}))


def used_mb() -> int:
    """Memory that is in use on the card."""
    command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id=0"]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)  # noqa: S603


# -- all of it


def run_stage(stage: str, arguments: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Run a stage as a process of its own; its figures."""
    environment = {**os.environ, "BENCH_GUARD": "0" if stage == "unguarded" else "1"}
    inner = "png" if stage == "unguarded" else stage
    begun = time.perf_counter()
    result = subprocess.run(  # noqa: S603 - ourselves
        [sys.executable, "-m", "bench.gpu", "--stage", inner, "--model", arguments.model,
         "--pages", str(arguments.pages or PAGES.get(stage, 0)), "--pictures", str(folder / "pictures"),
         "--folder", str(folder)],
        stdout=subprocess.PIPE, text=True, env=environment, check=False,
    )  # fmt: skip
    figures = [json.loads(line.removeprefix(MARK)) for line in result.stdout.splitlines() if line.startswith(MARK)]
    for one in figures or [{"failed": result.stdout[-2000:]}]:
        print(f"{stage}: {json.dumps(one)} ({time.perf_counter() - begun:.0f} s in all)", flush=True)
    return figures


def table(results: dict[str, list[dict[str, Any]]]) -> bool:
    """Print the ratio first; whether the bar is reached."""
    measured = {stage: figures[0] for stage, figures in results.items() if "seconds" in (figures or [{}])[0]}
    for several in ("presets", "linear"):
        measured.pop(several, None)
    ratio = None
    if {"daemon", "recipe"} <= measured.keys():
        recipe_rate = measured["recipe"]["pages"] / measured["recipe"]["seconds"]
        rate = measured["daemon"]["steady"]
        ratio = rate / recipe_rate
        print(f"\nwhole daemon / published recipe: {ratio:.2f} x (bar {BAR}), {rate:.2f} pages/s (bar {RATE_BAR})")
    for stage, figures in measured.items():
        speed = f", steady {figures['steady']:6.2f}" if "steady" in figures else ""
        speed += f", {figures['tokens'] / figures['seconds']:,.0f} tokens/s" if "tokens" in figures else ""
        print(f"{stage:10} {figures['pages'] / figures['seconds']:6.2f} pages/s from the first to the last{speed}")
    agreed = not any(figures.get("disagreements") for figures in measured.values())
    return agreed and (ratio is None or (ratio >= BAR and rate >= RATE_BAR))


def main() -> int:
    """Run the stages; 1 if the bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--stages", default="recipe,png,daemon")
    parser.add_argument("--stage")
    parser.add_argument("--pages", type=int, default=0)
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    if arguments.stage:
        pictures = sorted(arguments.pictures.iterdir())
        match arguments.stage:
            case "recipe":
                recipe(arguments.model, pictures, arguments.pages)
            case "png":
                asyncio.run(png(arguments.model, pictures, arguments.pages, arguments.folder))
            case "linear":
                asyncio.run(linear(arguments.model, pictures))
            case "daemon" | "kill":
                daemon(arguments.model, pictures, arguments.pages, arguments.folder, kill=arguments.stage == "kill")
            case "presets":
                presets(arguments.model, pictures, arguments.pages, arguments.folder)
        return 0
    with tempfile.TemporaryDirectory(prefix="ocr-daemon-bench-") as temporary:
        folder = Path(temporary)
        (folder / "pictures").mkdir()
        write_pictures(folder / "pictures")
        results = {stage: run_stage(stage, arguments, folder) for stage in arguments.stages.split(",")}
    return 0 if table(results) else 1


if __name__ == "__main__":
    sys.exit(main())
