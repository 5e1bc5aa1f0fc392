"""The guard against repetition inside vLLM: what was chosen is remembered on the card, and so is what is banned.

A logits processor of vLLM's V1 interface, the same in 0.25.1 and 0.28.0.  `NoRepeatGuard` takes the requests that
vLLM's own `NGramPerReqLogitsProcessor` takes, as long as they decode greedily, and bans what that bans.  That one needs
the ids of the last step on the host, which has to wait for the card at every step; here the host sends the lengths of
the answers and a dozen kernels for the whole batch, whatever the answers say and whatever rules they follow.

Decoding is greedy and no processor runs after this one, so the id that vLLM is about to choose is the argmax of what
`apply` returns: it is written down at the place that the length of the answer gives.  That length vLLM keeps on the
host without waiting (a placeholder joins the list of ids for each one sampled, and none for a prompt that is not yet
whole, whose choice is dropped and its place written over).  A request that comes back after it had lost its place
brings its real ids along.

Left to others: the rule (`guard.py`), asking for it (`guard.request_args`).
Residual risks: vLLM refuses processors of this interface together with speculative decoding, and in its V2 model
runner (up to 0.28 their presence chooses the V1 runner); it needs vLLM's order of first come, first served, which
leaves no page out of a step and lets it come back without its ids; penalties would be applied after it, unseen by it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import torch
from vllm.utils.torch_utils import async_tensor_h2d
from vllm.v1.sample.logits_processor import LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates

from deepseek_ocr.guard import Rule, rule_in

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllm.config import VllmConfig
    from vllm.sampling_params import SamplingParams
    from vllm.v1.sample.logits_processor import BatchUpdate

#: Ids that are remembered of each answer.
KEPT: Final = 256
#: A choice that is dropped lies where the oldest of them was.  Above what is published, and `guard.WIDE`.
LARGEST_WINDOW: Final = KEPT - 1
#: Longer than any answer.
_NEVER: Final = 2**62


@dataclass(slots=True)
class _Guarded:
    """What is known on the host of a row of the batch."""

    #: vLLM's own list; of its ids only those are read that came with the request, then its length.
    output_ids: Sequence[int]
    #: Among the rules there have been; 0 is none.
    rule: int
    #: Where its ids are in the memory; None until they are.
    row: int | None = None


class _Tables(NamedTuple):
    """Rules side by side, for n-grams as long as the longest and a window as wide as the widest; by rule, or by row.

    An n-gram of a shorter rule is the end of a longer one, of which the beginning is ignored.
    """

    #: (rules, ends): how long an answer is in which the n-gram that ends there counts; the newest end last.
    reach: torch.Tensor
    #: (rules, 1, n - 1): whether a token in front of the n-gram's last one makes no difference.
    ignored: torch.Tensor
    #: (rules, 1, most): ids that are never banned, filled up with -1.
    exempt: torch.Tensor


class NoRepeatGuard(LogitsProcessor):
    """Keeps the pages that ask for it from repeating themselves, without waiting for the card."""

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:  # noqa: ARG002 - the interface
        self._device = device
        rows = int(vllm_config.scheduler_config.max_num_seqs)
        #: (rows, KEPT): the last ids of each row's answer; the one at index i stands at i % KEPT.
        self._ids = torch.zeros((rows, KEPT), dtype=torch.int64, device=device)
        #: Those rows that ask for a rule.
        self._rows: dict[int, _Guarded] = {}
        #: The rules there have been, and their numbers.
        self._numbers: dict[Rule | None, int] = {None: 0}
        # What follows is made when the batch changes; all its rows take part, some without a rule.
        self._lists: list[Sequence[int]] = []
        #: By row, the numbers of the rules, and on the card what they say.
        self._asked = np.zeros(0, np.int64)
        self._by_row: _Tables
        #: Of the ids that are looked at, back from the end of the answer, and at last the place of the next.
        self._places: torch.Tensor
        #: (rows, ends) of zeros, in float32 as the logits that a sampler hands over.
        self._nothing: torch.Tensor

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Raise `ValueError` for a rule that cannot be; the request is refused and the engine lives."""
        rule = rule_in(sampling_params.extra_args)
        if rule is None:
            return
        if rule.window_size > LARGEST_WINDOW:
            raise ValueError(f"`window_size` must be at most {LARGEST_WINDOW}, got {rule.window_size}.")
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
        self._move_ids()
        if self._rows:
            self._lay_out(batch_update.batch_size)

    def _joined(self, params: SamplingParams, _prompt_ids: list[int] | None, output_ids: list[int]) -> _Guarded | None:
        rule = rule_in(params.extra_args)
        # vLLM compares 1-grams with the whole answer, so it bans none.
        if rule is None or rule.ngram_size == 1 or rule.window_size < rule.ngram_size:
            return None
        return _Guarded(output_ids, self._numbers.setdefault(rule, len(self._numbers)))

    def _move_ids(self) -> None:
        """Bring the memory's rows where those of the batch are, then write what came with new requests."""
        changed = [(row, guarded) for row, guarded in self._rows.items() if guarded.row != row]
        moved = [(guarded.row, row) for row, guarded in changed if guarded.row is not None]
        known = [
            (row, index % KEPT, guarded.output_ids[index])
            for row, guarded in changed
            if guarded.row is None
            for index in range(max(0, len(guarded.output_ids) - KEPT), len(guarded.output_ids))
        ]
        if moved:
            before, after = async_tensor_h2d(np.array(moved).T.copy(), self._device)
            self._ids[after] = self._ids[before]
        if known:
            rows, places, ids = async_tensor_h2d(np.array(known).T.copy(), self._device)
            self._ids[rows, places] = ids
        for row, guarded in changed:
            guarded.row = row

    def _lay_out(self, size: int) -> None:
        nobody = _Guarded((), 0)
        batch = [self._rows.get(row, nobody) for row in range(size)]
        self._lists = [guarded.output_ids for guarded in batch]
        asked = np.fromiter((guarded.rule for guarded in batch), np.int64, size)
        if np.array_equal(asked, self._asked):
            return
        self._asked = asked
        numbers, rules = np.unique(asked, return_inverse=True)
        known = list(self._numbers)
        tables = _tables([known[number] for number in numbers], self._device)
        here = async_tensor_h2d(rules, self._device)
        self._by_row = _Tables(*(table[here] for table in tables))
        looked_at = tables.reach.shape[1] + tables.ignored.shape[2]
        self._places = torch.arange(-looked_at, 1, device=self._device)
        self._nothing = torch.zeros(self._by_row.reach.shape, device=self._device)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Ban in place, and remember what will be chosen; logits (rows, vocabulary)."""
        if not self._rows:
            return logits
        # From pinned memory: a plain copy would wait for the forward pass that the card is busy with.
        lengths = async_tensor_h2d(np.fromiter(map(len, self._lists), np.int64, len(self._lists)), self._device)
        lengths = lengths[:, None]
        reach, ignored, exempt = self._by_row
        before = ignored.shape[2]
        ids = self._ids[: len(lengths)]
        places = (lengths + self._places) % KEPT
        # Where an answer is shorter, what is before its beginning is out of reach.
        recent = ids.gather(1, places[:, :-1])
        ngrams = recent.unfold(1, before + 1, 1)  # (rows, ends, n), a view
        last = ngrams[..., -1]
        repeated = (ngrams[..., :-1] == recent[:, None, -before:]).logical_or_(ignored).all(dim=-1)
        repeated &= reach <= lengths
        repeated &= (last[..., None] != exempt).all(dim=-1)
        # Adding -inf or nothing needs no list of what is banned, whose length only the card knows.
        logits.scatter_add_(1, last, self._nothing.masked_fill(repeated, -torch.inf))
        ids.scatter_(1, places[:, -1:], logits.argmax(dim=-1)[:, None])
        return logits


def _tables(rules: Sequence[Rule | None], device: torch.device) -> _Tables:
    """Of rules that ban something (1 < n <= window), at least one, and None for one that does not."""
    shortest = min(rule.ngram_size for rule in rules if rule)
    some = [rule or Rule(shortest, 0, frozenset()) for rule in rules]
    sizes = np.array([[rule.ngram_size] for rule in some])
    windows = np.array([[rule.window_size] for rule in some])
    # To the end of the answer from the beginning of each n-gram.
    lengths = sizes + np.arange(windows.max() - shortest, -1, -1)
    reach = np.where(lengths <= windows, lengths, _NEVER)
    ignored = np.arange(sizes.max() - 1, 0, -1) >= sizes
    most = max(1, *(len(rule.whitelist) for rule in some))
    exempt = np.array([[*sorted(rule.whitelist), *[-1] * (most - len(rule.whitelist))] for rule in some])
    return _Tables(
        async_tensor_h2d(reach, device),
        async_tensor_h2d(ignored[:, None, :], device),
        async_tensor_h2d(exempt[:, None, :], device),
    )
