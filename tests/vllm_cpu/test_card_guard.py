"""The guard that stays on the card against the rule, over batches as they change."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessors

from deepseek_ocr.engine.vllm_card_guard import KEPT, CardGuard
from deepseek_ocr.guard import Rule, banned_tokens, request_args
from tests.repeats import ALPHABET
from tests.vllm_cpu.batches import Batch
from tests.vllm_cpu.conftest import session_loop
from tests.vllm_cpu.test_vllm_engine import GUARD, NO_GUARD, Tapped, started

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from PIL import Image

    from tests.vllm_cpu.conftest import Upstream

#: Enough for every id in these tests.
VOCABULARY = 64
CPU = torch.device("cpu")
MAX_NUM_SEQS = 64


def card_guard() -> CardGuard:
    """Made as vLLM makes it."""
    config = SimpleNamespace(scheduler_config=SimpleNamespace(max_num_seqs=MAX_NUM_SEQS))
    return CardGuard(config, CPU, is_pin_memory=False)


def expected(before: torch.Tensor, asked: Sequence[tuple[Rule | None, list[int]]]) -> torch.Tensor:
    """The logits after the rule."""
    logits = before.clone()
    for row, (rule_, output_ids) in enumerate(asked):
        if rule_ is not None:
            banned = banned_tokens(output_ids, rule_.ngram_size, rule_.window_size, rule_.whitelist)
            logits[row, list(banned)] = -torch.inf
    return logits


class Batches(RuleBasedStateMachine):
    """A batch under asynchronous scheduling, whose ids never reach the host.

    A list shows a placeholder for each id that was sampled since its request joined; where the prompt is not yet whole
    what was chosen is dropped, and the list stays as long as it was.
    """

    def __init__(self) -> None:
        super().__init__()
        self.guard = card_guard()
        self.batch = Batch()

    @rule(data=st.data())
    def step(self, data: st.DataObject) -> None:
        """One step of the engine: what is banned is what the rule bans."""
        self.guard.update_state(self.batch.change(data, resumed=True))
        requests = self.batch.requests
        if not requests:
            return
        before = torch.rand(len(requests), VOCABULARY)
        before[:, list(ALPHABET)] += 1  # so that answers repeat themselves
        after = expected(before, [(request.rule, request.output_ids) for request in requests])
        assert torch.equal(self.guard.apply(before), after)
        for request, token in zip(requests, after.argmax(dim=-1).tolist(), strict=True):
            if bool(request.output_ids) or data.draw(st.booleans(), label="the prompt is whole"):
                request.shown.append(-1)
                request.output_ids.append(token)


Batches.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestBatches = Batches.TestCase


def test_a_long_answer_goes_round_its_memory() -> None:
    """Far beyond `KEPT` ids the published rule is kept to, id by id."""
    guard, output_ids, shown = card_guard(), list[int](), list[int]()
    asked = SamplingParams(temperature=0, extra_args=request_args({7}))
    guard.update_state(BatchUpdate(1, removed=[], added=[(0, asked, None, shown)], moved=[]))
    generator = torch.Generator().manual_seed(0)
    acted = 0
    for step in range(3 * KEPT):
        before = torch.rand((1, VOCABULARY), generator=generator)
        before[0, (3 + step % 31) % VOCABULARY] += 1  # a loop of 31 ids, which the guard has to break
        after = expected(before, [(Rule(30, 90, frozenset({7})), output_ids)])
        acted += not torch.equal(before, after)
        assert torch.equal(guard.apply(before), after)
        output_ids.append(int(after.argmax()))
        shown.append(-1)
    assert acted > 10


def test_places_are_given_back() -> None:
    """More requests than there are places, one after the other, in full batches."""
    guard = card_guard()
    asked = SamplingParams(temperature=0, extra_args=request_args({7}))
    for _ in range(5):
        # vLLM takes a row out of `removed` when another request joins there.
        added = [(row, asked, None, [1, 2, 3]) for row in range(MAX_NUM_SEQS)]
        guard.update_state(BatchUpdate(MAX_NUM_SEQS, removed=[], added=added, moved=[]))
        guard.apply(torch.rand(MAX_NUM_SEQS, VOCABULARY))


@pytest.mark.parametrize(
    ("temperature", "window", "words"),
    [(0.5, 90, "needs temperature 0"), (0, KEPT + 1, f"at most {KEPT}")],
    ids=["not greedy", "too wide a window"],
)
def test_what_it_cannot_do_is_refused(temperature: float, window: int, words: str) -> None:
    """The request is refused with a sentence, and the engine lives."""
    asked = {"ngram_size": 30, "window_size": window, "whitelist_token_ids": []}
    with pytest.raises(ValueError, match=words):
        CardGuard.validate_params(SamplingParams(temperature=temperature, extra_args=asked))


def test_acts_on_greedy_decoding() -> None:
    """Processors that say they never change the likeliest token are left out of greedy decoding; not this one."""
    guard = card_guard()
    assert LogitsProcessors([guard]).non_argmax_invariant == [guard]


class OnCard(Tapped):
    """The engine whose guard stays on the card."""

    guard_on_card = True


@session_loop
async def test_answers_are_those_of_vllm_as_it_comes(
    model_folder: Path, upstream: Upstream, pictures: dict[str, Image.Image]
) -> None:
    """The real engine gives the tokens of vLLM's own guard, page by page; then three pages at once, two of them twice.

    "a4" begins with a loop, so both guards have acted.
    """
    async with started(OnCard(model_folder)) as engine:
        theirs = {
            name: (await upstream.read(pictures[name], max_tokens=40, guard=GUARD, ignore_eos=False)).ids
            for name in ("a4", "tall")
        }
        assert {name: await engine.ids(pictures[name], 40) for name in theirs} == theirs
        engine.guard = NO_GUARD
        assert await engine.ids(pictures["a4"], 40) != theirs["a4"]
        engine.guard = GUARD
        together = await asyncio.gather(*(engine.ids(pictures[name], 40) for name in ("a4", "tall", "a4")))
        assert together == [theirs["a4"], theirs["tall"], theirs["a4"]]
