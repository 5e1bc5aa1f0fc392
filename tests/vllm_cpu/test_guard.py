"""The guard against vLLM's own: the rule alone, and both processors over the same batches as they change.

That an engine gives the same tokens with either is in `test_vllm_engine.py`.
"""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule
from vllm import SamplingParams
from vllm.model_executor.models.deepseek_ocr import NGramPerReqLogitsProcessor, NoRepeatNGramLogitsProcessor
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessors

from deepseek_ocr.engine.vllm_guard import KEPT, LARGEST_WINDOW, NoRepeatGuard
from deepseek_ocr.guard import Rule, banned_tokens
from tests.repeats import ALPHABET, answers, published_size, rules
from tests.vllm_cpu.batches import Batch, params

if TYPE_CHECKING:
    from vllm.v1.sample.logits_processor import LogitsProcessor

#: Enough for every id in these tests; vLLM's own guard indexes a row of this length.
VOCABULARY = 64
CPU = torch.device("cpu")
#: More than a batch of these tests ever has.
MAX_NUM_SEQS = 64


def processors() -> list[LogitsProcessor]:
    """Ours and vLLM's, made as vLLM makes them."""
    config = SimpleNamespace(scheduler_config=SimpleNamespace(max_num_seqs=MAX_NUM_SEQS))
    return [kind(config, CPU, is_pin_memory=False) for kind in (NoRepeatGuard, NGramPerReqLogitsProcessor)]


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

    That of vLLM sees the ids; ours sees a placeholder for each that was chosen since its request joined, as under
    asynchronous scheduling.  Where a prompt is not yet whole, what was chosen is dropped, and nothing joins the list.
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
        lists = {id(request.shown): request.output_ids for request in self.batch.requests}
        if update is not None:
            added = [(row, asked, prompt, lists[id(shown)]) for row, asked, prompt, shown in update.added]
            update = replace(update, added=added)
        self.upstream.update_state(update)
        requests = self.batch.requests
        if not requests:
            return
        before = torch.rand(len(requests), VOCABULARY)
        before[:, list(ALPHABET)] += 1  # so that answers repeat themselves
        expected = self.upstream.apply(before.clone())
        assert torch.equal(self.ours.apply(before), expected)
        kept = data.draw(st.lists(st.booleans(), min_size=len(requests), max_size=len(requests)), label="whole prompts")
        for request, token, whole in zip(requests, expected.argmax(dim=-1).tolist(), kept, strict=True):
            if whole:
                request.shown.append(-1)
                request.output_ids.append(token)


Batches.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestBatches = Batches.TestCase


@pytest.mark.parametrize(
    "asked", [Rule(30, 90, frozenset({7})), Rule(20, LARGEST_WINDOW, frozenset())], ids=["published", "largest window"]
)
def test_a_long_answer_goes_round_its_memory(asked: Rule) -> None:
    """Far beyond `KEPT` ids a rule is kept to, id by id, also where the choice of every third step is dropped."""
    guard, output_ids, shown = processors()[0], list[int](), list[int]()
    guard.update_state(BatchUpdate(1, removed=[], added=[(0, params(asked), None, shown)], moved=[]))
    generator = torch.Generator().manual_seed(0)
    acted = 0
    for step in range(4 * KEPT):
        before = torch.rand((1, VOCABULARY), generator=generator)
        # A loop of 61 or 31 ids, which the guard has to break.
        before[0, len(output_ids) % (asked.window_size - asked.ngram_size + 1) % VOCABULARY] += 1
        after = before.clone()
        after[0, list(banned_tokens(output_ids, asked.ngram_size, asked.window_size, asked.whitelist))] = -torch.inf
        acted += not torch.equal(before, after)
        assert torch.equal(guard.apply(before), after)
        if step % 3:
            output_ids.append(int(after.argmax()))
            shown.append(-1)
    assert acted > 10


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


@pytest.mark.parametrize(
    ("temperature", "window", "words"),
    [(0.5, 90, "needs temperature 0"), (0, LARGEST_WINDOW + 1, f"at most {LARGEST_WINDOW}")],
    ids=["not greedy", "too wide a window"],
)
def test_what_it_cannot_do_is_refused(temperature: float, window: int, words: str) -> None:
    """The request is refused with a sentence, and the engine lives."""
    asked = {"ngram_size": 30, "window_size": window, "whitelist_token_ids": []}
    with pytest.raises(ValueError, match=words):
        NoRepeatGuard.validate_params(SamplingParams(temperature=temperature, extra_args=asked))


def test_what_would_end_the_engine_is_refused() -> None:
    """A whitelist of lists passes vLLM's check and raises in the engine core; here the request is refused."""
    asked = SamplingParams(temperature=0, extra_args={"ngram_size": 2, "whitelist_token_ids": [[1]]})
    NGramPerReqLogitsProcessor.validate_params(asked)
    with pytest.raises(TypeError, match="unhashable"):
        processors()[1].update_state(BatchUpdate(1, removed=[], added=[(0, asked, None, [])], moved=[]))
    with pytest.raises(ValueError, match="has to be a sequence of integers"):
        NoRepeatGuard.validate_params(asked)
