"""Lines -> regions in reading order."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepseek_ocr.layout import Line, regions_from_lines

#: An A4 page in points; lines below are written in points from the top left.
WIDTH, HEIGHT = 595.0, 842.0
ASPECT = WIDTH / HEIGHT
SIZE = 10.0
PITCH = 12.0
#: Full lines of the two columns and of the whole page end here.
LEFT, LEFT_END, RIGHT, RIGHT_END = 50.0, 285.0, 310.0, 545.0


def line(text: str, x: float, y: float, *, to: float | None = None, size: float = SIZE, bold: bool = False) -> Line:
    """A line whose letters begin at x and y and are half as wide as high, unless it is justified `to` the right."""
    right = to if to is not None else x + len(text) * size / 2
    return Line(text, (x / WIDTH, y / HEIGHT, right / WIDTH, (y + size) / HEIGHT), size=size / HEIGHT, bold=bold)


def column(words: list[str], x: float, y: float, *, to: float, pitch: float = PITCH) -> list[Line]:
    """Full lines under each other."""
    return [line(text, x, y + index * pitch, to=to) for index, text in enumerate(words)]


def prose(name: str, count: int) -> list[str]:
    """Lines of running text that can be told apart."""
    return [f"{name} goes on in number {index} and on" for index in range(count)]


def boxes_only(lines: list[Line]) -> list[Line]:
    """The same as a recognizer gives it, which knows no font sizes."""
    return [Line(each.text, each.box, confidence=0.9) for each in lines]


def read(lines: list[Line]) -> list[tuple[str, str]]:
    """Label and text of each region."""
    return [(region.label, region.text) for region in regions_from_lines(lines, aspect=ASPECT)]


def texts(lines: list[Line]) -> list[str]:
    """Text of each region."""
    return [text for _, text in read(lines)]


A, B, C, D = (prose(name, 5) for name in ("alpha", "beta", "gamma", "delta"))
TITLE = line("A Survey of Harbours", 180, 40, size=20)
CAPTION = line("Figure 1: the caption goes over the full width of both columns of this page", 60, 300, to=540)


@pytest.mark.parametrize("known_sizes", [True, False], ids=["sizes", "boxes"])
@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (column(A, LEFT, 100, to=RIGHT_END), [" ".join(A)]),
        (
            column(A, LEFT, 100, to=RIGHT_END) + column(B, LEFT, 172, to=RIGHT_END),
            [" ".join(A), " ".join(B)],
        ),
        (
            [
                *column(A[:4], LEFT, 100, to=RIGHT_END),
                line("short end.", LEFT, 148),
                *column(B, LEFT, 160, to=RIGHT_END),
            ],
            [" ".join(A[:4]) + " short end.", " ".join(B)],
        ),
        (
            [
                line(B[0], LEFT + 20, 160, to=RIGHT_END),
                *column(B[1:], LEFT, 172, to=RIGHT_END),
                *column(A, LEFT, 100, to=RIGHT_END),
            ],
            [" ".join(A), " ".join(B)],
        ),
        (
            column(A, RIGHT, 100, to=RIGHT_END) + column(B, LEFT, 100, to=LEFT_END),
            [" ".join(B), " ".join(A)],
        ),
        (
            column(A, RIGHT, 104, to=RIGHT_END) + column(B, LEFT, 100, to=LEFT_END, pitch=13),
            [" ".join(B), " ".join(A)],
        ),
        (
            [TITLE, *column(A, LEFT, 100, to=LEFT_END), *column(B, RIGHT, 100, to=RIGHT_END)],
            [TITLE.text, " ".join(A), " ".join(B)],
        ),
        (
            column(A, LEFT, 200, to=LEFT_END)
            + column(B, RIGHT, 200, to=RIGHT_END)
            + [CAPTION]
            + column(C, LEFT, 340, to=LEFT_END)
            + column(D, RIGHT, 340, to=RIGHT_END),
            [" ".join(A), " ".join(B), CAPTION.text, " ".join(C), " ".join(D)],
        ),
        (
            column(prose("wide", 12), LEFT, 100, to=RIGHT_END)
            + column(A, LEFT, 300, to=LEFT_END)
            + column(B, RIGHT, 300, to=RIGHT_END),
            [" ".join(prose("wide", 12)), " ".join(A), " ".join(B)],
        ),
        (
            column(A, 50, 100, to=200) + column(B, 220, 100, to=370) + column(C, 390, 100, to=540),
            [" ".join(A), " ".join(B), " ".join(C)],
        ),
        (
            [
                line("Bolt M8", 60, 100),
                line("0.45", 300, 100),
                line("12", 400, 100),
                line("Washer", 60, 116),
                line("0.05", 300, 116),
                line("40", 400, 116),
                line("Nut", 60, 132),
                line("0.30", 300, 132),
                line("8", 400, 132),
            ],
            [
                (
                    "<table>\n"
                    "<tr><td>Bolt M8</td><td>0.45</td><td>12</td></tr>\n"
                    "<tr><td>Washer</td><td>0.05</td><td>40</td></tr>\n"
                    "<tr><td>Nut</td><td>0.30</td><td>8</td></tr>\n"
                    "</table>"
                )
            ],
        ),
        (
            [
                line("never quite the", 200, 112.5, to=380),
                line("The first part was", LEFT, 112, to=190),
                line("same as the last", 390, 111.5, to=545),
            ],
            ["The first part was never quite the same as the last"],
        ),
        (
            [
                line("Annual report", LEFT, 30),
                line("17", 535, 30),
                *column(A, LEFT, 100, to=LEFT_END),
                *column(B, RIGHT, 100, to=RIGHT_END),
            ],
            ["Annual report 17", " ".join(A), " ".join(B)],
        ),
        (
            [
                line("• first thing", LEFT, 100),
                line("• second thing that goes on to the end of its", LEFT, 112, to=RIGHT_END),
                line("own second line", LEFT + 10, 124),
                line("• third thing", LEFT, 136),
            ],
            ["• first thing", "• second thing that goes on to the end of its own second line", "• third thing"],
        ),
        (
            [line("1. one", LEFT, 100), line("2. two", LEFT, 112), line("10. ten", LEFT, 124)],
            ["1. one", "2. two", "10. ten"],
        ),
        (
            [
                line("Mr J. Smith", LEFT, 100),
                line("12 High Street", LEFT, 112),
                line("London", LEFT, 124),
                *column(A, LEFT, 160, to=RIGHT_END),
            ],
            ["Mr J. Smith", "12 High Street", "London", " ".join(A)],
        ),
    ],
    ids=[
        "one paragraph",
        "space between paragraphs",
        "short last line",
        "indented first line",
        "two columns, right one given first",
        "two columns on unlike baselines",
        "title over two columns",
        "caption between two columns",
        "wide text over two columns",
        "three columns",
        "table by rows",
        "line in three pieces",
        "running head",
        "bullets",
        "numbers",
        "address lines",
    ],
)
def test_reading_order(lines: list[Line], expected: list[str], *, known_sizes: bool) -> None:
    """Regions come in the order a person reads them, from font sizes as from the boxes of a recognizer."""
    assert texts(lines if known_sizes else boxes_only(lines)) == expected


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("it was a docu-", "ment of note", "it was a document of note"),
        ("it was a well-", "known fact", "it was a well-known fact"),
        ("the state-of-", "the-art thing", "the state-of-the-art thing"),
        ("the COVID-", "19 virus", "the COVID-19 virus"),
        ("by Jean-", "Paul Sartre", "by Jean-Paul Sartre"),
        ("a soft docu\u00ad", "ment of note", "a soft document of note"),
        ("it was late -", "too late", "it was late - too late"),
        ("the co-op was a co-", "op of farmers", "the co-op was a co-op of farmers"),
        ("a so-", "lution as solution", "a solution as solution"),
        ("漢字文章", "続く文", "漢字文章続く文"),
        ("今日は2024", "年です", "今日は2024年です"),
        ("see 漢字", "and more", "see 漢字 and more"),
        ("한국어 문장은", "띄어 쓴다", "한국어 문장은 띄어 쓴다"),
    ],
)
def test_line_ends(first: str, second: str, expected: str) -> None:
    """Hyphens at line ends go where they only broke a word; East Asian lines join without a space."""
    assert texts([line(first, LEFT, 100, to=RIGHT_END), line(second, LEFT, 112, to=RIGHT_END)]) == [expected]


def test_headings() -> None:
    """The largest heading above the text is the title; other large or bold lines of their own are sub-titles."""
    lines = [
        TITLE,
        line("by two authors", 220, 70),
        line("1 Introduction", LEFT, 100, size=13),
        *column(A, LEFT, 120, to=RIGHT_END),
        line("Methods used", LEFT, 190, bold=True),
        *column(B, LEFT, 204, to=RIGHT_END),
        line("OVERSIZED", LEFT, 300, size=40),
    ]
    assert read(lines) == [
        ("title", TITLE.text),
        ("text", "by two authors"),
        ("sub_title", "1 Introduction"),
        ("text", " ".join(A)),
        ("sub_title", "Methods used"),
        ("text", " ".join(B)),
        ("sub_title", "OVERSIZED"),
    ]


def test_heading_of_two_lines_is_one_region() -> None:
    """A title broken by sense stays together although the next word would have fitted."""
    lines = [line("A Study of", 230, 40, size=20), line("Very Large Harbours", 180, 64, size=20)]
    assert read(lines + column(A, LEFT, 120, to=RIGHT_END))[0] == ("title", "A Study of Very Large Harbours")


@pytest.mark.parametrize("bold", [False, True])
def test_page_of_one_size_has_no_heading(*, bold: bool) -> None:
    """Where nothing stands out, also where all is bold, nothing is a heading."""
    lines = [line(f"Line number {index}.", LEFT, 100 + 30 * index, bold=bold) for index in range(8)]
    assert {label for label, _ in read(lines)} == {"text"}


def test_boxes_of_uneven_height_make_no_headings() -> None:
    """Boxes of a recognizer vary with ascenders and descenders by a tenth or so; that is no heading."""
    uneven = [
        Line(text, (0.1, 0.1 + index * 0.02, 0.9, 0.1 + index * 0.02 + 0.013 * (1 + 0.1 * math.sin(index))))
        for index, text in enumerate(prose("alpha", 20))
    ]
    assert {label for label, _ in read(uneven)} == {"text"}


@pytest.mark.parametrize(
    ("text", "label"),
    [
        pytest.param("Order Confirmation", "sub_title", id="heading"),
        pytest.param("Dear Madam,", "text", id="salutation"),
        pytest.param("- 12 (3) -", "text", id="page number"),
    ],
)
def test_line_alone_among_prose(text: str, label: str) -> None:
    """Boxes tell a heading a fifth larger than the text, if it stands alone and does not end like a sentence."""
    lines = boxes_only([line(text, LEFT, 80, size=1.2 * SIZE), *column(A, LEFT, 120, to=RIGHT_END)])
    assert read(lines)[0] == (label, text)


def test_region_covers_its_lines() -> None:
    """A region's box is that of its lines, its confidence their mean over the letters."""
    lines = [Line("abc", (0.1, 0.1, 0.9, 0.12), confidence=1.0), Line("d", (0.1, 0.125, 0.5, 0.145), confidence=0.6)]
    (region,) = regions_from_lines(lines, aspect=ASPECT)
    assert region.box == pytest.approx((0.1, 0.1, 0.9, 0.145))
    assert region.confidence == pytest.approx(0.9)
    (region,) = regions_from_lines([Line("abc", (0.1, 0.1, 0.9, 0.12))], aspect=ASPECT)
    assert region.confidence is None


