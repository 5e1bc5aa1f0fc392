"""The guard's rule against its definition; `tests/vllm_cpu/test_guard.py` holds it against vLLM's own class."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from deepseek_ocr.guard import (
    NGRAM_SIZE,
    WIDE,
    WINDOW_SIZE,
    Rule,
    banned_tokens,
    first_disagreement,
    request_args,
    rule_in,
)
from tests.repeats import answers, published_size, rules

if TYPE_CHECKING:
    from collections.abc import Sequence

CASES = st.one_of(st.tuples(answers(), rules()), published_size())


def banned(output_ids: Sequence[int], rule: Rule) -> set[int]:
    """What the module says."""
    return banned_tokens(output_ids, rule.ngram_size, rule.window_size, rule.whitelist)


def banned_by_definition(output_ids: list[int], rule: Rule) -> set[int]:
    """Every token that would end the answer on an n-gram that the window holds already."""
    size = rule.ngram_size
    window = output_ids[-rule.window_size :]
    there = [window[start : start + size] for start in range(len(window) - size + 1)]
    return {token for token in set(output_ids) - rule.whitelist if [*output_ids, token][-size:] in there and size > 1}


def test_published_values() -> None:
    """The rule is what vLLM's recipe for this model says, under the names that vLLM's own processor reads."""
    asked = {"ngram_size": 30, "window_size": 90, "whitelist_token_ids": [128821, 128822]}
    assert request_args({128822, 128821}) == asked
    assert request_args({128822, 128821}, WIDE) == {**asked, "ngram_size": 40, "window_size": 200}
    assert rule_in(asked) == Rule(30, 90, frozenset({128821, 128822}))


@given(CASES)
def test_bans_what_the_definition_bans(case: tuple[list[int], Rule]) -> None:
    """Exactly the tokens that would end an n-gram that is in the window are banned, in a list or a tuple."""
    output_ids, rule = case
    before = list(output_ids)
    assert banned(output_ids, rule) == banned_by_definition(output_ids, rule)
    assert banned(tuple(output_ids), rule) == banned_by_definition(output_ids, rule)
    assert output_ids == before


@given(CASES)
@example(([], Rule(2, 2, frozenset())))
def test_first_disagreement_is_the_first_banned_choice(case: tuple[list[int], Rule]) -> None:
    """Replaying an answer finds the first token that was banned when it was chosen, and no other."""
    output_ids, rule = case
    chosen = (end for end, token in enumerate(output_ids) if token in banned_by_definition(output_ids[:end], rule))
    found = first_disagreement(output_ids, rule.ngram_size, rule.window_size, rule.whitelist)
    assert found == next(chosen, None)
    assert found == first_disagreement(tuple(output_ids), rule.ngram_size, rule.window_size, rule.whitelist)


@given(CASES)
def test_guarded_answer_never_disagrees(case: tuple[list[int], Rule]) -> None:
    """An answer made by taking another token wherever the guard bans the one that was wanted replays clean."""
    wanted, rule = case
    output_ids: list[int] = []
    for token in wanted:
        output_ids.append(next(choice for choice in itertools.count(token) if choice not in banned(output_ids, rule)))
    assert first_disagreement(output_ids, rule.ngram_size, rule.window_size, rule.whitelist) is None


@pytest.mark.parametrize(
    ("output_ids", "rule", "expected"),
    [
        pytest.param([], Rule(2, 9, frozenset()), set(), id="nothing yet"),
        pytest.param([1] * 29, Rule(30, 90, frozenset()), set(), id="shorter than an n-gram"),
        pytest.param([1] * 30, Rule(30, 90, frozenset()), {1}, id="just an n-gram"),
        pytest.param([1, 2] * 30, Rule(30, 90, frozenset({1})), set(), id="exempt"),
        pytest.param([1, 2] * 30, Rule(30, 90, frozenset({2})), {1}, id="only the other one exempt"),
        pytest.param([1] * 30, Rule(30, 29, frozenset()), set(), id="window too small for an n-gram"),
        pytest.param([1] * 30, Rule(30, 30, frozenset()), {1}, id="window of one n-gram"),
        pytest.param([5, 6, 5, 7, 5], Rule(2, 9, frozenset()), {6, 7}, id="two at once"),
        pytest.param([5, 6, 5, 7, 5], Rule(2, 4, frozenset()), {7}, id="one has left the window"),
        pytest.param([*range(61), *range(29)], Rule(30, 90, frozenset()), {29}, id="longest period that is seen"),
        pytest.param([*range(62), *range(29)], Rule(30, 90, frozenset()), set(), id="period one longer"),
        pytest.param([1, 1, 1], Rule(1, 9, frozenset()), set(), id="1-grams ban nothing, as in vLLM"),
        pytest.param([1, -1, 1], Rule(2, 9, frozenset()), {-1}, id="a placeholder is a token like any other"),
    ],
)
def test_edges(output_ids: list[int], rule: Rule, expected: set[int]) -> None:
    """What stands at the edges of size, window and exemption is banned, or not, as published."""
    assert banned(output_ids, rule) == expected


@pytest.mark.parametrize(
    ("output_ids", "rule", "expected"),
    [
        pytest.param([*range(61), *range(61)], Rule(30, 90, frozenset()), 90, id="longest period that is seen"),
        pytest.param([*range(62), *range(62)], Rule(30, 90, frozenset()), None, id="period one longer"),
        pytest.param([1, 2, 3, 4, 5, 1, 2, 6, 1, 2], Rule(2, 4, frozenset()), 9, id="again too late, then in time"),
        pytest.param([1, 2, 1, 2, 1, 1], Rule(2, 9, frozenset({2})), 4, id="exempt, then not"),
        pytest.param([1, 1, 1], Rule(1, 9, frozenset()), None, id="1-grams ban nothing"),
    ],
)
def test_where_it_disagrees_first(output_ids: list[int], rule: Rule, expected: int | None) -> None:
    """The index is that of the token which ends the repeated n-gram."""
    assert first_disagreement(output_ids, rule.ngram_size, rule.window_size, rule.whitelist) == expected


def test_empty_table_passes() -> None:
    """Hundreds of empty cells are no loop; the same run of any other pair of tokens is one at its 31st token."""
    cells, others = [128821, 128822] * 400, [7, 8] * 400
    rule = (NGRAM_SIZE, WINDOW_SIZE, frozenset({128821, 128822}))
    assert first_disagreement(cells, *rule) is None
    assert first_disagreement(others, *rule) == NGRAM_SIZE + 1


@pytest.mark.parametrize("extra_args", [None, {}, {"window_size": 9}, {"ngram_size": None}], ids=repr)
def test_not_asked_for(extra_args: dict[str, object] | None) -> None:
    """A request that names no n-gram size is not guarded."""
    assert rule_in(extra_args) is None


@pytest.mark.parametrize(
    ("extra_args", "rule"),
    [
        pytest.param({"ngram_size": 3}, Rule(3, 100, frozenset()), id="window of vLLM's processor"),
        pytest.param({"ngram_size": 9, "window_size": 4}, Rule(9, 4, frozenset()), id="window below n"),
        pytest.param({"ngram_size": 3, "whitelist_token_ids": None}, Rule(3, 100, frozenset()), id="no exemption"),
        pytest.param({"ngram_size": 3, "whitelist_token_ids": (1, 1)}, Rule(3, 100, frozenset({1})), id="a tuple"),
    ],
)
def test_rule_of_a_request(extra_args: dict[str, object], rule: Rule) -> None:
    """Everything but the n-gram size may be left out."""
    assert rule_in(extra_args) == rule


@pytest.mark.parametrize(
    ("extra_args", "message"),
    [
        ({"ngram_size": 0}, "`ngram_size` has to be a strictly positive integer, got 0."),
        ({"ngram_size": -1}, "`ngram_size` has to be a strictly positive integer, got -1."),
        ({"ngram_size": 30.0}, "`ngram_size` has to be a strictly positive integer, got 30.0."),
        ({"ngram_size": "30"}, "`ngram_size` has to be a strictly positive integer, got 30."),
        ({"ngram_size": 30, "window_size": 0}, "`window_size` has to be a strictly positive integer, got 0."),
        ({"ngram_size": 30, "window_size": None}, "`window_size` has to be a strictly positive integer, got None."),
        ({"ngram_size": 3, "whitelist_token_ids": 7}, "`whitelist_token_ids` has to be a sequence of integers, got 7."),
        (
            {"ngram_size": 3, "whitelist_token_ids": [[7]]},
            "`whitelist_token_ids` has to be a sequence of integers, got [[7]].",
        ),
    ],
    ids=lambda value: repr(value) if isinstance(value, dict) else "",
)
def test_refused(extra_args: dict[str, object], message: str) -> None:
    """A rule that cannot be is refused with vLLM's own sentence."""
    with pytest.raises(ValueError, match=r"has to be") as refusal:
        rule_in(extra_args)
    assert str(refusal.value) == message
