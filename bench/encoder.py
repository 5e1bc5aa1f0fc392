"""What the vision encoder of DeepSeek-OCR costs a page on the card, against vLLM's own way, on random weights.

Bar: vLLM's kernels take at least 2 x as long as ours, summed up a page, whatever launches them.  A page is A4 in gundam
mode: one view of 1024 pixels and six crops of 640.  No engine is started: the towers are vLLM's modules in bf16.
Printed: what the graphs cost at start; time for batches of pages, on the card and of the thread that launches them; the
card's time by kind of kernel; and the distance of a page's embeddings from float32 against vLLM's.

`python -m bench.encoder` runs on the GPU, `--shallow` all but the card's own kernels, tiny, on a CPU.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from vllm.model_executor.models.deepseek_ocr import DeepseekOCRForCausalLM

from bench import embeddings
from deepseek_ocr.engine.vllm_encoder import Plan
from deepseek_ocr.prompt import Mode
from deepseek_ocr.tiles import tile

if TYPE_CHECKING:
    from collections.abc import Callable

START = time.monotonic()
BAR = 2.0
#: As on a large card in gundam mode.
GRAPHS = Plan(4, (1024, 640))


class Cost(NamedTuple):
    """Milliseconds of one call: on the card, and of the thread that launches it."""

    card: float
    launching: float


def say(words: str) -> None:
    """Print a line, stamped: what was measured stays on the screen whatever comes after."""
    print(f"{time.monotonic() - START:5.1f} {words}", flush=True)


def cost(call: Callable[[], object], times: int = 5) -> Cost:
    """What a call takes once it has run twice."""
    card = torch.cuda.is_available()
    for _ in range(2):
        call()
    if card:
        torch.cuda.synchronize()
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
    began = time.perf_counter()
    for _ in range(times):
        call()
    launched = (time.perf_counter() - began) / times * 1e3
    if not card:
        return Cost(launched, launched)
    end.record()
    torch.cuda.synchronize()
    return Cost(start.elapsed_time(end) / times, launched)


def pixels(pages: int, device: torch.device, *, shallow: bool) -> dict[str, torch.Tensor]:
    """Bytes of so many pages, as vLLM hands them over."""
    view, crop, grid = (128, 64, (1, 2)) if shallow else (1024, 640, (2, 3))
    random = torch.Generator().manual_seed(2)
    count = pages * grid[0] * grid[1]
    views, crops = (
        torch.randint(0, 256, (number, 3, side, side), generator=random, dtype=torch.uint8).to(device)
        for number, side in ((pages, view), (count, crop))
    )
    return {"pixel_values": views, "images_crop": crops, "images_spatial_crop": torch.tensor([grid] * pages)}


def group(kernel: str) -> str:
    """What kind of kernel a name means."""
    name = kernel.lower()
    kinds = {
        "attention": ("fmha", "flash", "attention", "_tables_kernel"),
        "convolution": ("conv", "implicit", "fprop", "nchwtonhwc", "nhwctonchw"),
        "GEMM": ("gemm", "cublas", "cutlass", "nvjet", "splitk", "xmma"),
        "norm": ("norm",),
        "gelu": ("gelu",),
        "copy": ("copy", "cat", "memcpy", "memset", "fill"),
        "elementwise": ("elementwise", "reduce", "vectorized"),
    }
    return next((kind for kind, marks in kinds.items() if any(mark in name for mark in marks)), "other")


def profile(call: Callable[[], object], pages: int, top: int) -> float:
    """The card's time of one call by kind of kernel and for the longest ones, and in all: ms a page."""
    call()
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        call()
        torch.cuda.synchronize()
    groups: dict[str, float] = defaultdict(float)
    kernels: dict[str, float] = defaultdict(float)
    launches = 0
    for event in profiler.events():
        if event.device_type == torch.autograd.DeviceType.CUDA:
            ms = event.time_range.elapsed_us() / 1e3 / pages
            groups[group(event.name)] += ms
            kernels[event.name] += ms
            launches += 1
    rows = ", ".join(f"{name} {ms:.2f}" for name, ms in sorted(groups.items(), key=lambda row: -row[1]))
    say(f"  kernels {sum(groups.values()):.2f} ms a page ({launches} of them): {rows}")
    for name, ms in sorted(kernels.items(), key=lambda row: -row[1])[:top]:
        print(f"        {ms:7.3f} {name[:100]}")
    return sum(groups.values())


