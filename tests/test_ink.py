"""Ink is told from paper."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw

from deepseek_ocr.ink import ink_share
from tests import documents
from tests.documents import jpeg

BLANK = {
    "white": documents.paper(level=255),
    "grey paper": documents.paper(level=200),
    "grain": documents.paper(grain=8),
    "coarse grain": documents.paper(grain=20),
    "JPEG artefacts": Image.open(io.BytesIO(jpeg(documents.paper(grain=12), quality=20))),
    "black": documents.paper(level=0),
    "shadow to one side": Image.fromarray(np.tile(np.linspace(140, 245, 1240), (1754, 1)).astype(np.uint8)),
    "one pixel": documents.paper((1, 1)),
}


@pytest.mark.parametrize("case", BLANK)
def test_blank_pages_have_no_ink(case: str) -> None:
    """Paper, whatever it is like, is not ink."""
    assert ink_share(BLANK[case]) == 0.0


def test_dust_is_no_ink() -> None:
    """Specks of a fifth of a millimetre, fifty on a page, leave it blank."""
    sheet = documents.paper(grain=5)
    draw = ImageDraw.Draw(sheet)
    for x, y in np.random.default_rng(3).integers(30, 1200, (50, 2)):
        draw.rectangle((int(x), int(y), int(x) + 1, int(y) + 1), fill=60)
    assert ink_share(sheet) == 0.0


@pytest.mark.parametrize("level", [255, 200])
@pytest.mark.parametrize("grain", [0, 8])
def test_a_page_number_is_ink(level: float, grain: float) -> None:
    """Two digits of ten-point type on an empty page are not overlooked."""
    sheet = documents.paper(level=level, grain=grain)
    ImageDraw.Draw(sheet).text((600, 1650), "42", fill=20, font_size=20)
    assert 0 < ink_share(sheet) < 0.001


def test_light_type_on_dark_ground_is_ink() -> None:
    """A slide with white letters on dark blue has as much ink as its negative."""
    slide = documents.bars((1000, 750))
    negative = Image.fromarray(255 - np.asarray(slide))
    assert ink_share(slide) == pytest.approx(ink_share(negative), rel=0.1)
    assert ink_share(slide) > 0.05
