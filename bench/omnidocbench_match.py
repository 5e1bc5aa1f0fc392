"""Which blocks that were read are which of the truth: OmniDocBench's quick match, in short.

1. The cost of a pair is the normalized edit distance of its keys (`text_key`, `formula_key`).
2. A true block that no block is close to (0.25) may be read as several: blocks next to each other are joined as long as
   that brings them closer to it and each of them is found within it (0.6).
3. The pairs with the least sum of costs; those over 0.7 are none.
4. A true block left over that is found within a block that was read (0.4) is matched to it, beside what it has.

What differs from OmniDocBench's `match_quick.py` (1.0; 1.5 matches text and formulas with each other besides): blocks
that two true ones claim go to the closer one, where there all ways are averaged; where step 4 finds a block that was
joined, it is matched to all that it was joined with; empty blocks do not shift the numbers of those behind them.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from bench.accuracy_scores import assign, normalized_distance, substring_distance

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

#: Costs: of a pair that needs no other, of a piece within a true block, of any pair, of a true block within another.
CLOSE, PIECE, ANY, WITHIN = 0.25, 0.6, 0.7, 0.4

_INLINE = re.compile(r"(?<![\\$])\$([^$\n]+)\$|\\\((.+?)\\\)")
_COMMAND = re.compile(r"\\([A-Za-z]+)")
_NO_LETTER = re.compile(r"[^\w]")
#: The list of `normalized_formula`: what looks or spaces letters.
_STYLES = re.compile(
    r"\\(?:mathbf|mathrm|mathnormal|mathit|mathbb|mathcal|mathscr|mathfrak|mathsf|mathtt|textbf|text|boldmath|boldsymbol"
    r"|operatorname|bm|symbfit|mathbfcal|symbf|scriptscriptstyle|notag|setlength|coloneqq|space|thickspace|thinspace"
    r"|medspace|nobreakspace|negmedspace|quad|qquad|enspace|substackw)"
)
_ARGUMENTS = re.compile(r"\\(?:tag|hspace|begin|end)\{.*?\}|\\arraycolsep.*?\}")
_DELIMITERS = re.compile(r"^(?:\$\$?|\\\[|\\\()|(?:\$\$?|\\\]|\\\))$")
#: Unicode spells it otherwise.
_GREEK: Final = {"lambda": "lamda"}


@dataclass(frozen=True, slots=True)
class Match:
    """Numbers of true blocks and of those that were read for them; either may be empty."""

    truth: tuple[int, ...]
    read: tuple[int, ...]


def text_key(text: str) -> str:
    """Letters, digits and underscores of a text, of formulas in it those that they show."""
    return _NO_LETTER.sub("", _INLINE.sub(lambda found: _COMMAND.sub(_letter, found[1] or found[2]), text))


def _letter(command: re.Match[str]) -> str:
    name = command[1].removeprefix("var")
    size = "CAPITAL" if name[:1].isupper() else "SMALL"
    try:
        return unicodedata.lookup(f"GREEK {size} LETTER {_GREEK.get(name.lower(), name)}")
    except KeyError:
        return ""


def formula_key(latex: str) -> str:
    """A formula without its delimiters, spaces, tags and styles, in small letters."""
    inside = _DELIMITERS.sub("", "".join(latex.split()))
    return _STYLES.sub("", _ARGUMENTS.sub("", inside).strip(".")).lower()


def match(truth: Sequence[str], read: Sequence[str]) -> list[Match]:
    """All true blocks, each in one match, those without any last; blocks that were read for none are left out.

    Both are keys; empty ones are no blocks.
    """
    real = [number for number, key in enumerate(truth) if key]
    seen = [number for number, key in enumerate(read) if key]
    found = _match([truth[number] for number in real], [read[number] for number in seen])
    return [Match(tuple(real[i] for i in one.truth), tuple(seen[i] for i in one.read)) for one in found]


def _match(truth: list[str], read: list[str]) -> list[Match]:
    if not truth or not read:
        return [Match((number,), ()) for number in range(len(truth))]
    runs = _runs(truth, read)
    costs = _costs(truth, [_joined(read, run) for run in runs])
    # By the run that was read: the true blocks it is.
    of_run = {runs[column]: [row] for row, column in assign(costs) if costs[row, column] <= ANY}
    left = [row for row in range(len(truth)) if all(row not in rows for rows in of_run.values())]
    for row in left:
        for number, key in enumerate(read):
            if substring_distance(truth[row], key, WITHIN) < WITHIN:
                run = next(run for run in runs if number in run)
                of_run.setdefault(run, []).append(row)
                break
    matches = [Match(tuple(sorted(rows)), run) for run, rows in of_run.items()]
    done = {row for one in matches for row in one.truth}
    return sorted(matches, key=lambda one: one.truth) + [Match((row,), ()) for row in left if row not in done]


def _costs(truth: Sequence[str], read: Sequence[str]) -> NDArray[np.float64]:
    return np.array([[normalized_distance(one, other) for other in read] for one in truth], np.float64)


def _joined(read: Sequence[str], run: Sequence[int]) -> str:
    return "".join(read[number] for number in run)


def _runs(truth: list[str], read: list[str]) -> list[tuple[int, ...]]:
    """All that was read in order, alone or joined with what follows it (step 2)."""
    costs = _costs(truth, read)
    free = [bool(column.min() >= CLOSE) for column in costs.T]
    claims: list[tuple[float, tuple[int, ...]]] = []
    for key, row in zip(truth, costs, strict=True):
        if row.min() >= CLOSE:
            runs = [_run(key, read, free, start) for start in range(len(read)) if free[start]]
            claims += sorted((normalized_distance(key, _joined(read, run)), run) for run in runs)[:1]
    taken: set[int] = set()
    joined: dict[int, tuple[int, ...]] = {}
    for _, run in sorted(claims):
        if not taken.intersection(run):
            taken.update(run)
            joined[run[0]] = run
    alone = {number: (number,) for number in range(len(read)) if number not in taken}
    return [run for _, run in sorted((joined | alone).items())]


def _run(key: str, read: list[str], free: list[bool], start: int) -> tuple[int, ...]:
    """The blocks from `start` on that are this true one together."""

    def is_piece(number: int) -> bool:
        return substring_distance(read[number], key, PIECE) < PIECE

    run: tuple[int, ...] = (start,)
    text = read[start]
    # A piece that is not in it at all brings no other with it.
    while len(text) <= len(key) and run[-1] + 1 < len(read) and free[run[-1] + 1] and is_piece(run[-1]):
        longer = text + read[run[-1] + 1]
        if not is_piece(run[-1] + 1) or normalized_distance(key, longer) > normalized_distance(key, text):
            break
        run, text = (*run, run[-1] + 1), longer
    return run
