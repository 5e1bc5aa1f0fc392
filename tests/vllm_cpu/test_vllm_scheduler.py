"""What the engine core tells the service of each step."""

# ruff: noqa: SLF001 - what vLLM overrides and calls has underscores
from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from vllm import SamplingParams
from vllm.v1.core.kv_cache_manager import KVCacheManager
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine import EngineCoreEvent, EngineCoreEventType, EngineCoreOutput, EngineCoreOutputs, FinishReason
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.request import Request

from deepseek_ocr.engine.vllm_plugin import STREAM_INTERVAL
from deepseek_ocr.engine.vllm_scheduler import StepwisePageScheduler, _give_blocks_when_full

#: Tokens whose keys and values are in one block.
BLOCK = 16


class Steps:
    """The scheduler's reports, without an engine: vLLM's own part says what it is given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.scheduler: Any = object.__new__(StepwisePageScheduler)
        self.scheduler._answers = {}
        self.scheduler._begun = 0
        self.scheduler.requests = {}
        self.scheduler.max_model_len = 8192
        # What the service is told alone: which tokens vLLM sees is shown below.
        self.scheduler.kv_cache_manager = SimpleNamespace(enable_caching=True)
        self._said: dict[int, EngineCoreOutputs] = {}
        monkeypatch.setattr(Scheduler, "update_from_output", lambda *_: self._said)
        monkeypatch.setattr(Scheduler, "finish_requests", lambda _, name, __: self.scheduler.requests.pop(name, None))

    def step(self, **tokens: list[int]) -> dict[str, list[int]]:
        """What is sent after a step that gave each page these tokens; 0 ends a page."""
        outputs = []
        for name, ids in tokens.items():
            self.scheduler.requests.setdefault(name, Request(name, [0], SamplingParams(), None))
            if ended := ids[-1] == 0:
                del self.scheduler.requests[name]  # as vLLM does before it reports
            outputs.append(EngineCoreOutput(name, list(ids), finish_reason=FinishReason.STOP if ended else None))
        self._said = {0: EngineCoreOutputs(outputs=outputs)}
        sent = self.scheduler.update_from_output(None, None)
        assert all(client.outputs for client in sent.values()), "what is empty is not sent"
        return {output.request_id: output.new_token_ids for client in sent.values() for output in client.outputs}


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Steps:
    """A fresh scheduler."""
    return Steps(monkeypatch)


def test_the_first_token_goes_at_once_and_the_others_together(steps: Steps) -> None:
    """And the last with all that are left."""
    sent = [steps.step(page=[n]) for n in range(1, 2 * STREAM_INTERVAL)]
    assert sent[0] == {"page": [1]}
    assert sent[STREAM_INTERVAL] == {"page": list(range(2, STREAM_INTERVAL + 2))}
    assert [n for n, one in enumerate(sent) if one] == [0, STREAM_INTERVAL]
    assert steps.step(page=[0]) == {"page": [*range(STREAM_INTERVAL + 2, 2 * STREAM_INTERVAL), 0]}


def test_pages_that_begin_together_are_not_sent_together(steps: Steps) -> None:
    """After their first token a few come at each step, and each page's tokens are as many as before."""
    names = [f"page {number}" for number in range(3 * STREAM_INTERVAL)]
    sent = [steps.step(**{name: [number] for name in names}) for number in range(1, 4 * STREAM_INTERVAL)]
    assert list(sent[0]) == names
    assert {len(one) for one in sent[1:]} == {3}
    assert {len(tokens) for one in sent[STREAM_INTERVAL + 1 :] for tokens in one.values()} == {STREAM_INTERVAL}


@given(
    st.lists(st.dictionaries(st.sampled_from("abc"), st.lists(st.integers(0, 9), min_size=1, max_size=3)), max_size=80)
)
def test_no_token_is_lost(batches: list[dict[str, list[int]]]) -> None:
    """Of pages that come, go and come again, some with several tokens a step: all of them in order."""
    with pytest.MonkeyPatch.context() as patch:
        steps = Steps(patch)
        given_ids: dict[str, list[int]] = {}
        sent: dict[str, list[int]] = {}
        for batch in batches:
            tokens = {name: [*(one for one in ids[:-1] if one), ids[-1]] for name, ids in batch.items()}
            for name, ids in tokens.items():
                given_ids.setdefault(name, []).extend(ids)
            for name, ids in steps.step(**tokens).items():
                sent.setdefault(name, []).extend(ids)
        for name, ids in given_ids.items():
            answer = steps.scheduler._answers.get(name)
            held = answer.held if answer else []
            assert [*sent[name], *held] == ids
            assert len(held) < STREAM_INTERVAL
            assert not held or ids[-1]


def test_what_says_more_is_sent(steps: Steps) -> None:
    """An event or a statistic does not wait for tokens."""
    steps.step(page=[1])
    steps.step(page=[2])
    event = EngineCoreEvent.new_event(EngineCoreEventType.PREEMPTED)
    output = EngineCoreOutput("page", [3], events=[event])
    assert steps.scheduler._is_due(output)
    assert output.new_token_ids == [2, 3]


def test_a_page_given_up_leaves_nothing(steps: Steps) -> None:
    """Its tokens are forgotten, those of others are not."""
    for n in (1, 2):
        steps.step(page=[n], other=[n])
    steps.scheduler.finish_requests("page", None)
    assert {name: answer.held for name, answer in steps.scheduler._answers.items()} == {"other": [2]}


def test_a_page_is_asked_for_its_picture_until_its_prompt_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind the prompt nothing is left to encode."""
    monkeypatch.setattr(Scheduler, "_try_schedule_encoder_inputs", lambda *_: ([0], 5, 7, []))
    scheduler: Any = object.__new__(StepwisePageScheduler)
    request = SimpleNamespace(num_prompt_tokens=10)
    assert scheduler._try_schedule_encoder_inputs(request, 9, 1, 20) == ([0], 5, 7, [])
    assert scheduler._try_schedule_encoder_inputs(request, 10, 1, 20) == ([], 1, 20, [])


def manager(blocks: int) -> KVCacheManager:
    """One of vLLM's, for one group of layers with full attention."""
    spec = FullAttentionSpec(block_size=BLOCK, num_kv_heads=1, head_size=1, dtype=torch.float32)
    config = KVCacheConfig(num_blocks=blocks, kv_cache_tensors=[], kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)])
    return KVCacheManager(config, 4096, scheduler_block_size=BLOCK, hash_block_size=BLOCK, enable_caching=False)


@given(prompt=st.integers(1, 100), answer=st.integers(1, 100), blocks=st.integers(2, 14))
def test_blocks_are_those_that_vllm_gives(prompt: int, answer: int, blocks: int) -> None:
    """At every token, also where memory ends."""
    ours, theirs = manager(blocks), manager(blocks)
    calls = 0
    ordinary = ours.allocate_slots

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        return ordinary(*args, **kwargs)

    ours.allocate_slots = counted
    _give_blocks_when_full(ours)
    request = Request("page", list(range(prompt)), SamplingParams(), None)
    for new_tokens in [prompt, *[1] * answer]:
        got, wanted = (one.allocate_slots(request, new_tokens, num_lookahead_tokens=0) for one in (ours, theirs))
        assert (got is None) == (wanted is None)
        if got is None:
            break
        assert got.get_block_ids() == wanted.get_block_ids()
        request.num_computed_tokens += new_tokens
    assert ours.get_block_ids("page") == theirs.get_block_ids("page")
    assert calls <= 2 + answer / BLOCK + 1
