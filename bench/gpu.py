"""DeepSeek-OCR on one NVIDIA card: the published vLLM recipe, then ours from PNG files, then the whole daemon.

Bars: the whole daemon, guard on, reads 20 pages/s and 3 x as many as the recipe in the same run, over 2,048 pages in
steady state, half of them PDF and half PNG; all others are in `gpu_bars.py`.  Full-size model with dummy weights, pages
of A4, answers of 300 to 1,500 tokens (905 in the mean), greedy.  The reference guard is replayed over all answers.
Behind the steady state the card is traced for 5 s; trace.json stays where `BENCH_TRACE` names a folder for it.  Each
stage is a process of its own, as an engine keeps its card.

`python -m bench.gpu` runs recipe, png and daemon in 12 minutes (`--pages 2048` for a quick look: hardly any of it is
steady state) on a model that it writes into ~/.cache/ocr-daemon.  More `--stages`: unguarded (what the guard costs),
scaling (a page alone, 64 to 4,096 pages, 8 to 896 at once), kill (the engine core dies on the way), presets (24gb and
8gb).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from datetime import datetime
from multiprocessing import Pool
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import gpu_bars, gpu_presets, gpu_scaling
from bench.dummy_model import write_version_1
from bench.gpu_documents import PICTURES, write_pdf, write_pictures
from bench.gpu_stages import LATENCY_TOKENS, LATENCY_TRIES, figures_of, report, stage_times, window

if TYPE_CHECKING:
    from bench.service import Service

PAGES = {
    "recipe": 512,
    "png": 4096,
    "unguarded": 1024,
    "scaling": 4096,
    "daemon": 4096,
    "kill": 256,
    "presets": 0,
}
#: Of the recipe: 6.9 pages/s on one machine, with 256 6.5.
RECIPE_SEQS = 128
#: Stages that print a table of their own.
TABLES = {"scaling": gpu_scaling.table, "presets": gpu_presets.table}
#: More of them for the trace, which begins so many behind the steady state, or new ones would run out meanwhile.
TRACED_PAGES, TRACE_LATER_PAGES = 320, 64
#: Pages of the one document that is longer.
LONG_DOCUMENT = 19
#: <td> and </td>.
TABLE_CELL = frozenset({128821, 128822})


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
    report(pages=count, seconds=seconds, tokens=sum(len(output.outputs[0].token_ids) for output in outputs))
    alone = []
    for page in pages[:LATENCY_TRIES]:
        started = time.perf_counter()
        engine.generate(page, SamplingParams(temperature=0.0, max_tokens=LATENCY_TOKENS, ignore_eos=True,
                                             skip_special_tokens=False, extra_args=guard), use_tqdm=False)  # fmt: skip
        alone.append(time.perf_counter() - started)
    report(alone_s=sorted(alone))


async def png(model: str, pictures: list[Path], count: int, folder: Path) -> None:
    """Ours without the daemon: PNG files through the reader's processes and the engine.

    So many, or four times as many as it reads at once.
    """
    from bench.fixed_length import IDS_FILE, FixedLengthEngine  # noqa: PLC0415
    from deepseek_ocr.engine.vllm_plan import VllmSettings  # noqa: PLC0415
    from deepseek_ocr.prompt import Options  # noqa: PLC0415
    from deepseek_ocr.reader import Reader  # noqa: PLC0415

    os.environ[IDS_FILE] = str(folder / "ids.jsonl")
    settings = VllmSettings(**json.loads(os.environ.get("BENCH_VLLM_SETTINGS", "{}")))
    engine = FixedLengthEngine(model, settings=settings)
    started = time.perf_counter()
    async with Reader(engine) as reader:
        report(start_s=time.perf_counter() - started, plan=str(engine.plan))
        count = count or 4 * engine.plan.max_num_seqs
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

        await asyncio.gather(*(one(number) for number in range(min(count, 32))))
        alone = []
        for number in range(LATENCY_TRIES):
            started = time.perf_counter()
            await reader.read_page(pictures[number], 0, Options(max_tokens=LATENCY_TOKENS))
            alone.append(time.perf_counter() - started)
        report(alone_s=sorted(alone))
        engine.tokens = 0
        loading.clear()
        ends.clear()
        started = time.perf_counter()
        await asyncio.gather(*(one(number) for number in range(count)))
        seconds = time.perf_counter() - started
    report(pages=count, seconds=seconds, tokens=engine.tokens, load_ms=1000 * sum(loading) / len(loading))
    low, high = window(count)
    # Before the first ones are replaced the card is not full.
    if low >= engine.plan.max_num_seqs:
        report(steady=(high - low) / (ends[high] - ends[low]))
    report(**replay(folder / "ids.jsonl"))


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
    from bench.fixed_length import IDS_FILE, TRACE, TRACE_AFTER  # noqa: PLC0415
    from bench.service import service, stolen_s  # noqa: PLC0415

    os.environ["BENCH_LOOP_FILE"] = str(folder / "loop.json")
    os.environ[IDS_FILE] = str(folder / "ids.jsonl")
    low, high = window(count)
    trace = None
    if not kill and shutil.which("nvidia-smi") is not None:
        trace = Path(os.environ.get(TRACE) or folder).resolve() / "trace.json"
        trace.parent.mkdir(parents=True, exist_ok=True)
        trace.unlink(missing_ok=True)
        # Behind the steady state, when its last documents are written.
        os.environ |= {TRACE: str(trace.parent), TRACE_AFTER: str(high + TRACE_LATER_PAGES)}
        count += TRACED_PAGES
    settings = {
        "ENGINE__BACKEND": "vllm", "ENGINE__MODEL": model, "WATCH__SETTLE_S": 1.0,
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
        # Each figure as soon as it is there: a run may be cut short.
        report(start_s=time.perf_counter() - begun, memory_at_start_mb=memory_of(one))
        dropped, stolen = time.perf_counter(), stolen_s()
        for path in sorted(drop.iterdir()):
            path.rename(one.root / "inbox" / path.name)
        if kill:
            one.wait(lambda: one.finished() >= count // 4, 300, "a quarter is read")
            killed = time.time()
            cores = [pid for pid in one.pids() if b"EngineCore" in Path(f"/proc/{pid}/cmdline").read_bytes()]
            assert cores, "no engine core found"
            os.kill(cores[0], signal.SIGKILL)
            one.wait(lambda: one.events("engine.revived"), 300, "the engine is back")
            report(engine_back_s=moment(one.events("engine.revived")[0]) - killed)
        marks: list[tuple[float, int]] = []
        #: (documents, MB by part); it costs a while to ask for, so only now and then.
        memory: list[tuple[int, dict[str, int]]] = []

        def done() -> bool:
            finished = one.finished()
            marks.append((time.perf_counter(), finished))
            if finished >= len(memory) * count // 8:
                memory.append((finished, memory_of(one)))
            return finished >= count

        one.wait(done, 560, "all are read")
        seconds = time.perf_counter() - dropped
        first = next(mark for mark in marks if mark[1] >= low)
        last = next(mark for mark in marks if mark[1] >= high)
        report(
            pages=count, seconds=seconds, steady=(last[1] - first[1]) / (last[0] - first[0]),
            steady_pages=last[1] - first[1], memory_mb=memory, stolen_cores=(stolen_s() - stolen) / seconds,
        )  # fmt: skip
        accounts = one.accounts()
        if kill:
            back = moment(one.events("engine.revived")[0])
            report(first_page_s=min(at for at in map(moment, one.events("job.done")) if at > back) - killed)
        else:
            write_pdf(drop / "long.pdf", 0, LONG_DOCUMENT)
            long_dropped = time.perf_counter()
            (drop / "long.pdf").rename(one.root / "inbox" / "long.pdf")
            one.wait(lambda: one.finished() > count, 2 * gpu_bars.LONG_DOCUMENT_S, "the long document is read")
            report(long_document_s=time.perf_counter() - long_dropped)
        markdown = sum(1 for _ in (one.root / "outbox").glob("*.md"))
        report(
            documents=len(accounts), done=sum(account["status"] == "done" for account in accounts), markdown=markdown,
            attempts=sum(account["attempts"] for account in accounts),
            reasons=Counter(account["reason"] for account in accounts if account["status"] != "done").most_common(3),
            document_s=sorted(account["seconds"] for account in accounts)[len(accounts) // 2],
        )  # fmt: skip
        if trace is not None:
            with contextlib.suppress(TimeoutError):
                one.wait(trace.exists, 60, "the trace is there")
        one.stop()
        # The clock is the same in all processes.
        late, stops, looks = (
            [(round(at - dropped, 1), ms) for at, ms in told if kill or dropped <= at <= last[0]]
            for told in itemgetter("late", "stops", "collector")(json.loads((folder / "loop.json").read_text()))
        )
        delays = sorted(delay for _, delay in late)
        report(
            loop_p999_ms=delays[int(0.999 * len(delays))], loop_max_ms=delays[-1], loop_worst=longest(stops, 12),
            collector_looks=len(looks), collector_longest=longest(looks, 3),
        )  # fmt: skip
        # Those of the long document come last.
        report(tokens=sum(len(json.loads(line)) for line in (folder / "ids.jsonl").read_text().splitlines()[:count]))
        report(**replay(folder / "ids.jsonl"))
        if trace is not None:
            found = json.loads(trace.read_text())
            report(trace_s=found["seconds"], **{name: found[name] for name in ("busy", "kinds_ms", "gaps_ms")})


def longest(moments: list[tuple[float, float]], count: int) -> list[tuple[float, float]]:
    """So many that took longest, of (seconds, milliseconds)."""
    return sorted(moments, key=lambda moment: -moment[1])[:count]


def memory_of(one: Service) -> dict[str, int]:
    """What each part of it takes now, and all together, in megabytes."""
    parts = one.memory_parts_mb()
    return {name: round(megabytes) for name, megabytes in (parts | {"all": sum(parts.values())}).items()}


def moment(event: dict[str, Any]) -> float:
    """When an event was logged, in seconds since 1970."""
    return datetime.fromisoformat(event["time"]).timestamp()


# -- all of it


def run_stage(stage: str, arguments: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Run a stage as a process of its own and print its figures as they come; all of them."""
    pages = arguments.pages or PAGES[stage]
    if stage == "recipe":
        pages = min(pages, PAGES[stage])
    environment = {**os.environ, "BENCH_GUARD": "0" if stage == "unguarded" else "1"}
    if stage != "daemon":
        environment.pop("BENCH_TRACE", None)
    begun = time.perf_counter()
    found = []
    for figures in figures_of(
        "bench.gpu", "--stage", "png" if stage == "unguarded" else stage, "--model", arguments.model,
        "--pages", pages, "--pictures", folder / "pictures", "--folder", folder,
        "--presets", arguments.presets, "--at-once", arguments.at_once,
        environment=environment,
    ):  # fmt: skip
        print(f"{stage}: {json.dumps(figures)} ({time.perf_counter() - begun:.0f} s)", flush=True)
        found.append(figures)
    return found


