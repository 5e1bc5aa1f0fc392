"""DeepSeek-OCR-2 on one NVIDIA card: our vLLM engine against the transformers engine, the same pages in the same run.

Bar: vLLM reads 3 x as many pages a second.  Full-size model with random weights, pages of A4 as pixels in memory,
answers of 300 to 1,500 tokens (905 in the mean), greedy, the guard on, both engines asked for a page by the same call.
transformers reads 4 pages at once, as the engine is set, then 32; vLLM 512 pages, as many at once as it takes.  Both
from the first page to the last; the start of the engines is not counted.

`python -m bench.version_2`; `--shallow`: a few layers, on a CPU, with the plugin of tests/vllm_cpu.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.dummy_model import write_version_2
from bench.fixed_length import FixedLengthEngine, lengths
from bench.gpu_documents import PICTURES, write_pictures
from bench.gpu_stages import figures_of, report
from bench.version_2_weights import transformers_engine
from deepseek_ocr.pages import Limits, load_page
from deepseek_ocr.prompt import Options

if TYPE_CHECKING:
    from deepseek_ocr.completion import Completion, Engine, PageImage

BAR = 3.0
VLLM_PAGES = 512
#: Pages that transformers reads together; the first is `CUDA_BATCH` of the engine.
BATCHES = "4,32"
#: Longer batches are left out where one took so long.
PATIENCE_S = 90.0
WARM_UP_PAGES, WARM_UP_TOKENS = 16, 32


def pages_in(folder: Path, count: int) -> list[PageImage]:
    """So many pages, the pictures over and over."""
    different = [
        load_page(path, 0, needs="pixels", limits=Limits()) for path in sorted(folder.iterdir())[: min(count, PICTURES)]
    ]
    return [different[number % len(different)] for number in range(count)]


def asks(engine: Engine, pages: list[PageImage], tokens: list[int]) -> list[asyncio.Task[Completion]]:
    """Ask for all pages at once, each with its number of tokens."""
    return [
        asyncio.create_task(engine.recognize(page, Options(max_tokens=length)))
        for page, length in zip(pages, tokens, strict=True)
    ]


def figures(completions: list[Completion], tokens: list[int], seconds: float) -> dict[str, Any]:
    """What was read; every answer has its length."""
    assert [completion.completion_tokens for completion in completions] == tokens
    count = len(completions)
    return {
        "pages": count, "seconds": seconds, "pages_s": count / seconds, "tokens_s": sum(tokens) / seconds,
        "prompt_tokens": sorted({completion.prompt_tokens for completion in completions}),
    }  # fmt: skip


async def transformers(model: Path, pictures: Path, batches: list[int], *, shallow: bool) -> None:
    """Batches of more and more pages."""
    engine = transformers_engine(model, max(batches), gpu=None if shallow else 0)
    begun = time.perf_counter()
    await engine.start()
    report(start_s=time.perf_counter() - begun)
    for batch in batches:
        pages, tokens = pages_in(pictures, batch), lengths()[:batch]
        # While a short page is read the others come in, so that they are read together.
        (first,) = asks(engine, pages[:1], [WARM_UP_TOKENS])
        waiting = asks(engine, pages, tokens)
        await first
        begun = time.perf_counter()
        completions = await asyncio.gather(*waiting)
        seconds = time.perf_counter() - begun
        report(at_once=batch, **figures(completions, tokens, seconds))
        if seconds > PATIENCE_S:
            break
    await engine.stop()


async def vllm(model: Path, pictures: Path, count: int) -> None:
    """All pages at once; the engine takes as many as it can."""
    engine = FixedLengthEngine(str(model))
    begun = time.perf_counter()
    await engine.start()
    report(start_s=time.perf_counter() - begun, plan=str(engine.plan))
    pages, tokens = pages_in(pictures, count), lengths()[:count]
    few = pages[:WARM_UP_PAGES]
    await asyncio.gather(*asks(engine, few, [WARM_UP_TOKENS] * len(few)))
    begun = time.perf_counter()
    completions = await asyncio.gather(*asks(engine, pages, tokens))
    report(at_once=min(count, engine.plan.max_num_seqs), **figures(completions, tokens, time.perf_counter() - begun))
    await engine.stop()


def table(results: dict[str, list[dict[str, Any]]]) -> bool:
    """Print the ratios first; whether the bar is reached against each batch, by the same prompts."""
    runs = {stage: [one for one in found if "pages_s" in one] for stage, found in results.items()}
    ratios = {
        slow["at_once"]: fast["pages_s"] / slow["pages_s"]
        for fast in runs.get("vllm", [])
        for slow in runs.get("transformers", [])
    }
    for at_once, ratio in ratios.items():
        print(f"\nDeepSeek-OCR-2, vLLM / transformers ({at_once} pages at once): {ratio:.1f} x (bar {BAR})", end="")
    print()
    for stage, found in runs.items():
        for one in found:
            print(
                f"{stage:12} {one['at_once']:4} at once: {one['pages']:4} pages in {one['seconds']:6.1f} s, "
                f"{one['pages_s']:7.3f} pages/s, {one['tokens_s']:8,.0f} tokens/s, prompts of {one['prompt_tokens']}"
            )
    prompts = {str(one["prompt_tokens"]) for found in runs.values() for one in found}
    if len(prompts) > 1:
        print("the engines did not read the same: their prompts differ")
    return bool(ratios) and min(ratios.values()) >= BAR and len(prompts) == 1


def main() -> int:
    """Run both stages; 1 if the bar is missed or one fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stages", default="transformers,vllm")
    parser.add_argument("--shallow", action="store_true")
    parser.add_argument("--pages", type=int, default=VLLM_PAGES, help="of vLLM")
    parser.add_argument("--batches", default=BATCHES, help="of transformers")
    parser.add_argument("--stage")
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    if arguments.stage:
        model, pictures = arguments.folder / "model", arguments.folder / "pictures"
        if arguments.stage == "vllm":
            asyncio.run(vllm(model, pictures, arguments.pages))
        else:
            batches = [int(batch) for batch in arguments.batches.split(",")]
            asyncio.run(transformers(model, pictures, batches, shallow=arguments.shallow))
        return 0
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="ocr-daemon-bench-") as temporary:
        folder = Path(temporary)
        write_version_2(folder / "model", shallow=arguments.shallow)
        (folder / "pictures").mkdir()
        write_pictures(folder / "pictures")
        results: dict[str, list[dict[str, Any]]] = {}
        for stage in arguments.stages.split(","):
            words = ["--stage", stage, "--folder", folder, "--pages", arguments.pages, "--batches", arguments.batches]
            results[stage] = []
            for one in figures_of("bench.version_2", *words, *(["--shallow"] if arguments.shallow else [])):
                print(f"{stage}: {json.dumps(one)} ({time.perf_counter() - begun:.0f} s)", flush=True)
                results[stage].append(one)
    reached = table(results)
    return 0 if reached and not any("failed" in one for found in results.values() for one in found) else 1


if __name__ == "__main__":
    sys.exit(main())
