"""Our ways through a step and vLLM's own, over what our scheduler says: pages come, answer, end and are given up."""

from __future__ import annotations

import copy
import random
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from vllm.engine.arg_utils import EngineArgs
from vllm.v1.outputs import SamplerOutput
from vllm.v1.worker import gpu_model_runner
from vllm.v1.worker.block_table import MultiGroupBlockTable
from vllm.v1.worker.gpu_input_batch import InputBatch
from vllm.v1.worker.gpu_model_runner import GPUModelRunner

from deepseek_ocr.engine.vllm_scheduler import PageScheduler
from deepseek_ocr.engine.vllm_worker import FEW, PageWorker
from tests.vllm_cpu.test_vllm_scheduler_twins import BLOCK, MODEL_LEN, PROMPT, Led
from tests.vllm_cpu.tiny_model import build

if TYPE_CHECKING:
    from vllm.config import VllmConfig

#: Requests at once, more than are few, and tokens of a step.
ROWS, STEP = 24, 160
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> VllmConfig:
    """What vLLM makes of the tiny model."""
    folder = build(tmp_path_factory.mktemp("model"))
    return EngineArgs(
        str(folder),
        max_model_len=MODEL_LEN,
        max_num_seqs=ROWS,
        max_num_batched_tokens=STEP,
        enable_prefix_caching=False,
    ).create_engine_config()


