"""HTML tables: whatever the model wrote, rows of cells come out, and no text is lost."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from deepseek_ocr.tables import find_tables, parse_table, pipes_to_html, tidy_pipes, to_html, to_pipes

#: HTML -> the texts of its rows, and whether it was closed.
TABLES = {
    "plain": ("<table><tr><td>a</td><td>b</td></tr><tr><td>c</td></tr></table>", [["a", "b"], ["c"]], True),
    "with head and body": ("<table><thead><tr><th>a</th></tr></thead><tbody><tr><td>b</td></tr></tbody></table>",
                           [["a"], ["b"]], True),
    "capitals and attributes": ('<TABLE class="x"><TR><TD style="y">a</TD></TR></TABLE>', [["a"]], True),
    "entities": ("<table><td>a &lt; b &amp;amp; c</td></table>", [["a < b &amp; c"]], True),
    "no rows": ("<table><td>a</td><td>b</td></table>", [["a", "b"]], True),
    "cells that are not closed": ("<table><tr><td>a<td>b<tr><td>c</table>", [["a", "b"], ["c"]], True),
    "text between cells": ("<table><tr><td>a</td>x<td>b</td></tr>y</table>", [["a x", "b"], ["y"]], True),
    "text before the rows": ("<table>x<tr><td>a</td></tr></table>", [["x"], ["a"]], True),
    "torn in a cell": ("<table><tr><td>a</td><td>b", [["a", "b"]], False),
    "torn in a tag": ("<table><tr><td>a</td></t", [["a"]], False),
    "torn in a tag that begins": ("<table><tr><td>a</td><td", [["a"]], False),
    "a table within": ("<table><tr><td>a<table><tr><td>b</td></tr></table>c</td></tr></table>", [["a b c"]], True),
    "nothing": ("<table></table>", [], True),
    "a formula with signs": (r"<table><td>\(a<b\)</td></table>", [[r"\(a<b\)"]], True),
}  # fmt: skip


@pytest.mark.parametrize(("text", "rows", "closed"), TABLES.values(), ids=TABLES)
def test_tables_are_read(text: str, rows: list[list[str]], closed: bool) -> None:
    """Rows and cells as they are meant, and whether the table was torn off."""
    table = parse_table(text)
    assert [[cell.text for cell in row] for row in table.rows] == rows
    assert table.is_closed is closed


@pytest.mark.parametrize(("text", "rows", "closed"), TABLES.values(), ids=TABLES)
def test_clean_html_stays_as_it_is(text: str, rows: list[list[str]], closed: bool) -> None:  # noqa: ARG001
    """What was cleaned once is read the same again, and nothing but tags of tables is in it."""
    html = to_html(parse_table(text))
    assert to_html(parse_table(html)) == html
    assert set(re.findall(r"</?(\w+)", html)) <= {"table", "tr", "td", "th"}


SPANS = {
    "columns": ('<td colspan="3">', (3, 1)),
    "rows, single quotes": ("<td rowspan='2'>", (1, 2)),
    "no quotes": ("<td colspan=2 rowspan=4>", (2, 4)),
    "amid noise": ('<td x"colspan="10">', (10, 1)),
    "none": ('<td colspan="0">', (1, 1)),
    "too many": ('<td colspan="101">', (1, 1)),
    "no number": ('<td colspan="x">', (1, 1)),
}


@pytest.mark.parametrize(("tag", "spans"), SPANS.values(), ids=SPANS)
def test_spans(tag: str, spans: tuple[int, int]) -> None:
    """Sound spans are kept, and a table with one is not simple; others are none."""
    table = parse_table(f"<table><tr>{tag}a</td></tr></table>")
    ((cell,),) = table.rows
    assert (cell.columns, cell.rows) == spans
    assert table.is_simple == (spans == (1, 1))


#: Text -> its tables.
FOUND = {
    "none": ("a <tr> b", []),
    "one amid text": ("a <table>1</table> b", ["<table>1</table>"]),
    "two": ("<table>1</table>x<table>2</table>", ["<table>1</table>", "<table>2</table>"]),
    "one in another": ("<table>1<table>2</table>3</table>4", ["<table>1<table>2</table>3</table>"]),
    "not closed": ("a <table>1", ["<table>1"]),
    "the first one not closed": ("<table>1<table>2</table>b", ["<table>1", "<table>2</table>"]),
    "only closed": ("1</table>2", []),
}


@pytest.mark.parametrize(("text", "tables"), FOUND.values(), ids=FOUND)
def test_tables_are_found(text: str, tables: list[str]) -> None:
    """Each outermost table; one that is not closed ends where the next one begins, or with the text."""
    assert [text[start:end] for start, end in find_tables(text)] == tables


_HTML = st.lists(
    st.sampled_from(["<table>", "</table>", "<tr>", "</tr>", "<td>", "</td>", "<th rowspan=2>", "a", "b|", "\n", "<"]),
    max_size=30,
).map("".join)  # fmt: skip


@given(_HTML)
def test_no_letter_of_a_table_is_lost(text: str) -> None:
    """Whatever the order of tags, the cells hold all letters in their order."""
    letters = "".join(cell.text for row in parse_table(f"<table>{text}x").rows for cell in row)
    assert re.sub(r"[^abx]", "", letters) == re.sub(r"<[^<>]*>|[^abx]", "", re.sub(r"</?\w+[^<>]*>", "", text)) + "x"


_CELLS = st.lists(st.lists(st.text("ab|\\ \n`*", max_size=6), min_size=1, max_size=4), min_size=1, max_size=4)


@given(_CELLS)
def test_pipes_are_one_table(rows: list[list[str]]) -> None:
    """A parser sees one table with as many cells in each row as the widest row has, whatever is in them."""
    tokens = MarkdownIt("commonmark").enable("table").parse(to_pipes(rows))
    assert [token.type for token in tokens if token.level == 0] == ["table_open", "table_close"]
    cells = sum(token.type in {"th_open", "td_open"} for token in tokens)
    assert cells == max(map(len, rows)) * len(rows)


def test_a_hopeless_table_is_not_filled_up() -> None:
    """One very wide row among thousands must not cost their product."""
    text = to_pipes([["a"]] * 10_000 + [["a"] * 10_000])
    assert len(text) < 200_000
    assert text.startswith("| a |  |")


PIPES = {
    "as wide as its widest row": (["|a|b|", "|-|-|", "|1|2|3|"], ["| a | b |  |", "| - | - | --- |", "| 1 | 2 | 3 |"]),
    "without outer bars": (["a|b", "--|--", "1|2"], ["| a | b |", "| -- | -- |", "| 1 | 2 |"]),
    "text around it": (["x", "|a|", "|-|", "y"], ["x", "", "| a |", "| - |", "", "y"]),
    "an escaped bar": (["|a\\|b|", "|-|"], ["| a\\|b |", "| - |"]),
    "no table": (["a|b", "1|2"], ["a|b", "1|2"]),
}


@pytest.mark.parametrize(("lines", "expected"), PIPES.values(), ids=PIPES)
def test_pipe_tables_of_the_model(lines: list[str], expected: list[str]) -> None:
    """A reader would leave out cells beyond the head's; with as many there all are shown."""
    assert tidy_pipes(lines) == expected


def test_pipe_tables_as_html() -> None:
    """Each pipe table of a text becomes HTML, head and all; what stands around it stays, and so does a lone bar."""
    text = "Ships | boats\n\n| Month | a \\| b |\n|:--|--:|\n| May | <1 |\nJune | 2 | 3\nTotal: 3"
    html = pipes_to_html(text)
    assert html == (
        "Ships | boats\n\n<table>\n<tr><th>Month</th><th>a | b</th></tr>\n<tr><td>May</td><td>&lt;1</td></tr>\n"
        "<tr><td>June</td><td>2</td><td>3</td></tr>\n</table>\nTotal: 3"
    )
    assert [cell.text for row in parse_table(html).rows for cell in row][2:5] == ["a | b", "May", "<1"]
    assert pipes_to_html(html) == html


@given(st.text(alphabet="|-: a\\\n<", max_size=60))
def test_no_letter_of_a_pipe_table_is_lost(text: str) -> None:
    """Whatever is taken for a pipe table, its letters stay."""
    assert re.sub("</?t[a-z]+>", "", pipes_to_html(text)).count("a") == text.count("a")
