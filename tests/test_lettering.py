"""Type size and weight from pictures of lines."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pymupdf
import pytest

from deepseek_ocr.lettering import Type, lettering_of, types_of

if TYPE_CHECKING:
    from deepseek_ocr.lettering import Image

TEXTS = (
    "Harbours of the north",
    "some seen now on our use",
    "The keeper wrote down every arrival by hand",
    "Notes 1999",
)
DPI = 144


def picture(text: str, size: float, font: str = "helv") -> Image:
    """A line as a detector cuts it out, with a rim around its letters."""
    face = pymupdf.Font(font)
    width = face.text_length(text, size)
    with pymupdf.open() as document:
        page = document.new_page(width=width + 0.3 * size, height=1.3 * size)
        page.insert_text((0.15 * size, size), text, fontname=font, fontsize=size)
        pixmap = page.get_pixmap(dpi=DPI)
        return np.frombuffer(pixmap.samples, np.uint8).reshape(pixmap.height, pixmap.width, 3).copy()


def types(lines: list[tuple[str, float, str]]) -> list[Type]:
    """The type of each of these lines on one page."""
    found = types_of([lettering_of(picture(*line), line[0]) for line in lines])
    return [type_ for type_ in found if type_ is not None]


@pytest.mark.parametrize("font", ["helv", "tiro", "cour"])
def test_size(font: str) -> None:
    """Sizes of one face differ as they should, whatever letters the lines have."""
    body = [(text, 11.0, font) for text in TEXTS]
    large = [(text, 14.0, font) for text in TEXTS]
    sizes = [type_.size for type_ in types(body + large)]
    usual = float(np.median(sizes[:4]))
    assert sizes[:4] == pytest.approx([usual] * 4, rel=0.12)
    assert all(size > 1.15 * usual for size in sizes[4:])


@pytest.mark.parametrize(("regular", "bold"), [("helv", "hebo"), ("tiro", "tibo"), ("cour", "cobo")])
def test_weight(regular: str, bold: str) -> None:
    """Lines in bold type among others are told by their strokes."""
    lines = [(text, 11.0, regular) for text in TEXTS * 2] + [(text, 11.0, bold) for text in TEXTS]
    assert [type_.bold for type_ in types(lines)] == [False] * 8 + [True] * 4


@pytest.mark.parametrize("font", ["helv", "hebo", "tiro", "cobo"])
def test_light_letters(font: str) -> None:
    """Light type on dark is measured like its negative."""
    for text in TEXTS:
        dark = picture(text, 11.0, font)
        assert lettering_of(255 - dark, text) == lettering_of(dark, text)


def test_page_all_in_bold_has_none() -> None:
    """Bold is what stands out."""
    assert not any(type_.bold for type_ in types([(text, 11.0, "hebo") for text in TEXTS]))


@pytest.mark.parametrize("level", [0, 128, 255])
def test_nothing_to_measure(level: int) -> None:
    """An even picture, or a line without letters, has no type; nobody divides by it."""
    empty = np.full((20, 60, 3), level, np.uint8)
    assert types_of([lettering_of(empty, "word"), lettering_of(picture("word", 11), "...")]) == [None, None]
    assert types_of([]) == []


def test_other_scripts() -> None:
    """Ideographs are as wide as high, and are not held against Latin letters."""
    lines = [("天地玄黄宇宙洪荒", 11.0, "china-s"), ("日月盈昃辰宿列张", 11.0, "china-s"), (TEXTS[2], 11.0, "helv")]
    assert not any(type_.bold for type_ in types(lines))
