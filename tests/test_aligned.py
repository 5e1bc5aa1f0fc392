"""Columns of short cells -> tables without upright rules; what looks a little like one stays text."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek_ocr.layout import Line, regions_from_lines
from deepseek_ocr.tables import parse_table
from tests.test_grids import HEIGHT, WIDTH, line, rule

if TYPE_CHECKING:
    from deepseek_ocr.completion import Box

PITCH = 14.0


def page(rows: list[str], *, columns: tuple[float, ...] = (60, 200, 300, 400), top: float = 100) -> list[Line]:
    """Rows of cells with "|" between them; a cell that begins with ">" ends where the next column begins."""
    lines = []
    for number, row in enumerate(rows):
        for index, text in enumerate(row.split("|")):
            words = text.strip()
            x = columns[index] if index < len(columns) else columns[-1] + 100 * (index + 1 - len(columns))
            if words.startswith(">"):
                words = words[1:]
                x += 80 - 5 * len(words)
            if words:
                lines.append(line(words, x, top + PITCH * number))
    return lines


def tables(lines: list[Line], rules: list[Box] | None = None) -> list[list[list[str]]]:
    """The text of each cell, of each table on the page."""
    regions = regions_from_lines(lines, aspect=WIDTH / HEIGHT, rules=rules or [])
    found = [parse_table(region.text) for region in regions if region.label == "table"]
    return [[[cell.text for cell in row] for row in table.rows] for table in found]


FIGURES = ["Harbour |>depth |>boats", "North pier |>4.5 |>12", "South pier |>3.2 |>9", "Old quay |>2.75 |>140"]
WORDS = [
    "Harbour | keeper | light",
    "North pier | Smith | white",
    "South pier | Jones | red",
    "Old quay | Brown | none",
]
TWO = ["Fuel |>litres", "January |>120.5", "February |>99.0", "March |>101.2"]
GAPS = ["Port |>A |>B |>C", "North |>1 |>2.5 |>3", "South |>4 | |>6", "East | |>8 |>9", "West |>1 |>2 |>3"]


@pytest.mark.parametrize("rows", [FIGURES, TWO, GAPS], ids=["figures", "two columns", "empty cells"])
def test_columns_with_figures(rows: list[str]) -> None:
    """Rows whose cells stand in columns with figures are a table, with prose above and below it left alone."""
    prose = "All depths were measured at low water in the spring of that year, and the boats counted."
    lines = [line(prose, 60, 80), *page(rows), line(prose, 60, 110 + PITCH * len(rows))]
    assert tables(lines) == [[[cell.strip(" >") for cell in row.split("|")] for row in rows]]


def test_rules_above_and_below_words() -> None:
    """Words in columns are a table where level rules frame them."""
    bottom = 100 + PITCH * len(WORDS)
    rules = [rule(60, 96, 340, 96), rule(60, 112, 340, 112), rule(60, bottom, 340, bottom)]
    assert tables(page(WORDS), rules) == [[[cell.strip() for cell in row.split("|")] for row in WORDS]]
    assert tables(page(WORDS), [rule(60, 40, 540, 40), rule(60, 800, 540, 800)]) == []


def test_rules_of_the_next_table() -> None:
    """The rules of a table do not make one of the form above it."""
    top = 100 + PITCH * 5
    rules = [rule(60, top - 4, 340, top - 4), rule(60, top + 12, 340, top + 12), rule(60, top + 60, 340, top + 60)]
    words = [["Name", "Maria", "x"], ["Street", "Quay", "y"], ["Town", "Kiel", "z"], ["Land", "Holstein", "q"]]
    form = page([" | ".join(row) for row in words])
    assert tables(form + page(WORDS, top=top), rules) == [[[cell.strip() for cell in row.split("|")] for row in WORDS]]


SENTENCE = "and so the boats went out into the"
NONE: dict[str, list[str]] = {
    "words in columns": WORDS,
    "two rows": FIGURES[:2],
    "contents": [f"{n} The harbour in its year|||>{5 * n}" for n in range(1, 8)],
    "contents with a head": ["Contents|||>Page", *(f"{n} The harbour|||>{5 * n}" for n in range(1, 8))],
    "contents in three columns": [f"{n} | The harbour | >{5 * n}" for n in range(1, 8)],
    "dot leaders": ["Part ||>page", *(f"Harbour . . . . . . . . . . ||>{20 - n}" for n in range(5))],
    "form": ["Name: | Maria | No.: | 17", "Street: | High Street 2 | Date: | 1999", "Town: | Kiel | Page: | 3"],
    "labels and figures": ["Number: | 17", "Year: | 1999", "Page: | 3", "Count: | 12"],
    "addresses": ["Pottery Works | Ref. 12", "Attn. J. Smith | 3 May 2024", "12 High Street | Phone", "Kiel | Fax"],
    "letter's foot": ["Pottery Ltd | Tel. 040 | Bank of Kiel", "High St | www.x.org | DE12", "Kiel | a@b.org | BIC K"],
    "numbered list": [f"{n}. | {SENTENCE} {n}" for n in range(1, 6)],
    "bullets": [f"- | {SENTENCE} {n}" for n in range(1, 6)],
    "columns of prose": [f"{SENTENCE} {n} | | {SENTENCE} {n}" for n in range(8)],
    "ragged": ["one | 12", "      two words | | 3", "three | | | 17", "and | 4 | | 8"],
}


@pytest.mark.parametrize("rows", NONE.values(), ids=NONE.keys())
def test_what_is_no_table(rows: list[str]) -> None:
    """What stands in columns for other reasons stays text."""
    assert tables(page(rows)) == []


def test_figures_that_are_not_flush() -> None:
    """Figures scattered over a drawing are no table."""
    scattered = [
        (60, 100),
        (210, 100),
        (330, 101),
        (90, 114),
        (190, 113),
        (310, 115),
        (75, 128),
        (235, 128),
        (350, 129),
    ]
    assert tables([line(f"{x + y:.0f}", x + y % 7 * 9, y) for x, y in scattered]) == []


def test_table_in_a_column() -> None:
    """A table in one of two columns of prose is one, and does not break the other."""
    left = [line(f"{SENTENCE} {number}", 50, 100 + PITCH * number) for number in range(20)]
    right = [line(f"{SENTENCE} {number}", 310, 100 + PITCH * number) for number in range(8)]
    lines = [*left, *right, *page(FIGURES, columns=(310, 390, 460), top=240)]
    assert len(tables(lines)) == 1
    regions = regions_from_lines(lines, aspect=WIDTH / HEIGHT)
    assert regions[0].text == " ".join(each.text for each in left)


cells = st.sampled_from(["", "12", "3.5", "name", "two words", "- ", "1.", "100 %", "Total:", "a<b", "…"])


@given(st.lists(st.lists(cells, min_size=1, max_size=5), min_size=1, max_size=12), st.booleans())
def test_nothing_is_lost_or_doubled(rows: list[list[str]], ruled: bool) -> None:
    """Whatever stands in columns, each of its letters comes out once."""
    lines = page(["|".join(row) for row in rows])
    rules = [rule(60, 98 + PITCH * n, 480, 98 + PITCH * n) for n in (0, 1, len(rows))] if ruled else []
    regions = regions_from_lines(lines, aspect=WIDTH / HEIGHT, rules=rules)
    texts = [
        " ".join(cell.text for row in parse_table(region.text).rows for cell in row)
        if region.label == "table"
        else region.text
        for region in regions
    ]
    given_letters = Counter("".join("".join(each.text for each in lines).split()).replace("-", ""))
    assert Counter("".join("".join(texts).split()).replace("-", "")) == given_letters
