"""The rules of a page from its picture."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from deepseek_ocr.ruling import MAX_SIDE_PX, find_rules

#: Height of a line of text in pixels.
LINE = 24.0


def paper(width: int = 800, height: int = 600, level: int = 255) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    """An empty page."""
    return np.full((height, width), level, np.uint8)


@pytest.mark.parametrize("thickness", [1, 3, 8])
@pytest.mark.parametrize("grey", [0, 140, 210], ids=["black", "grey", "light"])
def test_level_and_upright(thickness: int, grey: int) -> None:
    """Rules of any usual thickness and darkness are found where they are."""
    page = paper()
    cv2.rectangle(page, (100, 200), (699, 200 + thickness - 1), grey, -1)
    cv2.rectangle(page, (300, 100), (300 + thickness - 1, 499), grey, -1)
    level, upright = sorted(find_rules(page, LINE), key=lambda rule: not rule.is_level)
    assert (level.start, level.end, upright.start, upright.end) == pytest.approx((100, 700, 100, 500), abs=thickness)
    assert (level.at, upright.at) == pytest.approx((200 + thickness / 2, 300 + thickness / 2), abs=1)


def test_letters_and_dark_areas() -> None:
    """The strokes of letters are no rules; a dark area has some at its edges at most."""
    page = paper()
    for row in range(5):
        cv2.putText(page, "HILL Tell it FILE l1 -- EEL", (40, 80 + 40 * row), cv2.FONT_HERSHEY_SIMPLEX, 0.7, 0, 2)
    page[400:560, 100:700] = 60
    edges = {100, 700, 400, 560}
    assert all(min(abs(rule.at - edge) for edge in edges) < LINE for rule in find_rules(page, LINE))


def test_light_on_dark() -> None:
    """A page with light print has the rules of its negative; the dark between its letters is none."""
    page = paper()
    for row in range(8):
        cv2.putText(page, "HILL Tell it FILE l1 -- EEL", (40, 80 + 40 * row), cv2.FONT_HERSHEY_SIMPLEX, 0.7, 0, 2)
    assert find_rules(255 - page, LINE, light=True) == []
    page[500:503, 100:700] = 0
    (rule,) = find_rules(255 - page, LINE, light=True)
    assert (rule.at, rule.start, rule.end) == pytest.approx((501.5, 100, 700), abs=2)


def test_grain_hides_no_rule() -> None:
    """A thin grey rule on grainy paper is found, whole or in parts."""
    page = paper(level=225)
    page[300:302, 100:700] = 120
    grainy = page + np.random.default_rng(3).normal(0, 6, page.shape)
    rules = find_rules(np.clip(grainy, 0, 255).astype(np.uint8), LINE)
    assert all(rule.is_level and rule.at == pytest.approx(301, abs=2) for rule in rules)
    assert sum(rule.end - rule.start for rule in rules) > 500


def test_large_page() -> None:
    """A page that is looked at in half its size has its rules in its own pixels."""
    page = paper(2 * MAX_SIDE_PX, 1000)
    page[500:504, 200:5000] = 0
    (rule,) = find_rules(page, 2 * LINE)
    assert (rule.at, rule.start, rule.end) == pytest.approx((502, 200, 5000), abs=4)


@pytest.mark.parametrize("shape", [(1, 1), (1, 4000), (7000, 3), (64, 64)])
def test_any_page(shape: tuple[int, int]) -> None:
    """Pages of any shape are looked at."""
    assert isinstance(find_rules(np.zeros(shape, np.uint8), 1.0), list)
