"""vLLM's scheduler, without what pages do not need at every token.

The engine core schedules, launches and reports in one thread, and hundreds of pages at once keep it busier than the
card.  vLLM asks of each page at each token whether its picture is still to be encoded and whether there is room for the
token, looks for all that could have ended it or come with it, and sends each token by itself, which the service's event
loop then takes apart one by one.  Here a page whose prompt is done is not asked for pictures, asks for room when it
needs some, and sends `STREAM_INTERVAL` tokens at a time; the first goes at once, the last with all that are left, and
in between each page at its own steps, so that hundreds that began together do not all come at once.
Where nothing can happen to a page but one token more, it is scheduled and its token noted in loops of our own; vLLM
schedules and reports all others beside them.  And new pages come a few at a time where hundreds are read, as a step
with a new page costs all others something.

Left to others: everything else, the order included.
Residual risks: what is changed is the same in 0.25.1 and 0.28.0, but vLLM says of this interface that it may change;
probabilities of tokens that are held back are lost, which nobody asks for; nobody resets the prefix cache under running
requests, whose late tokens would have to be dropped.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.interface import PauseState
from vllm.v1.core.sched.request_queue import SchedulingPolicy
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.kv_cache_interface import FullAttentionSpec
from vllm.v1.request import RequestStatus

from deepseek_ocr.engine.vllm_plan import new_pages_together
from deepseek_ocr.engine.vllm_plugin import STREAM_INTERVAL

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.engine import EngineCoreOutput
    from vllm.v1.outputs import ModelRunnerOutput
    from vllm.v1.request import Request


@dataclass(slots=True)
class Answer:
    """A request that has begun to answer."""

    request: Request
    #: Its tokens that were not sent yet.
    held: list[int]
    #: Any of them may end it.
    ends: frozenset[int | None]
    #: So many tokens it has at most without reaching a limit.
    room: int
    #: Whether it counts those that the card still works on (0.28).
    counts_ahead: bool
    #: With so many tokens the next ones are sent.
    due: int


class _ForPages(Scheduler):
    """The six changes."""

    running: list[Request]
    max_num_running_reqs: int

    #: Tokens that a request is given in advance for one that the card still works on; taken back when it comes.
    _placeholders = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._answers: dict[str, Answer] = {}
        #: New pages for which a full engine waits.
        self.together = new_pages_together(self.max_num_running_reqs)
        #: Requests that have begun to answer.
        self._begun = 0
        #: Tokens in a block of memory where a page asks for its next one when that is full; else 0.
        self._block_size = _give_blocks_when_full(self.kv_cache_manager)
        self._schedules_alike = (
            self._block_size > 0
            and self.policy == SchedulingPolicy.FCFS
            and not (self.use_v2_model_runner or self.connector or self.ec_connector or self.lora_config)
            and not self.defer_block_free
        )

    def schedule(self, throttle_prefills: bool = False) -> SchedulerOutput:
        """A step, with new pages where enough places are free for several, or for all that wait."""
        most, together = self.max_num_running_reqs, self.together
        free = most - len(self.running)
        if len(self.waiting) > free and free <= 2 * together:
            # No more than have a graph (`vllm_plan.capture_sizes`).
            self.max_num_running_reqs -= free if free < together else max(0, free - together - 1)
        output = self._schedule(throttle_prefills)
        self.max_num_running_reqs = most
        return output

    def _schedule(self, throttle_prefills: bool) -> SchedulerOutput:
        """A step as vLLM schedules it; what it does for a page that only goes on is done for all of them together.

        It is let to schedule the others, with what these leave of the step's tokens and places, and they are added to
        what it says.
        """
        # vLLM takes memory from running pages only where none is free: then all of this is left to it.
        free = self.kv_cache_manager.block_pool.get_num_free_blocks()
        enough = len(self.running) + self.max_num_scheduled_tokens // max(self._block_size, 1) + 1
        paused = self.pause_state != PauseState.UNPAUSED
        budget = self.max_num_scheduled_tokens - len(self.running)
        if not self._schedules_alike or throttle_prefills or paused or free < enough or budget <= 0:
            return super().schedule(throttle_prefills)
        running = self.running
        ordinary, others = self._ordinary()
        if not ordinary:
            return super().schedule(throttle_prefills)
        self.running, kept = others, len(others)  # vLLM adds to it
        self.max_num_running_reqs -= len(ordinary)
        self.max_num_scheduled_tokens -= len(ordinary)
        output = super().schedule(throttle_prefills)
        self.max_num_running_reqs += len(ordinary)
        self.max_num_scheduled_tokens += len(ordinary)
        self.running = [*running, *self.running[kept:]]
        self._add(ordinary, output)
        return output

    def _ordinary(self) -> tuple[list[Request], list[Request]]:
        """Running requests of which vLLM would schedule one token and nothing else, and the others, both in order.

        Those have begun to answer, with all but the newest of their tokens computed, far from a limit, and room for
        one more in their last block.  One is always left with the others: vLLM asks whether anything runs.  Behind a
        prompt that is not done no page is ordinary: it comes first if tokens become scarce.
        """
        ordinary, others = [], []
        answers, size, previous = self._answers, self._block_size, self.prev_step_scheduled_req_ids
        for index, request in enumerate(self.running):
            if request.is_prefill_chunk:
                others += self.running[index:]
                break
            answer = answers.get(request.request_id)
            computed, ahead = request.num_computed_tokens, request.num_output_placeholders
            if (
                answer is not None
                and computed % size
                and computed + 1 == len(request._all_token_ids) + ahead  # noqa: SLF001 - as below
                and len(request._output_token_ids) + ahead < answer.room  # noqa: SLF001
                and request.request_id in previous
                and not request.spec_token_ids
            ):
                ordinary.append(request)
            else:
                others.append(request)
        if ordinary and not others:
            others.append(ordinary.pop())
        return ordinary, others

    def _add(self, ordinary: list[Request], output: SchedulerOutput) -> None:
        """Add a token of each of these requests to a step."""
        names = [request.request_id for request in ordinary]
        cached = output.scheduled_cached_reqs
        cached.req_ids += names
        cached.new_block_ids += [None] * len(names)
        cached.num_computed_tokens += [request.num_computed_tokens for request in ordinary]
        cached.num_output_tokens += [
            len(request._output_token_ids) + request.num_output_placeholders  # noqa: SLF001
            for request in ordinary
        ]
        # In the order of the pages: in it those that end together give their memory back.
        counts = output.num_scheduled_tokens | dict.fromkeys(names, 1)
        order = (request.request_id for request in self.running)
        output.num_scheduled_tokens = {name: counts[name] for name in order if name in counts}
        output.total_num_scheduled_tokens += len(names)
        self.prev_step_scheduled_req_ids.update(names)
        counts_ahead, placeholders = self._answers[names[0]].counts_ahead, self._placeholders
        for request in ordinary:
            request.num_computed_tokens += 1
            request.num_output_placeholders += placeholders
            if counts_ahead:
                request.num_in_flight_tokens += 1

    def _try_schedule_encoder_inputs(
        self,
        request: Request,
        num_computed_tokens: int,
        num_new_tokens: int,
        encoder_compute_budget: int,
        shift_computed_tokens: int = 0,
    ) -> tuple[list[int], int, int, list[int]]:
        """Pictures stand in the prompt, so behind it there is none."""
        if num_computed_tokens >= request.num_prompt_tokens:
            return [], num_new_tokens, encoder_compute_budget, []
        found: tuple[list[int], int, int, list[int]] = super()._try_schedule_encoder_inputs(
            request, num_computed_tokens, num_new_tokens, encoder_compute_budget, shift_computed_tokens
        )
        return found

    def update_from_output(self, scheduler_output: Any, model_runner_output: Any) -> Any:
        """What goes to the service after a step: of most pages nothing."""
        if not self.kv_cache_manager.enable_caching:  # which would want to know each token
            scheduler_output = copy.copy(scheduler_output)
            scheduler_output.num_scheduled_tokens = self._note_ordinary(scheduler_output, model_runner_output)
        outputs = super().update_from_output(scheduler_output, model_runner_output)
        for client in outputs.values():
            client.outputs = [output for output in client.outputs if self._is_due(output)]
        return {
            name: client
            for name, client in outputs.items()
            if client.outputs or client.finished_requests or client.scheduler_stats
        }

    def _note_ordinary(self, scheduled: SchedulerOutput, made: ModelRunnerOutput) -> Mapping[str, int]:
        """Note the tokens of a step that neither end their page nor are due; the scheduled ones that remain.

        Of a request whose first token was sent, and to which nothing happened but one token more, vLLM's report does
        just what is done here: it notes the token, takes back the placeholder, and counts the token as arrived (0.28).
        """
        counts: dict[str, int] = scheduled.num_scheduled_tokens
        more = made.kv_connector_output or made.num_nans_in_logits or made.routed_experts is not None
        if scheduled.scheduled_spec_decode_tokens or more:
            return counts
        sampled, indices = made.sampled_token_ids, made.req_id_to_index
        if not sampled:
            return counts
        answers, running, placeholders = self._answers, RequestStatus.RUNNING, self._placeholders
        remaining = {}
        for name, count in counts.items():
            answer = answers.get(name)
            if answer is not None and count == 1:
                request, held = answer.request, answer.held
                tokens, said = sampled[indices[name]], request._output_token_ids  # noqa: SLF001 - its property is slow
                if (
                    len(tokens) == 1
                    and tokens[0] not in answer.ends
                    and len(held) < answer.due - 1
                    and len(said) < answer.room
                    and request.status is running
                    and not request.events
                ):
                    # What its method does where no prefix is cached, at a third of the time.
                    said.append(tokens[0])
                    request._all_token_ids.append(tokens[0])  # noqa: SLF001
                    held.append(tokens[0])
                    request.num_output_placeholders -= placeholders
                    if answer.counts_ahead:
                        request.num_in_flight_tokens -= 1
                    continue
            remaining[name] = count
        return remaining

    def _is_due(self, output: EngineCoreOutput) -> bool:
        """Whether an output is sent, with the tokens that were held back; else its tokens are held back, too."""
        name, tokens = output.request_id, output.new_token_ids
        answer = self._answers.get(name)
        if answer is not None:
            # What says more than its tokens does not wait.
            says_more = output.finish_reason is not None or output.events or output.prefill_stats
            if not says_more and len(answer.held) + len(tokens) < answer.due:
                answer.held.extend(tokens)
                return False
            output.new_token_ids = [*answer.held, *tokens]
            answer.held.clear()
            answer.due = STREAM_INTERVAL
        if output.finish_reason is not None:
            self._answers.pop(name, None)
        elif answer is None:
            due = STREAM_INTERVAL - self._begun % STREAM_INTERVAL
            self._answers[name] = _answer(self.requests[name], self.max_model_len, due)
            self._begun += 1
        return True

    def finish_requests(self, request_ids: Any, finished_status: Any) -> Any:
        """A request that is given up; nobody waits for its tokens."""
        finished = super().finish_requests(request_ids, finished_status)
        for name in [name for name in self._answers if name not in self.requests]:
            del self._answers[name]
        return finished


def _answer(request: Request, max_model_len: int, due: int) -> Answer:
    """What is to be known of a request at each of its tokens; without room where more than those is asked for."""
    params = request.sampling_params
    if (
        params is None
        or params.num_logprobs is not None
        or params.repetition_detection
        or request.use_structured_output
    ):
        return Answer(request, [], frozenset(), room=0, counts_ahead=False, due=due)
    # The next token is the last one that fits.
    room = min(request.max_tokens, max_model_len - request.num_prompt_tokens) - 1
    ends = frozenset((params.eos_token_id, *(params.stop_token_ids or ())))
    return Answer(request, [], ends, room, hasattr(request, "num_in_flight_tokens"), due)


def _give_blocks_when_full(manager: Any) -> int:
    """Have a page ask for memory at its every 16th token only, where vLLM asks at each one whether there is room.

    A block holds the keys and values of so many tokens (`block_size`), and all that are computed have theirs; so there
    is room for one more wherever their number is no multiple of it.  That holds where nothing is shared or dropped:
    one kind of layers with attention to everything, and no prefix cache.  Returns the size, 0 where that is not so.
    """
    groups = manager.kv_cache_config.kv_cache_groups
    if manager.enable_caching or len(groups) != 1 or type(groups[0].kv_cache_spec) is not FullAttentionSpec:
        return 0
    size, ordinary, nothing = groups[0].kv_cache_spec.block_size, manager.allocate_slots, manager.empty_kv_cache_blocks

    def allocate_slots(request: Request, num_new_tokens: int, *args: Any, **kwargs: Any) -> Any:
        ahead = kwargs.get("num_lookahead_tokens")  # of speculative decoding
        if num_new_tokens == 1 and request.num_computed_tokens % size and not ahead:
            return nothing
        return ordinary(request, num_new_tokens, *args, **kwargs)

    manager.allocate_slots = allocate_slots
    return int(size)


class PageScheduler(_ForPages, AsyncScheduler):
    """Schedules a step while the card works on the one before."""

    _placeholders = 1


class StepwisePageScheduler(_ForPages):
    """Schedules a step after the one before, as vLLM does on the CPU."""
