"""Growth of work with the text, counted and not timed: a count is the same however busy the machine is.

A C function is one call, whatever it does: a pattern that backtracks, or a slice of all that is left, does not show.
Such a text must be so long that quadratic work would take minutes, and its test fails by the limit of 30 s that every
test has; linear work needs a hundredth of it.  Seconds are claimed in `bench/` alone.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

#: Above the growth of the text: a thing made once, a rounding.
MARGIN = 1.25
FEW = 2000


def calls(work: Callable[[str], object], text: str) -> int:
    """How many functions of Python and C are called."""
    count = 0

    def tally(_frame: FrameType, event: str, _argument: Any) -> None:
        nonlocal count
        count += event in {"call", "c_call"}

    before = sys.getprofile()
    sys.setprofile(tally)
    try:
        work(text)
    finally:
        sys.setprofile(before)
    return count


def check_linear(work: Callable[[str], object], short: str, long: str) -> None:
    """Fail if the calls grow faster than the text; quadratic work for a fourfold text is four times too much."""
    few, many = calls(work, short), calls(work, long)
    assert many <= MARGIN * few * len(long) / len(short) + FEW, f"{few} calls, then {many}"
