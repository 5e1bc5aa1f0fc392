"""What the card does while pages are read: a trace of all kernels in the middle of a run, taken in vLLM's worker.

Only the card is traced, so the host is slowed down by little.  The trace is reduced where it is taken: some 100,000
kernels become the share of the time in which one ran, the time of each kind of kernel, and that of the steps.
"""

from __future__ import annotations

import gzip
import json
import os
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from deepseek_ocr.engine.vllm_worker import PageWorker

#: First match wins; names of kernels as vLLM 0.25.1 and torch 2.11 launch them.
KINDS = {
    "copies to the card": r"Memcpy HtoD",
    "copies from the card": r"Memcpy DtoH",
    "experts": r"fused_moe|moe_align|count_and_sort_expert|topk_softmax|topkGating|moe_sum|moe_fused",
    "attention": r"flash|fmha|attention|attn|cudnn.*sdpa|reshape_and_cache",
    "matrices": r"gemm|nvjet|cutlass|splitK|cublas|gemv",
    "convolutions": r"conv|implicit|cudnn|im2col",
    "guard and sampling": r"ArgMax|argmax|scatter|gather|isin|eq_kernel|CompareEq|reduce_kernel.*and|index_put|nonzero",
    "copies on the card": r"Memcpy DtoD|Memset|copy_kernel|CatArray|cat",
    "normalising and activation": r"norm|silu|act_and_mul|gelu|triton_",
    "elementwise": r"elementwise|vectorized",
}


class TracedWorker(PageWorker):
    """Beside what a worker of ours does: start and stop a trace."""

    def start_trace(self) -> None:
        """Begin."""
        import torch  # noqa: PLC0415 - in the worker

        self._trace = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA])
        self._trace.start()

    def stop_trace(self, folder: str) -> None:
        """End, and write what there was."""
        import torch  # noqa: PLC0415 - in the worker

        torch.accelerator.synchronize()
        self._trace.stop()
        kernels = [
            (event.name(), event.start_ns() / 1e3, event.duration_ns() / 1e3)
            for event in self._trace.profiler.kineto_results.events()
            if str(event.device_type()).endswith("CUDA") and event.duration_ns() > 0
        ]
        whole = Path(folder) / "trace.json"
        part = whole.with_suffix(".part")
        part.write_text(json.dumps(summary(kernels), indent=1))
        part.replace(whole)
        if os.environ.get("BENCH_TRACE_ALL"):
            with gzip.open(Path(folder) / "kernels.json.gz", "wt") as file:
                json.dump(kernels, file)


def summary(kernels: list[tuple[str, float, float]]) -> dict[str, Any]:
    """Kernels (name, start, duration in us), any order -> shares and milliseconds."""
    kernels = sorted(kernels, key=lambda kernel: kernel[1])
    first, last = kernels[0][1], max(start + length for _, start, length in kernels)
    busy = end = 0.0
    kinds: dict[str, float] = defaultdict(float)
    names: dict[str, list[float]] = defaultdict(lambda: [0, 0.0])
    gaps: list[tuple[float, str, str]] = []
    before = ""
    for name, start, length in kernels:
        if start > end and end:
            gaps.append((start - end, before, name))
        busy += max(0.0, start + length - max(start, end))
        end = max(end, start + length)
        before = name
        kind = next((kind for kind, pattern in KINDS.items() if re.search(pattern, name)), "other")
        kinds[kind] += length
        names[name][0] += 1
        names[name][1] += length
    span = last - first
    return {
        "seconds": span / 1e6,
        "busy": busy / span,
        "kinds_ms": {kind: time / 1e3 for kind, time in sorted(kinds.items(), key=lambda item: -item[1])},
        "names": [
            (name[:110], count, round(time / 1e3, 2))
            for name, (count, time) in sorted(names.items(), key=lambda item: -item[1][1])[:60]
        ],
        "gaps_over_1ms": sum(gap > 1e3 for gap, _, _ in gaps),  # noqa: PLR2004
        "gaps_ms": {
            bound: sum(gap for gap, _, _ in gaps if low < gap <= high) / 1e3
            for bound, low, high in (
                ("to 20 us", 0, 20), ("to 200 us", 20, 200), ("to 2 ms", 200, 2e3), ("longer", 2e3, 1e9)
            )
        },
        "gap_ends": _most(gaps),
    }  # fmt: skip


def _most(gaps: list[tuple[float, str, str]]) -> list[tuple[str, str, int, float]]:
    """Between which kernels the card waits longest: (before, after, how often, ms)."""
    found: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0, 0.0])
    for gap, before, after in gaps:
        found[before[:60], after[:60]][0] += 1
        found[before[:60], after[:60]][1] += gap
    most = sorted(found.items(), key=lambda item: -item[1][1])[:25]
    return [(before, after, int(count), round(time / 1e3, 2)) for (before, after), (count, time) in most]
