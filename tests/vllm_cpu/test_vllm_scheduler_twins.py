"""Our scheduler and vLLM's own, led through the same steps: pages come, answer, end, are given up and put back."""

# ruff: noqa: SLF001 - what is compared has underscores
from __future__ import annotations

import itertools
import random
from collections import defaultdict, deque
from typing import TYPE_CHECKING, Any

import pytest
import torch
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
    from vllm.v1.core.sched.output import SchedulerOutput

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
        self.scheduler: Any = kind(config, memory, StructuredOutputManager(config), BLOCK)
        #: Tokens that vLLM's own code has reported.
        self.seen = 0
        report = self.scheduler._update_request_with_output

        def reported(request: Request, tokens: list[int], *args: Any, **kwargs: Any) -> Any:
            self.seen += 1
            return report(request, tokens, *args, **kwargs)

        self.scheduler._update_request_with_output = reported
        #: Steps that are on the card at once.
        self.ahead = 2 if issubclass(kind, AsyncScheduler) else 1
        self.steps: deque[tuple[Any, ModelRunnerOutput]] = deque()
        self.tokens = {name: random.Random(f"{seed}/{name}") for name in range(100)}  # noqa: S311 - no secret
        #: What the card was last told.
        self.scheduled: Any = None
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
            self.scheduled = said(scheduled)
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
        ], self.scheduled, self.scheduler.encoder_cache_manager.num_free_slots  # fmt: skip


def said(scheduled: SchedulerOutput) -> Any:
    """What a step says, without the order of its pages."""
    cached = scheduled.scheduled_cached_reqs
    return (
        scheduled.num_scheduled_tokens, scheduled.total_num_scheduled_tokens, scheduled.scheduled_encoder_inputs,
        scheduled.num_common_prefix_blocks, scheduled.preempted_req_ids, scheduled.finished_req_ids,
        [new.req_id for new in scheduled.scheduled_new_reqs], cached.resumed_req_ids, cached.all_token_ids,
        sorted(zip(cached.req_ids, cached.new_block_ids, cached.num_computed_tokens, cached.num_output_tokens,
                   strict=True)),
    )  # fmt: skip


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("ours", "theirs"), [(PageScheduler, AsyncScheduler), (StepwisePageScheduler, Scheduler)], ids=["ahead", "stepwise"]
)
def test_it_does_as_vllm_does(config: VllmConfig, ours: type[Scheduler], theirs: type[Scheduler]) -> None:
    """After each step pages, places, memory, tokens and what the card is told are the same, but for what is held."""
    alone = together = 0
    for seed in range(40):
        lot = random.Random(seed)  # noqa: S311 - no secret
        blocks = lot.randint(16, 100)
        mine, yours = Led(ours, config, blocks, seed), Led(theirs, config, blocks, seed)
        both, count = (mine, yours), 0
        for _ in range(30):
            move = lot.choice(("add", "add", "give up", "steps"))
            if move == "add":
                length, least = lot.randint(1, 300), lot.randint(0, 40)
                for one in both:
                    one.add(str(count), length, min(length, least))
                count += 1
            elif move == "give up" and count:
                name = str(lot.randrange(count))
                for one in both:
                    one.give_up(name)
            elif move == "steps":
                for _ in range(lot.randint(1, 40)):
                    step_both(mine, yours)
        while yours.scheduler.has_requests() or yours.steps:
            step_both(mine, yours)
        assert not mine.scheduler._answers
        alone += yours.seen
        together += mine.seen
    # Most tokens are not vLLM's business.
    assert together < alone / 2


@pytest.mark.parametrize(
    ("ours", "theirs"), [(PageScheduler, AsyncScheduler), (StepwisePageScheduler, Scheduler)], ids=["ahead", "stepwise"]
)
def test_new_pages_come_together(config: VllmConfig, ours: type[Scheduler], theirs: type[Scheduler]) -> None:
    """Several at a time while more wait than find a place; each page gets the tokens that it gets of vLLM."""
    most, together = config.scheduler_config.max_num_seqs, 3
    taken_in: dict[str, list[int]] = {}
    sent = {}
    for kind in (ours, theirs):
        led = Led(kind, config, 400, 0)
        led.scheduler.together = together
        lot = random.Random(0)  # noqa: S311 - no secret
        for number in range(60):
            led.add(str(number), lot.randint(1, 100), 0)
        counts = taken_in[kind.__name__] = []
        while led.scheduler.has_requests() or led.steps:
            waiting, free = len(led.scheduler.waiting), most - len(led.scheduler.running)
            led.step()
            new = waiting - len(led.scheduler.waiting)
            if new:
                counts.append(new)
                # A step has tokens for two prompts and a half: the third goes on in the next one.
                assert kind is theirs or free >= min(together, waiting)
        sent[kind.__name__] = dict(led.sent)
    assert len(sent[ours.__name__]) == 60
    assert sent[ours.__name__] == sent[theirs.__name__]
    assert len(taken_in[ours.__name__]) < len(taken_in[theirs.__name__]) / 1.5


def step_both(mine: Led, yours: Led) -> None:
    """One step; what was sent and what is held back is what vLLM sends."""
    mine.step()
    yours.step()
    assert mine.state() == yours.state()
    for name, tokens in yours.sent.items():
        answer = mine.scheduler._answers.get(name)
        held = answer.held if answer else []
        if name in yours.scheduler.requests:
            assert [*mine.sent[name], *held] == tokens
            assert len(held) < STREAM_INTERVAL
        elif yours.ends[name][0] is not None:
            assert mine.sent[name] == tokens
            assert mine.ends[name] == yours.ends[name]
