"""A step in two calls of attention gives what it gives in one."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional
from vllm.v1.attention.backend import CommonAttentionMetadata
from vllm.v1.attention.backends import registry
from vllm.v1.attention.backends.flash_attn import (
    FlashAttentionImpl,
    FlashAttentionMetadata,
    FlashAttentionMetadataBuilder,
)

from deepseek_ocr.engine import vllm_attention
from deepseek_ocr.engine.vllm_attention import (
    FEWEST,
    PageAttention,
    PageAttentionBackend,
    PageAttentionBuilder,
    in_two_calls,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

HEADS, HEAD, BLOCK = 2, 4, 4
#: Pages of a step: tokens that are in the cache before it, and tokens of the step.
going_on = st.tuples(st.integers(1, 30), st.just(1))
new = st.tuples(st.integers(0, 5), st.integers(2, 20))


def described(pages: list[tuple[int, int]]) -> FlashAttentionMetadata:
    """A step of these pages as vLLM describes it, each page's blocks apart from each other."""
    lengths = torch.tensor([before + tokens for before, tokens in pages])
    blocks = int(lengths.max()) // BLOCK + 1
    starts = torch.tensor([0, *(tokens for _, tokens in pages)]).cumsum(0).int()
    return FlashAttentionMetadata(
        num_actual_tokens=int(starts[-1]), max_query_len=max(tokens for _, tokens in pages), query_start_loc=starts,
        max_seq_len=int(lengths.max()), seq_lens=lengths.int(),
        block_table=torch.arange(blocks * len(pages)).view(blocks, len(pages)).T, slot_mapping=torch.empty(0),
        use_cascade=False, common_prefix_len=0, cu_prefix_query_lens=None, prefix_kv_lens=None, suffix_kv_lens=None,
        scheduler_metadata=torch.zeros(1), max_num_splits=32,
    )  # fmt: skip


def plain(
    _: Any, __: Any, query: Any, ___: Any, ____: Any, cache: Any, step: FlashAttentionMetadata, output: Any
) -> None:
    """What FlashAttention computes, which a CPU has not: page by page, in plain torch."""
    starts = step.query_start_loc.tolist()
    assert starts[0] == 0
    assert starts[-1] == step.num_actual_tokens == len(query)
    assert step.max_query_len >= max(end - start for start, end in itertools.pairwise(starts))
    for row, (start, end) in enumerate(itertools.pairwise(starts)):
        length, tokens = int(step.seq_lens[row]), end - start
        keys, values = (part.reshape(-1, HEADS, HEAD)[:length] for part in cache[step.block_table[row]].unbind(1))
        seen = torch.ones(tokens, length, dtype=torch.bool).tril(length - tokens)
        output[start:end] = functional.scaled_dot_product_attention(
            query[start:end].transpose(0, 1), keys.transpose(0, 1), values.transpose(0, 1), attn_mask=seen
        ).transpose(0, 1)


@given(first=st.lists(going_on, min_size=1, max_size=6), second=st.lists(new, min_size=1, max_size=3))
def test_two_calls_give_what_one_gives(first: list[tuple[int, int]], second: list[tuple[int, int]]) -> None:
    """For any pages that go on and any new ones behind them."""
    step = described(first + second)
    torch.manual_seed(len(first))
    cache = torch.randn(int(step.block_table.max()) + 1, 2, BLOCK, HEADS, HEAD)
    query = torch.randn(step.num_actual_tokens, HEADS, HEAD)
    attention = object.__new__(PageAttention)
    calls = []

    def counted(*arguments: Any) -> None:
        calls.append(arguments[6])
        plain(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FlashAttentionImpl, "forward", counted)
        found = [
            attention.forward(torch.nn.Module(), query, query, query, cache, one, torch.full_like(query, torch.nan))
            for one in (step, in_two_calls(step, len(first), len(first)))
        ]
    assert torch.equal(*found)
    assert [call.max_query_len for call in calls[1:]] == [1, step.max_query_len]
    assert not any(call.scheduler_metadata is not None or call.max_num_splits for call in calls[1:])


@pytest.fixture
def builder(monkeypatch: pytest.MonkeyPatch) -> PageAttentionBuilder:
    """Ours on a card with FlashAttention 3, where vLLM's own part says what it is given."""
    monkeypatch.setattr(FlashAttentionMetadataBuilder, "build", lambda _, __, common, ___: described(common.pages))
    made = object.__new__(PageAttentionBuilder)
    made.reorder_batch_threshold = 1
    return made


@pytest.mark.parametrize(
    ("pages", "parts"),
    [
        ([*[(9, 1)] * FEWEST, (0, 7), (3, 9)], [FEWEST, 16]),
        ([*[(9, 1)] * (FEWEST - 1), (0, 7), (3, 9)], None),
        ([(9, 1)] * FEWEST, None),
        ([(0, 7)] * FEWEST, None),
    ],
    ids=["both kinds", "few go on", "none new", "all new"],
)
def test_a_step_of_both_kinds_has_two_parts(
    builder: PageAttentionBuilder, pages: list[tuple[int, int]], parts: list[int] | None
) -> None:
    """And no other step."""
    step = described(pages)
    common: Any = CommonAttentionMetadata(
        query_start_loc=step.query_start_loc, query_start_loc_cpu=step.query_start_loc, seq_lens=step.seq_lens,
        num_reqs=len(pages), num_actual_tokens=step.num_actual_tokens, max_query_len=step.max_query_len,
        max_seq_len=step.max_seq_len, block_table_tensor=step.block_table, slot_mapping=step.slot_mapping,
    )  # fmt: skip
    common.pages = pages
    found = getattr(builder.build(0, common), "parts", None)
    assert (found and [part.num_actual_tokens for part in found]) == parts
    builder.reorder_batch_threshold = None  # without FlashAttention 3 the pages stand in any order
    assert getattr(builder.build(0, common), "parts", None) is None


@pytest.mark.parametrize(("version_3", "pages", "wanted"), [(True, 896, 1), (True, 100, None), (False, 896, None)])
def test_pages_are_put_in_order_where_that_helps(
    monkeypatch: pytest.MonkeyPatch, version_3: bool, pages: int, wanted: int | None
) -> None:
    """Where FlashAttention 3 reads hundreds of pages; else they stand as they came."""

    def init(self: Any, config: Any) -> None:
        self.vllm_config, self.aot_schedule = config, version_3

    monkeypatch.setattr(FlashAttentionMetadataBuilder, "__init__", init)
    config = SimpleNamespace(
        scheduler_config=SimpleNamespace(max_num_seqs=pages),
        parallel_config=SimpleNamespace(decode_context_parallel_size=1),
    )
    assert PageAttentionBuilder(config).reorder_batch_threshold == wanted


@pytest.fixture
def registered() -> Iterator[None]:
    """Known to vLLM, and forgotten again."""
    vllm_attention.register()
    yield
    registry.AttentionBackendEnum.FLASH_ATTN.clear_override()


@pytest.mark.usefixtures("registered")
def test_vllm_takes_it_for_flash_attention() -> None:
    """By FlashAttention's own name, with our builder and layer."""
    found = registry.AttentionBackendEnum.FLASH_ATTN.get_class()
    assert found is PageAttentionBackend
    assert (found.get_builder_cls(), found.get_impl_cls()) == (PageAttentionBuilder, PageAttention)
    assert found.get_name() == "FLASH_ATTN"