def table(results: dict[str, list[dict[str, Any]]]) -> bool:
    """Print the ratio first; whether all bars are reached and no stage failed."""
    # Of most stages each figure comes once; two have a table of their own.
    merged = {
        stage: {key: value for one in figures for key, value in one.items()} for stage, figures in results.items()
    }
    measured = {stage: figures for stage, figures in merged.items() if "seconds" in figures and stage not in TABLES}
    if {"daemon", "recipe"} <= measured.keys():
        rate = measured["daemon"]["steady"]
        ratio = rate * measured["recipe"]["seconds"] / measured["recipe"]["pages"]
        print(f"\nwhole daemon / published recipe: {ratio:.2f} x, {rate:.2f} pages/s")
    for stage, figures in measured.items():
        speed = f", steady {figures['steady']:6.2f}" if "steady" in figures else ""
        speed += f", {figures['tokens'] / figures['seconds']:,.0f} tokens/s" if "tokens" in figures else ""
        print(f"{stage:10} {figures['pages'] / figures['seconds']:6.2f} pages/s from the first to the last{speed}")
    for stage, figures in measured.items():
        for words in stage_times(figures):
            print(f"{stage:10} {words}")
    for stage, print_table in TABLES.items():
        if stage in results:
            print_table(results[stage])
    wrong = gpu_bars.missed(results)
    for bar in wrong:
        print(f"missed: {bar}")
    return not wrong


