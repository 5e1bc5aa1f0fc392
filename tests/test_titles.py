"""Which paragraphs are headings or captions."""

from __future__ import annotations

import pytest

from deepseek_ocr.layout import regions_from_lines
from tests.test_grids import HEIGHT, WIDTH, corner, frame, line, squares, written
from tests.test_layout import boxes_only, column, prose
from tests.test_layout import line as typed

LONG = "Here is a whole sentence of quite some length in large print, as it stands above news of a day"
BODY = column(prose("alpha", 5), 50, 200, to=545)


@pytest.mark.parametrize(
    ("text", "size", "bold", "label"),
    [
        pytest.param("Harbours of the north", 13.0, False, "title", id="larger"),
        pytest.param("Harbours of the north", 10.0, True, "sub_title", id="bold"),
        pytest.param("Harbours of the north", 10.5, False, "text", id="like the rest"),
        pytest.param("\u2022 a point in large print", 13.0, False, "text", id="item in large print"),
        pytest.param("A sentence in large print, as above news.", 13.0, False, "title", id="short sentence"),
        pytest.param(f"{LONG}.", 13.0, False, "text", id="long sentence in large print"),
        pytest.param(LONG, 13.0, False, "title", id="long heading"),
        pytest.param("A note in bold type that ends,", 10.0, True, "text", id="bold sentence"),
        pytest.param("1999", 20.0, True, "text", id="no letters"),
    ],
)
def test_headings(text: str, size: float, *, bold: bool, label: str) -> None:
    """What is larger or bolder than the text is a heading, unless it reads like text."""
    lines = [typed(text, 50, 150, size=size, bold=bold), *BODY]
    assert regions_from_lines(lines, aspect=WIDTH / HEIGHT)[0].label == label


def test_row_of_a_table_is_no_heading() -> None:
    """The head of a table that is not seen as one is bold, and yet no heading; a number before a heading is."""
    head = [typed(text, x, 150, bold=True) for text, x in (("Harbour", 50), ("Depth", 200), ("Boats", 300))]
    assert {region.label for region in regions_from_lines([*head, *BODY], aspect=WIDTH / HEIGHT)} == {"text"}
    numbered = [typed(text, x, 150, bold=True) for text, x in (("10.2.1", 50), ("Depth of water", 120))]
    assert regions_from_lines([*numbered, *BODY], aspect=WIDTH / HEIGHT)[0].label == "sub_title"


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("Table 1: Depths", "table_caption"),
        ("TABLE IV", "table_caption"),
        ("Tabelle A.3 Tiefen", "table_caption"),
        ("Table 1 shows the depths", "text"),
        ("Depths", "text"),
    ],
)
def test_captions(text: str, label: str) -> None:
    """What stands beside a table and says that it is one is its caption, also in bold type."""
    cells = squares(3, 3)
    rules = [side for cell in cells for side in frame(cell)]
    x, y = corner(3, 0)
    lines = [*written(cells), line(text, x, y + 8)]
    assert [region.label for region in regions_from_lines(lines, aspect=WIDTH / HEIGHT, rules=rules)] == [
        "table",
        label,
    ]
    alone = [line(text, x, y + 8), *boxes_only(BODY)]
    assert "table_caption" not in {region.label for region in regions_from_lines(alone, aspect=WIDTH / HEIGHT)}
