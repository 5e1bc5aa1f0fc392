"""The model's tags, and what holds for the blocks of every text."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING

from deepseek_ocr.raw_blocks import OddityKind

if TYPE_CHECKING:
    from deepseek_ocr.raw_blocks import Grounding

REF, REF_END, DET, DET_END = "<|ref|>", "<|/ref|>", "<|det|>", "<|/det|>"
END = "<｜end▁of▁sentence｜>"  # noqa: RUF001 - as published
TAGS = (REF, REF_END, DET, DET_END, END, "<|grounding|>", "<｜begin▁of▁sentence｜>")  # noqa: RUF001 - as published
#: A tag as it should be.
TEXT = "<|ref|>text<|/ref|><|det|>[[10, 20, 30, 40]]<|/det|>"
K = OddityKind


def check(raw: str, found: Grounding) -> None:
    """What holds for every text: spans are in order, boxes on the page, each letter is somewhere, once, and no tag."""
    blocks = [block.span for block in found.blocks]
    assert blocks == sorted(blocks)
    assert_apart(blocks)
    texts = [span for block in found.blocks for span in block.text_spans]
    kept = sorted([*texts, *(oddity.span for oddity in found.oddities)])
    assert_apart(kept)
    for oddity in found.oddities:
        assert oddity.text == raw[slice(*oddity.span)] != ""
    for block in found.blocks:
        assert block.text == block.text.strip()
        assert block.text.split() == " ".join(raw[slice(*span)] for span in block.text_spans).split() or not block.text
        assert not any(tag in block.text or tag in block.label for tag in TAGS)
        assert all(block.span[0] <= start < end <= block.span[1] for start, end in block.text_spans)
        assert len(block.boxes) == len(block.written)
        assert block.text or block.written
        for left, top, right, bottom in block.boxes:
            assert 0 <= left <= right <= 1
            assert 0 <= top <= bottom <= 1
        # What is neither text nor an oddity is this block's good tag: its label, numbers and brackets.
        tag = without(raw, block.span, kept)
        assert bare(tag) in {"", "".join(block.label.split())}, (tag, block.label)
    # Outside blocks and oddities there is but space, and the token that ends an answer.
    assert bare(without(raw, (0, len(raw)), sorted([*kept, *blocks]))) == ""
    assert accounted(raw, found) == raw.count(REF)


def assert_apart(spans: list[tuple[int, int]]) -> None:
    """No two have a character in common, nor is one empty."""
    assert all(start < end for start, end in spans)
    assert all(before[1] <= after[0] for before, after in pairwise(spans)), spans


def without(raw: str, span: tuple[int, int], spans: list[tuple[int, int]]) -> str:
    """What of a span is in none of the others, which are in order."""
    left, at = [], span[0]
    for start, end in spans:
        if end > at and start < span[1]:
            left.append(raw[at : max(at, start)])
            at = max(at, end)
    left.append(raw[at : span[1]])
    return "".join(left)


def bare(tag: str) -> str:
    """Without tags, the list of boxes, and space."""
    tag = re.sub(r"<\|det\|>[\s\[\],.\d+-]*<\|/det\|>", "", tag, flags=re.ASCII)
    for name in TAGS:
        tag = tag.replace(name, "")
    return "".join(tag.split())


def accounted(raw: str, found: Grounding) -> int:
    """How many `<|ref|>` lie in a block or an oddity."""
    held = [*(block.span for block in found.blocks), *(oddity.span for oddity in found.oddities)]
    places = {at.start() for at in re.finditer(re.escape(REF), raw)}
    return sum(any(start <= place < end for start, end in held) for place in places)