def test_vertical_line_stays_apart() -> None:
    """A stamp along the margin (as arXiv prints) is not mixed into the lines it stands beside."""
    stamp = Line("arXiv:1234.56789 [cs]", (0.02, 0.2, 0.05, 0.7))
    lines = [stamp, *column(prose("alpha", 30), LEFT, 100, to=RIGHT_END)]
    assert texts(lines) == [" ".join(prose("alpha", 30)), stamp.text]


@pytest.mark.parametrize("aspect", [0.0, -1.0, math.inf, math.nan])
def test_impossible_page_is_a_square(aspect: float) -> None:
    """A page without a shape is read as well as it can be."""
    assert regions_from_lines([line("text", 10, 10)], aspect=aspect)[0].text == "text"


def test_five_thousand_lines_in_columns() -> None:
    """A page with far more lines than any real one, in columns, loses none of them and is read column by column."""
    lines = [
        Line(f"words in number {row} of {place}", (x, row / 1000, x + 0.15, row / 1000 + 0.0007))
        for place, x in enumerate((0.0, 0.2, 0.4, 0.6, 0.8))
        for row in range(1000)
    ]
    text = " ".join(region.text for region in regions_from_lines(lines, aspect=1.0))
    assert text == " ".join(each.text for each in lines)


edges = st.floats(-0.5, 1.5) | st.sampled_from([0.0, 0.5, 1.0, math.nan, math.inf, -math.inf])
any_line = st.builds(
    Line,
    st.text(st.characters(codec="utf-8", categories=["L", "N", "Zs", "Cc"]), max_size=12),
    st.tuples(edges, edges, edges, edges),
    size=st.none() | edges,
    confidence=st.none() | st.floats(0, 1),
    bold=st.booleans(),
)


