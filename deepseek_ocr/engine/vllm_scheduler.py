"""vLLM's scheduler, without what pages do not need at every token.

The engine core schedules, launches and reports in one thread, and hundreds of pages at once keep it busier than the
card.  vLLM asks of each page at each token whether its picture is still to be encoded, and sends each token by itself,
which the service's event loop then takes apart one by one.  Here a page whose prompt is done is not asked, and tokens
go out `STREAM_INTERVAL` at a time; the first goes at once, and the last with all that are left.

Left to others: everything else, the order included.  Both methods that are changed are the same in 0.25.1 and 0.28.0;
vLLM says of this interface that it may change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine import EngineCoreOutput

from deepseek_ocr.engine.vllm_plugin import STREAM_INTERVAL

if TYPE_CHECKING:
    from vllm.v1.request import Request


class _ForPages(Scheduler):
    """The two changes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        #: Request -> tokens that were not sent yet.
        self._held: dict[str, list[int]] = {}

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
        return outputs

    def _is_due(self, output: EngineCoreOutput) -> bool:
        """Whether an output is sent, with the tokens that were held back; else its tokens are held back, too."""
        name = output.request_id
        tokens = [*self._held.get(name, ()), *output.new_token_ids]
        request = self.requests.get(name)
        begun = request is not None and request.num_output_tokens > len(output.new_token_ids)
        # What says nothing but its tokens can wait.
        if begun and len(tokens) < STREAM_INTERVAL and output == EngineCoreOutput(name, output.new_token_ids):
            self._held[name] = tokens
            return False
        self._held.pop(name, None)
        output.new_token_ids = tokens
        return True

    def finish_requests(self, request_ids: Any, finished_status: Any) -> Any:
        """A request that is given up; nobody waits for its tokens."""
        finished = super().finish_requests(request_ids, finished_status)
        for name in [name for name in self._held if name not in self.requests]:
            del self._held[name]
        return finished


class PageScheduler(_ForPages, AsyncScheduler):
    """Schedules a step while the card works on the one before."""


class StepwisePageScheduler(_ForPages):
    """Schedules a step after the one before, as vLLM does on the CPU."""
