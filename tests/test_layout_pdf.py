"""Pages with their blocks drawn: each where it stands, however the page lies, and whatever is wrong with it."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from daemon.outputs import write_document
from deepseek_ocr.document import Document, Page
from deepseek_ocr.errors import Corrupt
from deepseek_ocr.layout_pdf import ALARM, draw_layout, read_pages
from deepseek_ocr.pages_pdf import mupdf
from tests.documents import (
    CORNER_COLOURS,
    LIMITS,
    bars,
    content_pdf,
    corners,
    encoded,
    heic,
    jpeg,
    load,
    pdf,
    rgb,
    scanned_pdf,
    stream,
    text_pdf,
    write,
)
from tests.layouts import block, drawn, has, head, ink, page, pixels

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from deepseek_ocr.completion import Box

#: Bottom left and size, in points from the origin of the PDF: off the middle on both axes.
MARK = (150, 500, 60, 30)
MARK_PDF = b"0 g %d %d %d %d re f" % MARK


def dark_box(image: NDArray[np.int16]) -> Box:
    """Where the dark pixels are, in fractions of the page."""
    rows, columns = np.nonzero(image.max(axis=2) < 100)
    height, width, _ = image.shape
    return columns.min() / width, rows.min() / height, (columns.max() + 1) / width, (rows.max() + 1) / height


@pytest.mark.parametrize("turn", [0, 90, 180, 270])
@pytest.mark.parametrize("crop", [b"", b"/CropBox [100 300 400 700]", b"/MediaBox [-50 200 500 900]"])
def test_blocks_stand_where_they_are_seen(tmp_path: Path, turn: int, crop: bytes) -> None:
    """A mark and the block that was found around it are in the same place, however the page lies and is cut."""
    source = write(tmp_path, content_pdf([MARK_PDF], page=b"/Rotate %d %s" % (turn, crop)))
    mark = dark_box(rgb(load(source)).astype(np.int16))
    left, top, right, bottom = mark[0] - 0.03, mark[1] - 0.03, mark[2] + 0.03, mark[3] + 0.03
    layout = drawn(source, page(source, block(1, (left, top, right, bottom))))
    image = pixels(layout)
    assert layout[0].rotation == 0
    assert (layout[0].rect.width, layout[0].rect.height) == (page(source).width, page(source).height)
    middle, centre = (left + right) / 2, (top + bottom) / 2
    for x, y in ((left, centre), (right, centre), (middle, top), (middle, bottom)):
        assert has(image, x, y, ink("text"))
    height, width, _ = image.shape
    below = image[
        round(top * height) + 6 : round(bottom * height) - 6, round(left * width) + 6 : round(right * width) - 6
    ]
    seen = dark_box(below)
    share = 0.03 / (right - left), 0.03 / (bottom - top)
    assert seen == pytest.approx((share[0], share[1], 1 - share[0], 1 - share[1]), abs=0.03)


def test_pages_of_a_pdf_stay_text(tmp_path: Path) -> None:
    """The letters can still be copied, and number and category of each block stand beside them."""
    source = write(tmp_path, text_pdf(3))
    layout = drawn(
        source,
        *(page(source, block(1, (0.1, 0.2, 0.5, 0.3), "heading", number), page_number=number) for number in (1, 2, 3)),
    )
    assert layout.page_count == 3
    for number, sheet in enumerate(layout, 1):
        words = sheet.get_text()
        assert f"Page {number}" in words
        assert f"lazy dog {number}.30" in words
        assert "1 heading" in words


def test_form_fields_and_annotations_are_seen(tmp_path: Path) -> None:
    """What stands in a form or was written on the page is part of what people see."""
    pymupdf = mupdf()
    document = pymupdf.open()
    sheet = document.new_page()
    sheet.add_freetext_annot(pymupdf.Rect(100, 100, 300, 130), "a remark")
    field = pymupdf.Widget()
    field.field_name, field.field_type, field.rect = "f", pymupdf.PDF_WIDGET_TYPE_TEXT, pymupdf.Rect(100, 200, 300, 230)
    field.field_value = "a value"
    sheet.add_widget(field)
    source = write(tmp_path, document.tobytes())
    words = drawn(source, page(source))[0].get_text()
    assert "a remark" in words
    assert "a value" in words


def test_a_photograph_is_upright(tmp_path: Path) -> None:
    """A picture that EXIF turns lies as people see it, and so do its blocks."""
    exif = Image.Exif()
    exif[274] = 6  # stored turned to the left
    source = write(tmp_path, jpeg(corners(1200, 800), exif=exif))
    layout = drawn(source, page(source, block(1, (0.6, 0.7, 0.9, 0.9), "table")))
    image = pixels(layout)
    assert image.shape[0] > image.shape[1]
    # Turned to the right, what was at the bottom left comes to the top left.
    for (x, y), colour in zip(
        ((0.25, 0.25), (0.75, 0.25), (0.75, 0.65), (0.25, 0.75)), (CORNER_COLOURS[3], *CORNER_COLOURS[:3]), strict=True
    ):
        assert has(image, x, y, colour)
    assert has(image, 0.6, 0.8, ink("table"))


def test_each_frame_of_a_tiff_is_a_page(tmp_path: Path) -> None:
    """Frames of several sizes become pages of their shapes, no larger than A4 at 150 dpi."""
    frames = [bars((1240, 1754)), corners(400, 200), bars((3000, 2000), seed=1)]
    source = write(tmp_path, encoded(frames[0], "TIFF", save_all=True, append_images=frames[1:]))
    layout = drawn(
        source, *(page(source, block(1, (0.2, 0.2, 0.8, 0.8), "figure", n), page_number=n) for n in (1, 2, 3))
    )
    assert layout.page_count == 3
    for number, frame in enumerate(frames):
        rect = layout[number].rect
        assert max(rect.width, rect.height) == pytest.approx(842)
        assert rect.width / rect.height == pytest.approx(frame.width / frame.height, rel=0.01)
        ((_, _, *size, _, _, _, _, decoder, _),) = layout[number].get_images(full=True)
        assert (max(size), decoder) == (min(1754, max(frame.size)), "DCTDecode")
        assert has(pixels(layout, number), 0.2, 0.5, ink("figure"))


def test_heic(tmp_path: Path) -> None:
    """The pictures of telephones are drawn as others."""
    source = write(tmp_path, heic(corners()))
    assert has(pixels(drawn(source, page(source))), 0.25, 0.25, CORNER_COLOURS[0])


def test_a_page_with_a_problem_is_seen_at_once(tmp_path: Path) -> None:
    """It has a red frame and says what is wrong; its neighbours have none."""
    source = write(tmp_path, text_pdf(2))
    layout = drawn(source, page(source), page(source, page_number=2, problem="it repeats itself, \u65e5"))
    red = tuple(255 * part for part in ALARM)
    good, bad = pixels(layout, 0), pixels(layout, 1)
    for x, y in ((0.0, 0.5), (1.0, 0.5), (0.5, 1.0), (0.99, 0.01)):
        assert has(bad, x, y, red)
        assert not has(good, x, y, red)
    assert "Page 2 was not read as it should be: it repeats itself, ?" in layout[1].get_text()
    assert "Page 1" in layout[0].get_text()


def test_a_page_that_cannot_be_loaded_is_empty_and_says_so(tmp_path: Path) -> None:
    """A page that the file does not hold, and one more than it has, cost neither the others nor the document."""
    content = pdf([
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R 9 0 R] /Count 2 /MediaBox [0 0 595 842] >>",
        b"<< /Type /Page /Parent 2 0 R /Contents 4 0 R >>",
        stream(MARK_PDF),
    ])  # fmt: skip
    source = write(tmp_path, content)
    gone = Page(page_number=2, width=300, height=400, unit="pt", blocks=(), source="x", seconds=0)
    layout = drawn(source, page(source), gone, gone.model_copy(update={"page_number": 3, "problem": "unreadable"}))
    assert layout.page_count == 3
    assert pixels(layout, 0).min() < 30
    for number in (2, 3):
        assert (layout[number - 1].rect.width, layout[number - 1].rect.height) == (300, 400)
        assert f"Page {number} cannot be shown: the page is missing" in " ".join(layout[number - 1].get_text().split())


def test_torn_instructions_end_on_their_page(tmp_path: Path) -> None:
    """What is drawn over a page does not depend on whether its own instructions close what they opened."""
    source = write(tmp_path, content_pdf([b"0 g 9 9 99 99 re f q 0.1 0 0 0.1 0 0 cm q q 9 w BT (torn", MARK_PDF]))
    layout = drawn(source, *(page(source, block(1, (0.2, 0.2, 0.8, 0.8), "chart", n), page_number=n) for n in (1, 2)))
    for index in (0, 1):
        assert has(pixels(layout, index), 0.2, 0.5, ink("chart"))


def test_a_torn_tiff_keeps_its_sound_pages(tmp_path: Path) -> None:
    """A frame that cannot be decoded is an empty page."""
    content = encoded(bars((300, 400)), "TIFF", save_all=True, append_images=[bars((300, 400), seed=1)])
    source = write(tmp_path, content[: len(content) - 60_000])
    sound = Page(page_number=1, width=300, height=400, unit="px", blocks=(), source="x", seconds=0)
    layout = drawn(source, sound, sound.model_copy(update={"page_number": 2, "problem": "unreadable"}))
    assert layout.page_count == 2
    assert "cannot be shown" in layout[1].get_text()


def test_a_damaged_picture_is_an_empty_page(tmp_path: Path) -> None:
    """Also the only one of its file, which is a document error elsewhere."""
    content = encoded(bars((300, 400)), "PNG")
    source = write(tmp_path, content[:-4000])
    torn = Page(page_number=1, width=300, height=400, unit="px", blocks=(), source="x", seconds=0, problem="torn")
    assert "cannot be shown" in drawn(source, torn)[0].get_text()


def test_an_empty_password_is_none(tmp_path: Path) -> None:
    """A PDF that only forbids to print it is drawn as others, and not encrypted any more."""
    pymupdf = mupdf()
    document = pymupdf.open(stream=text_pdf(1))
    source = write(tmp_path, document.tobytes(encryption=pymupdf.PDF_ENCRYPT_AES_256, owner_pw="x", user_pw=""))
    layout = drawn(source, page(source))
    assert "Page 1" in layout[0].get_text()
    assert not layout.is_encrypted


def test_a_source_that_is_none_is_a_document_error(tmp_path: Path) -> None:
    """A file that cannot be opened is refused as when it was read; nothing is written."""
    source = write(tmp_path, b"%PDF-1.7\nnothing")
    with pytest.raises(Corrupt):
        draw_layout(source, tmp_path / "x.json", tmp_path / "layout.pdf", LIMITS)
    assert not (tmp_path / "layout.pdf").exists()


def test_pages_are_read_from_any_docjson(tmp_path: Path) -> None:
    """From the daemon's file page by page, and from one on a single line."""
    pages = tuple(
        Page(
            page_number=n, width=1, height=1, unit="pt", blocks=(block(1, None, page_number=n),), source="x", seconds=0
        )
        for n in (1, 2)
    )
    write_document(tmp_path, "x", head(pages), lambda: pages)
    whole = tmp_path / "whole.json"
    whole.write_text(Document(**head(pages).model_dump(), pages=pages).model_dump_json(), encoding="utf-8")
    assert [*read_pages(tmp_path / "x.json")] == [*read_pages(whole)] == [*pages]