@given(st.lists(any_line, max_size=30), st.floats(0.01, 100))
def test_no_text_is_lost_or_doubled(lines: list[Line], aspect: float) -> None:
    """Whatever the boxes, every letter comes out once, in regions inside the page."""
    regions = regions_from_lines(lines, aspect=aspect)
    given_letters = Counter(letter for each in lines for letter in each.text if not letter.isspace())
    assert Counter(letter for region in regions for letter in region.text if not letter.isspace()) == given_letters
    for region in regions:
        left, top, right, bottom = region.box
        assert 0 <= left <= right <= 1
        assert 0 <= top <= bottom <= 1
        assert region.text.strip()
        assert region.confidence is None or 0 <= region.confidence <= 1 + 1e-9


def test_a_row_that_is_taken_off_the_end_of_a_table_takes_its_column_along() -> None:
    """It left a column without any cell, and what asked for the usual one in it raised: found by random pages."""
    boxes = {
        "1. one": (0.3, 0.947, 0.4, 0.957), "two": (0.892, 0.99, 0.992, 1.0), "- three": (0.1, 0.97, 0.2, 1.0),
        "four": (0.55, 0.97, 0.854, 0.98), "5": (0.739, 0.984, 0.789, 0.994), "1. six": (0.55, 0.95, 0.65, 0.96),
    }  # fmt: skip
    sizes = [None, 0.01, 0.01, 0.012, 0.012, 0.01]
    lines = [Line(text, box, size=size) for (text, box), size in zip(boxes.items(), sizes, strict=True)]
    said = " ".join(region.text for region in regions_from_lines(lines, aspect=0.7))
    assert sorted(said.split()) == sorted(" ".join(boxes).split())


