"""The guard against vLLM's own: the rule alone, and both processors over the same batches as they change."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule
from torch.utils._python_dispatch import TorchDispatchMode
from vllm import SamplingParams
from vllm.model_executor.models.deepseek_ocr import NGramPerReqLogitsProcessor, NoRepeatNGramLogitsProcessor
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessors

from deepseek_ocr.engine.vllm_guard import NoRepeatGuard
from deepseek_ocr.guard import Rule, banned_tokens, request_args
from tests.repeats import ALPHABET, answers, published_size, rules
from tests.vllm_cpu.batches import Batch

if TYPE_CHECKING:
    from vllm.v1.sample.logits_processor import LogitsProcessor

#: Enough for every id in these tests; vLLM's own guard indexes a row of this length.
VOCABULARY = 64
CPU = torch.device("cpu")


def processors() -> list[LogitsProcessor]:
    """Ours and vLLM's, made as vLLM makes them."""
    return [kind(SimpleNamespace(), CPU, is_pin_memory=False) for kind in (NoRepeatGuard, NGramPerReqLogitsProcessor)]


@settings(max_examples=1000, deadline=None)
@given(st.one_of(st.tuples(answers(), rules()), published_size()))
def test_rule_is_that_of_vllm(case: tuple[list[int], Rule]) -> None:
    """The same tokens are banned as by the function inside vLLM's processor, no more and no fewer."""
    output_ids, rule = case
    upstream = NoRepeatNGramLogitsProcessor(rule.ngram_size, rule.window_size, set(rule.whitelist))
    logits = upstream(output_ids, torch.zeros(VOCABULARY))
    banned = banned_tokens(output_ids, rule.ngram_size, rule.window_size, rule.whitelist)
    assert banned == set(torch.isneginf(logits).nonzero().flatten().tolist())


class Batches(RuleBasedStateMachine):
    """A batch and both processors.

    The id sampled last stands as -1 in its list until just before the processors run, as asynchronous scheduling
    leaves it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ours, self.upstream = processors()
        self.batch = Batch()

    @rule(data=st.data())
    def step(self, data: st.DataObject) -> None:
        """One step of the engine: both processors see the same change of the batch and ban the same tokens."""
        update = self.batch.change(data)
        self.ours.update_state(update)
        self.upstream.update_state(update)
        requests = self.batch.requests
        before = torch.rand(len(requests), VOCABULARY)
        expected = before.clone()
        for row, (rule_, shown, output_ids) in enumerate(requests):
            shown[:] = output_ids
            if rule_ is not None:
                banned = banned_tokens(output_ids, rule_.ngram_size, rule_.window_size, rule_.whitelist)
                expected[row, list(banned)] = -torch.inf
        assert torch.equal(self.ours.apply(before.clone()), expected)
        assert torch.equal(self.upstream.apply(before.clone()), expected)

        sampled = data.draw(st.lists(st.sampled_from(ALPHABET), min_size=len(requests), max_size=len(requests)))
        for request, token in zip(requests, sampled, strict=True):
            request.shown.append(-1)
            request.output_ids.append(token)


Batches.TestCase.settings = settings(max_examples=50, stateful_step_count=15, deadline=None)
TestBatches = Batches.TestCase


class Operations(TorchDispatchMode):
    """Counts what reaches a tensor's memory."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Note it and let it pass."""
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("loops", "writes"), [(0, 0), (1, 1), (5, 1)])
def test_one_write_per_step(loops: int, writes: int) -> None:
    """However many pages are in a loop, the device gets one write; none if no page is."""
    guard = processors()[0]
    asked = SamplingParams(temperature=0, extra_args=request_args({7}))
    added = [(row, asked, None, [1, 2] * 30 if row < loops else [*range(60)]) for row in range(6)]
    guard.update_state(BatchUpdate(6, removed=[], added=added, moved=[]))
    with Operations() as seen:
        logits = guard.apply(torch.zeros(6, VOCABULARY))
    assert seen.names.count("index_put_") == writes
    assert torch.isneginf(logits).nonzero().tolist() == [[row, 1] for row in range(loops)]
    if not writes:
        assert set(seen.names) == {"zeros"}


def test_acts_on_greedy_decoding() -> None:
    """Processors that say they never change the likeliest token are left out of greedy decoding; not this one."""
    guard = processors()[0]
    assert LogitsProcessors([guard]).non_argmax_invariant == [guard]


@pytest.mark.parametrize(
    "extra_args",
    [
        None,
        {"window_size": 0},
        {"ngram_size": 30},
        {"ngram_size": 30, "window_size": 5, "whitelist_token_ids": (1, 2)},
        {"ngram_size": True},
        {"ngram_size": 0},
        {"ngram_size": 2.0},
        {"ngram_size": "2"},
        {"ngram_size": 2, "window_size": -1},
        {"ngram_size": 2, "window_size": None},
        {"ngram_size": 2, "whitelist_token_ids": 5},
    ],
    ids=repr,
)
def test_refuses_what_vllm_refuses(extra_args: dict[str, object] | None) -> None:
    """A request is accepted by both, or refused by both with the same sentence."""
    asked = SamplingParams(temperature=0, extra_args=extra_args)
    heard: list[str | None] = []
    for kind in (NoRepeatGuard, NGramPerReqLogitsProcessor):
        try:
            kind.validate_params(asked)
        except ValueError as refusal:
            heard.append(str(refusal))
        else:
            heard.append(None)
    assert heard[0] == heard[1]


def test_what_would_end_the_engine_is_refused() -> None:
    """A whitelist of lists passes vLLM's check and raises in the engine core; here the request is refused."""
    asked = SamplingParams(temperature=0, extra_args={"ngram_size": 2, "whitelist_token_ids": [[1]]})
    NGramPerReqLogitsProcessor.validate_params(asked)
    with pytest.raises(TypeError, match="unhashable"):
        processors()[1].update_state(BatchUpdate(1, removed=[], added=[(0, asked, None, [])], moved=[]))
    with pytest.raises(ValueError, match="has to be a sequence of integers"):
        NoRepeatGuard.validate_params(asked)