def test_a_long_document_keeps_its_size(tmp_path: Path) -> None:
    """What all pages share is written once, and scans are copied as they are."""
    for content, most in ((text_pdf(100), 1.5), (scanned_pdf(3), 1.1)):
        source = write(tmp_path, content)
        count = 100 if most > 1.2 else 3
        drawn(source, *(page(source, block(1, (0.1, 0.1, 0.9, 0.9)), page_number=n + 1) for n in range(count)))
        assert (tmp_path / "layout.pdf").stat().st_size < most * len(content) + 20_000


def test_any_name_is_written_to(tmp_path: Path) -> None:
    """Also one that is no UTF-8: MuPDF refused it when it opened the file itself.  So is any read."""
    source = write(tmp_path, text_pdf(1), os.fsdecode(b"caf\xe9.pdf"))
    drawn(source, page(source))
    target = tmp_path / os.fsdecode(b"caf\xe9.pdf.layout.pdf")
    draw_layout(source, tmp_path / "x.json", target, LIMITS)
    assert mupdf().open(stream=target.read_bytes()).page_count == 1


def test_a_full_disk_is_the_file_systems_fault(tmp_path: Path) -> None:
    """The error has its number, by which the service knows that it has to wait; MuPDF's own has none."""
    source = write(tmp_path, text_pdf(1))
    drawn(source, page(source))
    with pytest.raises(OSError, match="No space left") as fault:
        draw_layout(source, tmp_path / "x.json", Path("/dev/full"), LIMITS)
    assert fault.value.errno == errno.ENOSPC
