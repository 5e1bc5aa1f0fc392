"""Figures of `bench/accuracy.py` are what a hand computes: of letters, words and tables, and of blocks that match."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.accuracy_scores import (
    Errors,
    assign,
    character_errors,
    differences,
    normalized_distance,
    plain_quotes,
    substring_distance,
    teds,
    word_errors,
)
from bench.omnidocbench import table_key
from bench.omnidocbench_match import Match, formula_key, match, text_key
from deepseek_ocr.tables import Cell, Table, parse_table

WORDS = st.text("ab é-", max_size=30)
TABLES = st.lists(
    st.lists(st.builds(Cell, st.text("ab", max_size=3), st.integers(1, 2), st.integers(1, 2)), min_size=1, max_size=3),
    min_size=1,
    max_size=3,
).map(Table)


# Error rates


@pytest.mark.parametrize(
    ("read", "truth", "characters", "words"),
    [
        pytest.param("the ferry", "the ferry", (0, 9), (0, 2), id="equal"),
        pytest.param(" the\n\tferry ", "the ferry", (0, 9), (0, 2), id="white space"),
        pytest.param("fe\u0301e", "fée", (0, 3), (0, 1), id="composed letters"),
        pytest.param("the fery", "the ferry", (1, 9), (1, 2), id="a letter lost"),
        pytest.param("theferry", "the ferry", (1, 9), (2, 2), id="a space lost: one word replaced, one lost"),
        pytest.param("the old ferry", "the ferry", (4, 9), (1, 2), id="a word made up"),
        pytest.param("b a", "a b", (2, 3), (2, 2), id="exchanged"),
        pytest.param("", "the ferry", (9, 9), (2, 2), id="nothing read"),
        pytest.param("made up", "", (7, 0), (2, 0), id="nothing written"),
    ],
)
def test_error_rates(read: str, truth: str, characters: tuple[int, int], words: tuple[int, int]) -> None:
    """Edits and units of the truth, in characters and in words."""
    assert character_errors(read, truth) == Errors(*characters)
    assert word_errors(read, truth) == Errors(*words)


def test_rates_weigh_by_length() -> None:
    """Errors of pages add up before they are divided by the truth; a rate may pass 1."""
    assert (Errors(1, 10) + Errors(0, 90)).rate == 0.01
    assert (Errors().rate, Errors(3, 2).rate, Errors(1, 0).rate) == (0.0, 1.5, float("inf"))


def test_differences_show_what_was_read_instead() -> None:
    """Each stretch of words that differs, as written and as read."""
    assert differences("the fery leaves never", "the ferry leaves") == [("ferry", "fery"), ("", "never")]


def test_plain_quotes_keep_the_length() -> None:
    """Each mark becomes one of a typewriter, so that only its shape is forgiven."""
    assert plain_quotes("„O\u2019Hara“ \u2013 «sì»") == '"O\'Hara" - "sì"'


@given(WORDS, WORDS)
def test_normalized_distance(one: str, other: str) -> None:
    """0 for equals alone, at most 1, the same both ways."""
    distance = normalized_distance(one, other)
    assert 0 <= distance <= 1
    assert distance == normalized_distance(other, one)
    assert (distance == 0) == (one == other)


@given(st.text("ab", max_size=4), st.text("ab", max_size=8))
def test_substring_distance(part: str, text: str) -> None:
    """The least distance to a stretch of the same length, where it is below the limit, else 1."""
    stretches = [text[start : start + len(part)] for start in range(len(text) - len(part) + 1)]
    least = min((normalized_distance(part, stretch) for stretch in stretches), default=1.0) if part else 1.0
    assert substring_distance(part, text, 0.6) == (least if least < 0.6 else 1.0)


@given(st.integers(1, 4), st.integers(1, 4), st.data())
def test_assignment_is_the_best(rows: int, columns: int, data: st.DataObject) -> None:
    """As many pairs as there can be, none twice, and no other choice costs less."""
    costs = np.array([[data.draw(st.integers(0, 9)) / 9 for _ in range(columns)] for _ in range(rows)])
    pairs = assign(costs)
    size = min(rows, columns)
    assert len({row for row, _ in pairs}) == len({column for _, column in pairs}) == len(pairs) == size
    wide = costs if rows <= columns else costs.T
    best = min(
        sum(wide[row, column] for row, column in enumerate(chosen))
        for chosen in itertools.permutations(range(max(rows, columns)), size)
    )
    assert sum(costs[pair] for pair in pairs) == pytest.approx(best)


# Tables


def table(*rows: str) -> Table:
    """A table of rows of cells' HTML."""
    return parse_table("<table>" + "".join(f"<tr>{row}</tr>" for row in rows) + "</table>")


