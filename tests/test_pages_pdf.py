"""PDF pages: rotated, cut, huge, damaged, locked; their text and its places."""

from __future__ import annotations

import itertools
import zlib
from typing import TYPE_CHECKING

import numpy as np
import pytest

from deepseek_ocr.errors import Encrypted, PageError
from deepseek_ocr.pages import close_document, inspect
from deepseek_ocr.pages_pdf import PAGES_PER_OPENING, is_unmapped, mupdf
from deepseek_ocr.tables import parse_table
from tests import documents
from tests.documents import LIMITS, load, pdf, rgb, stream, text_content, write

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    """No document stays open between tests."""
    yield
    close_document()


ROTATED_BOX = {0: (0.1, 0.1), 90: (0.9, 0.1), 180: (0.9, 0.9), 270: (0.1, 0.9)}


@pytest.mark.parametrize("rotation", ROTATED_BOX)
def test_rotated_page_is_upright(tmp_path: Path, rotation: int) -> None:
    """On a rotated page the boxes of the text lie where its ink is."""
    content = documents.content_pdf(
        [text_content(["Sphinx of black quartz"], size=14, left=60, top=760)], page=b"/Rotate %d" % rotation
    )
    page = load(write(tmp_path, content))
    turned = rotation in (90, 270)
    assert (page.width, page.height) == ((842, 595) if turned else (595, 842))
    pixels = rgb(page)
    assert pixels.shape[:2] == ((1190, 1684) if turned else (1684, 1190))
    (region,) = page.text_layer
    rows, columns = np.nonzero(pixels.min(axis=2) < 128)
    height, width, _ = pixels.shape
    ink = (columns.min() / width, rows.min() / height, (columns.max() + 1) / width, (rows.max() + 1) / height)
    # The box may be larger by what the font leaves free, never smaller by more than a pixel.
    for edge, (of_box, of_ink) in enumerate(zip(region.box, ink, strict=True)):
        outside = of_ink - of_box if edge < 2 else of_box - of_ink
        assert -0.002 < outside < 0.02


@pytest.mark.parametrize(
    "page", [b"/CropBox [50 700 350 800]", b"/UserUnit 2", b"/MediaBox [595 842 0 0]", b"/MediaBox [-100 -100 495 842]"]
)
def test_boxes_are_shares_of_what_is_shown(tmp_path: Path, page: bytes) -> None:
    """Cut, scaled and shifted pages: boxes are fractions of the page as displayed, and the text is found."""
    loaded = load(write(tmp_path, documents.content_pdf([text_content(["Hello world"], top=750)], page=page)))
    (region,) = loaded.text_layer
    assert region.text == "Hello world"
    dark = np.nonzero(rgb(loaded).min(axis=2) < 128)
    assert region.box[1] - 0.02 < dark[0].mean() / rgb(loaded).shape[0] < region.box[3] + 0.02
    assert region.box[0] < dark[1].mean() / rgb(loaded).shape[1] < region.box[2]


def test_text_off_the_page_is_left_out(tmp_path: Path) -> None:
    """Text that nobody sees because it lies beside the page is no text of the page."""
    content = text_content(["seen"], top=700) + b"\n" + text_content(["unseen"], left=900, top=700)
    (region,) = load(write(tmp_path, documents.content_pdf([content])), pixels=False).text_layer
    assert region.text == "seen"


def test_invisible_text_is_a_text_layer(tmp_path: Path) -> None:
    """Text in render mode 3, which recognizers put under a scan, counts."""
    content = b"3 Tr\n" + text_content(["under the scan"])
    assert load(write(tmp_path, documents.content_pdf([content])), pixels=False).text_layer[0].text == "under the scan"


def test_ruled_table(tmp_path: Path) -> None:
    """The rules of a page make its tables, also where a line of text runs through them."""
    rules = b" ".join(b"72 %d m 272 %d l S" % (y, y) for y in (700, 720, 740))
    rules += b" ".join(b" %d 700 m %d 740 l S" % (x, x) for x in (72, 172, 272))
    words = b"BT /F1 11 Tf 80 726 Td (Harbour) Tj 112 0 Td (Depth) Tj 0 -20 Td (4.5) Tj -61 0 Td (North pier) Tj ET"
    (region,) = load(write(tmp_path, documents.content_pdf([rules + b" " + words])), pixels=False).text_layer
    assert region.label == "table"
    table = [[cell.text for cell in row] for row in parse_table(region.text).rows]
    assert table == [["Harbour", "Depth"], ["North pier", "4.5"]]


