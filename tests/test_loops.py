"""Answers that loop are told from pages that only look alike, while they stream and afterwards."""

from __future__ import annotations

import pickle
import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek_ocr.loops import KEPT, STRIDE, Loop, LoopWatch, find_loop
from deepseek_ocr.repetition import compression_ratio, distinct_line_ratio, distinct_word_ratio
from tests.growth import check_linear
from tests.loop_samples import HEAD, INNOCENT, LATE, LOOPS, SOON, block

#: Characters by which the beginning may be told wrong: a step of the blank cells' search.
NEARLY = 128


def streamed(pieces: list[str]) -> Loop | None:
    """What a watch says of an answer that comes in pieces."""
    watch = LoopWatch()
    for piece in pieces:
        found = watch.feed(piece)
        if found:
            return found
    return watch.finish()


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_is_noticed_soon_with_its_kind_and_beginning(name: str) -> None:
    """Each shape is known by its kind, near its beginning, after few characters."""
    text, kind = LOOPS[name]
    loop = find_loop(HEAD + text)
    assert loop is not None
    assert loop.kind == kind
    assert abs(loop.start - len(HEAD)) <= NEARLY
    assert loop.start <= loop.cut <= loop.noticed
    assert loop.noticed - len(HEAD) <= LATE.get(name, SOON)


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_is_known_after_a_long_page(name: str) -> None:
    """A loop far down an answer is found where it is, although only a tail is kept."""
    text, _ = LOOPS[name]
    page = INNOCENT["a page of formulas"] + "\n" + INNOCENT["Chinese without spaces"] * 2 + "\n" + HEAD
    loop = find_loop(page + text)
    assert loop is not None
    assert abs(loop.start - len(page)) <= NEARLY


@pytest.mark.parametrize("text", INNOCENT.values(), ids=INNOCENT)
def test_a_page_that_only_looks_alike_is_no_loop(text: str) -> None:
    """Forms, lists, tables and songs repeat themselves too; alone, after a text and before one."""
    assert find_loop(text) is None
    assert find_loop(HEAD + text) is None
    assert find_loop(text + "\n\n" + HEAD) is None


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Yes\n" * 20, "few words"),
        ("TOTAL 17,000\nCASHIER TOTAL: 17,000\n" * 5, "few words"),
        ("Harbour Office\n" * 18, "period"),
        ("8/" * 40, "few words"),
    ],
    ids=["one word", "two lines of a receipt", "one line", "signs between digits"],
)
def test_a_short_answer_that_stops_by_itself_is_known_at_its_end(text: str, kind: str) -> None:
    """It is too short to be told while it streams."""
    watch = LoopWatch()
    assert watch.feed(text[: STRIDE - 1]) is None
    watch.feed(text[STRIDE - 1 :])
    loop = watch.finish()
    assert loop is not None
    assert loop.kind == kind


def test_a_watch_says_it_once() -> None:
    """The piece that shows the loop gives it, later pieces nothing; the end tells it again."""
    watch = LoopWatch()
    pieces = [HEAD, *["8/8/8/8/8/" * 10] * 40]
    said = [loop for piece in pieces if (loop := watch.feed(piece))]
    assert len(said) == 1
    assert watch.finish() is watch.loop is said[0]


TEXTS = st.one_of(
    st.text(max_size=3000),
    st.lists(
        st.sampled_from(["<td></td>", "<tr>", "\n", "8/", "1 ", " ", r"\quad ", "<|ref|>", "[["]), max_size=2000
    ).map("".join),
    st.sampled_from([HEAD + text for text, _ in LOOPS.values()]),
    st.sampled_from(list(INNOCENT.values())),
)


@given(TEXTS, st.lists(st.integers(0, 9000), max_size=30))
def test_a_stream_and_its_whole_get_the_same_verdict(text: str, cuts: list[int]) -> None:
    """However an answer comes in pieces, a watch says the same at the same character; it never raises."""
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    whole = find_loop(text)
    assert streamed([text[a:b] for a, b in pairwise(edges)]) == whole
    assert whole is None or 0 <= whole.start <= whole.cut <= whole.noticed <= len(text)


def hostile(size: int) -> dict[str, str]:
    """Text that is dense, and no loop, of so many characters."""
    choose = random.Random(0)  # noqa: S311 - not a secret
    words = HEAD.split()
    return {
        "letters": "".join(choose.choices("ab", k=size)),
        "digits": " ".join(choose.choices("0123456789", k=size // 2)),
        "signs": "".join(choose.choices("(){}[]<>|/\\.,;:", k=size)),
        "cells": "".join(f"<td>{choose.randrange(1000)}</td>" for _ in range(size // 12)),
        "sparse rows": "".join(
            "<tr>" + "<td></td>" * 12 + f"<td>{' '.join(choose.choices(words, k=4))}" for _ in range(size // 140)
        ),
        "leaders": "".join("." * choose.randrange(40, 60) + f"{choose.randrange(9999)}\n" for _ in range(size // 55)),
        "half tags": "".join(choose.choices(["<|det|>", "<|ref|>", "[[", "<td", "<"], k=size // 5)),
    }


@pytest.mark.parametrize("name", hostile(1000))
def test_work_is_linear(name: str) -> None:
    """Hostile text takes work in proportion, and 400 kB of it, where a pattern would not end, a moment."""
    check_linear(find_loop, *(hostile(size)[name] for size in (40_000, 160_000)))
    find_loop(hostile(400_000)[name])


def test_a_watch_keeps_a_bounded_tail() -> None:
    """What it keeps of an answer does not grow with it."""
    watch, choose = LoopWatch(), random.Random(1)  # noqa: S311 - not a secret
    for _ in range(100):
        assert watch.feed("".join(choose.choices("abcdefghijklmnop ", k=2000))) is None
    assert len(pickle.dumps(watch)) < 2 * KEPT


@pytest.mark.parametrize(
    ("text", "lines", "words"),
    [
        ("", 1.0, 1.0),
        ("one two\nthree\n", 1.0, 1.0),
        ("Total 5\n\ntotal 5\nTOTAL  5\n", 1 / 3, 1 / 3),
        (block("Yes", 10) + block("Yes", 20), 0.5, 0.5),
        ("<table><tr><td>a</td><td>b</td></tr></table>", 1.0, 1.0),
    ],
    ids=["empty", "all different", "case and spaces", "boxes do not count", "frames of tables do not count"],
)
def test_ratios_of_distinct_lines_and_words(text: str, lines: float, words: float) -> None:
    """Markup, boxes, case and blank lines have no part in them."""
    assert distinct_line_ratio(text) == pytest.approx(lines)
    assert distinct_word_ratio(text) == pytest.approx(words)


def test_compression_tells_loops_from_pages() -> None:
    """Of the tail only: a loop at the end shows however long the page before it is."""
    assert compression_ratio("") == 0.0
    assert (
        compression_ratio(HEAD * 3 + "8/" * 4000) > 7 > compression_ratio("8/" * 4000 + INNOCENT["a table of numbers"])
    )
