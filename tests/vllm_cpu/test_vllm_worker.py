"""What our worker does otherwise than vLLM's gives the same."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from vllm import SamplingParams
from vllm.multimodal.inputs import MultiModalFeatureSpec, PlaceholderRange
from vllm.v1.sample.logits_processor import (
    BatchUpdate,
    LogitBiasLogitsProcessor,
    LogitsProcessor,
    LogitsProcessors,
    MinTokensLogitsProcessor,
)
from vllm.v1.sample.metadata import SamplingMetadata
from vllm.v1.sample.sampler import Sampler
from vllm.v1.worker.gpu_model_runner import GPUModelRunner

from deepseek_ocr.engine.vllm_guard import NoRepeatGuard
from deepseek_ocr.engine.vllm_worker import StepInputs, embeddings_of_step, sample
from deepseek_ocr.guard import Rule
from tests.vllm_cpu.batches import params

if TYPE_CHECKING:
    from collections.abc import Callable

CPU = torch.device("cpu")
#: What vLLM's batch knows of requests that ask for nothing but greedy decoding.
GREEDY = SamplingMetadata(
    temperature=None, all_greedy=True, all_random=False, top_p=None, top_k=None, generators={}, max_num_logprobs=None,
    no_penalties=True, prompt_token_ids=None, frequency_penalties=torch.zeros(2), presence_penalties=torch.zeros(2),
    repetition_penalties=torch.ones(2), output_token_ids=[[], []], allowed_token_ids_mask=None,
    bad_words_token_ids={}, logitsprocs=LogitsProcessors(),
)  # fmt: skip
#: Of a prompt: its picture stands between the first token and the last two.
PROMPT = 20


class Runner(GPUModelRunner):
    """vLLM's, with a batch and nothing else."""

    def __init__(self, requests: dict[str, tuple[int, int]]) -> None:
        place = PlaceholderRange(offset=1, length=PROMPT - 3)
        self.requests: Any = {
            name: SimpleNamespace(
                num_computed_tokens=computed,
                num_prompt_tokens=PROMPT,
                mm_features=[MultiModalFeatureSpec(data=None, modality="image", identifier=name, mm_position=place)],
            )
            for name, (computed, _) in requests.items()
        }
        computed, tokens = zip(*requests.values(), strict=True)
        self.input_batch = SimpleNamespace(
            req_ids=list(requests),
            num_computed_tokens_cpu=np.array(computed),
            num_prompt_tokens=np.full(len(requests), PROMPT),
        )
        self.query_start_loc: Any = SimpleNamespace(np=np.array([0, *tokens]).cumsum())
        self.encoder_cache = {name: torch.rand(place.length, 2) for name in requests}
        self.is_multimodal_pruning_enabled = self.uses_mrope = False


@given(
    st.dictionaries(
        st.sampled_from("abcdef"), st.tuples(st.integers(0, PROMPT + 5), st.integers(1, PROMPT)), min_size=1
    )
)
def test_embeddings_of_a_step_are_those_of_vllm(requests: dict[str, tuple[int, int]]) -> None:
    """For any mixture of prompts, parts of prompts and answers: the same tensors, and places in the step."""
    # Of an answer one token comes at a time.
    counts = {name: count if computed < PROMPT else 1 for name, (computed, count) in requests.items()}
    runner = Runner({name: (computed, counts[name]) for name, (computed, _) in requests.items()})
    scheduled: Any = SimpleNamespace(num_scheduled_tokens=counts, total_num_scheduled_tokens=sum(counts.values()))
    wanted, wanted_mask = runner._gather_mm_embeddings(scheduled)  # noqa: SLF001 - vLLM calls it
    found, mask = embeddings_of_step(runner, scheduled)
    assert torch.equal(mask, wanted_mask)
    assert len(found) == len(wanted)
    assert all(torch.equal(*pair) for pair in zip(found, wanted, strict=True))


class Described(GPUModelRunner):
    """vLLM's, with a batch whose next step it would describe from the beginning."""

    def __init__(self) -> None:
        self.input_batch: Any = SimpleNamespace(
            num_reqs=2, req_ids=["a", "b"], num_computed_tokens_cpu=np.array([20, 20]),
            prev_sampled_token_ids=torch.tensor([[5], [6]]),
            block_table=SimpleNamespace(compute_slot_mapping=lambda *_: None),
        )  # fmt: skip
        self.discard_request_mask: Any = SimpleNamespace(np=np.zeros(2, bool))
        self.query_start_loc: Any = SimpleNamespace(gpu=torch.arange(3))
        self.input_ids: Any = SimpleNamespace(gpu=torch.zeros(4, dtype=torch.int64))
        self.positions, self.seq_lens, self.optimistic_seq_lens_cpu = (torch.zeros(2) for _ in range(3))
        self.described = 0

    def _prepare_inputs(self, *_: Any) -> Any:
        self.described += 1
        return self.described


