"""DeepSeek-OCR on one NVIDIA card: the published vLLM recipe, then ours from PNG files, then the whole daemon.

Bar: the whole daemon, guard on, reads 1.3 x as many pages a second as the recipe in the same run.  Full-size model with
dummy weights (`--model`, a folder with config.json and tokenizer), pages of A4 at 144 dpi, answers of 300 to 1,500
tokens (905 in the mean), greedy.  Each stage is a process of its own, as an engine keeps its card.

`python -m bench.gpu --model DIR --stages recipe,png,daemon`; more stages: unguarded (what the guard costs), kill (the
engine core dies on the way), presets (24gb and 8gb).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

BAR = 1.3
#: A4 at 144 dpi.
PAGE_PX = (1191, 1684)
#: Different pages; more documents are copies of them.
PICTURES = 64
PAGES = {
    "recipe": 512,
    "png": 256,
    "unguarded": 512,
    "daemon": 2048,
    "kill": 256,
    "presets": 64,
}
#: Of the recipe; 256 gave less (bench/README.md).
RECIPE_SEQS = 128
MARK = "BENCH-RESULT "
#: Names the folder for a trace of the card, if one is wanted, taken in the middle of the stages png and unguarded.
TRACE, TRACE_S = "BENCH_TRACE", 5.0


def write_pictures(folder: Path) -> list[Path]:
    """Pages of text-like lines as PNG files."""
    from PIL import Image, ImageDraw  # noqa: PLC0415 - in stages only

    paths = []
    for number in range(PICTURES):
        letters = random.Random(number)  # noqa: S311 - pictures, not secrets
        image = Image.new("RGB", PAGE_PX, "white")
        draw = ImageDraw.Draw(image)
        for y in range(60, PAGE_PX[1] - 60, 22):
            words = ("".join(letters.choices("abcdefghijklmnop", k=letters.randint(2, 9))) for _ in range(18))
            draw.text((70, y), " ".join(words), fill="black")
        path = folder / f"page-{number:02}.png"
        image.save(path, compress_level=1)
        paths.append(path)
    return paths


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
    report(pages=count, seconds=seconds, tokens=tokens)


async def png(model: str, pictures: list[Path], count: int, folder: Path) -> None:
    """Ours without the daemon: PNG files through the reader's processes and the engine."""
    from bench.fixed_length import IDS_FILE, FixedLengthEngine  # noqa: PLC0415
    from deepseek_ocr.engine.vllm_plan import VllmSettings  # noqa: PLC0415
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
        middle = asyncio.Event()
        traced = bool(os.environ.get(TRACE))

        async def one(number: int) -> None:
            async with slots:
                page = await reader.read_page(pictures[number % PICTURES], 0)
            assert not page.problem, page.problem
            ends.append(time.perf_counter())
            if len(ends) == count * 2 // 5:
                middle.set()

        async def trace() -> None:
            await middle.wait()
            await engine.rpc("start_trace")
            await asyncio.sleep(TRACE_S)
            await engine.rpc("stop_trace", os.environ[TRACE])

        await asyncio.gather(*(one(number) for number in range(32)))
        engine.tokens = 0
        loading.clear()
        ends.clear()
        middle.clear()
        started = time.perf_counter()
        tracing = asyncio.create_task(trace()) if traced else None
        await asyncio.gather(*(one(number) for number in range(count)))
        seconds = time.perf_counter() - started
        plan = str(engine.plan)
        if tracing is not None:
            await tracing
    # The first pages come together, and at the last ones the engine empties.
    low = count // 4
    high = max(low + 1, count - engine.info.capacity)
    report(
        pages=count, seconds=seconds, steady=(high - low) / (ends[high] - ends[low]), tokens=engine.tokens,
        start_s=start_s, plan=plan, load_ms=1000 * sum(loading) / len(loading), **replay(folder / "ids.jsonl"),
    )  # fmt: skip


