"""Hostile megabytes: the scanner's processor time, the slowest kinds first.

`python -m bench.grounding`.  Bar: 0.5 s each.  The kinds are those whose work `tests/test_grounding_hostile.py` counts;
the figure is the slowest of a kind behind each of its openings, read both ways, each the better of two runs.
"""

from __future__ import annotations

import sys
import time
from itertools import product

from deepseek_ocr.grounding import parse
from tests.grounding_checks import TEXT
from tests.test_grounding_hostile import HOSTILE, MEGABYTE, OPENINGS

BAR_S = 0.5
SHOWN = 12


def seconds(raw: str, text_in_ref: bool) -> float:
    """Processor time to read a text, the better of two."""
    times = []
    for _ in range(2):
        started = time.process_time()
        parse(raw, text_in_ref=text_in_ref)
        times.append(time.process_time() - started)
    return min(times)


def slowest(unit: str) -> float:
    """The time of a megabyte of a kind, behind the worst opening."""
    body = unit * (MEGABYTE // len(unit))
    return max(seconds(opening + body, in_ref) for opening, in_ref in product(OPENINGS, (False, True)))


def main() -> int:
    """Print the slowest kinds, then well-formed blocks; 1 if the bar is missed."""
    figures = sorted(((slowest(unit), name) for name, unit in HOSTILE.items()), reverse=True)
    for figure, name in figures[:SHOWN]:
        print(f"{figure:.3f} s, {figure / BAR_S:.2f} of the bar: {name}")
    page = f"{TEXT}\nA line of text as it stands on a page, and one more.\n"
    good = seconds(page * (MEGABYTE // len(page)), text_in_ref=False)
    print(f"of {len(figures)} kinds; a megabyte of good blocks takes {good:.3f} s")
    return int(figures[0][0] >= BAR_S)


if __name__ == "__main__":
    sys.exit(main())
