"""vLLM's scheduler, without what pages do not need at every token.

The engine core schedules, launches and reports in one thread, and hundreds of pages at once keep it busier than the
card.  vLLM asks of each page at each token whether its picture is still to be encoded and whether there is room for the
token, and sends each token by itself, which the service's event loop then takes apart one by one.  Here a page whose
prompt is done is not asked for pictures, asks for room when it needs some, and sends `STREAM_INTERVAL` tokens at a
time; the first goes at once, and the last with all that are left.

Left to others: everything else, the order included.
Residual risks: what is changed is the same in 0.25.1 and 0.28.0, but vLLM says of this interface that it may change;
probabilities of tokens that are held back are lost, which nobody asks for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.kv_cache_interface import FullAttentionSpec

from deepseek_ocr.engine.vllm_plugin import STREAM_INTERVAL

if TYPE_CHECKING:
    from vllm.v1.engine import EngineCoreOutput
    from vllm.v1.request import Request


class _ForPages(Scheduler):
    """The three changes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        #: Request that has begun to answer -> tokens that were not sent yet.
        self._held: dict[str, list[int]] = {}
        _give_blocks_when_full(self.kv_cache_manager)

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

    def update_from_output(self, *args: Any, **kwargs: Any) -> Any:
        """What goes to the service after a step: of most pages nothing."""
        outputs = super().update_from_output(*args, **kwargs)
        for client in outputs.values():
            client.outputs = [output for output in client.outputs if self._is_due(output)]
        return {
            name: client
            for name, client in outputs.items()
            if client.outputs or client.finished_requests or client.scheduler_stats
        }

    def _is_due(self, output: EngineCoreOutput) -> bool:
        """Whether an output is sent, with the tokens that were held back; else its tokens are held back, too."""
        name, tokens = output.request_id, output.new_token_ids
        held = self._held.get(name)
        if held is not None:
            # What says more than its tokens does not wait.
            says_more = output.finish_reason is not None or output.events or output.prefill_stats
            if not says_more and len(held) + len(tokens) < STREAM_INTERVAL:
                held += tokens
                return False
            output.new_token_ids = held + tokens
        if output.finish_reason is None:
            self._held[name] = []
        else:
            self._held.pop(name, None)
        return True

    def finish_requests(self, request_ids: Any, finished_status: Any) -> Any:
        """A request that is given up; nobody waits for its tokens."""
        finished = super().finish_requests(request_ids, finished_status)
        for name in [name for name in self._held if name not in self.requests]:
            del self._held[name]
        return finished


def _give_blocks_when_full(manager: Any) -> None:
    """Have a page ask for memory at its every 16th token only, where vLLM asks at each one whether there is room.

    A block holds the keys and values of so many tokens (`block_size`), and all that are computed have theirs; so there
    is room for one more wherever their number is no multiple of it.  That holds where nothing is shared or dropped:
    one kind of layers with attention to everything, and no prefix cache.
    """
    groups = manager.kv_cache_config.kv_cache_groups
    if manager.enable_caching or len(groups) != 1 or type(groups[0].kv_cache_spec) is not FullAttentionSpec:
        return
    size, ordinary, nothing = groups[0].kv_cache_spec.block_size, manager.allocate_slots, manager.empty_kv_cache_blocks

    def allocate_slots(request: Request, num_new_tokens: int, *args: Any, **kwargs: Any) -> Any:
        ahead = kwargs.get("num_lookahead_tokens")  # of speculative decoding
        if num_new_tokens == 1 and request.num_computed_tokens % size and not ahead:
            return nothing
        return ordinary(request, num_new_tokens, *args, **kwargs)

    manager.allocate_slots = allocate_slots


class PageScheduler(_ForPages, AsyncScheduler):
    """Schedules a step while the card works on the one before."""


class StepwisePageScheduler(_ForPages):
    """Schedules a step after the one before, as vLLM does on the CPU."""