@pytest.mark.parametrize(
    ("read", "truth", "similar", "structure"),
    [
        pytest.param(table("<td>a</td>"), table("<td>a</td>"), 1, 1, id="equal"),
        pytest.param(table("<th>a</th>"), table("<td>a</td>"), 1, 1, id="a head is a cell"),
        # 3 nodes (row, two cells), one of them renamed at the cost of its text.
        pytest.param(table("<td>a</td><td>c</td>"), table("<td>a</td><td>b</td>"), 2 / 3, 1, id="another text"),
        pytest.param(table("<td>a</td><td>bc</td>"), table("<td>a</td><td>bd</td>"), 2.5 / 3, 1, id="half of a text"),
        # 4 nodes, a row and its cell to insert.
        pytest.param(table("<td>a</td>"), table("<td>a</td>", "<td>b</td>"), 2 / 4, 2 / 4, id="a row lost"),
        pytest.param(table("<td>a</td><td>b</td>"), table("<td>a</td>"), 2 / 3, 2 / 3, id="a cell made up"),
        # 2 nodes, the cell renamed at full cost.
        pytest.param(table("<td>a</td>"), table('<td colspan="2">a</td>'), 1 / 2, 1 / 2, id="a span lost"),
        pytest.param(table("<td>x2</td>"), table("<td>x<sup>2</sup></td>"), 1, 1, id="tags within a cell"),
        pytest.param(Table(), table("<td>a</td>"), 0, 0, id="no table"),
    ],
)
def test_teds(read: Table, truth: Table, similar: float, structure: float) -> None:
    """Both figures, against those computed by hand."""
    assert teds(read, truth) == pytest.approx(similar)
    assert teds(read, truth, structure_only=True) == pytest.approx(structure)


@settings(max_examples=40)
@given(TABLES, TABLES)
def test_teds_is_a_similarity(one: Table, other: Table) -> None:
    """1 for equals, the same both ways, the structure alone never less like than the whole."""
    assert teds(one, one) == teds(other, other, structure_only=True) == 1
    similar, structure = teds(one, other), teds(one, other, structure_only=True)
    assert similar == pytest.approx(teds(other, one))
    assert similar <= structure + 1e-9 <= 1 + 2e-9


def test_key_of_a_table() -> None:
    """Heads are cells, spans stay, and the frame of the official scorer is around it."""
    read = table('<th rowspan="2">a  b</th><td>c</td>')
    assert table_key(read) == (
        '<html><body><table border="1" ><tr><td rowspan="2">a b</td><td>c</td></tr></table></body></html>'
    )
    assert not table_key(Table())


# Matching


@pytest.mark.parametrize(
    ("text", "key"),
    [
        pytest.param("# The *ferry*, 10:30!", "Theferry1030", id="marks"),
        pytest.param(r"by $\alpha_{1}$ and \(\Lambda\), \frac", "by\u03b1_1andΛfrac", id="formulas"),
        pytest.param("渡船 在。", "渡船在", id="Chinese"),
    ],
)
def test_text_key(text: str, key: str) -> None:
    """Letters and digits, of formulas what they show."""
    assert text_key(text) == key


@pytest.mark.parametrize(
    "latex",
    [r"\[ \mathbf{X} = 1 . \]", "$$\\mathrm{X}=1\\tag{3}$$", r"\begin{equation}\text{X} = 1\end{equation}", "{x}=1"],
)
def test_formula_key(latex: str) -> None:
    """Ways to write a formula that look the same."""
    assert formula_key(latex) == "{x}=1"


ONE, TWO, THREE = "thesurveybeganearly", "nobodyaskedforfigures", "ferryleavesathalfpast"


@pytest.mark.parametrize(
    ("truth", "read", "expected"),
    [
        pytest.param([ONE, TWO], [ONE, TWO], [((0,), (0,)), ((1,), (1,))], id="equal"),
        pytest.param([ONE, TWO], [TWO, ONE], [((0,), (1,)), ((1,), (0,))], id="in another order"),
        pytest.param([ONE + TWO, THREE], [ONE, TWO, THREE], [((0,), (0, 1)), ((1,), (2,))], id="read in two"),
        pytest.param([ONE, TWO, THREE], [ONE + TWO, THREE], [((0, 1), (0,)), ((2,), (1,))], id="read as one"),
        pytest.param([ONE, TWO], [ONE], [((0,), (0,)), ((1,), ())], id="not read"),
        pytest.param([ONE], [ONE, THREE], [((0,), (0,))], id="made up"),
        pytest.param([ONE], ["0123456789"], [((0,), ())], id="nothing alike"),
        pytest.param(["", ONE], ["", ONE], [((1,), (1,))], id="empty ones"),
        pytest.param([ONE], [], [((0,), ())], id="nothing read"),
        pytest.param([], [ONE], [], id="nothing written"),
    ],
)
def test_match(truth: list[str], read: list[str], expected: list[tuple[tuple[int, ...], tuple[int, ...]]]) -> None:
    """Blocks are found where they were split, joined, moved or left out."""
    assert match(truth, read) == [Match(*pair) for pair in expected]


@settings(max_examples=50)
@given(st.lists(st.text("abc", max_size=8), max_size=5), st.lists(st.text("abc", max_size=8), max_size=5))
def test_match_takes_each_true_block_once(truth: list[str], read: list[str]) -> None:
    """Every true block with a text is in one match, whatever was read; none that was read is in two."""
    matches = match(truth, read)
    assert sorted(number for one in matches for number in one.truth) == [n for n, key in enumerate(truth) if key]
    seen = [number for one in matches for number in one.read]
    assert len(seen) == len(set(seen))
