"""A page in two halves and together again: no word is lost, none stands twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek_ocr.completion import PageImage
from deepseek_ocr.document import Block
from deepseek_ocr.halves import MIDDLE, OVERLAP, halves_of, joined, placed
from deepseek_ocr.ink import INKED, TEXT
from deepseek_ocr.view import WHOLE, View

if TYPE_CHECKING:
    from deepseek_ocr.completion import Box


def page(rows: list[tuple[int, int]], *, wide: bool = False, frame: bool = False) -> PageImage:
    """A page with text in these rows of 400, or in these columns of a wide one."""
    grid = np.zeros((400, 280), np.uint8)
    for first, last in rows:
        grid[first:last, 20:260] = TEXT
    if frame:
        grid[:, 5:8] = INKED
    size = (800, 560) if wide else (560, 800)
    return PageImage(0, *size, "px", None, 0.1, ink_grid=grid.T if wide else grid)


def blocks(*texts: str, page_number: int = 3, box: Box | None = (0.0, 0.0, 1.0, 1.0)) -> list[Block]:
    """Blocks as one half gives them."""
    return [
        Block(id=f"p{page_number}b{at}", category="text", label="text", text=text, relative_box=box)
        for at, text in enumerate(texts, 1)
    ]


LINES = [(top, top + 8) for top in range(10, 380, 12)]


@pytest.mark.parametrize("wide", [False, True], ids=["high", "wide"])
@pytest.mark.parametrize("frame", [False, True], ids=["plain", "framed"])
def test_a_page_is_cut_between_lines(wide: bool, frame: bool) -> None:
    """Near the middle, where the gap is widest; a frame around a table is no text."""
    lines = [line for line in LINES if not 210 < line[0] < 240]
    halves = halves_of(page(lines, wide=wide, frame=frame), WHOLE)
    side = 2 if wide else 3
    cut = halves.first.box[side] * 400
    assert 210 < cut < 250
    assert halves.second.box[side - 2] * 400 == cut
    assert not halves.overlap
    assert halves.names == (("left half", "right half") if wide else ("upper half", "lower half"))


@pytest.mark.parametrize("image", [page([(0, 400)]), PageImage(0, 9, 9, "px", None, 0.1)], ids=["full", "unseen"])
def test_halves_overlap_where_there_is_no_gap(image: PageImage) -> None:
    """Both see a strip around the middle."""
    halves = halves_of(image, WHOLE)
    assert halves.overlap
    assert halves.first.box == (0, 0, 1, 0.5 + OVERLAP)
    assert halves.second.box == (0, 0.5 - OVERLAP, 1, 1)


@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_halves_of_a_turned_page_are_its_own(turn: int) -> None:
    """The upper half as it is read may lie at any side of the page; together they are all of it."""
    view = View(turn=turn)  # type: ignore[arg-type]
    halves = halves_of(page(LINES), view)
    assert {halves.first.turn, halves.second.turn} == {turn}
    first, second = halves.first.box, halves.second.box
    corner = {0: (0, 0), 90: (0, 1), 180: (1, 1), 270: (1, 0)}[turn]
    assert first[0] <= corner[0] <= first[2]
    assert first[1] <= corner[1] <= first[3]
    area = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second))
    assert area == pytest.approx(1)
    assert MIDDLE[0] <= (first[2] - first[0]) * (first[3] - first[1]) <= MIDDLE[1]


def test_boxes_come_to_their_place() -> None:
    """A box in the lower half of a page that was read upside down; what has no box keeps none."""
    view = View((0.0, 0.5, 1.0, 1.0), 180)
    one, other = placed([*blocks("a", box=(0.0, 0.0, 0.25, 0.5)), *blocks("b", box=None)], view, 200, 100)
    assert one.relative_box == (0.75, 0.75, 1.0, 1.0)
    assert one.box == (150, 75, 200, 100)
    assert (other.box, other.relative_box) == (None, None)


def test_blocks_are_numbered_on_and_captions_follow() -> None:
    """Ids are those of one page, and links lead where they led."""
    figure = Block(id="p3b1", category="figure", label="image", text="", captions=("p3b2",))
    caption = Block(id="p3b2", category="caption", label="image_caption", text="Fig. 1", caption_of="p3b1")
    both = joined([figure, caption], [figure, caption], overlap=False)
    assert [block.id for block in both] == ["p3b1", "p3b2", "p3b3", "p3b4"]
    assert [(block.captions, block.caption_of) for block in both] == [
        (("p3b2",), None), ((), "p3b1"), (("p3b4",), None), ((), "p3b3"),
    ]  # fmt: skip


#: Name -> texts of both halves, and of the whole.
JOINTS: dict[str, tuple[list[str], list[str], list[str]]] = {
    "a line read twice": (["a b", "c d e f"], ["e f g", "h"], ["a b", "c d e f", "g", "h"]),
    "a block read twice": (["a b", "c d"], ["c d", "e"], ["a b", "c d", "e"]),
    "one word is chance": (["a b"], ["b c"], ["a b", "b c"]),
    "read differently": (["a b c d"], ["c x d e"], ["a b c d", "c x d e"]),
    "in the other column": (["a b c", "x y z"], ["b c d"], ["a b c", "x y z", "d"]),
    "breaks are kept": (["a b c"], ["b c\nd\ne"], ["a b c", "d\ne"]),
    "nothing in one": ([], ["a b"], ["a b"]),
    "nothing in the other": (["a b"], [], ["a b"]),
    "a picture first": (["a b"], ["", "a b c"], ["a b", "", "c"]),
}


@pytest.mark.parametrize(("first", "second", "whole"), JOINTS.values(), ids=JOINTS)
def test_what_both_read_stands_once(first: list[str], second: list[str], whole: list[str]) -> None:
    """Only where both read the same, at the end of a block and the beginning of the second half."""
    assert [block.text for block in joined(blocks(*first), blocks(*second), overlap=True)] == whole


def test_without_an_overlap_nothing_is_taken_away() -> None:
    """Equal lines on both sides of a gap are two lines."""
    assert [block.text for block in joined(blocks("a b"), blocks("a b"), overlap=False)] == ["a b", "a b"]


WORD = st.sampled_from(["a", "b", "c"])


@given(st.lists(WORD, max_size=12), st.integers(0, 12), st.integers(0, 12))
def test_words_are_neither_lost_nor_doubled(words: list[str], one: int, other: int) -> None:
    """Of a text whose halves overlap the joined one has each word, and where the overlap is told no word twice."""
    end, begin = max(one, other), min(one, other)
    both = joined(blocks(" ".join(words[:end])), blocks(" ".join(words[begin:])), overlap=True)
    text = " ".join(block.text for block in both).split()
    assert set(text) == set(words)
    assert len(text) <= len(words[:end]) + len(words[begin:])
    rest = " ".join(text[len(words[:end]) :])
    assert " ".join(words[begin:]).endswith(rest)