def run(arguments: argparse.Namespace) -> None:
    """One stage, in its own process."""
    pictures = sorted(arguments.pictures.iterdir())
    match arguments.stage:
        case "recipe":
            recipe(arguments.model, pictures, arguments.pages)
        case "png":
            asyncio.run(png(arguments.model, pictures, arguments.pages, arguments.folder))
        case "scaling":
            at_once = [int(count) for count in arguments.at_once.split(",") if count]
            asyncio.run(gpu_scaling.scaling(arguments.model, pictures, arguments.pages, at_once))
        case "daemon" | "kill":
            daemon(arguments.model, pictures, arguments.pages, arguments.folder, kill=arguments.stage == "kill")
        case "presets":
            names = arguments.presets.split(",")
            gpu_presets.presets(arguments.model, names, pictures, arguments.pages, arguments.folder)


def main() -> int:
    """Run the stages; 1 if a bar is missed or a stage fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="a folder with config.json and tokenizer; else ~/.cache/ocr-daemon/dummy-model")
    parser.add_argument("--stages", default="recipe,png,daemon")
    parser.add_argument("--stage")
    parser.add_argument("--presets", default=",".join(gpu_presets.PRESETS))
    parser.add_argument("--at-once", default=gpu_scaling.AT_ONCE, help="of scaling: fewer pages at once, or none")
    parser.add_argument("--pages", type=int, default=0, help="of each stage; the recipe reads no more than usual")
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    if arguments.stage:
        run(arguments)
        return 0
    # vLLM compiles anew for a model of another name, so it has always the same.
    arguments.model = arguments.model or str(write_version_1(Path.home() / ".cache" / "ocr-daemon" / "dummy-model"))
    with tempfile.TemporaryDirectory(prefix="ocr-daemon-bench-") as temporary:
        folder = Path(temporary)
        (folder / "pictures").mkdir()
        write_pictures(folder / "pictures")
        results = {stage: run_stage(stage, arguments, folder) for stage in arguments.stages.split(",")}
    return 0 if table(results) else 1


if __name__ == "__main__":
    sys.exit(main())
