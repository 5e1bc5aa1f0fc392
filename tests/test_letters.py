"""Lines are read as RapidOCR's own call reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

from deepseek_ocr import recognition
from deepseek_ocr.engine import cpu
from deepseek_ocr.letters import read_line

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Image = NDArray[np.uint8]


@pytest.fixture(scope="module")
def ocr() -> Any:
    """RapidOCR with the models of its wheel."""
    return recognition._load(*cpu._model_files(None))  # noqa: SLF001


def written(text: str, width: int) -> Image:
    """A line of text in colour, so wide."""
    picture = np.full((40, width, 3), (200, 250, 240), np.uint8)
    cv2.putText(picture, text, (6, 28), cv2.FONT_HERSHEY_SIMPLEX, 0.9, (90, 10, 40), 2, cv2.LINE_AA)
    return picture


@pytest.mark.parametrize(
    "picture",
    [
        pytest.param(written("The ferry leaves at half past nine", 560), id="a line"),
        pytest.param(written("12.5", 100), id="a cell of a table"),
        pytest.param(written("a", 30), id="a letter, narrower than the model takes"),
        pytest.param(written("aa ll 11", 150), id="letters that come twice"),
        pytest.param(written("", 200), id="nothing"),
        pytest.param(written("cut", 90)[:, ::-1], id="a view that runs backwards"),
        pytest.param(written("x", 40)[:1, :1], id="a pixel"),
    ],
)
def test_a_line_is_read_as_rapidocr_reads_it(ocr: Any, picture: Image) -> None:
    """The same letters, and the same confidence."""
    theirs = ocr.recognize_txt([picture])
    text, confidence = read_line(ocr.text_rec, picture)
    assert (text, confidence) == (theirs.txts[0], theirs.scores[0])