@pytest.mark.parametrize(
    ("change", "described"),
    [
        (lambda _: None, 1),
        (lambda runner: runner.input_batch.req_ids.reverse(), 2),
        (lambda runner: runner.input_batch.num_computed_tokens_cpu.put(1, 18), 2),
        (lambda runner: setattr(runner.input_batch, "prev_sampled_token_ids", None), 2),
        (lambda runner: runner.discard_request_mask.np.put(1, True), 2),
    ],
    ids=["nothing", "places", "tokens that are there", "token that is not on the card", "token that was dropped"],
)
def test_a_step_is_described_anew_where_something_changed(
    change: Callable[[Described], object], described: int
) -> None:
    """Beside a token more of each page."""
    runner = Described()
    inputs = StepInputs(runner)
    step: Any = SimpleNamespace(
        total_num_scheduled_tokens=2, scheduled_cached_reqs=SimpleNamespace(new_block_ids=[None, None])
    )
    for _ in range(2):
        runner.input_batch.num_computed_tokens_cpu += 1
        change(runner)
        assert inputs.prepare(step, np.array([1, 1])) == runner.described
    assert runner.described == described
    if described == 1:
        assert runner.input_ids.gpu.tolist() == [5, 6, 0, 0]


class Chooser(GPUModelRunner):
    """vLLM's, with its sampler and nothing else."""

    def __init__(self, asked: SamplingMetadata) -> None:
        self.input_batch: Any = SimpleNamespace(sampling_metadata=asked, update_async_output_token_ids=lambda: None)
        self.sampler = Sampler()


class NoFive(LogitsProcessor):
    """One of somebody else's, which allows no 5."""

    def __init__(self) -> None:
        pass

    def is_argmax_invariant(self) -> bool:
        """No."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """All requests are alike to it."""

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """In place."""
        logits[:, 5] = -torch.inf
        return logits


def chooser(asked: SamplingParams, shown: list[int]) -> Chooser:
    """A runner with two requests, of which the first asks for this and has given these ids; processors as vLLM has."""
    config: Any = SimpleNamespace(
        scheduler_config=SimpleNamespace(max_num_seqs=2), speculative_config=None, model_config=None
    )
    kinds = (MinTokensLogitsProcessor, LogitBiasLogitsProcessor, NoRepeatGuard)
    processors = [kind(config, CPU, False) for kind in kinds]
    added = [(0, asked, None, shown), (1, params(None), None, list[int]())]
    for processor in processors:
        processor.update_state(BatchUpdate(2, removed=[], added=added, moved=[]))
    return Chooser(replace(GREEDY, logitsprocs=LogitsProcessors(processors)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("rule", [Rule(2, 20, frozenset({3})), None], ids=["guarded", "nobody guarded"])
def test_the_likeliest_token_is_that_of_vllm(dtype: torch.dtype, rule: Rule | None) -> None:
    """Also where several are alike, and where the guard bans the likeliest."""
    shown: list[int] = []
    mine, yours = (chooser(params(rule), shown) for _ in range(2))
    generator = torch.Generator().manual_seed(0)
    repeated = 0
    for _ in range(200):
        logits = torch.randint(0, 4, (2, 8), generator=generator).to(dtype)
        wanted = yours._sample(logits.clone(), None)  # noqa: SLF001 - vLLM calls it
        found = sample(mine, logits.clone(), None)
        assert torch.equal(found.sampled_token_ids, wanted.sampled_token_ids)
        assert found.sampled_token_ids.dtype == wanted.sampled_token_ids.dtype == torch.int32
        assert found.logprobs_tensors is None
        repeated += found.sampled_token_ids[0, 0] != logits[0].argmax()
        shown.append(-1)
    assert bool(repeated) == (rule is not None)


@pytest.mark.parametrize(
    "asked",
    [
        SamplingParams(temperature=0, min_tokens=3, stop_token_ids=[7]),
        SamplingParams(temperature=0, logit_bias={2: 5.003}),
    ],
    ids=["tokens at least", "bias"],
)
def test_what_a_request_asks_of_its_logits_is_given(asked: SamplingParams) -> None:
    """As vLLM gives it, in float32, where the model's own type would refuse it or round it."""
    mine, yours = (chooser(asked, []) for _ in range(2))
    # In bf16 5 and 5.003 are the same.
    logits = torch.tensor([0, 1, 0, 5, 4, 3, 2, 5 if asked.logit_bias else 6]).bfloat16().repeat(2, 1)
    wanted = yours._sample(logits.clone(), None).sampled_token_ids  # noqa: SLF001 - vLLM calls it
    assert sample(mine, logits.clone(), None).sampled_token_ids.tolist() == wanted.tolist()
    assert wanted[0] != wanted[1]


class Budgets:
    """Of requests that may think so long: a stand-in, as the model does not think."""

    def has_tracked_requests(self) -> bool:
        """Some."""
        return True


@pytest.mark.parametrize(
    "more",
    [
        {"max_num_logprobs": 1},
        {"logprob_token_ids": {0: [2, 3]}},
        {"all_greedy": False, "temperature": torch.ones(2)},
        {"no_penalties": False},
        {"allowed_token_ids_mask": torch.zeros((2, 8), dtype=torch.bool)},
        {"bad_words_token_ids": {0: [[7]]}},
        {"thinking_budget_state_holder": Budgets()},
        {"logitsprocs": LogitsProcessors([NoFive()])},
    ],
    ids=lambda more: next(iter(more)),
)
def test_who_asks_for_more_is_left_to_vllm(more: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Than for the likeliest token of all; and only those."""
    vllms: Any = object()
    monkeypatch.setattr(Chooser, "_sample", lambda *_: vllms)
    one, logits = chooser(params(None), []), torch.arange(8.0).repeat(2, 1)
    assert sample(one, logits, None) is not vllms
    assert sample(one, logits, SimpleNamespace()) is vllms, "drafts of speculative decoding"
    one.input_batch.sampling_metadata = replace(one.input_batch.sampling_metadata, **more)
    assert sample(one, logits, None) is vllms
