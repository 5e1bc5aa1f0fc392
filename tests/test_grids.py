"""Rules of a page -> tables, cell by cell."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from deepseek_ocr.blocks import blocks_of
from deepseek_ocr.completion import Completion, PageImage
from deepseek_ocr.layout import Line, regions_from_lines
from deepseek_ocr.markdown import block_markdown
from deepseek_ocr.prompt import Task
from deepseek_ocr.tables import parse_table

if TYPE_CHECKING:
    from deepseek_ocr.completion import Box

#: An A4 page in points; tables below are written in points from the top left.
WIDTH, HEIGHT = 595.0, 842.0
SIZE = 10.0
LEFT, TOP = 60.0, 100.0
CELL_WIDTH, CELL_HEIGHT = 90.0, 24.0

#: Row and column, and the ends of both, of a cell.
Cell = tuple[int, int, int, int]


def line(text: str, x: float, y: float, size: float = SIZE) -> Line:
    """A line whose letters begin at x and y and are half as wide as high."""
    box = (x / WIDTH, y / HEIGHT, (x + len(text) * size / 2) / WIDTH, (y + size) / HEIGHT)
    return Line(text, box, size=size / HEIGHT)


def rule(x0: float, y0: float, x1: float, y1: float) -> Box:
    """A rule from one point to another."""
    return x0 / WIDTH, y0 / HEIGHT, x1 / WIDTH, y1 / HEIGHT


def corner(row: int, column: int) -> tuple[float, float]:
    """Where a cell begins."""
    return LEFT + column * CELL_WIDTH, TOP + row * CELL_HEIGHT


def frame(cell: Cell, *, sides: str = "tblr") -> list[Box]:
    """The rules around a cell."""
    top, left, bottom, right = cell
    (x0, y0), (x1, y1) = corner(top, left), corner(bottom, right)
    edges = {"t": rule(x0, y0, x1, y0), "b": rule(x0, y1, x1, y1), "l": rule(x0, y0, x0, y1), "r": rule(x1, y0, x1, y1)}
    return [edges[side] for side in sides]


def squares(rows: int, columns: int) -> list[Cell]:
    """The cells of a table without spans."""
    return [(row, column, row + 1, column + 1) for row in range(rows) for column in range(columns)]


def written(cells: list[Cell]) -> list[Line]:
    """A line in each cell, which says where it is."""
    return [line(f"r{cell[0]} c{cell[1]}", *(at + 6 for at in corner(cell[0], cell[1]))) for cell in cells]


def tables(lines: list[Line], rules: list[Box]) -> list[list[list[tuple[str, int, int]]]]:
    """Text, rows and columns of each cell, of each table on the page."""
    regions = regions_from_lines(lines, aspect=WIDTH / HEIGHT, rules=rules)
    return [
        [[(cell.text, cell.rows, cell.columns) for cell in row] for row in parse_table(region.text).rows]
        for region in regions
        if region.label == "table"
    ]


def expected(cells: list[Cell], rows: int) -> list[list[tuple[str, int, int]]]:
    """The same of cells that all have their line."""
    return [
        [(f"r{top} c{left}", bottom - top, right - left) for top, left, bottom, right in sorted(cells) if top == row]
        for row in range(rows)
    ]


#: A table of three rows and four columns in which cells span others.
SPANS: list[Cell] = [
    (0, 0, 2, 1), (0, 1, 1, 3), (0, 3, 1, 4), (1, 1, 2, 2), (1, 2, 2, 3), (1, 3, 3, 4), (2, 0, 3, 1), (2, 1, 3, 3),
]  # fmt: skip


@pytest.mark.parametrize(
    ("cells", "rows"), [(squares(2, 2), 2), (squares(6, 5), 6), (SPANS, 3)], ids=["small", "large", "spans"]
)
def test_ruled_table(cells: list[Cell], rows: int) -> None:
    """Each cell has its line, and spans what its rules say."""
    rules = [side for cell in cells for side in frame(cell)]
    assert tables(written(cells), rules) == [expected(cells, rows)]


@pytest.mark.parametrize("sides", ["tb", "lr"], ids=["at the sides", "above and below"])
def test_table_without_its_frame(sides: str) -> None:
    """Where the outer rules are missing the others say by their ends how far the table goes."""
    cells = squares(4, 3)
    outer = {"t": 0, "l": 0, "b": 4, "r": 3}
    rules = [
        frame(cell, sides=side)[0]
        for cell in cells
        for side in "tblr"
        if side in sides or cell["tlbr".index(side)] != outer[side]
    ]
    assert tables(written(cells), rules) == [expected(cells, 4)]


def test_rules_drawn_cell_by_cell_double_and_crooked() -> None:
    """Rules that are doubled, a little apart or a little too short are the rules they are meant to be."""
    cells = squares(3, 3)
    rules = [
        (x0 + 0.001, y0 + jitter, max(x0, x1 - 0.001) + 0.002, y1 + jitter)
        for index, cell in enumerate(cells)
        for jitter in (0.0005 * (index % 3), -0.001)
        for x0, y0, x1, y1 in frame(cell)
    ]
    assert tables(written(cells), rules) == [expected(cells, 3)]


def test_lines_of_a_cell_are_one_text() -> None:
    """Lines under each other in a cell are joined as in a paragraph; an empty cell stays."""
    cells = squares(2, 2)
    x, y = corner(0, 0)
    lines = [line("first docu-", x + 4, y + 1), line("ment here", x + 4, y + 12), *written(cells[2:])]
    lines += [line("head", *(at + 5 for at in corner(0, 1)))]
    (table,) = tables(lines, [side for cell in cells for side in frame(cell)])
    assert [[text for text, _, _ in row] for row in table] == [["first document here", "head"], ["r1 c0", "r1 c1"]]


def test_faint_rules() -> None:
    """Where the rules between cells are missing, but each has its own text, they are no cell that spans them."""
    cells = squares(3, 3)
    rules = [side for cell in cells for side in frame(cell)]
    inner = [*frame((1, 1, 2, 2), sides="br"), *frame((2, 1, 3, 2), sides="r"), *frame((1, 2, 2, 3), sides="b")]
    rules = [side for side in rules if not any(side == pytest.approx(other) for other in inner)]
    assert tables(written(cells), rules) == [expected(cells, 3)]


PROSE = [line("a line of prose in a frame that goes on and on", LEFT + 5, TOP + 4 + 12 * row) for row in range(20)]


@pytest.mark.parametrize(
    ("lines", "rules"),
    [
        pytest.param(PROSE, frame((0, 0, 12, 4)), id="frame"),
        pytest.param(PROSE, frame((0, 0, 12, 4)) + frame((0, 0, 1, 4)), id="frame with a head"),
        pytest.param(
            [*PROSE, *(line("more of it on the right", LEFT + 300, TOP + 4 + 12 * row) for row in range(20))],
            [*frame((0, 0, 12, 3), sides="tr"), *frame((0, 3, 12, 6), sides="tb")],
            id="columns with a rule between them",
        ),
        pytest.param(
            [line(str(row), LEFT - 20, TOP + CELL_HEIGHT * row - 5) for row in range(8)]
            + [line(str(column), LEFT + CELL_WIDTH * column - 5, TOP + CELL_HEIGHT * 7 + 4) for column in range(5)],
            [side for cell in squares(7, 4) for side in frame(cell)],
            id="chart",
        ),
        pytest.param(
            PROSE,
            [rule(LEFT, TOP + 15 + 12 * row, LEFT + 200, TOP + 15 + 12 * row) for row in range(9)],
            id="underlines",
        ),
    ],
)
def test_what_is_no_table(lines: list[Line], rules: list[Box]) -> None:
    """Frames, rules between columns, charts and underlines are no tables, and their text is read as without them."""
    regions = regions_from_lines(lines, aspect=WIDTH / HEIGHT, rules=rules)
    assert regions == regions_from_lines(lines, aspect=WIDTH / HEIGHT)
    assert not any(region.label == "table" for region in regions)


def test_table_stands_where_it_is_read() -> None:
    """A table over both columns of a page comes between what is above and what is below it, with its own box."""
    cells = squares(3, 5)
    above = [line("A paragraph over the table.", LEFT, 60)]
    below = [line("A paragraph under the table.", LEFT, 220)]
    regions = regions_from_lines(
        [*below, *written(cells), *above], aspect=WIDTH / HEIGHT, rules=[side for cell in cells for side in frame(cell)]
    )
    assert [region.label for region in regions] == ["text", "table", "text"]
    (x0, y0), (x1, y1) = corner(0, 0), corner(3, 5)
    assert regions[1].box == pytest.approx(rule(x0, y0, x1, y1), abs=1e-6)


def test_markdown() -> None:
    """A table without spans becomes a pipe table, another stays HTML; what stands in its cells is text, not markup."""
    odd = ["a|b", "*x* & y", "<b>", "# 1"]
    x, y = corner(0, 0)
    cells = squares(2, 2)
    lines = [line(text, *(at + 5 for at in corner(*cell[:2]))) for text, cell in zip(odd, cells, strict=True)]
    rules = [side for cell in cells for side in frame(cell)]
    assert markdown(lines, rules) == "| a\\|b | \\*x\\* & y |\n| --- | --- |\n| \\<b> | # 1 |"
    lines[0] = line("*head*", x + 80, y + 5)
    lines.pop(1)
    rules.remove(frame(cells[0], sides="r")[0])
    rules.remove(frame(cells[1], sides="l")[0])
    assert markdown(lines, rules) == (
        '<table>\n<tr><td colspan="2">*head*</td></tr>\n<tr><td>&lt;b&gt;</td><td># 1</td></tr>\n</table>'
    )


def markdown(lines: list[Line], rules: list[Box]) -> str:
    """The page as it is written, without its mark."""
    regions = regions_from_lines(lines, aspect=WIDTH / HEIGHT, rules=rules)
    image = PageImage(0, WIDTH, HEIGHT, "pt", None, 0.1)
    blocks, _ = blocks_of(image, Completion("", "stop", 0.0, regions), Task.DOCUMENT)
    assert [block.category for block in blocks] == ["table"]
    return "\n\n".join(map(block_markdown, blocks))


@st.composite
def pages(draw: Any) -> tuple[list[Line], list[Box]]:
    """Grids with rules missing here and there, and lines anywhere."""
    rules: list[Box] = []
    for _ in range(draw(st.integers(0, 2))):
        top, left = draw(st.integers(0, 20)), draw(st.integers(0, 4))
        for row, column, bottom, right in squares(draw(st.integers(1, 5)), draw(st.integers(1, 4))):
            sides = draw(st.sampled_from(["tblr", "tblr", "tblr", "tbl", "t", "lr", ""]))
            rules += frame((top + row, left + column, top + bottom, left + right), sides=sides)
    places = st.tuples(st.floats(0, WIDTH - 60), st.floats(0, HEIGHT - 20), st.sampled_from([8.0, 10.0, 14.0]))
    texts = st.text("abcdefghij0123456789.<>&|*- ", min_size=1, max_size=14)
    lines = [line(draw(texts), x, y, size) for x, y, size in draw(st.lists(places, max_size=25))]
    return lines, rules


@given(pages())
def test_nothing_is_lost_or_doubled(page: tuple[list[Line], list[Box]]) -> None:
    """Whatever the rules, every letter comes out once, in a table or beside it."""
    lines, rules = page
    regions = regions_from_lines(lines, aspect=WIDTH / HEIGHT, rules=rules)
    texts = [
        cell.text
        for region in regions
        for cell in (
            [cell for row in parse_table(region.text).rows for cell in row] if region.label == "table" else [region]
        )
    ]
    # A hyphen at the end of a line may go.
    given_letters = Counter(letter for each in lines for letter in each.text if letter not in " -")
    assert Counter(letter for text in texts for letter in text if letter not in " -") == given_letters


@example([(0.0, 0.0, 0.0, 0.0), *[(0.0, 0.0, 0.0, -1.2e308)] * 3])
@given(st.lists(st.tuples(*[st.floats(allow_nan=True, allow_infinity=True)] * 4), max_size=40))
def test_odd_rules_do_no_harm(rules: list[Box]) -> None:
    """Whatever is taken for rules, nothing is raised and no text is lost."""
    lines = written(squares(3, 3))
    regions = regions_from_lines(lines, aspect=WIDTH / HEIGHT, rules=rules)
    assert all(any(each.text in region.text for region in regions) for each in lines)
