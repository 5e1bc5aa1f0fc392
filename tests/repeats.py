"""Answers that repeat themselves, as token ids, and rules for the guard against it; strategies for hypothesis."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import strategies as st

from deepseek_ocr.guard import NGRAM_SIZE, WINDOW_SIZE, Rule

if TYPE_CHECKING:
    from hypothesis.strategies import DrawFn, SearchStrategy

#: So few that n-grams come again by chance.
ALPHABET = range(3)


def rules() -> SearchStrategy[Rule]:
    """Small rules, among them windows smaller than the n-gram, and exemptions of some or all tokens."""
    sizes, windows = st.integers(1, 6), st.integers(1, 16)
    return st.builds(Rule, sizes, windows, st.frozensets(st.sampled_from(ALPHABET)))


def answers() -> SearchStrategy[list[int]]:
    """Answers from none to about four times the largest of these windows."""
    tokens = st.sampled_from(ALPHABET)
    loops = st.builds(
        lambda head, loop, times, tail: head + loop * times + tail,
        st.lists(tokens, max_size=8),
        st.lists(tokens, max_size=8),
        st.integers(0, 7),
        st.lists(tokens, max_size=3),
    )
    return st.one_of(st.lists(tokens, max_size=60), loops)


@st.composite
def published_size(draw: DrawFn) -> tuple[list[int], Rule]:
    """The published rule, and loops of any period around what it can see, with a mutation or none, cut anywhere."""
    period = draw(st.integers(1, WINDOW_SIZE))
    loop = draw(st.lists(st.integers(0, 9), min_size=period, max_size=period))
    answer = (loop * (3 * WINDOW_SIZE // period + 2))[: draw(st.integers(NGRAM_SIZE - 2, 3 * WINDOW_SIZE))]
    if draw(st.booleans()):
        answer[draw(st.integers(0, len(answer) - 1))] = 10
    return answer, Rule(NGRAM_SIZE, WINDOW_SIZE, draw(st.frozensets(st.integers(0, 9), max_size=2)))
