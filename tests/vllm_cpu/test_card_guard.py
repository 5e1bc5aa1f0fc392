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
from vllm.v1.sample.logits_processor import BatchUpdate, BatchUpdateBuilder, LogitsProcessors, MoveDirectionality

from deepseek_ocr.engine.vllm_card_guard import KEPT, CardGuard
from deepseek_ocr.guard import Rule, banned_tokens, request_args
from tests.repeats import ALPHABET, answers, rules
from tests.vllm_cpu.conftest import session_loop
from tests.vllm_cpu.test_guard import params
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
    """The life of a batch as `InputBatch` keeps it under asynchronous scheduling, whose ids never reach the host.

    A list shows a placeholder for each id that was sampled since its request joined; where the prompt is not yet whole
    what was chosen is dropped, and the list stays as long as it was.
    """

    def __init__(self) -> None:
        super().__init__()
        self.guard = card_guard()
        self.builder = BatchUpdateBuilder()
        #: What each row holds: its rule, the ids it shows, and those that it has.
        self.rows: list[tuple[Rule | None, list[int], list[int]] | None] = []

    @rule(data=st.data())
    def step(self, data: st.DataObject) -> None:
        """One step of the engine: what is banned is what the rule bans."""
        indices = st.integers(0, max(0, len(self.rows) - 1))
        back: list[tuple[Rule | None, list[int]]] = []
        returning = data.draw(st.sets(indices, max_size=3), label="come back")
        for row in data.draw(st.sets(indices, max_size=3) if self.rows else st.just(set()), label="leave"):
            self.builder.removed_append(row)
            left = self.rows[row]
            self.rows[row] = None
            if left is not None and row in returning:
                back.append((left[0], left[2]))
        joining = st.tuples(st.one_of(st.none(), rules(), rules()), answers())
        for rule_, output_ids in [*back, *data.draw(st.lists(joining, max_size=3), label="join")]:
            self.join(rule_, output_ids)
        self.condense()
        if len(self.rows) > 1:
            pairs = st.lists(st.sampled_from(range(len(self.rows))), min_size=2, max_size=2, unique=True)
            for one, other in data.draw(st.lists(pairs, max_size=3), label="swap"):
                self.builder.moved.append((one, other, MoveDirectionality.SWAP))
                self.rows[one], self.rows[other] = self.rows[other], self.rows[one]
        self.guard.update_state(self.builder.get_and_reset(len(self.rows)))
        if not self.rows:
            return
        before = torch.rand(len(self.rows), VOCABULARY)
        before[:, list(ALPHABET)] += 1  # so that answers repeat themselves
        whole = [row for row in self.rows if row is not None]
        after = expected(before, [(rule_, output_ids) for rule_, _, output_ids in whole])
        assert torch.equal(self.guard.apply(before), after)
        for (_, shown, output_ids), token in zip(whole, after.argmax(dim=-1).tolist(), strict=True):
            if output_ids or data.draw(st.booleans(), label="the prompt is whole"):
                shown.append(-1)
                output_ids.append(token)

    def join(self, rule_: Rule | None, output_ids: list[int]) -> None:
        """Into the lowest free row, as `InputBatch._register_add_request` does, with the real ids."""
        row = self.builder.pop_removed()
        request = (rule_, list(output_ids), list(output_ids))
        if row is None:
            row = len(self.rows)
            self.rows.append(request)
        else:
            self.rows[row] = request
        self.builder.added.append((row, params(rule_), None, request[1]))

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
    for round_ in range(5):
        removed = list(range(MAX_NUM_SEQS)) if round_ else []
        added = [(row, asked, None, [1, 2, 3]) for row in range(MAX_NUM_SEQS)]
        # vLLM takes a row out of `removed` when another request joins there.
        guard.update_state(BatchUpdate(MAX_NUM_SEQS, removed=[], added=added, moved=[]))
        del removed
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
