"""Our Triton kernels in Triton's interpreter, against the same in plain torch: `python -m tests.vllm_cpu.kernels DIR`.

A process of its own, as vLLM puts placeholders where Triton finds no driver: here the real one, which lies in DIR, is
put in their place before any kernel of ours is defined.  Prints a line of JSON: what differs, and by how much.
"""

from __future__ import annotations

import json
import os
import sys

os.environ["TRITON_INTERPRET"] = "1"
sys.path.insert(0, sys.argv[1])

import torch
import triton
import triton.language
import vllm.triton_utils
from torch.nn import functional

vllm.triton_utils.tl, vllm.triton_utils.triton = triton.language, triton

from bench import guard
from deepseek_ocr.engine.vllm_sam import fused_add_norm
from deepseek_ocr.engine.vllm_sam_attention import HEAD, Shape, attention, fused_attention

CPU = torch.device("cpu")
#: Whole pictures and windows that reach beyond them, sides that fill the kernel's tiles and others.
SHAPES = [Shape(1, 16, 16, 2), Shape(2, 20, 20, 1), Shape(2, 20, 14, 2), Shape(1, 14, 14, 1)]
#: SAM's width, and what its layer norms add to a variance.
WIDTH, EPS = 768, 1e-6
#: Not bf16: the interpreter takes its bits for whole numbers in products.
DTYPES = {"float32": torch.float32, "fp16": torch.float16}


def seen(shape: Shape, dtype: torch.dtype) -> float:
    """How far what tokens see by the kernels is from plain torch in float32."""
    width = 3 * shape.heads * HEAD
    qkv, padding = torch.randn(shape.tokens + 1, width, dtype=dtype), torch.randn(width, dtype=dtype)
    down, across = torch.randn(2, 2 * shape.window - 1, HEAD, dtype=dtype) / 8
    plain = attention(qkv.float(), padding.float(), down.float(), across.float(), shape)
    return float((fused_attention(qkv, padding, down, across, shape).float() - plain).abs().max())


def summed_and_normed(dtype: torch.dtype) -> float:
    """How far sums of rows and changes, and their layer norm, are from plain torch in float32."""
    rows, change = torch.randn(2, 5, WIDTH, dtype=dtype)
    weight, bias = torch.randn(2, WIDTH, dtype=dtype)
    mine = torch.stack(fused_add_norm(rows, change, weight, bias, EPS)).float()
    total = rows.float() + change.float()
    normed = functional.layer_norm(total, (WIDTH,), weight.float(), bias.float(), EPS)
    return float((mine - torch.stack((total, normed))).abs().max())


def main() -> None:
    """Print what differs."""
    torch.manual_seed(0)
    with torch.inference_mode():
        found = {
            "guarded otherwise": guard.differences(CPU, batches=10, most_rows=30),
            **{f"attention in {name}": [seen(shape, dtype) for shape in SHAPES] for name, dtype in DTYPES.items()},
            **{f"norm in {name}": summed_and_normed(dtype) for name, dtype in DTYPES.items()},
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
