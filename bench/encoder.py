"""What the vision encoder of DeepSeek-OCR costs a page on the card, against vLLM's own way, on random weights.

A page is A4 in gundam mode: one view of 1024 pixels and six crops of 640.  No engine is started: the towers are vLLM's
modules in bf16.  Printed: attention of single layers by candidate kernels; the encoder for batches of pages, on the
card and as seconds of the thread that launches it; the card's time by kind of kernel; and the distance from float32
against vLLM's.  `python -m bench.encoder` runs on the GPU, `--shallow` all but the card's own kernels, tiny, on a CPU.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from vllm.model_executor.models.deepseek_ocr import DeepseekOCRForCausalLM

from bench import embeddings
from deepseek_ocr.engine.vllm_encoder import Encoder
from deepseek_ocr.engine.vllm_sam import Towers
from deepseek_ocr.engine.vllm_sam_attention import HEAD, Shape, Tiling, attention, fused_attention
from deepseek_ocr.prompt import Mode
from deepseek_ocr.tiles import tile

if TYPE_CHECKING:
    from collections.abc import Callable

START = time.monotonic()
HEADS = 12
#: Shapes of attention in 8 pages: views and crops, whole and in windows.
LAYERS = {
    "view whole": Shape(8, 64, 64, HEADS),
    "crop whole": Shape(48, 40, 40, HEADS),
    "view windows": Shape(8, 64, 14, HEADS),
    "crop windows": Shape(48, 40, 14, HEADS),
}
TINY_LAYERS = {"whole": Shape(2, 8, 8, 2), "windows": Shape(2, 16, 14, 2)}
#: Tilings of our kernel: queries, rows and columns of keys, warps, stages.
WHOLE_TILINGS = [
    Tiling(128, 8, 8, 4, 2), Tiling(128, 8, 8, 4, 3), Tiling(128, 8, 8, 8, 2), Tiling(128, 8, 8, 8, 3),
    Tiling(64, 8, 8, 4, 3), Tiling(128, 8, 16, 8, 2), Tiling(128, 8, 16, 4, 2),
]  # fmt: skip
WINDOW_TILINGS = [
    Tiling(64, 8, 8, 4, 2), Tiling(64, 8, 8, 4, 3), Tiling(128, 8, 8, 8, 2),
    Tiling(64, 8, 16, 4, 2), Tiling(128, 8, 16, 8, 2), Tiling(64, 16, 16, 4, 1),
]  # fmt: skip


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


class Layer(NamedTuple):
    """What one layer of attention is given."""

    qkv: torch.Tensor
    padding: torch.Tensor
    down: torch.Tensor
    across: torch.Tensor
    shape: Shape


def layer(shape: Shape, device: torch.device) -> Layer:
    """Random, with logits of about 1 and biases of about 1.6, as `bench.embeddings` has them."""
    random = torch.Generator(device).manual_seed(1)

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=random, device=device).bfloat16()

    wide = 3 * shape.heads * HEAD
    down, across = (normal(2 * shape.window - 1, HEAD) * 0.2 for _ in range(2))
    return Layer(normal(shape.tokens + 1, wide), normal(wide), down, across, shape)


def extended(given: Layer) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries and keys (N, heads, L, 64 + 2 * side) whose product holds the bias, and values; whole pictures only."""
    qkv, _, down, across, shape = given
    side = shape.side
    parts = qkv[:-1].view(shape.pictures, side**2, 3, shape.heads, HEAD).permute(2, 0, 3, 1, 4)
    queries, keys, values = parts
    places = torch.arange(side, device=qkv.device)
    distances = places[:, None] - places + side - 1
    square = queries.unflatten(2, (side, side))
    by_row = torch.einsum("nhyxc,ykc->nhyxk", square, down[distances]).flatten(2, 3)
    by_column = torch.einsum("nhyxc,xkc->nhyxk", square, across[distances]).flatten(2, 3)
    longer = torch.cat((queries, by_row * HEAD**0.5, by_column * HEAD**0.5), dim=-1)
    one = torch.eye(side, device=qkv.device, dtype=qkv.dtype)
    chosen = torch.cat((one.repeat_interleave(side, 0), one.repeat(side, 1)), dim=-1)
    return longer, torch.cat((keys, chosen.expand(*keys.shape[:2], -1, -1)), dim=-1), values.contiguous()


