"""vLLM's FlashAttention, called once for the pages that go on and once for the new ones.

A step of hundreds of pages nearly always has a new one, whose prompt is some 900 tokens beside one of each other page.
In one call the others are then taken by a kernel for prompts, a tenth slower for them (`bench.attention`).
Which call a token is in changes its result no more than another batch does.
Left to others: all else (vLLM), by which the pages that go on are put first (`reorder_batch_threshold`).
Residual risk: measured with FlashAttention 3, thus on Hopper cards; with others everything is as vLLM has it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Final

from vllm.v1.attention.backends.flash_attn import (
    FlashAttentionBackend,
    FlashAttentionImpl,
    FlashAttentionMetadata,
    FlashAttentionMetadataBuilder,
)
from vllm.v1.attention.backends.registry import AttentionBackendEnum, register_backend
from vllm.v1.attention.backends.utils import split_decodes_and_prefills

if TYPE_CHECKING:
    import torch
    from vllm.v1.attention.backend import CommonAttentionMetadata

#: Pages that go on.  With 96 launching twice costs what it gains, with 448 it gains; this is a guess between.
FEWEST: Final = 256


@dataclass
class TwoCalls(FlashAttentionMetadata):
    """A step whose first tokens are those of pages that go on, and whose last are those of new ones."""

    #: Both parts; None = one call.
    parts: tuple[FlashAttentionMetadata, FlashAttentionMetadata] | None = None


class PageAttentionBuilder(FlashAttentionMetadataBuilder):
    """Describes a step to the layers."""

    #: For several caches that differ in their blocks alone; here is one.
    supports_update_block_table = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # The first tells FlashAttention 3; putting pages in order costs the worker's thread something at each step.
        if self.aot_schedule and self.vllm_config.scheduler_config.max_num_seqs > FEWEST:
            self._init_reorder_batch_threshold(1)

    def build(
        self, common_prefix_len: int, common_attn_metadata: CommonAttentionMetadata, fast_build: bool = False
    ) -> FlashAttentionMetadata:
        """What vLLM says of a step, and of its two parts where it has both."""
        whole = super().build(common_prefix_len, common_attn_metadata, fast_build)
        if self.reorder_batch_threshold is None or whole.use_cascade or whole.causal is not True:
            return whole
        going_on, new, tokens, _ = split_decodes_and_prefills(common_attn_metadata, self.reorder_batch_threshold)
        return in_two_calls(whole, going_on, tokens) if going_on >= FEWEST and new else whole


def in_two_calls(whole: FlashAttentionMetadata, going_on: int, tokens: int) -> TwoCalls:
    """A step whose first `going_on` pages have `tokens` tokens, one each, and whose others are new."""
    starts = whole.query_start_loc
    # What is computed ahead (the schedule, the number of splits for a CUDA graph) is of the whole; a step of both kinds
    # has no graph for its attention.
    some = replace(whole, scheduler_metadata=None, max_num_splits=0)
    first = replace(
        some,
        num_actual_tokens=tokens,
        max_query_len=1,
        query_start_loc=starts[: going_on + 1],
        seq_lens=whole.seq_lens[:going_on],
        block_table=whole.block_table[:going_on],
    )
    second = replace(
        some,
        num_actual_tokens=whole.num_actual_tokens - tokens,
        query_start_loc=starts[going_on:] - tokens,
        seq_lens=whole.seq_lens[going_on:],
        block_table=whole.block_table[going_on:],
    )
    return TwoCalls(**{field.name: getattr(whole, field.name) for field in fields(whole)}, parts=(first, second))


class PageAttention(FlashAttentionImpl):
    """A layer's attention."""

    def forward(
        self, layer: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
        kv_cache: torch.Tensor, attn_metadata: FlashAttentionMetadata | None, output: torch.Tensor,
        *args: Any, **kwargs: Any,
    ) -> torch.Tensor:  # fmt: skip
        """As vLLM, for each part; `query` and `output` are (tokens, heads, 128).

        Keys and values are in the cache by then, and read from there.
        """
        parts = getattr(attn_metadata, "parts", None)
        if parts is None:
            super().forward(layer, query, key, value, kv_cache, attn_metadata, output, *args, **kwargs)
            return output
        start = 0
        for part in parts:
            these = slice(start, start + part.num_actual_tokens)
            super().forward(layer, query[these], key, value, kv_cache, part, output[these], *args, **kwargs)
            start = these.stop
        return output


class PageAttentionBackend(FlashAttentionBackend):
    """All of it under FlashAttention's name."""

    @staticmethod
    def get_impl_cls() -> type[PageAttention]:
        """The layer."""
        return PageAttention

    @staticmethod
    def get_builder_cls() -> type[PageAttentionBuilder]:
        """What describes a step."""
        return PageAttentionBuilder


def register() -> None:
    """Where vLLM takes FlashAttention, it takes this in this process; before a model's layers are made."""
    register_backend(
        AttentionBackendEnum.FLASH_ATTN, f"{PageAttentionBackend.__module__}.{PageAttentionBackend.__qualname__}"
    )
