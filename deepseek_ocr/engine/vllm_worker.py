"""What is different in vLLM's worker, where hundreds of pages at once leave its one thread no time to waste.

Left to others: the rest (vLLM), the guard (`vllm_guard.py`), the model (`vllm_model.py`).
Residual risk: both things are vLLM's inner ones, called alike in 0.25.1 and 0.28.0; its search must set no attribute of
the runner, and does not.
"""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from vllm.v1.worker.gpu_model_runner import PIN_MEMORY

if TYPE_CHECKING:
    from vllm.v1.core.sched.output import SchedulerOutput


class PageWorker:
    """What the worker can do beside its own (`worker_extension_cls`)."""

    #: The worker's own.
    model_runner: Any

    def prepare_for_pages(self) -> None:
        """Called once, when the engine is there.

        vLLM assumes of every processor that is not its own that it wants the ids of the last step on the host, and
        waits for them before it lets the processors run: ours does not.  And it looks at each step for the picture of
        each page.
        """
        runner = self.model_runner
        runner.input_batch.logitsprocs_need_output_token_ids = False
        runner._gather_mm_embeddings = functools.partial(embeddings_of_step, runner)  # noqa: SLF001 - its caller's name


class _Only:
    """A runner that has these requests alone in its batch."""

    def __init__(self, runner: Any, names: list[str]) -> None:
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
    counts: dict[str, int] = scheduled.num_scheduled_tokens
    starts, end = {}, 0
    for name in runner.input_batch.req_ids:
        request = runner.requests[name]
        if request.num_computed_tokens < request.num_prompt_tokens:
            starts[name] = end
        end += counts[name]
    mask = torch.zeros(scheduled.total_num_scheduled_tokens, dtype=torch.bool, pin_memory=PIN_MEMORY)
    if not starts:
        return [], mask
    part = SimpleNamespace(num_scheduled_tokens=counts, total_num_scheduled_tokens=sum(counts[name] for name in starts))
    search = type(runner)._gather_mm_embeddings  # noqa: SLF001 - as above
    embeddings, found = search(_Only(runner, list(starts)), part, shift_computed_tokens)
    for (name, start), of_one in zip(starts.items(), found.split([counts[name] for name in starts]), strict=True):
        mask[start : start + counts[name]] = of_one
    return embeddings, mask
