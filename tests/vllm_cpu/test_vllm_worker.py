"""What our worker does otherwise than vLLM's gives the same."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from vllm.multimodal.inputs import MultiModalFeatureSpec, PlaceholderRange
from vllm.v1.worker.gpu_model_runner import GPUModelRunner

from deepseek_ocr.engine.vllm_worker import embeddings_of_step

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
