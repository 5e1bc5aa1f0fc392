"""What is different in vLLM's worker, where hundreds of pages at once leave its one thread no time to waste.

Nearly all pages of a step get one token and nothing else, yet vLLM looks through all of them, one after another, four
times a step: for what the scheduler says of each, for where its last token is on the card, for the picture in its
prompt, and to note its new token.  Here that is done for those pages with arrays and a few short loops, and by vLLM's
own code for all others.  A page alone waits for this thread, too, so with few pages these are as vLLM has them.

What it waits for are launches, above all: vLLM describes each step to the card from the beginning, in some 18 of them.
Where each page of the last step gets one token more and nothing else has changed, as in nearly all steps of a page
alone, its place and its length are one more, which takes 4.

Of a page's next token nothing is wanted but which is the likeliest that the guard allows.  vLLM copies all logits into
float32 first, half a gigabyte for 896 pages, and looks for the largest again, behind the guard; the largest is the same
in the model's own type.

Left to others: the rest (vLLM), the guard (`vllm_guard.py`), the model (`vllm_model.py`).
Residual risks: what is replaced are vLLM's inner methods, called alike in 0.25.1 and 0.28.0; its search for pictures
must set no attribute of the runner, and does not.  What describes a step must be written by nobody in between, as
vLLM does with several cards, with positions that are not plain, with LoRA and with drafts, none of which is here.
"""

from __future__ import annotations

import copy
import functools
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from vllm.v1.outputs import SamplerOutput
from vllm.v1.sample.logits_processor import LogitBiasLogitsProcessor, MinTokensLogitsProcessor
from vllm.v1.worker.gpu_model_runner import PIN_MEMORY

from deepseek_ocr.engine.vllm_guard import NoRepeatGuard
from deepseek_ocr.processes import collect_rarely

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.sample.logits_processor import LogitsProcessor


#: With so many pages arrays and vLLM's loops take about the same (2.8 GHz).
FEW: Final = 12


class PageWorker:
    """What the worker can do beside its own (`worker_extension_cls`)."""

    #: The worker's own.
    model_runner: Any

    def prepare_for_pages(self) -> None:
        """Called once, when the engine is there: puts our ways in the place of vLLM's.

        vLLM assumes of every processor that is not its own that it wants the ids of the last step on the host, and
        waits for them before it lets the processors run: ours does not.
        """
        runner = self.model_runner
        collect_rarely(runner.max_num_reqs)
        runner.input_batch.logitsprocs_need_output_token_ids = False
        for name, ours in REPLACED.items():
            setattr(runner, name, functools.partial(_by_count, runner, getattr(type(runner), name), ours))
        runner._sample = functools.partial(sample, runner)  # noqa: SLF001 - its caller's name
        runner._prepare_inputs = StepInputs(runner).prepare  # noqa: SLF001 - as above


def _by_count(
    runner: Any,
    own: Callable[..., Any],
    ours: Callable[..., Any],
    scheduled: SchedulerOutput,
    *arguments: Any,
    **named: Any,
) -> Any:
    """What is replaced is asked for a step; with few pages vLLM's own answers."""
    return (own if len(scheduled.num_scheduled_tokens) <= FEW else ours)(runner, scheduled, *arguments, **named)


def update_states(runner: Any, scheduled: SchedulerOutput) -> Any:
    """Bring the batch to what the scheduler says; of most pages it is only how many tokens they have.

    What comes back is vLLM's.
    """
    cached = scheduled.scheduled_cached_reqs
    requests, rows_of, resumed = runner.requests, runner.input_batch.req_id_to_index, cached.resumed_req_ids
    if scheduled.scheduled_spec_decode_tokens:
        return type(runner)._update_states(runner, scheduled)  # noqa: SLF001 - its caller's name
    rows, counts, others = [], [], []
    said = zip(cached.req_ids, cached.new_block_ids, cached.num_computed_tokens, cached.num_output_tokens, strict=True)
    for place, (name, blocks, computed, answered) in enumerate(said):
        request, row = requests[name], rows_of.get(name)
        # An answer that has fewer tokens than was thought loses some.
        plain = blocks is None and row is not None and not request.prev_num_draft_len
        if plain and answered >= len(request.output_token_ids) and name not in resumed:
            request.num_computed_tokens = computed
            rows.append(row)
            counts.append(computed)
        else:
            others.append(place)
    runner.input_batch.num_computed_tokens_cpu[rows] = counts
    remaining = copy.copy(scheduled)
    remaining.scheduled_cached_reqs = replace(
        cached,
        req_ids=[cached.req_ids[place] for place in others],
        new_block_ids=[cached.new_block_ids[place] for place in others],
        num_computed_tokens=[cached.num_computed_tokens[place] for place in others],
        num_output_tokens=[cached.num_output_tokens[place] for place in others],
        # Of stages that do not sample, of which there is none here; in the order of the requests.
        new_token_ids=[cached.new_token_ids[place] for place in others] if cached.new_token_ids else [],
    )
    return type(runner)._update_states(runner, remaining)  # noqa: SLF001 - as above