def by_cudnn(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Attention of cuDNN on extended queries and keys."""
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        return functional.scaled_dot_product_attention(queries, keys, values, scale=HEAD**-0.5)


def by_flash(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """FlashAttention 3 as vLLM has it, on queries and keys (N, L, heads, D) and values of 128."""
    from vllm.vllm_flash_attn import flash_attn_varlen_func  # noqa: PLC0415 - only where a card is

    count, length = queries.shape[:2]
    starts = torch.arange(0, (count + 1) * length, length, dtype=torch.int32, device=queries.device)
    seen: torch.Tensor = flash_attn_varlen_func(
        queries.flatten(0, 1), keys.flatten(0, 1), values.flatten(0, 1), length, starts, length, starts,
        softmax_scale=HEAD**-0.5, fa_version=3,
    )  # fmt: skip
    return seen


def candidates(given: Layer, tilings: list[Tiling]) -> dict[str, Callable[[], torch.Tensor]]:
    """Ways to compute one layer's attention; those with `*` are given what they need ready made."""
    shape = given.shape
    ways: dict[str, Callable[[], torch.Tensor]] = {"bias made (torch)": lambda: attention(*given)}
    if not given.qkv.is_cuda:
        return ways
    for tiling in tilings:
        fits = shape.window % tiling.columns == 0 or shape.window < shape.side
        if fits:
            ways[f"ours {tuple(tiling)}"] = partial(fused_attention, *given, tiling)
    if shape.window == shape.side:
        queries, keys, values = extended(given)
        ways["* cuDNN, extended"] = lambda: by_cudnn(queries, keys, values).transpose(1, 2).reshape(shape.tokens, -1)
        rows = [part.transpose(1, 2).contiguous() for part in (queries, keys, functional.pad(values, (0, HEAD)))]
        ways["* FA3, extended"] = lambda: by_flash(*rows)[..., :HEAD].reshape(shape.tokens, -1)
    return ways


def attentions(layers: dict[str, Shape], device: torch.device) -> None:
    """Each candidate's time and its distance from float32, layer by layer."""
    for name, shape in layers.items():
        small = layer(shape._replace(pictures=1), device)
        tilings = WHOLE_TILINGS if shape.window == shape.side else WINDOW_TILINGS
        qkv, padding, down, across = (part.float() for part in small[:4])
        exact = attention(qkv, padding, down, across, small.shape)
        found = []
        for way, call in candidates(layer(shape, device), tilings).items():
            try:
                seen = candidates(small, tilings)[way]()
                far = float((seen.float() - exact).norm() / exact.norm())
                found.append((cost(call, 3).card / shape.pictures, way, far))
            except Exception as error:  # noqa: BLE001 - a kernel that this machine lacks is one row less
                say(f"  {way}: {type(error).__name__}: {str(error).splitlines()[0][:90]}")
        say(f"{name} {tuple(shape)}: us a picture, distance from float32")
        for each, way, far in sorted(found):
            print(f"        {each * 1e3:8.1f} {far:.5f} {way}")


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


def profile(call: Callable[[], object], pages: int, top: int) -> None:
    """The card's time of one call, by kind of kernel and for the longest ones."""
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


def bytes_as_vllm(model: Any, fields: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same pages with pixels as vLLM's own class wants them."""
    return {name: model._normalize(part) if part.ndim > 2 else part for name, part in fields.items()}  # noqa: SLF001, PLR2004


def ours(encoder: Encoder, fields: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """Embeddings of all views and of all crops, not put together."""
    return [encoder(list(fields[name].unbind(0))) for name in ("pixel_values", "images_crop")]


def put_together(model: Any, parts: list[torch.Tensor], grid: tuple[int, int]) -> list[torch.Tensor]:
    """The embeddings of each page."""
    views, crops = (part.unflatten(1, (round(part.shape[1] ** 0.5), -1)) for part in parts)
    across, down = grid
    each = np.arange(0, len(crops) + 1, across * down)
    return [
        model._assemble(view, list(crops[start:end]), across)  # noqa: SLF001
        for view, (start, end) in zip(views, pairwise(each), strict=True)
    ]


def main() -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shallow", action="store_true", help="tiny, on the CPU")
    shallow = parser.parse_args().shallow
    device = torch.device("cpu" if shallow else "cuda")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    with embeddings.one_process(), torch.inference_mode():
        attentions(TINY_LAYERS if shallow else LAYERS, device)
        model = embeddings.Encoder(embeddings.SHALLOW if shallow else embeddings.FULL, torch.bfloat16, device)
        towers = Towers(model.sam_model, model.vision_model, fused=not shallow)
        say("built; ms a page on the card (ms of launching a call)")
        ways = {
            "vLLM": None,
            "ours, launched": Encoder(towers, model.projector, model._normalize, graphs=False),  # noqa: SLF001
            "ours, graphs": Encoder(towers, model.projector, model._normalize, graphs=not shallow),  # noqa: SLF001
        }
        working = None
        for name, encoder in ways.items():
            calls: dict[int, Callable[[], Any]] = {}
            for pages in (1, 2) if shallow else (1, 2, 4, 16):
                fields = pixels(pages, device, shallow=shallow)
                if encoder is None:
                    given = bytes_as_vllm(model, fields)
                    calls[pages] = partial(DeepseekOCRForCausalLM.embed_multimodal, model, **given)
                else:
                    calls[pages] = partial(ours, encoder, fields)
            try:
                costs = {pages: cost(call, 3) for pages, call in calls.items()}
            except Exception as error:  # noqa: BLE001 - the figures of the other ways still count
                say(f"{name}: {type(error).__name__}: {error}")
                continue
            row = ", ".join(f"{pages}: {one.card / pages:.2f} ({one.launching:.2f})" for pages, one in costs.items())
            say(f"{name:16} {row}")
            working = encoder
            if not shallow and name != "ours, launched":
                pages = 4 if encoder is None else 16
                profile(calls[pages], pages, pages)
        distances(model, working, device, shallow=shallow)
    return 0


def distances(model: Any, encoder: Any, device: torch.device, *, shallow: bool) -> None:
    """How far a page's embeddings are from float32, ours against vLLM's."""
    exact = embeddings.Encoder(embeddings.SHALLOW if shallow else embeddings.FULL, torch.float32, device)
    page = tile(embeddings.drawing(920, 1300), Mode.GUNDAM)
    fields = {
        "pixel_values": torch.from_numpy(page.view)[None].to(device),
        "images_crop": torch.from_numpy(page.crops).to(device),
    }
    reference = embeddings.vllms(exact, page)
    (own,) = put_together(model, ours(encoder, fields), page.grid)
    theirs = embeddings.vllms(model, page)
    far, far_vllm = (float((part.float() - reference).norm() / reference.norm()) for part in (own, theirs))
    say(f"distance from float32: ours {far:.5f}, vLLM {far_vllm:.5f}, ratio {far / far_vllm:.3f}")


if __name__ == "__main__":
    raise SystemExit(main())
