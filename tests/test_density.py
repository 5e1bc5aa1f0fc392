"""Base mode is enough where print is large and not too much, in doubt it is not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image, ImageDraw

from deepseek_ocr.density import BAND_PX, band_heights, is_seen_well, letter_count
from deepseek_ocr.ink import TEXT, look
from deepseek_ocr.pages import close_document, load_page
from deepseek_ocr.prompt import AUTO, Mode
from deepseek_ocr.view import View
from tests import documents
from tests.documents import LIMITS, encoded, load, rgb, write

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from deepseek_ocr.ink import Ink

WORDS = "Sphinx of black quartz, judge my vow, and pack my box with five dozen jugs"


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    """No document stays open between tests."""
    yield
    close_document()


def page(size: float, lines: int) -> bytes:
    """An A4 page of lines in Helvetica of this size in points."""
    width = int(len(WORDS) * 10 / size)
    return documents.content_pdf([documents.text_content([WORDS[:width]] * lines, size=size)])


def seen(tmp_path: Path, content: bytes) -> tuple[NDArray[np.uint8], Ink]:
    """The view of a page as base has it, and its ink."""
    image = Image.fromarray(rgb(load(write(tmp_path, content)))).convert("L")
    return np.asarray(image.resize((724, 1024), Image.Resampling.BICUBIC)), look(image)


@pytest.mark.parametrize("size", [8, 10, 12, 16])
def test_bands_are_as_high_as_small_letters(tmp_path: Path, size: float) -> None:
    """Their median is the x-height of Helvetica (0.523 of its size), within a pixel of the view."""
    view, ink = seen(tmp_path, page(size, 20))
    assert ink.grid is not None
    bands = band_heights(view, ink.grid == TEXT)
    assert abs(float(np.median(bands)) - 0.523 * size * 1024 / 842) <= 1


@pytest.mark.parametrize(("size", "lines"), [(8, 40), (10, 30), (12, 20)])
def test_letters_are_counted_roughly(tmp_path: Path, size: float, lines: int) -> None:
    """The estimate is within a third of what is there."""
    view, ink = seen(tmp_path, page(size, lines))
    assert ink.grid is not None
    letters = len(WORDS[: int(len(WORDS) * 10 / size)]) * lines
    assert letter_count(band_heights(view, ink.grid == TEXT)) == pytest.approx(letters, rel=0.34)


#: Name -> a page, and whether base is enough for it.
PAGES = {
    "a letter in 12 pt": (page(12, 30), True),
    "a form in 6.5 pt": (page(6.5, 30), False),
    "a page full of 8 pt": (page(8, 70), False),
    "nothing but a drawing": (documents.content_pdf([b"100 100 300 300 re f"]), False),
    "lines that run sideways": (
        documents.content_pdf([documents.text_content([WORDS] * 30, size=12)], page=b"/Rotate 90"),
        False,
    ),
}


@pytest.mark.parametrize("case", PAGES)
@pytest.mark.parametrize("kind", ["pdf", "png"])
def test_mode_of_a_page(tmp_path: Path, case: str, kind: str) -> None:
    """As a PDF and as a picture a page gets base only if its print is large, level and not too much."""
    content, enough = PAGES[case]
    path = write(tmp_path, content)
    if kind == "png":
        path = write(tmp_path, encoded(Image.fromarray(rgb(load(path))), "PNG"), "page.png")
    tiles = load_page(path, 0, needs="tiles", limits=LIMITS, mode=AUTO).tiles
    assert tiles is not None
    assert tiles.mode is (Mode.BASE if enough else Mode.GUNDAM)
    expected = load_page(path, 0, needs="tiles", limits=LIMITS, mode=tiles.mode).tiles
    assert expected is not None
    assert np.array_equal(tiles.view, expected.view)
    assert np.array_equal(tiles.crops, expected.crops)
    assert tiles.token_count == expected.token_count


def test_parts_get_crops(tmp_path: Path) -> None:
    """Whoever looks at a part of a page wants to see it better."""
    path = write(tmp_path, page(12, 30))
    part = load_page(path, 0, needs="tiles", limits=LIMITS, mode=AUTO, view=View((0, 0, 1, 0.5)))
    assert part.tiles is not None
    assert part.tiles.mode is Mode.GUNDAM


@given(
    arrays.arrays(np.uint8, st.tuples(st.integers(1, 60), st.integers(1, 60))),
    arrays.arrays(np.bool_, st.tuples(st.integers(1, 30), st.integers(1, 30))),
)
def test_any_picture(view: NDArray[np.uint8], text: NDArray[np.bool_]) -> None:
    """Whatever is seen, bands are within their limits and letters a number."""
    bands = band_heights(view, text)
    assert all(BAND_PX[0] <= band <= BAND_PX[1] for band in bands)
    assert letter_count(bands) >= 0


def test_tiny_pictures() -> None:
    """A page of one pixel is no reason to fail."""
    for size in ((1, 1), (1, 400), (400, 1)):
        image = Image.new("L", size, 255)
        ImageDraw.Draw(image).point((0, 0), 0)
        assert not is_seen_well(np.asarray(image), look(image))
