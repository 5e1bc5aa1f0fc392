"""A page that is one JPEG is that JPEG; any other page is none."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from deepseek_ocr.pages import close_document, load_page
from deepseek_ocr.pages_pdf import mupdf
from deepseek_ocr.prompt import Mode
from deepseek_ocr.scans import scan_of, scan_planes
from deepseek_ocr.tiles import Tiles, tile
from tests import documents
from tests.documents import A4, LIMITS, encoded, load, rgb, write

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SIZE = (620, 877)
WHOLE = b"595 0 0 842 0 0 cm /Im Do"
BARS = documents.jpeg(documents.bars(SIZE))
CORNERS = documents.jpeg(documents.corners(*SIZE), quality=95)
INVISIBLE = b"BT 3 Tr /F1 11 Tf 72 700 Td (Sphinx of black quartz) Tj ET "


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    """No document stays open between tests."""
    yield
    close_document()


def page_of(
    content: bytes, *, picture: bytes = BARS, entries: bytes = b"", page: bytes = b"", filters: bytes = b"/DCTDecode"
) -> bytes:
    """An A4 page with this content, in which /Im is the picture and /F1 a font."""
    header = b"/Type /XObject /Subtype /Image /Width %d /Height %d /BitsPerComponent 8 /ColorSpace %s /Filter %s %s"
    with Image.open(io.BytesIO(picture)) as image:
        colours = {"L": b"/DeviceGray", "RGB": b"/DeviceRGB", "CMYK": b"/DeviceCMYK"}[image.mode]
    return documents.pdf(
        [
            b"<< /Type /Catalog /Pages 2 0 R >>",
            b"<< /Type /Pages /Kids [4 0 R] /Count 1 /MediaBox [0 0 %g %g] >>" % A4,
            b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
            b"<< /Type /Page /Parent 2 0 R /Contents 5 0 R %s /Resources << /Font << /F1 3 0 R >> "
            b"/XObject << /Im 6 0 R >> /ExtGState << /Faint << /ca 0.5 >> >> >> >>" % page,
            documents.stream(content),
            documents.stream(picture, header % (*SIZE, colours, filters, entries)),
        ]
    )


def scan_in(content: bytes) -> tuple[Any, Any] | None:
    """What of the first page is a scan."""
    pymupdf = mupdf()
    with pymupdf.open(stream=content, filetype="pdf") as document:
        page = document[0]
        return scan_of(pymupdf, page, page.get_displaylist())


SCANS = {
    "grey": page_of(WHOLE),
    "in colour": page_of(WHOLE, picture=CORNERS),
    "invisible text of a recognizer": page_of(WHOLE + b" " + INVISIBLE),
    "filter in a list": page_of(WHOLE, filters=b"[/DCTDecode]"),
    "a little too small": page_of(b"594.7 0 0 841.5 0.1 0.2 cm /Im Do"),
    "page shows a part": page_of(b"695 0 0 942 -50 -30 cm /Im Do"),
}
OTHERS = {
    "text": documents.text_pdf(1),
    "text beside it": page_of(WHOLE + b" BT /F1 11 Tf 72 700 Td (Sphinx) Tj ET"),
    "a line over it": page_of(WHOLE + b" 0 0 300 2 re f"),
    "a part of the page": page_of(b"500 0 0 700 40 60 cm /Im Do"),
    "twice": page_of(b"q " + WHOLE + b" Q q 200 0 0 200 0 0 cm /Im Do Q"),
    "upside down": page_of(b"595 0 0 -842 0 842 cm /Im Do"),
    "mirrored": page_of(b"-595 0 0 842 595 0 cm /Im Do"),
    "turned": page_of(WHOLE, page=b"/Rotate 90"),
    "skewed": page_of(b"590 20 -20 840 10 0 cm /Im Do"),
    "cropped": page_of(WHOLE, page=b"/CropBox [100 100 400 500]"),
    "clipped": page_of(b"100 100 200 200 re W n " + WHOLE),
    "faint": page_of(b"/Faint gs " + WHOLE),
    "inverted": page_of(WHOLE, entries=b"/Decode [1 0]"),
    "colour key": page_of(WHOLE, entries=b"/Mask [0 10]"),
    "four inks": page_of(WHOLE, picture=encoded(documents.bars(SIZE).convert("CMYK"), "JPEG")),
    "not the size it says": page_of(WHOLE, picture=documents.jpeg(documents.bars((300, 400)))),
    "no JPEG": page_of(WHOLE, picture=BARS).replace(BARS[:40], bytes(40)),
}


@pytest.mark.parametrize("case", SCANS)
def test_scans_are_found(tmp_path: Path, case: str) -> None:
    """One opaque upright JPEG that fills the page gives the tiles that rendering gives, nearly."""
    assert scan_in(SCANS[case]) is not None
    path = write(tmp_path, SCANS[case])
    for mode in (Mode.BASE, Mode.GUNDAM):
        ours = load_page(path, 0, needs="tiles", limits=LIMITS, mode=mode).tiles
        assert isinstance(ours, Tiles)
        expected = tile(rgb(load(path)), mode)
        assert ours.grid == expected.grid
        for one, other in ((ours.view, expected.view), (ours.crops, expected.crops)):
            assert one.shape == other.shape
            # Scaled up by MuPDF each pixel is a square, by Pillow none is.
            assert not one.size or np.abs(one.astype(np.int16) - other).mean() < 6


@pytest.mark.parametrize("case", OTHERS)
def test_other_pages_are_none(case: str) -> None:
    """Whatever more a page draws, or does to its picture, leaves it to MuPDF."""
    assert scan_in(OTHERS[case]) is None


def test_cut_off_scan_is_known_as_damaged(tmp_path: Path) -> None:
    """A JPEG that ends early is left to MuPDF, which shows what there is and says that it is damaged."""
    cut = page_of(WHOLE, picture=BARS[: len(BARS) // 2])
    path = write(tmp_path, cut)
    page = load_page(path, 0, needs="tiles", limits=LIMITS, mode=Mode.GUNDAM)
    assert page.tiles is not None
    assert page.damage
    assert page.damage == load(path).damage


def planes(image: Image.Image, size: tuple[int, int], box: tuple[float, float, float, float] | None = None) -> Any:
    """The planes of a JPEG of this image, and how large it was decoded."""
    opened = Image.open(io.BytesIO(documents.jpeg(image)))
    return scan_planes((opened, box or (0, 0, *image.size)), size, size), opened.size


@pytest.mark.parametrize(
    ("size", "wanted", "decoded"),
    [
        ((1600, 1600), (800, 800), (800, 800)),
        ((1600, 1600), (801, 800), (1600, 1600)),
        ((3200, 1700), (400, 400), (800, 425)),
        ((300, 300), (400, 400), (300, 300)),
    ],
    ids=str,
)
def test_decoded_no_smaller_than_needed(
    size: tuple[int, int], wanted: tuple[int, int], decoded: tuple[int, int]
) -> None:
    """A large JPEG is decoded at a half or a quarter only where that still has every pixel that is wanted."""
    found, seen = planes(documents.bars(size), wanted)
    assert seen == decoded
    assert found.shape == (1, wanted[1], wanted[0])


def test_what_is_enough_may_be_less_than_the_tiles() -> None:
    """A scan that has enough pixels at a half is made larger from there."""
    opened = Image.open(io.BytesIO(documents.jpeg(documents.bars((1600, 1600)))))
    found = scan_planes((opened, (0, 0, 1600, 1600)), (1000, 1000), (700, 700))
    assert opened.size == (800, 800)
    assert found is not None
    assert found.shape == (1, 1000, 1000)


def test_part_decoded_small_is_the_same_part() -> None:
    """The part that a page shows does not move where the picture is decoded at a half."""
    image = documents.corners(1600, 1200)
    for wanted in ((100, 80), (800, 600)):
        found, _ = planes(image, wanted, (800, 600, 1600, 1200))
        assert np.abs(found.mean(axis=(1, 2)) - documents.CORNER_COLOURS[2]).max() < 4


def test_grey_scans_have_one_plane() -> None:
    """A grey JPEG never becomes three planes before they are needed."""
    assert len(planes(documents.bars((300, 300)), (100, 100))[0]) == 1
    assert len(planes(documents.corners(300, 300), (100, 100))[0]) == 3
