"""The fastest settings of vLLM's fused expert kernel for DeepSeek-OCR on this card, beside those that vLLM guesses.

64 experts of 896, hidden size 1280, 6 of them for each token, bf16.  Prints microseconds of one layer for each number
of tokens and writes the file that vLLM looks for (`VLLM_TUNED_CONFIG_FOLDER`).  Compiling takes most of the time and is
shared by processes.  `python -m bench.moe --out FOLDER`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import time
from pathlib import Path
from typing import Any

EXPERTS, WIDTH, HIDDEN, CHOSEN = 64, 896, 1280, 6
TOKENS = (1, 8, 16, 32, 64, 96, 128, 192, 256, 320, 384, 448, 512, 768, 1024, 1536, 2048, 4096, 8192, 16384)
#: Of shared memory that a block may take.
SHARED_BYTES = 227 * 1024
REPEATS = 20


def configurations() -> list[dict[str, int]]:
    """What is tried."""
    found = []
    for m, n, k, warps, stages in itertools.product(
        (16, 32, 64, 128), (64, 128, 256), (32, 64, 128), (4, 8), (2, 3, 4, 5)
    ):
        fits = (m * k + k * n) * 2 * stages <= SHARED_BYTES
        sensible = not (m * n < 4096 and warps == 8) and not (m * n >= 128 * 128 and warps == 4) and m * n <= 128 * 256
        if fits and sensible and not (k == 32 and stages < 4):
            found.append({"BLOCK_SIZE_M": m, "BLOCK_SIZE_N": n, "BLOCK_SIZE_K": k, "GROUP_SIZE_M": 1, "SPLIT_K": 1,
                          "num_warps": warps, "num_stages": stages})  # fmt: skip
    return found


class Layer:
    """One layer of experts on the card."""

    def __init__(self) -> None:
        import torch  # noqa: PLC0415

        torch.manual_seed(0)
        self.torch = torch
        options = {"dtype": torch.bfloat16, "device": "cuda"}
        self.up = torch.randn(EXPERTS, 2 * WIDTH, HIDDEN, **options) * 0.02
        self.down = torch.randn(EXPERTS, HIDDEN, WIDTH, **options) * 0.02
        self.inputs = {count: torch.randn(count, HIDDEN, **options) for count in TOKENS}
        routes = {count: torch.rand(count, EXPERTS, device="cuda").topk(CHOSEN, dim=-1) for count in TOKENS}
        self.routes = {count: (weights.float(), ids.int()) for count, (weights, ids) in routes.items()}

    def run(self, tokens: int, configuration: dict[str, int] | None) -> None:
        """One pass; vLLM's own choice without a configuration."""
        from vllm.model_executor.layers import fused_moe  # noqa: PLC0415

        weights, ids = self.routes[tokens]
        # vLLM's own `override_config` stays in force after an error.
        fused_moe._config = configuration  # noqa: SLF001
        try:
            fused_moe.fused_experts(self.inputs[tokens], self.up, self.down, weights, ids)
        finally:
            fused_moe._config = None  # noqa: SLF001

    def microseconds(self, tokens: int, configuration: dict[str, int] | None, repeats: int = REPEATS) -> float:
        """Of one pass, from a graph of many, so that launching costs nothing."""
        torch = self.torch
        self.run(tokens, configuration)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(repeats):
                self.run(tokens, configuration)
        graph.replay()
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        return float(start.elapsed_time(end) * 1000 / repeats)


def compile_some(share: tuple[int, int]) -> int:
    """Fill Triton's cache with this process's share of the kernels; how many there are."""
    number, of = share
    layer = Layer()
    done = 0
    for configuration in configurations()[number::of]:
        for tokens in (512,):
            try:
                layer.run(tokens, configuration)
                done += 1
            except Exception as error:  # noqa: BLE001 - too much shared memory, registers: not for this card
                print(f"not here: {configuration}: {str(error)[:80]}", flush=True)
    layer.torch.cuda.synchronize()
    return done


def tune(layer: Layer, tokens: int, limit_s: float) -> tuple[dict[str, int], float]:
    """The best configuration and its microseconds."""
    begun = time.perf_counter()
    rough: list[tuple[float, dict[str, int]]] = []
    for configuration in configurations():
        # Blocks far larger than what an expert gets are never best, and small ones not for many tokens.
        each = tokens * CHOSEN / EXPERTS
        if configuration["BLOCK_SIZE_M"] > max(16, 4 * each) or configuration["BLOCK_SIZE_M"] * 16 < each:
            continue
        if time.perf_counter() - begun > limit_s:
            break
        try:
            rough.append((layer.microseconds(tokens, configuration, 4), configuration))
        except Exception:  # noqa: BLE001, S112 - not for this card
            continue
    rough.sort(key=lambda pair: pair[0])
    fine = []
    for _, configuration in rough[:6]:
        for group in (1, 8, 32):
            one = configuration | {"GROUP_SIZE_M": group}
            fine.append((layer.microseconds(tokens, one), one))
    return min(fine, key=lambda pair: pair[0])[::-1]


def main() -> None:
    """Tune and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--processes", type=int, default=14)
    parser.add_argument("--limit-s", type=float, default=8.0)
    arguments = parser.parse_args()
    begun = time.perf_counter()
    context = multiprocessing.get_context("spawn")
    with context.Pool(arguments.processes) as pool:
        shares = [(number, arguments.processes) for number in range(arguments.processes)]
        compiled = sum(pool.map(compile_some, shares))
    print(f"{compiled} kernels compiled in {time.perf_counter() - begun:.0f} s", flush=True)
    layer = Layer()
    best: dict[str, Any] = {}
    for tokens in TOKENS:
        guessed = layer.microseconds(tokens, None)
        configuration, found = tune(layer, tokens, arguments.limit_s)
        best[str(tokens)] = configuration
        print(f"{tokens:6} tokens: {found:8.1f} us, vLLM's guess {guessed:8.1f} us = {guessed / found:.2f} x  "
              f"{list(configuration.values())}", flush=True)  # fmt: skip
        arguments.out.mkdir(parents=True, exist_ok=True)
        from vllm.model_executor.layers.fused_moe.fused_moe import get_config_file_name  # noqa: PLC0415

        (arguments.out / get_config_file_name(EXPERTS, WIDTH, None)).write_text(json.dumps(best, indent=1) + "\n")
    print(f"{time.perf_counter() - begun:.0f} s in all")


if __name__ == "__main__":
    main()
