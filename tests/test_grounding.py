"""Raw text of the model -> blocks: every malformed tag seen, any text at all, and real answers where they are at hand.

The real answers lie beside the repository (`../shared/raw_outputs`); without them that test is skipped.  With `-rP` it
prints what the official script's regular expression makes of them, beside ours.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from deepseek_ocr.boxes import SCALE
from deepseek_ocr.grounding import parse
from deepseek_ocr.raw_blocks import Grounding, OddityKind, RawBlock
from tests.growth import check_linear

if TYPE_CHECKING:
    from collections.abc import Callable

FOLDER = Path(__file__).parent.parent.parent / "shared" / "raw_outputs"
#: Several answers written into one stdout at once (its README.txt; 0056 reads like them and is kept).
INTERLEAVED = {"0022", "0023", "0024", "0025", "0053", "0054", "0055"}
#: What the script around the model prints before and after an answer.
CAPTURE = re.compile(
    r"\A=+\nBASE:[^\n]*\nPATCHES:[^\n]*\n=+\n|\n=+\nimage size:[^\n]*\n(?:[^\n]*\n){3}=+\n=+save results:=+\s*\Z"
)

REF, REF_END, DET, DET_END = "<|ref|>", "<|/ref|>", "<|det|>", "<|/det|>"
END = "<｜end▁of▁sentence｜>"  # noqa: RUF001 - as published
TAGS = (REF, REF_END, DET, DET_END, END, "<|grounding|>", "<｜begin▁of▁sentence｜>")  # noqa: RUF001 - as published
BOX = (10.0, 20.0, 30.0, 40.0)
#: A tag as it should be.
TEXT = "<|ref|>text<|/ref|><|det|>[[10, 20, 30, 40]]<|/det|>"
K = OddityKind


@dataclass(frozen=True, slots=True)
class Row:
    """A raw text and what must come of it."""

    raw: str
    #: Label, text, boxes as written.
    blocks: list[tuple[str, str, list[tuple[float, ...]]]]
    kinds: tuple[OddityKind, ...] = ()
    text_in_ref: bool = False


def plain(text: str) -> tuple[str, str, list[tuple[float, ...]]]:
    """A block of label "text" with the usual box."""
    return "text", text, [BOX]


SAMPLES: dict[str, Row] = {
    # As it should be
    "nothing": Row("", []),
    "only space": Row(" \n\n ", []),
    "a block": Row(f"{TEXT}\nA line.  \n\n", [plain("A line.")]),
    "two blocks": Row(f"{TEXT}\nOne.\nTwo.\n\n{TEXT}\nThree.\n", [plain("One.\nTwo."), plain("Three.")]),
    "a figure without text": Row(f"{TEXT.replace('text', 'image')}\n\n{TEXT}\nA", [("image", "", [BOX]), plain("A")]),
    "text on the tag's line": Row(f"{TEXT}Same line", [plain("Same line")]),
    "an unknown label": Row(f"{TEXT.replace('text', 'seal of X 1')}\nA", [("seal of X 1", "A", [BOX])]),
    "a label of the second model": Row(f"{TEXT.replace('text', 'figure_title')}\nA", [("figure_title", "A", [BOX])]),
    "no label": Row(f"{TEXT.replace('text', '')}\nA", [("", "A", [BOX])]),
    "single brackets": Row(f"{TEXT.replace('[[', '[').replace(']]', ']')}A", [plain("A")]),
    "several boxes": Row(
        "<|ref|>a cup<|/ref|><|det|>[[1, 2, 3, 4], [5, 6, 7, 8]]<|/det|>",
        [("a cup", "", [(1, 2, 3, 4), (5, 6, 7, 8)])],
    ),
    "spaces around": Row("<|ref|> text <|/ref|> <|det|> [[10,20,30,40]] <|/det|>\nA", [plain("A")]),
    "a fraction": Row(f"{TEXT.replace('30', '30.5')}\nA", [("text", "A", [(10, 20, 30.5, 40)])]),
    "a token that is cut off": Row(f"{TEXT}\nA\n<|re", [plain("A")], (K.STRAY_TAG,)),
    "an end token that is cut off": Row(f"{TEXT}\nA<｜end▁of", [plain("A")], (K.STRAY_TAG,)),  # noqa: RUF001
    "a sign at the end": Row(f"{TEXT}\nA <", [plain("A <")]),
    "the end token": Row(f"{TEXT}\nA{END}\n", [plain("A")]),
    "brackets in the text": Row(f"{TEXT}\nx[[1, 2, 3, 4]] and [5]", [plain("x[[1, 2, 3, 4]] and [5]")]),
    "no tag at all": Row("# One\n\n| a | b |\n", [("", "# One\n\n| a | b |", [])]),
    "text before the first tag": Row(f"Tail of it\n\n{TEXT}\nA", [("", "Tail of it", []), plain("A")]),
    # Around the answer
    "a foreign prefix": Row(f"<markdown>{TEXT}\nA", [plain("A")], (K.WRAPPER,)),
    "wrapped": Row(f"<markdown>\n{TEXT}\nA\n</markdown>\n", [plain("A")], (K.WRAPPER, K.WRAPPER)),
    "what infer() prints": Row(
        f"{'=' * 21}\nBASE:  torch.Size([1, 256, 1280])\nNO PATCHES\n{'=' * 21}\n{TEXT}\nA\n{'=' * 50}\n"
        f"image size:  (626, 626)\nvalid image tokens:  256\n{'=' * 50}\n===============save results:===============\n",
        [plain("A")],
        (K.WRAPPER, K.WRAPPER),
    ),
    "an end without a prefix": Row(f"{TEXT}\nA </markdown>", [plain("A </markdown>")]),
    # Labels
    "ref not closed": Row("<|ref|>text\nA sum\n", [("text", "A sum", [])], (K.REF_UNCLOSED,)),
    "ref not closed, box there": Row(f"{TEXT.replace(REF_END, '')}\nA", [plain("A")], (K.REF_UNCLOSED,)),
    "ref and det lost": Row("<|ref|>text[[10, 20, 30, 40]]<|/det|>\nA", [plain("A")], (K.REF_UNCLOSED,)),
    "ref not closed, at the end": Row("<|ref|>text", [], (K.REF_UNCLOSED,)),
    "ref not closed, table cells": Row("<|ref|>text</td></tr>", [("text", "</td></tr>", [])], (K.REF_UNCLOSED,)),
    "ref not closed, text": Row("<|ref|>It is a sum.", [("", "It is a sum.", [])], (K.REF_UNCLOSED,)),
    "ref in a ref": Row(f"<|ref|>table{TEXT}\nA", [plain("A")], (K.REF_UNCLOSED,)),
    "ref twice": Row(f"<|ref|>{TEXT}\nA", [plain("A")], (K.REF_UNCLOSED,)),
    "closed twice, a word between": Row(
        f"{TEXT.replace(REF_END, REF_END + 'mot' + REF_END)}\nA", [plain("A")], (K.JUNK,)
    ),
    "a word before the box": Row(f"{TEXT.replace(DET, 'mot' + DET)}\nA", [plain("A")], (K.JUNK,)),
    "a sentence for a label": Row(
        f"<|ref|>{'A long sentence. ' * 4}<|/ref|><|det|>[[10, 20, 30, 40]]<|/det|>",
        [("", ("A long sentence. " * 4).strip(), [BOX])],
        (K.LONG_LABEL,),
    ),
    "lines for a label, and text": Row(
        "<|ref|>A\nB<|/ref|><|det|>[[10, 20, 30, 40]]<|/det|>C", [("", "A\nB", [BOX]), ("", "C", [])], (K.LONG_LABEL,)
    ),
    # Boxes
    "no comma": Row(f"{TEXT.replace('10,', '10')}\nA", [plain("A")], (K.NOTATION,)),
    "two commas": Row(f"{TEXT.replace('10,', '10,,')}\nA", [plain("A")], (K.NOTATION,)),
    "a bracket less": Row(f"{TEXT.replace('[[', '[')}\nA", [plain("A")], (K.NOTATION,)),
    "no brackets": Row(f"{TEXT.replace('[[', '').replace(']]', '')}\nA", [plain("A")], (K.NOTATION,)),
    "a word among the numbers": Row(f"{TEXT.replace('20', 'mot 20')}\nA", [plain("A")], (K.JUNK,)),
    "a quote among the numbers": Row(f"{TEXT.replace('20', '“ 20')}\nA", [plain("A")], (K.JUNK,)),
    "a false start": Row(f"{TEXT.replace(DET, DET + '[J]' + REF_END + DET)}\nA", [plain("A")], (K.JUNK,)),
    "three numbers": Row(f"{TEXT.replace('10, ', '')}\nA", [("text", "A", [])], (K.NOT_A_BOX,)),
    "five numbers": Row(f"{TEXT.replace('10, ', '10, 5, ')}\nA", [("text", "A", [])], (K.NOT_A_BOX,)),
    "one number": Row("<|ref|>text<|/ref|><|det|>[[47,]]<|/det|>", [], (K.NOT_A_BOX,)),
    "a huge number": Row(f"{TEXT.replace('10', '1' * 5000)}\nA", [("text", "A", [])], (K.NOT_A_BOX,)),
    "empty brackets": Row("<|ref|>text<|/ref|><|det|>[[]]<|/det|>A", [("text", "A", [])], (K.NOT_A_BOX,)),
    "one of two boxes": Row(
        "<|ref|>text<|/ref|><|det|>[[1, 2, 3], [10, 20, 30, 40]]<|/det|>A", [plain("A")], (K.NOT_A_BOX,)
    ),
    # det
    "det not closed": Row(f"{TEXT.replace(DET_END, '')}\nA", [plain("A")], (K.DET_UNCLOSED,)),
    "det not closed, at the end": Row(TEXT.replace(DET_END, ""), [plain("")], (K.DET_UNCLOSED,)),
    "det not closed, two boxes": Row(
        "<|ref|>a cup<|/ref|><|det|>[[1, 2, 3, 4], [5, 6, 7, 8]]",
        [("a cup", "", [(1, 2, 3, 4), (5, 6, 7, 8)])],
        (K.DET_UNCLOSED,),
    ),
    "det not closed, a number follows": Row(f"{TEXT.replace(DET_END, '')}\n5. A", [plain("5. A")], (K.DET_UNCLOSED,)),
    "cut off in a number": Row("<|ref|>text<|/ref|><|det|>[[10, 2", [], (K.DET_UNCLOSED,)),
    "cut off, and a new block": Row(f"<|ref|>text<|/ref|><|det|>[[10, {TEXT}\nA", [plain("A")], (K.DET_UNCLOSED,)),
    "a text in the box": Row(
        r"<|ref|>text<|/ref|><|det|>[[10, \frac{1}{2} = x", [("text", r"\frac{1}{2} = x", [])], (K.DET_UNCLOSED,)
    ),
    "a text in the box, closed later": Row(
        f"<|ref|>text<|/ref|><|det|>[[10, {'word ' * 20}\n30]]<|/det|>\nA",
        [("text", f"{'word ' * 20}\n\nA", [])],
        (K.DET_UNCLOSED, K.STRAY_TAG),
    ),
    "a formula for a box": Row(r"<|ref|>text<|/ref|><|det|>\[x\]", [("text", r"\[x\]", [])], (K.DET_UNCLOSED,)),
    "a word for a box": Row('<|ref|>text<|/ref|><|det|>["q"]\\(x\\)', [("text", r"\(x\)", [])], (K.DET_UNCLOSED,)),
    "no det": Row("<|ref|>text<|/ref|>mot 17\n", [("text", "mot 17", [])], (K.DET_MISSING,)),
    "no det, nothing": Row(f"<|ref|>text<|/ref|>\n{TEXT}\nA", [plain("A")], (K.DET_MISSING,)),
    "no det, a box": Row("<|ref|>text<|/ref|>[[10, 20, 30, 40]]\nA", [plain("A")], (K.DET_UNOPENED,)),
    "det not opened": Row(f"{TEXT.replace(DET, '')}\nA", [plain("A")], (K.DET_UNOPENED,)),
    "det not opened, no box": Row("<|ref|>text<|/ref|><|/det|>\nA", [("text", "A", [])], (K.DET_UNOPENED,)),
    "no ref": Row("<|det|>[[10, 20, 30, 40]]<|/det|>\nA", [("", "A", [BOX])], (K.REF_MISSING,)),
    "no ref, in a text": Row(
        f"{TEXT}\nA\n<|det|>[[1, 2, 3, 4]]<|/det|>B", [plain("A"), ("", "B", [(1, 2, 3, 4)])], (K.REF_MISSING,)
    ),
    "a tag amid text": Row(f"{TEXT}\nA<|/ref|>B", [plain("A B")], (K.STRAY_TAG,)),
    "the end of a box amid text": Row(f"{TEXT}\nA713]]<|/det|>\nB", [plain("A\nB")], (K.STRAY_TAG,)),
    "the end of a box at first": Row(f"4, 780]]<|/det|>\nA\n{TEXT}", [("", "A", []), plain("")], (K.STRAY_TAG,)),
    "the end token amid text": Row(f"A{END}B", [("", "A B", [])], (K.STRAY_TAG,)),
    "what cutting out a tag would make": Row("<|re<|/det|>f|>A", [("", "<|re f|>A", [])], (K.STRAY_TAG,)),
    # Special tokens lost
    "tags lost": Row(
        "title[[10, 20, 30, 40]]\n# A\n\ntext[[1, 2, 3, 4]]\nB [1]",
        [("title", "# A", [BOX]), ("text", "B [1]", [(1, 2, 3, 4)])],
        (K.TAGS_LOST, K.TAGS_LOST),
    ),
    "tags lost, wrapped": Row("<markdown>\ntext[[10, 20, 30, 40]]\nA", [plain("A")], (K.WRAPPER, K.TAGS_LOST)),
    "the like in a plain text": Row("See:\ntext[[1, 2, 3, 4]]", [("", "See:\ntext[[1, 2, 3, 4]]", [])]),
    "tags lost, text in the ref": Row(
        "Part 1[[10, 20, 30, 40]]\nPart [2][[1, 2, 3, 4]]",
        [("", "Part 1", [BOX]), ("", "Part [2]", [(1, 2, 3, 4)])],
        (K.TAGS_LOST, K.TAGS_LOST),
        text_in_ref=True,
    ),
    # Text in the ref
    "text in the ref": Row(
        f"{TEXT.replace('text', 'Part 1')}\n{TEXT.replace('text', 'sum')}",
        [("", "Part 1", [BOX]), ("", "sum", [BOX])],
        text_in_ref=True,
    ),
    "text in the ref, lines": Row(f"{TEXT.replace('text', f'A{chr(10)}B')}", [("", "A\nB", [BOX])], text_in_ref=True),
    "text in the ref and behind": Row(
        f"{TEXT.replace('text', 'Part 1')}\nA", [("", "Part 1", [BOX]), ("", "A", [])], text_in_ref=True
    ),
    "asked for text in the ref, a label came": Row(f"{TEXT}\nA", [plain("A")], text_in_ref=True),
    "text in the ref, not closed": Row("<|ref|>sum", [("", "sum", [])], (K.REF_UNCLOSED,), text_in_ref=True),
    "text in the ref, not closed, box there": Row(
        f"<|ref|>{'a sum, ' * 9}<|det|>[[10, 20, 30, 40]]<|/det|>",
        [("", ("a sum, " * 9).strip(), [BOX])],
        (K.REF_UNCLOSED,),
        text_in_ref=True,
    ),
    "text in the ref, no box": Row(
        "<|ref|>Part 1<|/ref|><|det|>[[1]]<|/det|>", [("", "Part 1", [])], (K.NOT_A_BOX,), text_in_ref=True
    ),
}


@pytest.mark.parametrize("row", SAMPLES.values(), ids=SAMPLES)
def test_samples(row: Row) -> None:
    """Each kind of tag, good or malformed, gives its block, and what is odd about it is kept and said."""
    found = parse(row.raw, text_in_ref=row.text_in_ref)
    assert [(block.label, block.text, [*block.written]) for block in found.blocks] == row.blocks
    assert tuple(oddity.kind for oddity in found.oddities) == row.kinds
    check(row.raw, found)


#: The four numbers -> the box in fractions of 999, clamped, degenerate.
PLACES: dict[str, tuple[str, tuple[float, ...], bool, bool]] = {
    "whole page": ("0, 0, 999, 999", (0, 0, 999, 999), False, False),
    "over the edge": ("0, 10, 999, 1503", (0, 10, 999, 999), True, False),
    "negative": ("-1, 10, 30, 40", (0, 10, 30, 40), True, False),
    "outside": ("1000, 10, 1100, 40", (999, 10, 999, 40), True, True),
    "no height": ("0, 0, 997, 0", (0, 0, 997, 0), False, True),
    "no width": ("5, 0, 5, 9", (5, 0, 5, 9), False, True),
    "upside down": ("10, 40, 30, 20", (10, 20, 30, 40), False, True),
    "with fractions": ("10.5, 20., 30, .5", (10.5, 0.5, 30, 20), False, True),
    "enormous": ("2, 311, 99999, 98", (2, 98, 999, 311), True, True),
}


@pytest.mark.parametrize(("numbers", "box", "clamped", "degenerate"), PLACES.values(), ids=PLACES)
def test_places(numbers: str, box: tuple[float, ...], clamped: bool, degenerate: bool) -> None:
    """Numbers become fractions of the page, in order and within it; the numbers stay, and what was done is said."""
    (block,) = parse(f"<|ref|>text<|/ref|><|det|>[[{numbers}]]<|/det|>").blocks
    assert block.boxes == (tuple(value / SCALE for value in box),)
    assert block.written == (tuple(map(float, numbers.split(", "))),)
    assert (block.clamped, block.degenerate, block.recovered) == (clamped, degenerate, False)


# Any text

WORDS = [
    "text",
    "table",
    "a line.",
    "\n",
    " ",
    "",
    "x",
    "é",
    "<",
    "|>",
    "</td>",
    "<markdown>",
    "</markdown>",
    "\0",
    "\ud800",
]
MARKS = [
    "[",
    "]",
    "[[",
    "]]",
    ",",
    ", ",
    "(",
    ")",
    "-",
    ".",
    "0",
    "7",
    "12",
    "999",
    "1005",
    "-1",
    "5.5",
    "[[1, 2, 3, 4]]",
]
PARTS = st.one_of(
    st.sampled_from([*TAGS, *WORDS, *MARKS]),
    st.sampled_from([TEXT, f"\n{TEXT}\n", "title[[1, 2, 3, 4]]", "\ntext[[1,2,3,4],[5,6,7,8]]", "1 2 3 4"]),
)
RAW = st.one_of(st.text(), st.lists(PARTS, max_size=40).map("".join))
ARABIC = "<|det|>[[\u0661, 2, 3, 4]]<|/det|>"


@settings(max_examples=400)
@given(RAW, st.booleans())
@example("<|re<|/det|>f|>", False)
@example(ARABIC, False)
@example("<markdown></markdown>", False)
def test_any_text(raw: str, text_in_ref: bool) -> None:
    """Nothing raises, nothing is lost, and all that is promised of blocks holds, whatever the model wrote."""
    check(raw, parse(raw, text_in_ref=text_in_ref))


@settings(max_examples=200)
@given(RAW)
def test_reads_its_own_blocks(raw: str) -> None:
    """Blocks written as the grammar says are read as the same blocks, without an oddity."""
    blocks = [block for block in parse(raw).blocks if block.written]
    again = parse("\n\n".join(canonical(block) for block in blocks))
    assert again.oddities == ()
    for read, block in zip(again.blocks, blocks, strict=True):
        assert (read.text, read.written, read.boxes) == (block.text, block.written, block.boxes)
        assert read.label == block.label


def canonical(block: RawBlock) -> str:
    """A block as the model should have written it."""
    boxes = ", ".join(str([*box]) for box in block.written)
    return f"<|ref|>{block.label}<|/ref|><|det|>[{boxes}]<|/det|>\n{block.text}"


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


# Time

#: Repeated, each is a text that no model writes: tags without ends, ends without tags, boxes without number.
HOSTILE = {
    "only refs": REF, "only dets": DET, "only ends": DET_END, "only brackets": "[[", "half tags": "<|ref|",
    "refs without an end": f"{REF}text\n", "refs and a letter": f"{REF}x",
    "dets without an end": f"{REF}text{REF_END}{DET}", "dets with brackets": f"{DET}[[", "dets and a line": f"{DET}\n",
    "dets and spaces": f"{DET} ", "strays": f"a{DET_END}", "strays in blocks": f"{REF}x{REF_END}a{DET_END}b{REF_END}c",
    "ends of boxes": f"1]{DET_END}", "end tokens": f"a{END}", "good tags": f"{TEXT}\n",
    "no refs": f"{DET}[3,3,2,2222]{DET_END}", "boxes without an end": f"{DET}[1,1,2,2]", "no dets": f"{REF}x[1,1,2,2]x",
    "junk": f"{REF}x{REF_END}y{DET}z[1,1,2,2]{DET_END}w", "false starts": f"{DET}[J]{REF_END}",
    "nested": f"{REF}{REF}x{REF_END}{REF_END}", "long labels": f"{REF}{'a b ' * 11}{REF_END}{DET}[1,1,2,2]{DET_END}x",
    "lines for labels": f"{REF}a\nb{REF_END}c", "formulas": f"{REF}x{REF_END}{DET}\\[x\\]{DET_END}",
    "loose boxes": f"{DET}[1 1 1 1]{DET_END}", "bad boxes": f"{DET}1,1,x,1,1{DET_END}x", "open boxes": "[[1,1,1,1],",
    "tags lost": "a[1,1,2,2]\n", "tags lost, text": "a b[1,1,2,2]x\n",
    "Unlimited-OCR": f"{DET}text [1, 2, 3, 4]{DET_END}a",
    "numbers": "1, ", "digits": "1", "letters": "a", "lines of a letter": "a\n", "spaces": " ", "empty lines": " \n",
    "many bad boxes": f"{REF}text{REF_END}{DET}{'[1 1 1 1]' * 2000}{DET_END}",
    "many good boxes": f"{REF}text{REF_END}{DET}[{', '.join(['[1, 1, 1, 1]'] * 1400)}]{DET_END}",
}  # fmt: skip
OPENINGS = ["", DET, f"{REF}text{REF_END}{DET}[[1, 2, ", "title[[1, 2, 3, 4]]\nx", "a[", "<markdown>"]
MEGABYTE = 1_000_000


@pytest.mark.parametrize("unit", HOSTILE.values(), ids=HOSTILE)
def test_hostile_text_takes_linear_work(unit: str) -> None:
    """Four times as much of anything takes four times the calls, whatever stands before it."""
    for opening in OPENINGS:
        for text_in_ref in (False, True):
            read = partial(parse, text_in_ref=text_in_ref)
            check_linear(read, *(opening + unit * (size // len(unit) + 1) for size in (5_000, 20_000)))


@pytest.mark.parametrize("unit", HOSTILE.values(), ids=HOSTILE)
def test_hostile_megabyte(unit: str) -> None:
    """A megabyte of anything, a hundred times what a model can write, is read in a moment and accounted for."""
    raw = unit * (MEGABYTE // len(unit))
    found = parse(raw)
    kept = [*(block.span for block in found.blocks), *(oddity.span for oddity in found.oddities)]
    assert not raw.strip() or max(end for _, end in kept) >= len(raw.rstrip())
    parse(f"{REF}text{REF_END}{DET}[[1, 2, {raw}", text_in_ref=True)


@pytest.mark.parametrize("tags", [(REF, REF_END), (DET, DET_END)], ids=["refs", "dets"])
def test_deep_nesting(tags: tuple[str, str]) -> None:
    """As many opening tags closed by as many closing ones are no recursion, nor a search for the ends."""
    check_linear(parse, *("".join(tag * number for tag in tags) for number in (1000, 4000)))
    assert parse("".join(tag * (MEGABYTE // 16) for tag in tags)).oddities


@pytest.mark.parametrize("unit", [f"{REF}x\n", f"{DET}[1 1 1 1]{DET_END}", f"a{DET_END}", "a[1,1,2,2]\n"])
def test_what_no_answer_holds_is_one_oddity(unit: str) -> None:
    """After more heads or oddities than an answer can have, the rest is kept as one oddity, unread."""
    raw = unit * 60_000
    found = parse(raw)
    last = found.oddities[-1]
    assert last.kind is K.ENDLESS
    assert last.span[1] == len(raw)
    assert [oddity.kind for oddity in found.oddities].count(K.ENDLESS) == 1
    assert len(found.blocks) <= len(found.oddities) <= 10_002


def test_a_megabyte_of_blocks_is_no_oddity() -> None:
    """However long a text is, it is read to its end where its blocks are as they should be."""
    raw = f"{TEXT}\n" * (MEGABYTE // len(TEXT))
    found = parse(raw)
    assert found.oddities == ()
    assert len(found.blocks) == raw.count(REF)


# Real answers


@pytest.mark.skipif(
    not FOLDER.is_dir(), reason="there are no raw outputs beside the repository (../shared/raw_outputs)"
)
def test_real_answers(record_property: Callable[[str, object], None]) -> None:
    """Every `<|ref|>` of the real answers is accounted for and no text is lost; `-rP` prints how others do."""
    totals = dict.fromkeys(("files", "refs", "accounted", "blocks", "with a box", "oddities"), 0)
    official = dict.fromkeys(("elements", "with boxes", "files with fewer elements than refs", "labels with tags"), 0)
    for path in sorted(FOLDER.glob("[0-9]*.txt")):
        if path.stem in INTERLEAVED:
            continue
        raw = CAPTURE.sub("", path.read_bytes().decode())
        found = parse(raw)
        check(raw, found)
        totals["files"] += 1
        totals["refs"] += raw.count(REF)
        totals["accounted"] += accounted(raw, found)
        totals["blocks"] += len(found.blocks)
        totals["with a box"] += sum(bool(block.boxes) for block in found.blocks)
        totals["oddities"] += len(found.oddities)
        elements = re.findall(r"(<\|ref\|>(.*?)<\|/ref\|><\|det\|>(.*?)<\|/det\|>)", raw, re.DOTALL)
        official["elements"] += len(elements)
        official["with boxes"] += sum(is_list_of_boxes(boxes) for _, _, boxes in elements)
        official["files with fewer elements than refs"] += len(elements) < raw.count(REF)
        official["labels with tags"] += sum("<|" in label for _, label, _ in elements)
    for name, figures in (("ours", totals), ("official", official)):
        record_property(name, figures)
        print(f"{name}: " + ", ".join(f"{value} {key}" for key, value in figures.items()))  # noqa: T201 - the report
    assert totals["refs"] == totals["accounted"] > 0
    assert totals["with a box"] > official["with boxes"]


def is_list_of_boxes(written: str) -> bool:
    """What the official script would evaluate to boxes."""
    try:
        boxes = ast.literal_eval(written.strip())
    except (SyntaxError, ValueError):
        return False
    return all(isinstance(box, list) and len(box) == 4 for box in boxes)
