"""Text that no model writes -> blocks: any text at all is accounted for, and hostile text takes linear work."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from deepseek_ocr.grounding import parse
from tests.grounding_checks import DET, DET_END, END, REF, REF_END, TAGS, TEXT, K, check
from tests.growth import check_linear

if TYPE_CHECKING:
    from deepseek_ocr.raw_blocks import RawBlock


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
