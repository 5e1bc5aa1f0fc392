"""What the guard (`vllm_guard.py`) does on a card at each step, as two Triton kernels instead of some 17 of torch.

A page that is alone on a card waits for the thread that launches them, not for the card.
"""

from __future__ import annotations

import torch
from vllm.triton_utils import tl, triton

#: Rows that one program writes down.
_ROWS = 128
#: Ends of n-grams and tokens in front of each that a program looks at: the published rule, and all others with room.
_USUAL, _LARGEST = (64, 32), 256


def ban(
    logits: torch.Tensor, ids: torch.Tensor, lengths: torch.Tensor, reach: torch.Tensor, ignored: torch.Tensor,
    exempt: torch.Tensor,
) -> None:  # fmt: skip
    """As `vllm_guard.ban`; a row of the logits may be anywhere, all others are contiguous."""
    ends, before = reach.shape[1], ignored.shape[2]
    usual = ends <= _USUAL[0] and before <= _USUAL[1]
    at_once = _USUAL if usual else (_LARGEST, max(2 * _USUAL[1], triton.next_power_of_2(before)))
    _ban[(len(logits),)](
        logits, ids, lengths, reach, ignored, exempt, logits.stride(0), ends, before, exempt.shape[2],
        KEPT=ids.shape[1], ENDS=at_once[0], BEFORE=at_once[1],
    )  # fmt: skip


def remember(ids: torch.Tensor, lengths: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """As `vllm_guard.remember`."""
    narrow = torch.empty_like(chosen, dtype=torch.int32)
    rows = len(chosen)
    _remember[(triton.cdiv(rows, _ROWS),)](ids, lengths, chosen, narrow, rows, KEPT=ids.shape[1], ROWS=_ROWS)
    return narrow


# What is compiled depends on the sizes in capitals alone: a compilation stops all pages.
@triton.jit(do_not_specialize=["stride", "ends", "before", "exempted"])
def _ban(
    logits: tl.tensor, ids: tl.tensor, lengths: tl.tensor, reach: tl.tensor, ignored: tl.tensor, exempt: tl.tensor,
    stride: tl.tensor, ends: tl.tensor, before: tl.tensor, exempted: tl.tensor,
    KEPT: tl.constexpr, ENDS: tl.constexpr, BEFORE: tl.constexpr,  # noqa: N803
) -> None:  # fmt: skip
    """One row: each n-gram of its window whose beginning is the end of the answer bans its last id."""
    row = tl.program_id(0).to(tl.int64)
    length = tl.load(lengths + row)
    of_row = ids + row * KEPT
    end = tl.arange(0, ENDS)
    token = tl.arange(0, BEFORE)
    is_end = end < ends
    is_token = token < before
    # KEPT is a power of two, so this is the remainder, of a negative number as well.
    places = (length - ends - before + end[:, None] + token[None, :]) & (KEPT - 1)
    begins = tl.load(of_row + places)
    tail = tl.load(of_row + ((length - before + token) & (KEPT - 1)))
    free = tl.load(ignored + row * before + token, mask=is_token, other=1).to(tl.int1)
    alike = (begins == tail[None, :]) | free[None, :]
    repeated = tl.min(alike.to(tl.int32), 1) == 1
    last = tl.load(of_row + ((length - ends + end) & (KEPT - 1)))
    repeated = repeated & is_end & (tl.load(reach + row * ends + end, mask=is_end, other=0) <= length)
    for number in range(exempted):
        repeated = repeated & (last != tl.load(exempt + row * exempted + number))
    tl.store(logits + row * stride + last, float("-inf"), mask=repeated)


@triton.jit(do_not_specialize=["count"])
def _remember(
    ids: tl.tensor, lengths: tl.tensor, chosen: tl.tensor, narrow: tl.tensor, count: tl.tensor,
    KEPT: tl.constexpr, ROWS: tl.constexpr,  # noqa: N803
) -> None:  # fmt: skip
    """So many rows at once."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    real = row < count
    length = tl.load(lengths + row, mask=real, other=0)
    token = tl.load(chosen + row, mask=real, other=0)
    tl.store(ids + row * KEPT + (length & (KEPT - 1)), token, mask=real)
    tl.store(narrow + row, token.to(tl.int32), mask=real)
    tl.store(lengths + row, length + 1, mask=real)
