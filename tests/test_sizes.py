"""How large page images become."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek_ocr.sizes import MAX_IMAGE_PX, MAX_SIDE_PX, MIN_LONG_SIDE_PX, image_size


@given(
    width=st.floats(allow_nan=True, allow_infinity=True),
    height=st.floats(allow_nan=True, allow_infinity=True),
    scale=st.floats(min_value=1e-6, max_value=100),
    max_page_px=st.integers(min_value=1, max_value=10**12),
    min_side_px=st.sampled_from([0, MIN_LONG_SIDE_PX]),
)
def test_image_size_stays_within_bounds(
    width: float, height: float, scale: float, max_page_px: int, min_side_px: int
) -> None:
    """Whatever size a page claims, its image has at least one pixel and never too many."""
    size = image_size(width, height, scale=scale, max_page_px=max_page_px, min_side_px=min_side_px)
    assert min(size) >= 1
    assert max(size) <= MAX_SIDE_PX
    assert size[0] * size[1] <= min(MAX_IMAGE_PX, max_page_px)


@given(
    width=st.floats(min_value=10, max_value=15_000),
    height=st.floats(min_value=10, max_value=15_000),
)
def test_image_size_keeps_the_shape(width: float, height: float) -> None:
    """A page of any usual size is not stretched by more than the rounding to whole pixels."""
    width_px, height_px = image_size(width, height, scale=2, max_page_px=10**9, min_side_px=MIN_LONG_SIDE_PX)
    scale = max(width_px / width, height_px / height)
    assert abs(width_px - width * scale) <= 1.001
    assert abs(height_px - height * scale) <= 1.001


SIZES = {
    "A4 at 144 dpi": ((595, 842), (1190, 1684)),
    "visiting card, enlarged": ((241, 156), (1000, 647)),
    "A0, reduced": ((4768, 6741), (4120, 5825)),
    "receipt, kept as it is": ((227, 8500), (454, 17000)),
    "nonsense": ((0, float("nan")), (1000, 1000)),
}


@pytest.mark.parametrize("case", SIZES)
def test_image_size_of_known_pages(case: str) -> None:
    """Usual pages at the usual resolution, small ones larger, huge ones smaller."""
    (width, height), expected = SIZES[case]
    assert image_size(width, height, scale=2, max_page_px=200_000_000, min_side_px=MIN_LONG_SIDE_PX) == expected
