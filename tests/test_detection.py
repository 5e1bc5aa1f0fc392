"""The detector is given what RapidOCR gives it, and finds what it finds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

from deepseek_ocr import detection, recognition
from deepseek_ocr.engine import cpu

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Image = NDArray[np.uint8]


@pytest.fixture(scope="module")
def detector() -> Any:
    """RapidOCR's, with the model of its wheel."""
    return recognition._load(*cpu._model_files(None)).text_det  # noqa: SLF001


def coloured(height: int, width: int) -> Image:
    """Every level of each colour."""
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize(
    ("height", "width"),
    [
        pytest.param(320, 256, id="whole steps of the network"),
        pytest.param(333, 210, id="scaled to them"),
        pytest.param(2400, 700, id="scaled down"),
        pytest.param(15, 400, id="too narrow for it"),
    ],
)
def test_the_network_gets_rapidocrs_figures(detector: Any, height: int, width: int) -> None:
    """To the last bit, also where RapidOCR gives up."""
    theirs = detector.get_preprocess()(coloured(height, width))
    ours = detection._prepared(detector, coloured(height, width))  # noqa: SLF001
    assert (ours is None) == (theirs is None)
    assert ours is None or np.array_equal(ours, theirs)


def test_lines_are_rapidocrs_own(detector: Any) -> None:
    """The same corners in the same order."""
    image = np.full((400, 600, 3), 245, np.uint8)
    for number, text in enumerate(("Depth and position", "were written down", "at night")):
        cv2.putText(image, text, (40, 90 + 100 * number), cv2.FONT_HERSHEY_SIMPLEX, 1.2, (20, 20, 20), 2, cv2.LINE_AA)
    found, complete = detection.find_lines(detector, image, deadline=0)
    assert complete
    assert np.array_equal(found, detector(image).boxes)
    assert len(found) >= 3
