"""The guard against repetition inside vLLM: a logits processor of its V1 interface, the same in 0.25.1 and 0.28.0.

`NoRepeatGuard` takes the requests that vLLM's own `NGramPerReqLogitsProcessor` takes and bans what that bans, with one
write to the device per step where that has one per page.
Left to others: the rule (`guard.py`), and asking for it (`guard.request_args`).  vLLM puts the ids sampled last into
`output_ids`, also with asynchronous scheduling, before it calls `apply` (`InputBatch.update_async_output_token_ids`).
Residual risk: vLLM refuses processors of this interface together with speculative decoding, and in its V2 model
runner (up to 0.28 their presence chooses the V1 runner).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from vllm.utils.torch_utils import async_tensor_h2d
from vllm.v1.sample.logits_processor import LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates

from deepseek_ocr.guard import banned_tokens, rule_in

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.sampling_params import SamplingParams
    from vllm.v1.sample.logits_processor import BatchUpdate

    #: The arguments of `banned_tokens`; the list is vLLM's own and grows by itself.
    Guarded = tuple[list[int], int, int, frozenset[int]]


class NoRepeatGuard(LogitsProcessor):
    """Keeps the pages that ask for it from repeating themselves; holds no text of its own, so it cannot go stale."""

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:  # noqa: ARG002 - the interface
        self._device = device
        #: Row of the batch -> what is guarded there; `update_state` moves them as vLLM moves its rows.
        self._rows: dict[int, Guarded] = {}

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Raise `ValueError` for a rule that cannot be; the request is refused and the engine lives."""
        rule_in(sampling_params.extra_args)

    def is_argmax_invariant(self) -> bool:
        """Never: it is there for greedy decoding."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow the requests that joined, left or changed their row."""
        process_dict_updates(self._rows, batch_update, _guarded)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Ban in place; logits (rows, vocabulary)."""
        rows: list[int] = []
        tokens: list[int] = []
        for row, guarded in self._rows.items():
            if banned := banned_tokens(*guarded):
                rows += [row] * len(banned)
                tokens += banned
        if rows:
            # From pinned memory: a plain copy would wait for the forward pass that the device is busy with.
            at = async_tensor_h2d([rows, tokens], self._device, torch.int64)
            logits[at[0], at[1]] = -torch.inf
        return logits


def _guarded(params: SamplingParams, _prompt_ids: list[int] | None, output_ids: list[int]) -> Guarded | None:
    """What `apply` needs of a request that joins; None if it asks for no guard."""
    rule = rule_in(params.extra_args)
    return (output_ids, rule.ngram_size, rule.window_size, rule.whitelist) if rule else None
