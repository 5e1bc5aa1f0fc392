"""What the guard (`vllm_guard.py`) does on a card at each step, as two Triton kernels instead of a dozen of torch's.

A page that is alone on a card waits for the thread that launches them, not for the card.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm.triton_utils import tl, triton

if TYPE_CHECKING:
    import torch

#: Rows that one program writes down.
_ROWS = 128


def ban(
    logits: torch.Tensor, ids: torch.Tensor, lengths: torch.Tensor, reach: torch.Tensor, ignored: torch.Tensor,
    exempt: torch.Tensor,
) -> None:  # fmt: skip
    """As `vllm_guard.ban`; a row of the logits may be anywhere, all others are contiguous."""
    ends, before = reach.shape[1], ignored.shape[2]
    _ban[(len(logits),)](
        logits, ids, lengths, reach, ignored, exempt, logits.stride(0),
        KEPT=ids.shape[1], ENDS=ends, BEFORE=before, EXEMPT=exempt.shape[2], ENDS_2=triton.next_power_of_2(ends),
        BEFORE_2=triton.next_power_of_2(before),
    )  # fmt: skip


def remember(ids: torch.Tensor, lengths: torch.Tensor, chosen: torch.Tensor) -> None:
    """Write down what was chosen (rows,), and that each answer is one id longer."""
    _remember[(triton.cdiv(len(chosen), _ROWS),)](ids, lengths, chosen, len(chosen), KEPT=ids.shape[1], ROWS=_ROWS)


@triton.jit
def _ban(
    logits: tl.tensor, ids: tl.tensor, lengths: tl.tensor, reach: tl.tensor, ignored: tl.tensor, exempt: tl.tensor,
    stride: tl.tensor,
    KEPT: tl.constexpr, ENDS: tl.constexpr, BEFORE: tl.constexpr, EXEMPT: tl.constexpr, ENDS_2: tl.constexpr,  # noqa: N803
    BEFORE_2: tl.constexpr,  # noqa: N803
) -> None:  # fmt: skip
    """One row: each n-gram of its window whose beginning is the end of the answer bans its last id."""
    row = tl.program_id(0).to(tl.int64)
    length = tl.load(lengths + row)
    of_row = ids + row * KEPT
    end = tl.arange(0, ENDS_2)
    token = tl.arange(0, BEFORE_2)
    is_end = end < ENDS
    is_token = token < BEFORE
    # KEPT is a power of two, so this is the remainder, of a negative number as well.
    places = (length - ENDS - BEFORE + end[:, None] + token[None, :]) & (KEPT - 1)
    begins = tl.load(of_row + places)
    tail = tl.load(of_row + ((length - BEFORE + token) & (KEPT - 1)))
    free = tl.load(ignored + row * BEFORE + token, mask=is_token, other=1).to(tl.int1)
    alike = (begins == tail[None, :]) | free[None, :]
    repeated = tl.min(alike.to(tl.int32), 1) == 1
    last = tl.load(of_row + ((length - ENDS + end) & (KEPT - 1)))
    repeated = repeated & is_end & (tl.load(reach + row * ENDS + end, mask=is_end, other=0) <= length)
    for number in range(EXEMPT):
        repeated = repeated & (last != tl.load(exempt + row * EXEMPT + number))
    tl.store(logits + row * stride + last, float("-inf"), mask=repeated)


@triton.jit
def _remember(
    ids: tl.tensor, lengths: tl.tensor, chosen: tl.tensor, count: tl.tensor,
    KEPT: tl.constexpr, ROWS: tl.constexpr,  # noqa: N803
) -> None:  # fmt: skip
    """So many rows at once."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    real = row < count
    length = tl.load(lengths + row, mask=real, other=0)
    tl.store(ids + row * KEPT + (length & (KEPT - 1)), tl.load(chosen + row, mask=real), mask=real)
    tl.store(lengths + row, length + 1, mask=real)
