"""Which caption belongs to which figure, chart or table of its page, and what text stands around those.  Pure.

Residual risk: a caption halfway between two pictures, or one for several, goes to the nearest.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from deepseek_ocr.document import Context

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deepseek_ocr.document import Block

#: What captions stand at.
FLOATS: Final = frozenset({"figure", "chart", "table"})
#: Blocks between a caption and what it belongs to, at most; the order trap (table, caption, table again) has one.
_REACH: Final = 4
#: Between them on the page at most, as a share of its height: captions stand at their figures.
_MAX_GAP: Final = 0.3
#: What a block in between costs, as a share of the page's height, and what a caption costs that is there already.
_STEP, _TAKEN = 0.03, 0.15
#: How much farther than what is nearest a caption may be moved to make room for another; and how many in a row.
_SLACK, _MAX_MOVES = 0.05, 20
#: Characters of the text around a figure, on each side.
CONTEXT_CHARS: Final = 400

_TABLE_WORD = re.compile(r"\W*(?:tab(?:le|elle|leau|la|ela)?\b|таблица|表)", re.IGNORECASE)
_FIGURE_WORD = re.compile(r"\W*(?:fig(?:ure|ura)?\b|abb(?:ildung)?\b|bild\b|chart\b|рис|图|圖|図)", re.IGNORECASE)


def linked(blocks: Sequence[Block]) -> tuple[Block, ...]:
    """The blocks of a page with captions and what they belong to linked by id, and each float with its context."""
    owners = _owners(blocks)
    captions: dict[str, list[str]] = {}
    for caption, owner in owners.items():
        captions.setdefault(blocks[owner].id, []).append(blocks[caption].id)
    linked_blocks = []
    for index, block in enumerate(blocks):
        if block.category in FLOATS:
            change = {"captions": tuple(captions.get(block.id, ())), "context": context(blocks, index)}
        elif index in owners:
            change = {"caption_of": blocks[owners[index]].id}
        else:
            linked_blocks.append(block)
            continue
        linked_blocks.append(block.model_copy(update=change))
    return tuple(linked_blocks)


#: Caption -> what it may belong to, by position, the nearest first, with what that costs.
_Near = dict[int, list[tuple[float, int]]]


def _owners(blocks: Sequence[Block]) -> dict[int, int]:
    """Caption -> what it belongs to, by position."""
    near: _Near = {}
    for caption, block in enumerate(blocks):
        if block.category != "caption":
            continue
        around = range(max(0, caption - _REACH), min(len(blocks), caption + _REACH + 1))
        floats = [index for index in around if blocks[index].category in FLOATS]
        kinds = _kinds(block)
        fitting = [index for index in floats if blocks[index].category in kinds] or floats
        costs = sorted((_cost(blocks, caption, index), index) for index in fitting)
        near[caption] = [(cost, index) for cost, index in costs if cost <= _MAX_GAP]
    owners: dict[int, int] = {}
    taken: dict[int, int] = {}
    firsts = {caption for caption in near if near[caption] and "footnote" not in blocks[caption].label}
    for caption in sorted(firsts, key=near.__getitem__):
        _place(caption, near, owners, taken, set())
    # Footnotes, second captions, and those that have nothing but what is far.
    for caption in near.keys() - owners.keys():
        added = _TAKEN * (caption in firsts)
        costs = [(cost + added * (index in taken), index) for cost, index in near[caption]]
        if costs and min(costs)[0] <= _MAX_GAP:
            owners[caption] = min(costs)[1]
    return dict(sorted(owners.items()))


def _place(caption: int, near: _Near, owners: dict[int, int], taken: dict[int, int], seen: set[int]) -> bool:
    """Whether a caption gets one of the nearest; the caption of that moves on if it may be of another as well.

    Where captions stand above their tables but nearer to the tables before, the nearest pairs alone would leave the
    last table without one.
    """
    for cost, index in near[caption]:
        if cost > near[caption][0][0] + _SLACK or len(seen) >= _MAX_MOVES:
            break
        if index in seen:
            continue
        seen.add(index)
        if index not in taken or _place(taken[index], near, owners, taken, seen):
            owners[caption] = index
            taken[index] = caption
            return True
    return False


def _kinds(caption: Block) -> frozenset[str]:
    """What a caption may belong to, by its label, else by its first word."""
    if "table" in caption.label:
        return frozenset({"table"})
    if "image" in caption.label or "figure" in caption.label or "chart" in caption.label:
        # A table may be labelled as a picture, and its caption with it; the words say what it is.
        return FLOATS if _TABLE_WORD.match(caption.text) else frozenset({"figure", "chart"})
    if _TABLE_WORD.match(caption.text):
        return frozenset({"table"})
    return frozenset({"figure", "chart"}) if _FIGURE_WORD.match(caption.text) else FLOATS


def _cost(blocks: Sequence[Block], caption: int, index: int) -> float:
    """How far a caption is from a block, by the page and by the order; shares of the page's height."""
    steps = abs(caption - index) - 1
    one, other = blocks[caption].relative_box, blocks[index].relative_box
    gap = _gap(one, other) if one and other else _STEP
    return gap + _STEP * steps


def _gap(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> float:
    """The distance between two boxes; 0 where they touch."""
    across = max(one[0] - other[2], other[0] - one[2], 0.0)
    down = max(one[1] - other[3], other[1] - one[3], 0.0)
    return float(across + down)


def context(blocks: Sequence[Block], index: int) -> Context:
    """The text before and after a block, from the nearest block that has running text, on its page."""
    before = next((block.text for block in reversed(blocks[max(0, index - _REACH) : index]) if _is_text(block)), "")
    after = next((block.text for block in blocks[index + 1 : index + 1 + _REACH] if _is_text(block)), "")
    return Context(before=_last_words(before), after=_first_words(after))


def _is_text(block: Block) -> bool:
    return block.category in {"text", "heading"} and bool(block.text.strip())


def _first_words(text: str) -> str:
    if len(text) <= CONTEXT_CHARS:
        return text
    return text[:CONTEXT_CHARS].rsplit(None, 1)[0] + " …"


def _last_words(text: str) -> str:
    if len(text) <= CONTEXT_CHARS:
        return text
    return "… " + text[-CONTEXT_CHARS:].split(None, 1)[-1]