def prepare_input_ids(
    runner: Any, scheduled: SchedulerOutput, num_reqs: int, total_num_scheduled_tokens: int, cu_num_tokens: np.ndarray
) -> None:
    """Put the step's tokens on the card: those of prompts from the host, the last of each answer from the card itself.

    `cu_num_tokens` (num_reqs,): where in the step each request ends.  What the card sampled last is (rows, 1).
    """
    sampled = runner.input_batch.prev_sampled_token_ids
    # The last is of several stages (0.28).
    special = runner.enable_prompt_embeds or getattr(runner, "_pp_recv_work", None) is not None
    if sampled is None or scheduled.scheduled_spec_decode_tokens or special:
        own = type(runner)._prepare_input_ids  # noqa: SLF001 - its caller's name
        own(runner, scheduled, num_reqs, total_num_scheduled_tokens, cu_num_tokens)
        return
    before = runner.prev_positions.np[:num_reqs]
    going_on = np.flatnonzero(before >= 0)
    count = len(going_on)
    if count < total_num_scheduled_tokens:
        runner.input_ids.copy_to_gpu(total_num_scheduled_tokens)
    if not count:
        return
    sources, places = before[going_on], cu_num_tokens[going_on].astype(np.int64) - 1
    if places[-1] == count - 1 and np.array_equal(sources, places):
        runner.input_ids.gpu[:count].copy_(sampled[:count, 0], non_blocking=True)
        return
    both = torch.from_numpy(np.stack((places, sources)))
    there, here = (both.pin_memory() if PIN_MEMORY else both).to(runner.device, non_blocking=True)
    runner.input_ids.gpu.scatter_(dim=0, index=there, src=sampled[here, 0])


@dataclass(slots=True)
class _Step:
    """A step in which each page got one token, and none was dropped."""

    names: list[str]
    #: (pages,): tokens of each that were computed before.
    computed: np.ndarray
    #: What vLLM said of it.
    answer: Any


class StepInputs:
    """Describes a step to the card: by what is there of the last one, where it is the same but for one token a page.

    Without asynchronous scheduling (the CPU) the tokens of the last step are not there, so that it never is.
    """

    def __init__(self, runner: Any) -> None:
        self._runner = runner
        self._last: _Step | None = None

    def prepare(self, scheduled: SchedulerOutput, num_scheduled_tokens: np.ndarray) -> Any:
        """What comes back is vLLM's; num_scheduled_tokens (pages,)."""
        runner, last = self._runner, self._last
        batch = runner.input_batch
        count = batch.num_reqs
        computed, sampled = batch.num_computed_tokens_cpu[:count], batch.prev_sampled_token_ids
        if (
            last is None
            or sampled is None
            or scheduled.total_num_scheduled_tokens != count
            or last.names != batch.req_ids
            or not np.array_equal(computed, last.computed + 1)
        ):
            own = type(runner)._prepare_inputs  # noqa: SLF001 - its caller's name
            answer = own(runner, scheduled, num_scheduled_tokens)
            plain = scheduled.total_num_scheduled_tokens == count and not runner.discard_request_mask.np[:count].any()
            self._last = _Step(list(batch.req_ids), computed.copy(), answer) if plain else None
            return answer
        last.computed += 1
        if any(scheduled.scheduled_cached_reqs.new_block_ids):
            batch.block_table.commit_block_table(count)
        positions = runner.positions[:count]
        positions += 1
        runner.seq_lens[:count] += 1
        runner.optimistic_seq_lens_cpu[:count] += 1
        batch.block_table.compute_slot_mapping(count, runner.query_start_loc.gpu[: count + 1], positions)
        runner.input_ids.gpu[:count].copy_(sampled[:, 0], non_blocking=True)
        return last.answer


