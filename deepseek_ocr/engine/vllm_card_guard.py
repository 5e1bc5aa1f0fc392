"""The guard against repetition without leaving the card: what was chosen is remembered there, and so is what is banned.

`NoRepeatGuard` (`vllm_guard.py`) needs the ids of the last step on the host before it can judge the next one, so the
host waits for the card at every step.  Decoding is greedy here and no processor runs after this one, so the id that
vLLM is about to choose is the argmax of what `apply` returns: it is written down on the card at once, at the place that
the length of the answer gives.  That length vLLM keeps on the host without waiting (a placeholder joins the list of
ids for each one sampled, and none for a prompt that is not yet whole, whose choice is dropped and its place written
over).  A request that comes back after it had lost its place brings its real ids along.
The bans are those of `guard.banned_tokens`; the tests compare them over batches that change.

`KeepsIdsOnCard` tells vLLM's worker that no processor wants the ids, which vLLM otherwise assumes of every one that is
not its own (`logitsprocs_need_output_token_ids`, the same in 0.25.1 and 0.28.0).
Left to others: the rule (`guard.py`), asking for it (`guard.request_args`).
Residual risks: as in `vllm_guard.py`; a request that does not decode greedily is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import torch
from vllm.utils.torch_utils import async_tensor_h2d
from vllm.v1.sample.logits_processor import LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates

from deepseek_ocr.guard import Rule, rule_in

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.sampling_params import SamplingParams
    from vllm.v1.sample.logits_processor import BatchUpdate

#: Ids that are remembered of each answer, so the largest window there can be; twice what is published, rounded up.
KEPT: Final = 256


class _Guarded(NamedTuple):
    """What is known on the host of a request."""

    #: The answer's row in the memory on the card.
    place: int
    rule: Rule
    #: vLLM's own list; of its ids only those are read that came with the request, then its length.
    output_ids: list[int]


class CardGuard(LogitsProcessor):
    """Keeps the pages that ask for it from repeating themselves, without waiting for the card."""

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:  # noqa: ARG002 - the interface
        self._device = device
        # In one update requests may join before those that left give their places back.
        count = 2 * int(vllm_config.scheduler_config.max_num_seqs)
        #: (places, KEPT): the last ids of each answer; the one at index i stands at i % KEPT.
        self._ids = torch.zeros((count, KEPT), dtype=torch.int64, device=device)
        self._free = list(range(count))
        #: Row of the batch -> what is guarded there.
        self._rows: dict[int, _Guarded] = {}
        #: Exempt ids by rule, on the card.
        self._exempt: dict[Rule, torch.Tensor] = {}

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Raise `ValueError` for a rule that cannot be; the request is refused and the engine lives."""
        rule = rule_in(sampling_params.extra_args)
        if rule is None:
            return
        if rule.window_size > KEPT:
            raise ValueError(f"`window_size` must be at most {KEPT}, got {rule.window_size}.")
        if sampling_params.temperature:
            raise ValueError(f"the guard needs temperature 0, got {sampling_params.temperature}.")

    def is_argmax_invariant(self) -> bool:
        """Never: it is there for greedy decoding."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow the requests that joined, left or changed their row."""
        if batch_update is None:
            return
        process_dict_updates(self._rows, batch_update, self._joined)
        taken = {guarded.place for guarded in self._rows.values()}
        self._free = [place for place in range(len(self._ids)) if place not in taken]

    def _joined(self, params: SamplingParams, _prompt_ids: list[int] | None, output_ids: list[int]) -> _Guarded | None:
        rule = rule_in(params.extra_args)
        if rule is None:
            return None
        place = self._free.pop()
        if known := output_ids[-KEPT:]:
            first = len(output_ids) - len(known)
            at = [(first + index) % KEPT for index in range(len(known))]
            there = async_tensor_h2d([at, known], self._device, torch.int64)
            self._ids[place, there[0]] = there[1]
        if rule not in self._exempt:
            self._exempt[rule] = async_tensor_h2d(sorted(rule.whitelist) or [-1], self._device, torch.int64)
        return _Guarded(place, rule, output_ids)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Ban in place, and remember what will be chosen; logits (rows, vocabulary)."""
        if not self._rows:
            return logits
        by_rule: dict[Rule, list[tuple[int, int, int]]] = {}
        for row, guarded in self._rows.items():
            by_rule.setdefault(guarded.rule, []).append((row, guarded.place, len(guarded.output_ids)))
        wanted = [one for some in by_rule.values() for one in some]
        rows, places, lengths = async_tensor_h2d(list(map(list, zip(*wanted, strict=True))), self._device, torch.int64)
        start = 0
        for rule, some in by_rule.items():
            here = slice(start, start := start + len(some))
            _ban(logits, rows[here], self._ids, places[here], lengths[here], rule, self._exempt[rule])
        self._ids[places, lengths % KEPT] = logits.argmax(dim=-1)[rows]
        return logits


def _ban(
    logits: torch.Tensor, rows: torch.Tensor, ids: torch.Tensor, places: torch.Tensor, lengths: torch.Tensor,
    rule: Rule, exempt: torch.Tensor,
) -> None:  # fmt: skip
    """Set to -inf what would end an n-gram a second time within the window; nothing here waits for the card.

    logits (all rows, vocabulary); rows, places, lengths (guarded,); ids (places, KEPT); exempt (any,).
    """
    n, window = rule.ngram_size, rule.window_size
    if n == 1 or window < n:  # vLLM compares 1-grams with the whole answer, so it bans none
        return
    steps = torch.arange(window, device=ids.device)
    # (guarded, window): the last ids, the newest last; what is before the answer's beginning is told apart below.
    recent = ids[places[:, None], (lengths[:, None] - window + steps) % KEPT]
    ngrams = recent.unfold(1, n, 1)  # (guarded, window - n + 1, n), a view
    repeated = (ngrams[..., :-1] == recent[:, None, window - n + 1 :]).all(dim=-1)
    repeated &= lengths[:, None] - window + steps[: window - n + 1] >= 0
    last = ngrams[..., -1]
    repeated &= ~torch.isin(last, exempt)
    # Adding -inf or nothing needs no list of what is banned, whose length only the card knows.
    shape = len(logits), last.shape[1]
    penalty = torch.zeros(shape, dtype=logits.dtype, device=logits.device)
    penalty[rows] = torch.zeros_like(last, dtype=logits.dtype).masked_fill_(repeated, -torch.inf)
    at = torch.zeros(shape, dtype=torch.int64, device=logits.device)
    at[rows] = torch.where(repeated, last, 0)  # where nothing is added any id will do
    logits.scatter_add_(1, at, penalty)


class KeepsIdsOnCard:
    """What vLLM's worker can do beside its own (`worker_extension_cls`)."""

    #: The worker's own.
    model_runner: Any

    def keep_ids_on_card(self) -> None:
        """Do not wait for the ids of the last step before the processors run: none of ours reads them."""
        self.model_runner.input_batch.logitsprocs_need_output_token_ids = False
