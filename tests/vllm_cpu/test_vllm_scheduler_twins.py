"""Our scheduler and vLLM's own, led through the same steps: pages come, answer, end, are given up and put back."""

# ruff: noqa: SLF001 - what is compared has underscores
from __future__ import annotations

import itertools
import random
from collections import defaultdict, deque
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from vllm import SamplingParams
from vllm.engine.arg_utils import EngineArgs
from vllm.multimodal.inputs import MultiModalFeatureSpec, PlaceholderRange
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus
from vllm.v1.structured_output import StructuredOutputManager

from deepseek_ocr.engine.vllm_plugin import STREAM_INTERVAL
from deepseek_ocr.engine.vllm_scheduler import PageScheduler, StepwisePageScheduler
from tests.vllm_cpu.tiny_model import build

if TYPE_CHECKING:
    from vllm.config import VllmConfig

#: Tokens in a block of memory; of a step; of a prompt, whose picture takes all but the first and the last three.
BLOCK, STEP, PROMPT = 16, 100, 40
#: Of a page with the prompt; the longest answers end there.
MODEL_LEN = 200
END, STOP = 1, 7


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> VllmConfig:
    """What vLLM makes of the tiny model."""
    folder = build(tmp_path_factory.mktemp("model"))
    return EngineArgs(
        str(folder), max_model_len=MODEL_LEN, max_num_seqs=6, max_num_batched_tokens=STEP, enable_prefix_caching=False
    ).create_engine_config()


class Led:
    """A scheduler with a card that answers by lot, the same to each scheduler."""

    def __init__(self, kind: type[Scheduler], config: VllmConfig, blocks: int, seed: int) -> None:
        spec = FullAttentionSpec(block_size=BLOCK, num_kv_heads=1, head_size=1, dtype=torch.float32)
        memory = KVCacheConfig(num_blocks=blocks, kv_cache_tensors=[], kv_cache_groups=[KVCacheGroupSpec(["a"], spec)])
        config.cache_config.num_gpu_blocks = blocks
        self.scheduler = kind(config, memory, StructuredOutputManager(config), BLOCK)
        #: Steps that are on the card at once.
        self.ahead = 2 if issubclass(kind, AsyncScheduler) else 1
        self.steps: deque[tuple[Any, ModelRunnerOutput]] = deque()
        self.tokens = {name: random.Random(f"{seed}/{name}") for name in range(100)}  # noqa: S311 - no secret
        self.sent: dict[str, list[int]] = defaultdict(list)
        self.ends: dict[str, Any] = {}

    def add(self, name: str, max_tokens: int, min_tokens: int) -> None:
        """A page with a picture."""
        params = SamplingParams(max_tokens=max_tokens, min_tokens=min_tokens, stop_token_ids=[STOP])
        params.update_from_generation_config({}, END)
        place = PlaceholderRange(offset=1, length=PROMPT - 4)
        picture = MultiModalFeatureSpec(data=None, modality="image", identifier=name, mm_position=place)
        self.scheduler.add_request(Request(name, [3] * PROMPT, params, None, mm_features=[picture]))

    def give_up(self, name: str) -> None:
        """As an abort does."""
        self.scheduler.finish_requests(name, RequestStatus.FINISHED_ABORTED)

    def step(self) -> None:
        """Schedule a step; report the oldest one where enough are on the card."""
        if self.scheduler.has_requests():
            scheduled = self.scheduler.schedule()
            names = list(scheduled.num_scheduled_tokens)
            # A token comes of each page whose prompt is done.
            sampled = [[] if self.scheduler.requests[name].is_prefill_chunk else [self._token(name)] for name in names]
            made = ModelRunnerOutput(names, {name: n for n, name in enumerate(names)}, sampled)
            self.steps.append((scheduled, made))
        if len(self.steps) == self.ahead or (self.steps and not self.scheduler.has_requests()):
            for client in self.scheduler.update_from_output(*self.steps.popleft()).values():
                for output in client.outputs:
                    self.sent[output.request_id] += output.new_token_ids
                    self.ends[output.request_id] = output.finish_reason, output.stop_reason

    def _token(self, name: str) -> int:
        return self.tokens[int(name)].choices([END, STOP, 2, 3, 4], [1, 1, 60, 60, 60])[0]

    def state(self) -> Any:
        """All that the next step depends on."""
        return [
            (
                request.request_id, request.status, list(request.output_token_ids), request.num_computed_tokens,
                request.num_output_placeholders, request.is_prefill_chunk, getattr(request, "num_in_flight_tokens", 0),
                self.scheduler.kv_cache_manager.get_block_ids(request.request_id),
            )
            for request in itertools.chain(self.scheduler.running, self.scheduler.waiting)
        ], self.scheduler.encoder_cache_manager.num_free_slots  # fmt: skip


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("ours", "theirs"), [(PageScheduler, AsyncScheduler), (StepwisePageScheduler, Scheduler)], ids=["ahead", "stepwise"]
)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    blocks=st.integers(16, 60),
    seed=st.integers(0, 2**32),
    moves=st.lists(
        st.one_of(
            st.tuples(st.just("add"), st.integers(1, 300), st.integers(0, 40)),
            st.tuples(st.just("give up"), st.integers(0, 20)),
            st.tuples(st.just("steps"), st.integers(1, 40)),
        ),
        max_size=30,
    ),
)
def test_it_does_as_vllm_does(
    config: VllmConfig, ours: type[Scheduler], theirs: type[Scheduler], blocks: int, seed: int, moves: list[Any]
) -> None:
    """After each step pages, places, memory and tokens are the same, but for tokens that are held back."""
    mine, yours = Led(ours, config, blocks, seed), Led(theirs, config, blocks, seed)
    count = 0
    for move in [*moves, ("steps", 2000)]:
        if move[0] == "add":
            for one in (mine, yours):
                one.add(str(count), move[1], min(move[1], move[2]))
            count += 1
        elif move[0] == "give up" and count:
            for one in (mine, yours):
                one.give_up(str(move[1] % count))
        for _ in range(move[1] if move[0] == "steps" else 0):
            if not (yours.scheduler.has_requests() or yours.steps):
                break
            mine.step()
            yours.step()
            assert mine.state() == yours.state()
            answers = mine.scheduler._answers  # type: ignore[attr-defined]
            for name, tokens in yours.sent.items():
                held = answers[name].held if name in answers else []
                if name in yours.scheduler.requests:
                    assert [*mine.sent[name], *held] == tokens
                    assert len(held) < STREAM_INTERVAL
                elif yours.ends[name][0] is not None:
                    assert mine.sent[name] == tokens
                    assert mine.ends[name] == yours.ends[name]
    assert not yours.scheduler.has_requests()
    assert not mine.scheduler._answers  # type: ignore[attr-defined]
