"""A page in two halves that overlap where no gap divides it, and what was read of them as one page again.  Pure.

Left to others: when that helps (`recovery.py`).
Residual risks: of two columns the upper halves come before the lower ones; words that both halves read differently in
the strip they share come twice, as none may be lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from deepseek_ocr.ink import TEXT
from deepseek_ocr.view import View

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deepseek_ocr.completion import PageImage
    from deepseek_ocr.document import Block

#: How many times as wide as high a page must be to be cut from top to bottom: spreads and wide tables.
WIDE: Final = 1.2
#: Where a gap is looked for, as shares of the side that is cut.
MIDDLE: Final = (0.35, 0.65)
#: Ink that a row of the grid may have and still be a gap, as a share of it: the frames of a table cross it.
GAP_INK: Final = 0.05
#: What both halves see on either side of a cut without a gap, as a share of the side: two lines of an A4 page.
OVERLAP: Final = 0.03
#: Words at least that count as the same stretch read twice; fewer are chance.
SAME_WORDS: Final = 2


@dataclass(frozen=True, slots=True)
class Halves:
    """The two views, and what of them they share."""

    first: View
    second: View
    #: As people call them.
    names: tuple[str, str]
    #: Whether they see the same strip.
    overlap: bool


def halves_of(image: PageImage, turn: View) -> Halves:
    """The halves of a page as it is seen in `turn`, whose image this is."""
    wide = image.width > WIDE * image.height
    at, gap = _cut(image, across=wide)
    reach = 0.0 if gap else OVERLAP
    low, high = min(1.0, at + reach), max(0.0, at - reach)
    first, second = ((0.0, 0.0, 1.0, low), (0.0, high, 1.0, 1.0))
    if wide:
        first, second = ((0.0, 0.0, low, 1.0), (high, 0.0, 1.0, 1.0))
    return Halves(
        View(turn.on_page(first), turn.turn),
        View(turn.on_page(second), turn.turn),
        ("left half", "right half") if wide else ("upper half", "lower half"),
        overlap=not gap,
    )


def _cut(image: PageImage, *, across: bool) -> tuple[float, bool]:
    """Where to cut, as a share of the side, and whether there is a gap."""
    if image.ink_grid is None:
        return 0.5, False
    grid = image.ink_grid.T if across else image.ink_grid
    rows = len(grid)
    first, last = (int(share * rows) for share in MIDDLE)
    if last - first < 1:
        return 0.5, False
    text = (grid[first:last] == TEXT).any(axis=1)
    ink = (grid[first:last] > 0).mean(axis=1)
    gaps = np.flatnonzero(~text & (ink <= GAP_INK))
    if not len(gaps):
        return 0.5, False
    # The widest gap; of equal ones that nearest to the middle.
    runs = np.split(gaps, np.flatnonzero(np.diff(gaps) > 1) + 1)
    best = max(runs, key=lambda run: (len(run), -abs(first + run.mean() - rows / 2)))
    return float((first + best.mean() + 0.5) / rows), True


def placed(blocks: Sequence[Block], view: View, width: float, height: float) -> list[Block]:
    """Blocks of a view with their boxes on the page, whose size this is in its unit."""
    if view == View():
        return list(blocks)
    moved = []
    for block in blocks:
        if block.relative_box is not None:
            left, top, right, bottom = (min(1.0, max(0.0, round(side, 4))) for side in view.on_page(block.relative_box))
            box = (round(left * width, 2), round(top * height, 2), round(right * width, 2), round(bottom * height, 2))
            moved.append(block.model_copy(update={"box": box, "relative_box": (left, top, right, bottom)}))
        else:
            moved.append(block)
    return moved


def joined(first: Sequence[Block], second: Sequence[Block], *, overlap: bool) -> tuple[Block, ...]:
    """The blocks of both halves, numbered on; what both read in the strip they share stands once."""
    rest = _without_repeats(first, second) if overlap else list(second)
    kept = [*first, *rest]
    # Ids count on from the first half; captions follow.
    names = [{block.id: f"{_stem(block.id)}{number}" for number, block in enumerate(first, 1)}]
    names.append({block.id: f"{_stem(block.id)}{number}" for number, block in enumerate(rest, len(first) + 1)})
    numbered = []
    for number, block in enumerate(kept):
        ids = names[number >= len(first)]
        update = {
            "id": ids[block.id],
            "caption_of": ids.get(block.caption_of or ""),
            "captions": tuple(ids[caption] for caption in block.captions if caption in ids),
        }
        numbered.append(block.model_copy(update=update))
    return tuple(numbered)


def _stem(block_id: str) -> str:
    """`p7b` of `p7b12`."""
    return block_id[: block_id.rfind("b") + 1]


def _without_repeats(first: Sequence[Block], second: Sequence[Block]) -> list[Block]:
    """The second half without the words with which it begins and a block of the first ends.

    Words are dropped only from the first block with text and only where they are the same, so none is lost.
    """
    begun = next((number for number, block in enumerate(second) if block.text.strip()), None)
    if begun is None or second[begun].category == "table":
        return list(second)
    block = second[begun]
    words = block.text.split()
    borders = _borders(words)
    same = max((_same(other.text.split()[-len(words) :], words, borders) for other in first), default=0)
    if same < SAME_WORDS:
        return list(second)
    rest = block.model_copy(update={"text": _after_words(block.text, same)})
    return [*second[:begun], *([rest] if rest.text else []), *second[begun + 1 :]]


def _same(ends: Sequence[str], begins: Sequence[str], borders: Sequence[int]) -> int:
    """How many words at the beginning of one text are those at the end of another; the most there are.

    The search of Knuth, Morris and Pratt, run to the end of the other text: linear in it.
    """
    length = 0
    for word in ends:
        while length and (length == len(begins) or word != begins[length]):
            length = borders[length - 1]
        length += word == begins[length]
    return length


def _borders(words: Sequence[str]) -> list[int]:
    """For each beginning of the words how many of its first ones are its last ones too; their failure function."""
    borders = [0] * len(words)
    length = 0
    for at in range(1, len(words)):
        while length and words[at] != words[length]:
            length = borders[length - 1]
        length += words[at] == words[length]
        borders[at] = length
    return borders


def _after_words(text: str, count: int) -> str:
    """The text behind its first words."""
    parts = text.split(maxsplit=count)
    return parts[count] if len(parts) > count else ""
