"""Raw text of the model -> blocks: every malformed tag seen, and real answers where they are at hand.

The real answers lie beside the repository (`../shared/raw_outputs`); without them that test is skipped.  With `-rP` it
prints what the official script's regular expression makes of them, beside ours.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from deepseek_ocr.boxes import SCALE
from deepseek_ocr.grounding import parse
from tests.grounding_checks import DET, DET_END, END, REF, REF_END, TEXT, K, accounted, check

if TYPE_CHECKING:
    from collections.abc import Callable

    from deepseek_ocr.raw_blocks import OddityKind

FOLDER = Path(__file__).parent.parent.parent / "shared" / "raw_outputs"
#: Several answers written into one stdout at once (its README.txt; 0056 reads like them and is kept).
INTERLEAVED = {"0022", "0023", "0024", "0025", "0053", "0054", "0055"}
#: What the script around the model prints before and after an answer.
CAPTURE = re.compile(
    r"\A=+\nBASE:[^\n]*\nPATCHES:[^\n]*\n=+\n|\n=+\nimage size:[^\n]*\n(?:[^\n]*\n){3}=+\n=+save results:=+\s*\Z"
)

BOX = (10.0, 20.0, 30.0, 40.0)


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