def test_drawing_of_many_lines_is_no_table(tmp_path: Path) -> None:
    """A map of thousands of lines leaves the text as it is."""
    lines = b" ".join(b"%d %d m %d %d l S" % (n % 500, n % 700, n % 500 + 40, n % 700) for n in range(12_000))
    content = documents.content_pdf([lines + b"\n" + text_content(["a line of text", "and another"])])
    (region,) = load(write(tmp_path, content), pixels=False).text_layer
    assert region.text == "a line of text and another"


def test_page_with_text_is_not_rendered(tmp_path: Path) -> None:
    """Without pixels, a page that has text costs no rendering; its ink is the area of the text."""
    path = write(tmp_path, documents.text_pdf(1))
    with_pixels = load(path)
    without = load(path, pixels=False)
    assert without.pixels is None
    assert without.text_layer == with_pixels.text_layer
    assert 0.5 * with_pixels.ink < without.ink < 5 * with_pixels.ink


def test_huge_and_tiny_pages(tmp_path: Path) -> None:
    """A poster becomes an image of bounded size, a stamp one that can be read; both keep their size in points."""
    poster = load(write(tmp_path, documents.content_pdf([b"0 0 7200 7200 re f"], size=(14400, 14400))))
    assert (poster.width, poster.unit) == (14400, "pt")
    assert max(rgb(poster).shape) <= 4900
    stamp = load(write(tmp_path, documents.content_pdf([b"0 0 20 20 re f"], size=(60, 40))))
    assert (stamp.width, rgb(stamp).shape) == (60, (666, 1000, 3))


def test_junk_before_the_header(tmp_path: Path) -> None:
    """Mail gateways and printers put lines before the header; up to 1024 bytes it is still a PDF."""
    path = write(tmp_path, b"\x1b%-12345X@PJL JOB\r\n" + b"X" * 900 + b"\n" + documents.text_pdf(2))
    assert inspect(path, LIMITS).page_count == 2
    assert load(path, 1).text_layer