def bytes_as_vllm(model: Any, fields: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same pages with pixels as vLLM's own class wants them."""
    return {name: model._normalize(part) if part.ndim > 2 else part for name, part in fields.items()}  # noqa: SLF001, PLR2004


def prepared(model: embeddings.Encoder, plan: Plan, device: torch.device) -> embeddings.Encoder:
    """The model with a new encoder of ours, and what that took."""
    model.encoder_plan, model.encoder = plan, None
    began, free = time.perf_counter(), _free(device)
    with torch.inference_mode():
        model.embed_multimodal(**pixels(1, device, shallow=not plan.sides_px))
    words = f"first call {time.perf_counter() - began:.1f} s, {(free - _free(device)) / 2**30:.2f} GiB stay on the card"
    say(f"{len(plan.sides_px)} sizes of pictures with graphs: {words}")
    return model


def _free(device: torch.device) -> int:
    """Bytes of the card that nobody has."""
    if device.type != "cuda":
        return 0
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    return int(torch.cuda.mem_get_info(device)[0])


def timed(name: str, calls: dict[int, Callable[[], Any]]) -> float:
    """Print what a page takes in batches of several sizes; ms of kernels a page, 0 without a card."""
    costs = {pages: cost(call, 3) for pages, call in calls.items()}
    row = ", ".join(f"{pages}: {one.card / pages:.2f} ({one.launching:.2f})" for pages, one in costs.items())
    say(f"{name:16} {row}")
    pages = 4
    return profile(calls[pages], pages, 6) if torch.cuda.is_available() else 0.0


def main() -> int:
    """Print the figures; 1 below the bar."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shallow", action="store_true", help="tiny, on the CPU")
    shallow = parser.parse_args().shallow
    device = torch.device("cpu" if shallow else "cuda")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    with embeddings.one_process(), torch.inference_mode():
        model = embeddings.Encoder(embeddings.SHALLOW if shallow else embeddings.FULL, torch.bfloat16, device)
        say("built; ms a page on the card (ms of launching a call)")
        batches = {pages: pixels(pages, device, shallow=shallow) for pages in ((1, 2) if shallow else (1, 2, 4, 8))}
        vllms = timed(
            "vLLM",
            {
                pages: partial(DeepseekOCRForCausalLM.embed_multimodal, model, **bytes_as_vllm(model, fields))
                for pages, fields in batches.items()
            },
        )
        ours = 0.0
        for name, plan in {"ours, launched": Plan(GRAPHS.pages), "ours, graphs": GRAPHS}.items():
            if shallow and plan.sides_px:
                continue
            prepared(model, plan, device)
            ours = timed(name, {pages: partial(model.embed_multimodal, **fields) for pages, fields in batches.items()})
        near = distances(model, device, shallow=shallow)
    if shallow:
        return int(not near)
    say(f"kernels {vllms / ours:.2f} x, {vllms:.2f} against {ours:.2f} ms a page; bar {BAR}")
    return int(not near or vllms / ours < BAR)


def distances(model: embeddings.Encoder, device: torch.device, *, shallow: bool) -> bool:
    """Whether a page's embeddings are about as far from float32 as vLLM's are."""
    exact = embeddings.Encoder(embeddings.SHALLOW if shallow else embeddings.FULL, torch.float32, device)
    page = tile(embeddings.drawing(920, 1300), Mode.GUNDAM)
    reference = embeddings.vllms(exact, page)
    row = embeddings.Deviation(
        page="gundam",
        ours=embeddings.distance(embeddings.ours(model, [page])[0], reference),
        vllm=embeddings.distance(embeddings.vllms(model, page), reference),
    )
    say(f"distance from float32: ours {row.ours:.5f}, vLLM {row.vllm:.5f}, ratio {row.ratio:.3f}")
    return row.ratio <= embeddings.BAR


if __name__ == "__main__":
    raise SystemExit(main())