def sample(runner: Any, logits: torch.Tensor, spec_decode_metadata: Any) -> SamplerOutput:
    """The likeliest token of each request, (rows, 1) int32; where more is asked for, what vLLM makes of it.

    logits (rows, vocabulary), in the model's type.
    """
    asked = runner.input_batch.sampling_metadata
    budgets = asked.thinking_budget_state_holder
    processors = [one for one in asked.logitsprocs.non_argmax_invariant if not _is_idle(one)]
    plain = (
        spec_decode_metadata is None
        and all(isinstance(one, NoRepeatGuard) for one in processors)
        and asked.all_greedy
        and asked.no_penalties
        and asked.max_num_logprobs is None
        and not asked.logprob_token_ids
        and asked.allowed_token_ids_mask is None
        and not asked.bad_words_token_ids
        and not (budgets and budgets.has_tracked_requests())
    )
    if not plain:
        found: SamplerOutput = type(runner)._sample(runner, logits, spec_decode_metadata)  # noqa: SLF001 - its caller's name
        return found
    chosen = None
    for guard in processors:
        guard.apply(logits)
        chosen = guard.chosen
    if chosen is None:
        chosen = logits.argmax(dim=-1).to(torch.int32)
    return SamplerOutput(chosen[:, None], None)


def _is_idle(processor: LogitsProcessor) -> bool:
    """Whether it is one of vLLM's own that no request asks for; they want float32."""
    match processor:
        case MinTokensLogitsProcessor():
            return not processor.min_toks
        case LogitBiasLogitsProcessor():
            return not processor.biases
    return False


def note_sampled(
    runner: Any,
    scheduled: SchedulerOutput,
    sampled: SamplerOutput,
    logits: torch.Tensor | None,
    hidden_states: torch.Tensor,
    num_scheduled_tokens: int,
) -> Any:
    """Note that each request has a token more, which only the card knows yet; what comes back is vLLM's.

    Raises `ValueError`, which ends the engine, where one is longer than the model allows: the scheduler lets none be.
    """
    own = functools.partial(type(runner)._bookkeeping_sync, runner, scheduled)  # noqa: SLF001 - its caller's name
    ids, batch = sampled.sampled_token_ids, runner.input_batch
    if not runner.use_async_scheduling or ids.shape[-1] != 1:
        return own(sampled, logits, hidden_states, num_scheduled_tokens)
    kept = batch.prev_sampled_token_ids
    # It notes one token of each row that it finds.
    noted = own(replace(sampled, sampled_token_ids=ids[:0]), logits, hidden_states, num_scheduled_tokens)
    batch.prev_sampled_token_ids = ids if kept is None else kept
    # Of a prompt that is not done the token is dropped.
    rows = np.flatnonzero(~runner.discard_request_mask.np[: len(ids)])
    ends = batch.num_tokens_no_spec[rows]
    if len(rows) and ends.max() >= runner.max_model_len:
        raise ValueError(f"a page has {ends.max() + 1} tokens, more than the {runner.max_model_len} of the model")
    batch.token_ids_cpu[rows, ends] = -1
    batch.is_token_ids[rows, ends] = True
    batch.num_tokens_no_spec[rows] = ends + 1
    names, requests = batch.req_ids, runner.requests
    for row in rows.tolist():
        requests[names[row]].output_token_ids.append(-1)
    return noted


class _Only:
    """A runner that has these requests alone in its batch."""

    def __init__(self, runner: Any, names: Sequence[str]) -> None:
        self._runner = runner
        self.input_batch = SimpleNamespace(req_ids=names)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)


def embeddings_of_step(
    runner: Any, scheduled: SchedulerOutput, shift_computed_tokens: int = 0
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """The embeddings of a step's pictures, each (tokens, dim), and which of all its tokens they are for (tokens,).

    vLLM's own search, among the requests whose prompt is not done: pictures stand nowhere else.
    """
    batch = runner.input_batch
    count = len(batch.req_ids)
    mask = torch.zeros(scheduled.total_num_scheduled_tokens, dtype=torch.bool, pin_memory=PIN_MEMORY)
    rows = np.flatnonzero(batch.num_computed_tokens_cpu[:count] < batch.num_prompt_tokens[:count]).tolist()
    if not rows:
        return [], mask
    names = [batch.req_ids[row] for row in rows]
    counts = {name: scheduled.num_scheduled_tokens[name] for name in names}
    part = SimpleNamespace(num_scheduled_tokens=counts, total_num_scheduled_tokens=sum(counts.values()))
    search = type(runner)._gather_mm_embeddings  # noqa: SLF001 - its caller's name
    embeddings, found = search(_Only(runner, names), part, shift_computed_tokens)
    starts = runner.query_start_loc.np[rows].tolist()
    for start, of_one in zip(starts, found.split(list(counts.values())), strict=True):
        mask[start : start + len(of_one)] = of_one
    return embeddings, mask


#: By the names of the runner's methods.
REPLACED: Final[dict[str, Callable[..., Any]]] = {
    "_update_states": update_states,
    "_prepare_input_ids": prepare_input_ids,
    "_bookkeeping_sync": note_sampled,
    "_gather_mm_embeddings": embeddings_of_step,
}