in_a_grid = st.tuples(
    st.sampled_from([0.05, 0.1, 0.3, 0.55, 0.8]),
    st.integers(0, 14),
    st.sampled_from([0.02, 0.05, 0.1, 0.19, 0.4]),
    st.sampled_from(["12.5", "total", "1.", "- item", "name:", "a line of words that may be one of prose in a column"]),
    st.sampled_from([None, 0.011, 0.012, 0.02]),
)


@given(st.lists(in_a_grid, max_size=40), st.booleans())
@settings(max_examples=400)
def test_nothing_is_lost_in_what_may_be_a_table(places: list[tuple[Any, ...]], ruled: bool) -> None:
    """Lines that stand in columns and rows, as in tables that are none after all, come out each once."""
    lines = [
        Line(f"{text} z{number:03}", (x, 0.1 + row / 50, min(1, x + width), 0.112 + row / 50), size=size)
        for number, (x, row, width, text, size) in enumerate(places)
    ]
    rules = [(0.05, 0.09, 0.95, 0.091), (0.05, 0.45, 0.95, 0.451)] if ruled else []
    said = " ".join(region.text for region in regions_from_lines(lines, aspect=0.7, rules=rules))
    assert [said.count(f"z{number:03}") for number in range(len(lines))] == [1] * len(lines)


@given(st.integers(1, 6), st.integers(2, 8), st.randoms())
def test_order_of_lines_does_not_matter(paragraphs: int, rows: int, dice: object) -> None:
    """The same page comes out whatever order its lines are given in."""
    lines = [
        each
        for number in range(paragraphs)
        for x, to in ((LEFT, LEFT_END), (RIGHT, RIGHT_END))
        for each in column(prose(f"par {number}", rows), x, 40 + number * (rows + 1) * PITCH, to=to)
    ]
    expected = texts(lines)
    dice.shuffle(lines)  # type: ignore[attr-defined]
    assert texts(lines) == expected
