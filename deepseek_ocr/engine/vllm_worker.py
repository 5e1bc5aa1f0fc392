"""What is different in vLLM's worker, where hundreds of pages at once leave its one thread no time to waste.

Left to others: the rest (vLLM), the guard (`vllm_guard.py`), the model (`vllm_model.py`).
Residual risk: both things are vLLM's inner ones, the same in 0.25.1 and 0.28.0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vllm.multimodal.utils import get_mm_features_in_window
from vllm.v1.worker import gpu_model_runner

if TYPE_CHECKING:
    from vllm.multimodal.inputs import MultiModalFeatureSpec


class PageWorker:
    """What the worker can do beside its own (`worker_extension_cls`)."""

    #: The worker's own.
    model_runner: Any

    def prepare_for_pages(self) -> None:
        """Called once, when the engine is there.

        vLLM assumes of every processor that is not its own that it wants the ids of the last step on the host, and
        waits for them before it lets the processors run: ours does not.  And it looks at each step for the picture of
        each page, with two bisections over a list of one.
        """
        self.model_runner.input_batch.logitsprocs_need_output_token_ids = False
        gpu_model_runner.get_mm_features_in_window = features_in_window


def features_in_window(features: list[MultiModalFeatureSpec], start: int, end: int) -> tuple[int, int]:
    """Which pictures of a prompt lie in these tokens, first and behind the last, as vLLM's own says."""
    if len(features) != 1:
        found: tuple[int, int] = get_mm_features_in_window(features, start, end)
        return found
    place = features[0].mm_position
    return int(place.offset + place.length <= start), int(place.offset < end)
