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
from vllm.v1.sample.logits_processor import BatchUpdate, BatchUpdateBuilder, LogitsProcessors, MoveDirectionality

from deepseek_ocr.engine.vllm_guard import NoRepeatGuard
from deepseek_ocr.guard import Rule, banned_tokens, request_args
from tests.repeats import ALPHABET, answers, published_size, rules

if TYPE_CHECKING:
    from vllm.v1.sample.logits_processor import LogitsProcessor

#: Enough for every id in these tests; vLLM's own guard indexes a row of this length.
VOCABULARY = 64
CPU = torch.device("cpu")


def processors() -> list[LogitsProcessor]:
    """Ours and vLLM's, made as vLLM makes them."""
    return [kind(SimpleNamespace(), CPU, is_pin_memory=False) for kind in (NoRepeatGuard, NGramPerReqLogitsProcessor)]


def params(rule: Rule | None) -> SamplingParams:
    """A request that asks for a rule, or for none."""
    if rule is None:
        return SamplingParams(temperature=0)
    asked = {"ngram_size": rule.ngram_size, "window_size": rule.window_size, "whitelist_token_ids": [*rule.whitelist]}
    return SamplingParams(temperature=0, extra_args=asked)


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
    """The life of a batch as `InputBatch` keeps it: requests join, leave, slide down into gaps and swap rows.

    The id sampled last stands as -1 in its list until just before the processors run, as asynchronous scheduling
    leaves it, and the list stays the same object throughout.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ours, self.upstream = processors()
        self.builder = BatchUpdateBuilder()
        #: What each row holds: its rule, the ids it shows to the processors, and those that it ought to have.
        self.rows: list[tuple[Rule | None, list[int], list[int]] | None] = []

    def join(self, rule: Rule | None, output_ids: list[int]) -> None:
        """Into the lowest free row, as `InputBatch._register_add_request` does; ids, since it may be a resumed one."""
        row = self.builder.pop_removed()
        shown = list(output_ids)
        request = (rule, shown, list(output_ids))
        if row is None:
            row = len(self.rows)
            self.rows.append(request)
        else:
            self.rows[row] = request
        self.builder.added.append((row, params(rule), None, shown))

    def condense(self) -> None:
        """The last requests into the lowest gaps, as `InputBatch.condense` does."""
        gaps = self.builder.removed
        while gaps:
            while self.rows and self.rows[-1] is None:
                self.rows.pop()
            gap = self.builder.peek_removed()
            assert gap is not None
            if gap >= len(self.rows):
                break
            self.builder.pop_removed()
            self.builder.moved.append((len(self.rows) - 1, gap, MoveDirectionality.UNIDIRECTIONAL))
            self.rows[gap] = self.rows.pop()

    @rule(data=st.data())
    def step(self, data: st.DataObject) -> None:
        """One step of the engine: both processors see the same change of the batch and ban the same tokens."""
        indices = st.integers(0, max(0, len(self.rows) - 1))
        for row in data.draw(st.sets(indices, max_size=3) if self.rows else st.just(set()), label="leave"):
            self.builder.removed_append(row)
            self.rows[row] = None
        joining = st.tuples(st.one_of(st.none(), rules(), rules()), answers())
        for rule_, output_ids in data.draw(st.lists(joining, max_size=3), label="join"):
            self.join(rule_, output_ids)
        self.condense()
        if len(self.rows) > 1:
            pairs = st.lists(st.sampled_from(range(len(self.rows))), min_size=2, max_size=2, unique=True)
            for one, other in data.draw(st.lists(pairs, max_size=3), label="swap"):
                self.builder.moved.append((one, other, MoveDirectionality.SWAP))
                self.rows[one], self.rows[other] = self.rows[other], self.rows[one]

        update = self.builder.get_and_reset(len(self.rows))
        self.ours.update_state(update)
        self.upstream.update_state(update)
        before = torch.rand(len(self.rows), VOCABULARY)
        expected = before.clone()
        for row, request in enumerate(self.rows):
            assert request is not None
            rule_, shown, output_ids = request
            shown[:] = output_ids
            if rule_ is not None:
                banned = banned_tokens(output_ids, rule_.ngram_size, rule_.window_size, rule_.whitelist)
                expected[row, list(banned)] = -torch.inf
        assert torch.equal(self.ours.apply(before.clone()), expected)
        assert torch.equal(self.upstream.apply(before.clone()), expected)

        sampled = data.draw(st.lists(st.sampled_from(ALPHABET), min_size=len(self.rows), max_size=len(self.rows)))
        for request, token in zip(self.rows, sampled, strict=True):
            assert request is not None
            request[1].append(-1)
            request[2].append(token)


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