def replay(path: Path) -> dict[str, int]:
    """The reference guard over all answers: on how many pages it disagrees, and how many tokens it had banned."""
    from deepseek_ocr.guard import NGRAM_SIZE, WINDOW_SIZE, banned_tokens, first_disagreement  # noqa: PLC0415

    exempt = frozenset({128821, 128822})
    pages = [json.loads(line) for line in path.read_text().splitlines()]
    wrong = sum(first_disagreement(ids, NGRAM_SIZE, WINDOW_SIZE, exempt) is not None for ids in pages)
    sample = pages[:64]
    bans = sum(
        len(banned_tokens(ids[:end], NGRAM_SIZE, WINDOW_SIZE, exempt)) for ids in sample for end in range(len(ids))
    )
    return {"replayed": len(pages), "disagreements": wrong, "bans_in_64_pages": bans}


def daemon(model: str, pictures: list[Path], count: int, folder: Path, *, kill: bool) -> None:
    """Files dropped into an inbox, Markdown in the outbox; with `kill` the engine core is killed on the way."""
    from bench.service import service  # noqa: PLC0415

    os.environ["BENCH_LOOP_FILE"] = str(folder / "loop.json")
    settings = {
        "ENGINE__BACKEND": "vllm", "ENGINE__MODEL": model, "WATCH__SETTLE_S": 1.0, "WATCH__RESCAN_S": 1.0,
        "SERVICE__LOG_LEVEL": "info",
    }  # fmt: skip
    with service(module="bench.fixed_length", **settings) as one:
        drop = one.root / "drop"
        drop.mkdir(parents=True)
        for number in range(count):
            shutil.copyfile(pictures[number % PICTURES], drop / f"{number:05}.png")
        begun = time.perf_counter()
        one.start()
        start_s = time.perf_counter() - begun
        begun = time.perf_counter()
        for path in sorted(drop.iterdir()):
            path.rename(one.root / "inbox" / path.name)
        figures: dict[str, Any] = {"start_s": start_s}
        if kill:
            one.wait(lambda: one.finished() >= count // 4, 300, "a quarter is read")
            killed = time.time()
            cores = [pid for pid in one.pids() if b"EngineCore" in Path(f"/proc/{pid}/cmdline").read_bytes()]
            assert cores, "no engine core found"
            os.kill(cores[0], signal.SIGKILL)
            one.wait(lambda: one.events("engine.revived"), 300, "the engine is back")
            figures["engine_back_s"] = moment(one.events("engine.revived")[0]) - killed
        marks: list[tuple[float, int]] = []

        def done() -> bool:
            marks.append((time.perf_counter() - begun, one.finished()))
            return marks[-1][1] >= count

        one.wait(done, 560, "all are read")
        seconds = time.perf_counter() - begun
        accounts = one.accounts()
        figures["memory_mb"] = one.memory_mb()
        if kill:
            back = moment(one.events("engine.revived")[0])
            figures["first_page_s"] = min(at for at in map(moment, one.events("job.done")) if at > back) - killed
        markdown = sum(1 for _ in (one.root / "outbox").glob("*.md"))
        one.stop()
        # From a tenth to nine tenths: neither the first pages' way through the engine nor the last ones' emptying.
        low = next(mark for mark in marks if mark[1] >= count // 10)
        high = next(mark for mark in marks if mark[1] >= count * 9 // 10)
        delays = sorted(json.loads((folder / "loop.json").read_text()))
        report(
            pages=count, seconds=seconds, steady=(high[1] - low[1]) / (high[0] - low[0]), markdown=markdown,
            done=sum(account["status"] == "done" for account in accounts), documents=len(accounts),
            attempts=sum(account["attempts"] for account in accounts),
            loop_p999_ms=delays[int(0.999 * len(delays))], loop_max_ms=delays[-1], **figures,
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
    rates = {
        stage: figures[0]["pages"] / figures[0]["seconds"]
        for stage, figures in results.items()
        if figures and "seconds" in figures[0] and stage != "presets"
    }
    ratio = rates["daemon"] / rates["recipe"] if {"daemon", "recipe"} <= rates.keys() else None
    if ratio is not None:
        print(f"\nwhole daemon / published recipe: {ratio:.2f} x (bar {BAR})")
    for stage, rate in rates.items():
        tokens = results[stage][0].get("tokens")
        speed = f", {tokens / results[stage][0]['seconds']:,.0f} tokens/s" if tokens else ""
        print(f"{stage:10} {rate:6.2f} pages/s{speed}")
    return ratio is None or ratio >= BAR


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
