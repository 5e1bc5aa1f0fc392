"""A look at a part of a page, turned, and the way back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek_ocr.view import WHOLE, View

if TYPE_CHECKING:
    from typing import Literal

PART = (0.2, 0.1, 0.7, 0.5)


@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_the_way_back_is_that_of_a_picture(turn: Literal[0, 90, 180, 270]) -> None:
    """What a turned cut-out of a picture shows at a place is found at that place of the picture."""
    page = np.zeros((1000, 1000), np.uint8)
    page[150:250, 300:350] = 1
    part = page[100:500, 200:700]
    seen = np.rot90(part, -turn // 90)
    rows, columns = np.nonzero(seen)
    height, width = seen.shape
    box = (columns.min() / width, rows.min() / height, (columns.max() + 1) / width, (rows.max() + 1) / height)
    assert View(PART, turn).on_page(box) == pytest.approx((0.3, 0.15, 0.35, 0.25))


@given(st.sampled_from([0, 90, 180, 270]), st.tuples(*[st.floats(0, 1)] * 4))
def test_what_is_seen_stands_in_the_part(turn: Literal[0, 90, 180, 270], sides: tuple[float, ...]) -> None:
    """A box of what is seen keeps its order of sides and lies within the part that was looked at."""
    left, right = sorted(sides[:2])
    top, bottom = sorted(sides[2:])
    x0, y0, x1, y1 = View(PART, turn).on_page((left, top, right, bottom))
    assert 0.2 - 1e-9 <= x0 <= x1 <= 0.7 + 1e-9
    assert 0.1 - 1e-9 <= y0 <= y1 <= 0.5 + 1e-9


def test_all_of_a_page_changes_nothing() -> None:
    """A box seen on the whole page is the page's own."""
    assert WHOLE.on_page(PART) == PART