class Runner(GPUModelRunner):
    """vLLM's, with a batch and no model: what a step asks of it on the host, as under asynchronous scheduling."""

    def __init__(self) -> None:
        self.device, self.max_model_len, self.max_num_reqs = CPU, MODEL_LEN, ROWS
        self.requests: Any = {}
        self.num_prompt_logprobs: Any = {}
        self.encoder_cache: Any = {}
        self.input_batch = InputBatch(ROWS, MODEL_LEN, STEP, CPU, 100, [BLOCK], [BLOCK], [MODEL_LEN // BLOCK + 1])
        self.late_interaction_runner: Any = SimpleNamespace(
            on_requests_finished=lambda _: None, register_request=lambda *_: None
        )
        self.use_async_scheduling, self.reorder_batch_threshold = True, 1
        self.is_pooling_model = self.use_async_spec_decode = self.enable_prompt_embeds = False
        self.uses_mrope = self.is_multimodal_pruning_enabled = False
        self.uses_xdrope_dim = self.prev_num_spec_tokens = 0
        self.speculative_config = self._pp_recv_work = self._draft_token_ids = None
        self.kv_cache_config: Any = SimpleNamespace(kv_cache_groups=[None])
        self.prev_positions = self._make_buffer(ROWS, dtype=torch.int64)
        self.discard_request_mask = self._make_buffer(ROWS, dtype=torch.bool)
        self.query_start_loc = self._make_buffer(ROWS + 1, dtype=torch.int32)
        self.input_ids = self._make_buffer(STEP, dtype=torch.int32)
        self.num_accepted_tokens = self._make_buffer(ROWS, dtype=torch.int64)
        self.num_scheduled_tokens = self._make_buffer(ROWS, dtype=torch.int32)
        self.req_indices, self.query_pos = (self._make_buffer(STEP, dtype=torch.int64) for _ in range(2))
        self.arange_np = np.arange(STEP, dtype=np.int64)
        self.positions = torch.zeros(STEP, dtype=torch.int64)
        self.seq_lens, self.optimistic_seq_lens_cpu, self.num_computed_tokens = (
            torch.zeros(ROWS, dtype=torch.int32) for _ in range(3)
        )
        self.num_accepted_tokens_event = self.mamba_prev_last_scheduled_idx = None
        self.lora_config = None
        #: Steps that were described to the card from the beginning.
        self.described = 0

    def step(self, scheduled: Any, lot: random.Random) -> Any:
        """A step of the scheduler, with tokens by lot; what came of it on the way."""
        batch = self.input_batch
        self._update_states(scheduled)
        if not scheduled.total_num_scheduled_tokens:
            return None
        count = batch.num_reqs
        for new in scheduled.scheduled_new_reqs:
            self.encoder_cache[new.req_id] = torch.full((PROMPT - 4, 1), float(new.req_id))
        tokens = np.array([scheduled.num_scheduled_tokens[name] for name in batch.req_ids], dtype=np.int32)
        total = int(tokens.sum())
        for unused in (self.input_ids.cpu, self.input_ids.gpu):  # what is behind the step's tokens is left as it was
            unused[total:] = 0
        self.positions[total:] = 0
        rows, *more = self._prepare_inputs(scheduled, tokens)
        inputs = [rows.tolist(), *more, *(each.tolist() for each in self._inputs(count))]
        embeddings, mask = self._gather_mm_embeddings(scheduled)
        sampled = torch.tensor([[lot.randrange(2, 90)] for _ in range(count)], dtype=torch.int32)
        batch.prev_sampled_token_ids = None
        noted = self._bookkeeping_sync(scheduled, SamplerOutput(sampled, None), None, torch.zeros(1), total)
        return inputs, [part.tolist() for part in embeddings], mask.tolist(), noted

    def _prepare_inputs(self, *arguments: Any) -> Any:
        self.described += 1
        return super()._prepare_inputs(*arguments)

    def _inputs(self, count: int) -> list[torch.Tensor]:
        """All that the model and its attention are told of a step of so many requests."""
        table = self.input_batch.block_table[0]
        return [
            self.input_ids.gpu, self.positions, self.seq_lens, self.query_start_loc.gpu, self.query_start_loc.cpu,
            self.optimistic_seq_lens_cpu, self.discard_request_mask.cpu[:count], table.block_table.gpu[:count],
            table.slot_mapping.gpu,
        ]  # fmt: skip

    def state(self) -> Any:
        """All that the next step depends on."""
        batch = self.input_batch
        count = batch.num_reqs
        requests = {
            name: (one.num_computed_tokens, one.output_token_ids, one.block_ids) for name, one in self.requests.items()
        }
        assert batch.prev_sampled_token_ids is not None
        return (
            requests, batch.req_ids, batch.req_id_to_index, batch.prev_req_id_to_index,
            batch.prev_sampled_token_ids.tolist(), batch.num_computed_tokens_cpu[:count].tolist(),
            batch.num_tokens_no_spec[:count].tolist(), batch.token_ids_cpu[:count].tolist(),
            batch.is_token_ids[:count].tolist(), batch.block_table[0].block_table.np[:count].tolist(),
            batch.req_output_token_ids,
        )  # fmt: skip


def compute_slot_mapping(tables: Any, count: int, starts: torch.Tensor, positions: torch.Tensor) -> None:
    """In place of vLLM's Triton kernel: where each token's keys and values are."""
    [table] = tables.block_tables
    rows = torch.repeat_interleave(torch.arange(count), starts[: count + 1].diff())
    blocks = table.block_table.gpu[rows, positions // BLOCK]
    table.slot_mapping.gpu.fill_(-1)
    table.slot_mapping.gpu[: len(positions)] = blocks * BLOCK + positions % BLOCK


def counts(scheduled: Any) -> list[int]:
    """Tokens of each request of a step."""
    return list(scheduled.num_scheduled_tokens.values())


@pytest.mark.timeout(240)
def test_a_step_is_prepared_and_noted_as_vllm_does(monkeypatch: pytest.MonkeyPatch, config: VllmConfig) -> None:
    """After each step the batch is the same, and so are the tokens and pictures that the model was given."""
    monkeypatch.setattr(gpu_model_runner, "get_pp_group", lambda: SimpleNamespace(is_last_rank=True))
    monkeypatch.setattr(MultiGroupBlockTable, "compute_slot_mapping", compute_slot_mapping)
    #: What must happen here, and how often it does.
    seen = dict.fromkeys(("steps", "many", "resumed", "prompts in parts", "given up", "without tokens", "alike"), 0)
    for seed in range(25):
        lot = random.Random(seed)  # noqa: S311 - no secret
        led = Led(PageScheduler, config, lot.randint(60, 240), seed)
        mine, yours = Runner(), Runner()
        worker = PageWorker()
        worker.model_runner = mine
        worker.prepare_for_pages()
        schedule = led.scheduler.schedule
        said: list[Any] = []

        def noted(schedule: Any = schedule, said: list[Any] = said) -> Any:
            said.append(schedule())
            return said[-1]

        led.scheduler.schedule = noted
        for number in range(0, 96, 8):
            if lot.random() < 0.7:
                for page in range(number, number + 8):
                    led.add(str(page), lot.randint(1, 200), 0)
            elif number:
                led.give_up(str(lot.randrange(number)))
            for _ in range(lot.randint(0, 40)):
                said.clear()
                led.step()
                if said:
                    tokens = lot.random()
                    results = [
                        one.step(copy.deepcopy(said[0]), random.Random(tokens))  # noqa: S311 - as above
                        for one in (mine, yours)
                    ]
                    assert results[0] == results[1]
                    assert mine.state() == yours.state()
                    seen["steps"] += 1
                    seen["many"] += len(counts(said[0])) > FEW
                    seen["resumed"] += len(said[0].scheduled_cached_reqs.resumed_req_ids)
                    seen["prompts in parts"] += any(count not in (1, PROMPT) for count in counts(said[0]))
                    seen["without tokens"] += not said[0].total_num_scheduled_tokens
                    seen["given up"] += len(said[0].finished_req_ids)
        seen["alike"] += yours.described - mine.described
    assert seen.pop("steps") > 1000
    assert seen.pop("many") > 500
    assert seen.pop("alike") > 1000
    assert all(seen.values()), seen