def test_damaged_pdf_is_repaired(tmp_path: Path) -> None:
    """A PDF that lost its end opens; pages that are lost fail, and a page that lost its end says so."""
    whole = documents.text_pdf(3)
    path = write(tmp_path, whole[: len(whole) * 5 // 10])
    info = inspect(path, LIMITS)
    assert (info.page_count, info.repaired) == (3, True)
    assert not load(path, 0, pixels=False).damage
    torn = load(path, 1, pixels=False)
    assert torn.text_layer
    assert "syntax error" in torn.damage
    with pytest.raises(PageError, match="missing from the file"):
        load(path, 2, pixels=False)


def _with_picture(picture: bytes, entries: bytes, *, colours: bytes = b"/DeviceRGB", content: bytes = b"") -> bytes:
    """A page with a picture all over it, below other content."""
    return pdf(
        [
            b"<< /Type /Catalog /Pages 2 0 R >>",
            b"<< /Type /Pages /Kids [3 0 R] /Count 1 /MediaBox [0 0 595 842] >>",
            (
                b"<< /Type /Page /Parent 2 0 R /Contents 4 0 R "
                b"/Resources << /XObject << /Im 5 0 R >> /Font << /F1 6 0 R >> >> >>"
            ),
            stream(b"q 595 0 0 842 0 0 cm /Im Do Q " + content),
            stream(
                picture, b"/Type /XObject /Subtype /Image /BitsPerComponent 8 /ColorSpace %s %s" % (colours, entries)
            ),
            b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        ]
    )


def _with_stream(compressed: bytes) -> bytes:
    """A page with this compressed content."""
    return pdf(
        [
            b"<< /Type /Catalog /Pages 2 0 R >>",
            b"<< /Type /Pages /Kids [3 0 R] /Count 1 /MediaBox [0 0 595 842] >>",
            b"<< /Type /Page /Parent 2 0 R /Contents 4 0 R /Resources << /Font << /F1 5 0 R >> >> >>",
            stream(compressed, b"/Filter /FlateDecode"),
            b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        ]
    )


@pytest.mark.parametrize("pixels", [True, False])
def test_page_that_shows_nothing_for_damage_is_not_blank(tmp_path: Path, *, pixels: bool) -> None:
    """A picture that promises ten gigabytes and holds ten bytes leaves the page white; it must not pass for blank."""
    path = write(tmp_path, _with_picture(bytes(10), b"/Width 60000 /Height 60000"))
    with pytest.raises(PageError, match="damaged"):
        load(path, pixels=pixels)


PICTURE = documents.jpeg(documents.bars((300, 400)))
LINES = zlib.compress(text_content([f"line {number} of the page" for number in range(40)]))
HELLO = text_content(["hello"])
JPEG = b"/Filter /DCTDecode /Width 300 /Height 400"
#: What is wrong -> the document, and whether something of the page is lost.
DAMAGE: dict[str, tuple[bytes, bool]] = {
    "nothing, a picture": (_with_picture(PICTURE, JPEG, colours=b"/DeviceGray"), False),
    "picture cut off": (_with_picture(PICTURE[:8000], JPEG, colours=b"/DeviceGray"), True),
    "picture of something else": (_with_picture(b"no JPEG", JPEG, colours=b"/DeviceGray", content=HELLO), True),
    "instructions cut off": (_with_stream(LINES[: len(LINES) // 2]), True),
    "checksum cut off": (_with_stream(LINES[:-4]), False),
    "unknown operator": (documents.content_pdf([b"xyz " + HELLO]), False),
    "missing graphics state": (documents.content_pdf([b"/GS9 gs " + HELLO]), False),
    "missing picture": (documents.content_pdf([HELLO + b" /Im Do"]), True),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_told_from_sloppiness(tmp_path: Path, case: str) -> None:
    """What is lost of a page is said; what only breaks a rule is not."""
    content, lost = DAMAGE[case]
    assert bool(load(write(tmp_path, content)).damage) is lost


def test_passwords(tmp_path: Path) -> None:
    """A password to open is refused; one that only restricts printing is none of our business."""
    pymupdf = mupdf()
    for method in (pymupdf.PDF_ENCRYPT_AES_256, pymupdf.PDF_ENCRYPT_RC4_128):
        plain = pymupdf.open(stream=documents.text_pdf(1), filetype="pdf")
        with pytest.raises(Encrypted, match="password"):
            inspect(write(tmp_path, plain.tobytes(encryption=method, user_pw="a", owner_pw="b"), "locked"), LIMITS)
        plain = pymupdf.open(stream=documents.text_pdf(1), filetype="pdf")
        path = write(tmp_path, plain.tobytes(encryption=method, owner_pw="b", permissions=0), "owned")
        assert load(path).text_layer
        close_document()


def test_certificate_encryption(tmp_path: Path) -> None:
    """A PDF locked with certificates is encrypted, not corrupt."""
    objects = [b"<< /Type /Catalog >>", b"<< /Filter /Adobe.PubSec /SubFilter /adbe.pkcs7.s5 /V 4 /R 4 >>"]
    with pytest.raises(Encrypted, match="other means"):
        inspect(write(tmp_path, pdf(objects, trailer=b"/Encrypt 2 0 R /ID [<00><00>]")), LIMITS)


UNMAPPED = {
    "prose": ("The quick brown fox", False),
    "numbers": ("12 340,00 56.7 %", False),
    "a table of contents": ("1 ........ 3", True),
    "nothing": (" \n", False),
    "Chinese": ("一二三,这是一个句子。", False),
    "bullets in a private font": ("\uf0b7 first \uf0b7 second", False),
    "replacement characters": ("\ufffd\ufffd\ufffd a", True),
    "private use": ("\ue000\ue001\ue002", True),
    "control characters": ("\x01\x02\x03\x04 x", True),
    "swapped bytes": ("\u4d00\u7500\u6c00\u7400\u6900", True),
    "glyph codes": ('"7+%-', True),
}


@pytest.mark.parametrize("case", UNMAPPED)
def test_unmapped_text(case: str) -> None:
    """Text without a meaning is told from text."""
    text, expected = UNMAPPED[case]
    assert is_unmapped(text) is expected


def test_opened_anew_in_the_middle(tmp_path: Path) -> None:
    """A long document is opened anew now and then; pages go on as before."""
    path = write(tmp_path, documents.text_pdf(3))
    for _, index in zip(range(PAGES_PER_OPENING + 3), itertools.cycle(range(3)), strict=False):
        assert load(path, index, pixels=False).text_layer[0].text == f"Page {index + 1}"
