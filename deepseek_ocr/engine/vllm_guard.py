"""The guard against repetition inside vLLM: what was chosen is remembered on the card, and so is what is banned.

A logits processor of vLLM's V1 interface, the same in 0.25.1 and 0.28.0.  `NoRepeatGuard` takes the requests that
vLLM's own `NGramPerReqLogitsProcessor` takes, as long as they decode greedily, and bans what that bans.  That one needs
the ids of the last step on the host, which has to wait for the card at every step; here the host launches three
kernels for the whole batch, whatever the answers say and whatever rules they follow, and sends the lengths of the
answers where they are not what the card expects.

Decoding is greedy and no processor runs after this one, so the id that vLLM is about to choose is the argmax of what
`apply` returns: it is written down at the place that the length of the answer gives, and kept for whoever would look
for it again (`vllm_worker.py`).  That length vLLM keeps on the host without waiting (a placeholder joins the list of
ids for each one sampled, and none for a prompt that is not yet whole, whose choice is dropped and its place written
over).  A request that comes back after it had lost its place brings its real ids along.

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

from deepseek_ocr.guard import PUBLISHED, WIDE, Rule, rule_in

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


class Tables(NamedTuple):
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
        #: By row, the numbers of the rules, and on the card what they say; perhaps of more rows than the batch has.
        self._asked = np.zeros(0, np.int64)
        self._by_row: Tables
        #: By row, how long the answers are on the card.
        self._expected = np.zeros(0, np.int64)
        self._lengths = torch.zeros(0, dtype=torch.int64, device=device)
        #: (rows,) int32: what the last step's tokens are; None where nobody asked for a rule.
        self.chosen: torch.Tensor | None = None
        if device.type == "cpu":
            self._ban, self._remember = ban, remember
        else:
            from deepseek_ocr.engine import vllm_guard_kernels as kernels  # noqa: PLC0415 - no Triton for a CPU

            self._ban, self._remember = kernels.ban, kernels.remember
            self._compile(vllm_config.model_config.dtype)

    def _compile(self, dtype: torch.dtype) -> None:
        """Have the kernels compiled for logits of this type, or the first page with another rule would stop all."""
        logits = torch.zeros((1, 1), dtype=dtype, device=self._device)
        length = torch.zeros(1, dtype=torch.int64, device=self._device)
        for rule in (Rule(guard.ngram_size, guard.window_size, frozenset()) for guard in (PUBLISHED, WIDE)):
            self._ban(logits, self._ids, length, *tables_of([rule], self._device))
        self._remember(self._ids, length, logits.argmax(dim=-1))

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
        # A batch that shrank needs nothing new.
        if len(self._asked) >= size and np.array_equal(asked, self._asked[:size]):
            return
        self._asked = asked
        numbers, rules = np.unique(asked, return_inverse=True)
        known = list(self._numbers)
        tables = tables_of([known[number] for number in numbers], self._device)
        here = async_tensor_h2d(rules, self._device)
        self._by_row = Tables(*(table[here] for table in tables))

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Ban in place, and remember what will be chosen; logits (rows, vocabulary), of any type."""
        self.chosen = None
        if not self._rows:
            return logits
        lengths = np.fromiter(map(len, self._lists), np.int64, len(self._lists))
        if not np.array_equal(lengths, self._expected):
            # From pinned memory: a plain copy would wait for the forward pass that the card is busy with.
            self._lengths = async_tensor_h2d(lengths, self._device)
        self._expected = lengths + 1
        self._ban(logits, self._ids, self._lengths, *self._by_row)
        self.chosen = self._remember(self._ids, self._lengths, logits.argmax(dim=-1))
        return logits


def ban(
    logits: torch.Tensor, ids: torch.Tensor, lengths: torch.Tensor, reach: torch.Tensor, ignored: torch.Tensor,
    exempt: torch.Tensor,
) -> None:  # fmt: skip
    """Set to -inf what the rules ban, in plain torch.

    logits (rows, vocabulary); ids (rows or more, KEPT), the one at index i of an answer at i % KEPT; lengths (rows,);
    of the rules `Tables`, of as many rows or more.
    """
    rows = len(lengths)
    lengths = lengths[:, None]
    reach, ignored, exempt = reach[:rows], ignored[:rows], exempt[:rows]
    before = ignored.shape[2]
    # Where an answer is shorter, what is before its beginning is out of reach.
    places = torch.arange(-reach.shape[1] - before, 0, device=ids.device)
    recent = ids[:rows].gather(1, (lengths + places) % KEPT)
    ngrams = recent.unfold(1, before + 1, 1)  # (rows, ends, n), a view
    last = ngrams[..., -1]
    repeated = (ngrams[..., :-1] == recent[:, None, -before:]).logical_or_(ignored).all(dim=-1)
    repeated &= reach <= lengths
    repeated &= (last[..., None] != exempt).all(dim=-1)
    # Adding -inf or nothing needs no list of what is banned.
    logits.scatter_add_(1, last, logits.new_zeros(repeated.shape).masked_fill_(repeated, -torch.inf))


def remember(ids: torch.Tensor, lengths: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Write down what was chosen (rows,), and that each answer is one id longer; what was chosen, as int32."""
    ids[: len(lengths)].scatter_(1, lengths[:, None] % KEPT, chosen[:, None])
    lengths += 1
    return chosen.to(torch.int32)


def tables_of(rules: Sequence[Rule | None], device: torch.device) -> Tables:
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
    return Tables(
        async_tensor_h2d(reach, device),
        async_tensor_h2d(ignored[:, None, :], device),
        async_tensor_h2d(exempt[:, None, :], device),
    )
