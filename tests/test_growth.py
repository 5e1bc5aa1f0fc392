"""The count of calls tells linear work from quadratic."""

import pytest

from tests.growth import check_linear


def linear(text: str) -> None:
    """A call for each letter."""
    for letter in text:
        letter.isspace()


def quadratic(text: str) -> None:
    """A call for each letter, for each tenth letter."""
    for _ in range(0, len(text), 10):
        linear(text)


def test_only_linear_work_passes() -> None:
    """Linear work passes, whatever is done once; quadratic work fails."""
    check_linear(linear, "a" * 1000, "a" * 4000)
    with pytest.raises(AssertionError, match="calls, then"):
        check_linear(quadratic, "a" * 1000, "a" * 4000)
