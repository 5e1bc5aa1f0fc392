"""The decoder's attention in a step of hundreds of pages: how much a new page costs in one call and in two.

The 12 layers of DeepSeek-OCR (10 heads of 128) as vLLM calls them, one behind the other on the same keys and values:
pages of 913 to 2,400 tokens, each with one token more, and new pages of 913.  vLLM's own class takes both in one call,
ours in two.  Their results are compared.  vLLM makes a schedule for its one call ahead, once for all layers, which
neither has here.
Run on a Hopper card with vLLM: `python -m bench.attention`, some seconds.
Bar: two calls take no longer than one.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys

import torch
from vllm.v1.attention.backends.flash_attn import FlashAttentionImpl, FlashAttentionMetadata

from deepseek_ocr.engine.vllm_attention import PageAttention, in_two_calls

#: Of the decoder.
HEADS, HEAD, LAYERS = 10, 128, 12
#: Tokens of which the cache has keys and values together; of a page's prompt, and of the longest page.
BLOCK, PROMPT, LONGEST = 16, 913, 2400
ROUNDS = 10
#: bf16 has 8 bits.
TOLERANCE = 2.0**-8


class Step:
    """Pages that go on, and new ones behind them, with random keys and values."""

    def __init__(self, going_on: int, new: int) -> None:
        choose = random.Random(0)  # noqa: S311 - not a secret
        lengths = [choose.randrange(PROMPT, LONGEST) for _ in range(going_on)] + [PROMPT] * new
        counts = [1] * going_on + [PROMPT] * new
        blocks = [-(-length // BLOCK) for length in lengths]
        scattered = torch.randperm(sum(blocks), device="cuda", dtype=torch.int32)
        table = torch.zeros(len(lengths), max(blocks), device="cuda", dtype=torch.int32)
        for row, some in enumerate(scattered.split(blocks)):
            table[row, : len(some)] = some
        self.tokens = sum(counts)
        self.query = torch.randn(self.tokens, HEADS, HEAD, device="cuda", dtype=torch.bfloat16)
        self.cache = torch.empty(sum(blocks), 2, BLOCK, HEADS, HEAD, device="cuda", dtype=torch.bfloat16).normal_()
        starts = torch.tensor([0, *counts], device="cuda").cumsum(0).int()
        self.described = FlashAttentionMetadata(
            num_actual_tokens=self.tokens, max_query_len=max(counts), query_start_loc=starts, max_seq_len=LONGEST,
            seq_lens=torch.tensor(lengths, device="cuda", dtype=torch.int32), block_table=table,
            slot_mapping=torch.empty(0, device="cuda"), use_cascade=False, common_prefix_len=0,
            cu_prefix_query_lens=None, prefix_kv_lens=None, suffix_kv_lens=None,
        )  # fmt: skip
        #: Bytes of keys and values of pages that go on.
        self.bytes = sum(lengths[:going_on]) * 2 * HEADS * HEAD * 2

    def ms(self, attention: FlashAttentionImpl, described: FlashAttentionMetadata) -> tuple[float, torch.Tensor]:
        """The median time of all layers' calls, and what they give."""
        scales = torch.nn.Module()
        scales._q_scale = scales._k_scale = scales._v_scale = torch.ones(1, device="cuda")  # noqa: SLF001 - of bf16
        output = torch.empty_like(self.query)
        times = []
        for _ in range(ROUNDS):
            begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begun.record()
            for _ in range(LAYERS):
                attention.forward(scales, self.query, self.query, self.query, self.cache, described, output)
            ended.record()
            ended.synchronize()
            times.append(begun.elapsed_time(ended))
        return statistics.median(times), output


def main() -> int:
    """Print the table; 1 if the bar is missed or the results differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pages", default="448,896", help="that go on")
    arguments = parser.parse_args()
    one, two = (cls(HEADS, HEAD, HEAD**-0.5, HEADS, None, None, "auto") for cls in (FlashAttentionImpl, PageAttention))
    print("pages  new  one call  two calls  ratio  none new  GB/s without new ones  largest difference")
    reached = True
    with torch.inference_mode():
        for going_on in map(int, arguments.pages.split(",")):
            alone_step = Step(going_on, 0)
            alone, _ = alone_step.ms(one, alone_step.described)
            for new in (1, 4):
                step = Step(going_on, new)
                once, wanted = step.ms(one, step.described)
                twice, found = step.ms(two, in_two_calls(step.described, going_on, going_on))
                difference = float((wanted.float() - found.float()).abs().max() / wanted.float().abs().max())
                reached = reached and twice <= once and difference <= TOLERANCE
                print(
                    f"{going_on:5} {new:4} {once:8.3f}ms {twice:8.3f}ms {once / twice:6.2f} {alone:8.3f}ms "
                    f"{alone_step.bytes * LAYERS / alone / 1e6:10,.0f} {difference:18.5f}"
                )
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
