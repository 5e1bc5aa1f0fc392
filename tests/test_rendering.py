"""Tiles rendered from a PDF are those of its image, but sharper; the work they take is counted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from deepseek_ocr.pages import close_document, load_page
from deepseek_ocr.pages_pdf import mupdf
from deepseek_ocr.prompt import Mode
from deepseek_ocr.rendering import render_tiles
from deepseek_ocr.tiles import NO_CROPS, PADDING, Tiles, grid_for, tile
from tests import documents
from tests.documents import A4, LIMITS, load, rgb, write

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from deepseek_ocr.completion import PageImage

TEXT = documents.text_content(["Sphinx of black quartz, judge my vow."] * 40)
COLOURED = b"1 0 0 rg 100 600 200 100 re f 0 0 1 rg 300 200 200 300 re f 0 g " + TEXT


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    """No document stays open between tests."""
    yield
    close_document()


def seen(path: Path, mode: Mode = Mode.GUNDAM) -> PageImage:
    """The first page as tiles."""
    return load_page(path, 0, needs="tiles", limits=LIMITS, mode=mode)


def tiles_of(page: PageImage) -> Tiles:
    """The tiles of a page that has some, and nothing else."""
    assert page.pixels is None
    assert isinstance(page.tiles, Tiles)
    return page.tiles


def difference(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Mean absolute difference in grey levels."""
    return float(np.abs(one.astype(np.int16) - other).mean()) if one.size else 0.0


def picture_page(image: bytes, size: tuple[int, int], place: bytes) -> bytes:
    """A PDF whose A4 page draws one grey JPEG at a place ("a b c d e f"), and a line of text beside it."""
    content = documents.text_content(["Sphinx"], top=30) + b" " + place + b" cm /Im Do"
    header = (
        b"/Subtype /Image /Width %d /Height %d /BitsPerComponent 8 /ColorSpace /DeviceGray /Filter /DCTDecode" % size
    )
    resources = b"<< /Font << /F1 3 0 R >> /XObject << /Im 6 0 R >> >>"
    return documents.pdf(
        [
            b"<< /Type /Catalog /Pages 2 0 R >>",
            b"<< /Type /Pages /Kids [4 0 R] /Count 1 /MediaBox [0 0 %g %g] >>" % A4,
            b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
            b"<< /Type /Page /Parent 2 0 R /Contents 5 0 R /Resources %s >>" % resources,
            documents.stream(content),
            documents.stream(image, header),
        ]
    )


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("page", [b"", b"/Rotate 90"], ids=["upright", "rotated"])
@pytest.mark.parametrize(
    "size", [A4, (842, 595), (612, 792), (960, 540), (300, 300), (200, 2000), (3000, 2000)], ids=str
)
def test_tiles_are_those_of_the_image(tmp_path: Path, size: tuple[float, float], page: bytes, mode: Mode) -> None:
    """Of any shape and in any mode: grid, tokens and shapes are the same, and the pixels nearly."""
    marks = b"1 0 0 rg %g %g %g %g re f " % (size[0] / 10, size[1] / 10, size[0] / 3, size[1] / 4)
    path = write(tmp_path, documents.content_pdf([marks + TEXT], size=size, page=page))
    rendered, image = tiles_of(seen(path, mode)), rgb(load(path))
    expected = tile(image, mode)
    assert rendered.grid == expected.grid
    assert rendered.token_count == expected.token_count
    for ours, theirs in ((rendered.view, expected.view), (rendered.crops, expected.crops)):
        assert ours.shape == theirs.shape
        assert ours.flags.c_contiguous
        assert difference(ours, theirs) < 8  # edges of letters; turned or shifted ones have 20 and more


def test_grid_follows_the_image_at_144_dpi(tmp_path: Path) -> None:
    """A page a hair away from two equally near grids gets that of its image's whole pixels."""
    for width in (589.0, 589.4, 590.0, 595.3):
        path = write(tmp_path, documents.content_pdf([TEXT], size=(width, 2 * width)), f"{width}.pdf")
        height, across, _ = rgb(load(path)).shape
        assert tiles_of(seen(path)).grid == grid_for(across, height)


@pytest.mark.parametrize(("content", "grey"), [(TEXT, True), (COLOURED, False)], ids=["black", "coloured"])
def test_colours_are_kept(tmp_path: Path, content: bytes, *, grey: bool) -> None:
    """A page without colour has three equal planes, as its image has; one with colour has its own."""
    path = write(tmp_path, documents.content_pdf([content]))
    tiles = tiles_of(seen(path))
    for planes in (tiles.view[None], tiles.crops):
        assert all(np.array_equal(planes[:, 0], planes[:, channel]) for channel in (1, 2)) == grey
    if not grey:
        expected = tile(rgb(load(path)), Mode.GUNDAM)
        red = expected.view[:, 200, 300].astype(int)
        assert np.abs(tiles.view[:, 200, 300] - red).max() <= 1
        assert list(red) == [255, 0, 0]


@pytest.mark.parametrize("mode", [Mode.BASE, Mode.GUNDAM])
def test_ink_is_that_of_the_image(tmp_path: Path, mode: Mode) -> None:
    """Share, grid and the direction of lines are judged alike, also of lines that run sideways."""
    for page in (b"", b"/Rotate 90"):
        path = write(tmp_path, documents.content_pdf([TEXT], page=page), f"{len(page)}.pdf")
        ours, image = seen(path, mode), load(path)
        assert ours.sideways == image.sideways == bool(page)
        assert ours.ink == pytest.approx(image.ink, rel=0.05)
        assert ours.ink_grid is not None
        assert image.ink_grid is not None
        assert ours.ink_grid.shape == image.ink_grid.shape
        assert ((ours.ink_grid > 0) != (image.ink_grid > 0)).mean() < 0.03


def test_blank_page_has_no_tiles(tmp_path: Path) -> None:
    """Nothing is to be seen: nothing is sent to an engine."""
    page = seen(write(tmp_path, documents.content_pdf([b"0.9 g 0 0 595 842 re f"])))
    assert (page.ink, page.tiles, page.pixels) == (0, None, None)


def test_strip_without_a_view(tmp_path: Path) -> None:
    """A page so narrow that a view has no pixel of it is scaled from its image, as a picture is."""
    path = write(tmp_path, documents.content_pdf([b"0 0 0.4 3000 re f 0.8 5000 0.6 900 re f"], size=(2, 10_000)))
    expected = tile(rgb(load(path)), Mode.GUNDAM)
    tiles = tiles_of(seen(path))
    assert (tiles.view == PADDING).all()
    assert np.array_equal(tiles.crops, expected.crops)


# Work


class Drawing:
    """What a page draws, noting the sizes it is rendered at."""

    def __init__(self, drawing: Any) -> None:
        self.this = drawing.this
        self._drawing = drawing
        self.sizes: list[tuple[int, int]] = []

    def get_pixmap(self, **how: Any) -> Any:
        """A rendering."""
        pixmap = self._drawing.get_pixmap(**how)
        self.sizes.append((pixmap.width, pixmap.height))
        return pixmap


BIG = documents.jpeg(documents.bars((600, 850)))
#: Content -> the sizes in which an A4 page is rendered for gundam mode.
RENDERED = {
    "text": (documents.content_pdf([TEXT]), [(724, 1024), (1280, 1920)]),
    "blank": (documents.content_pdf([b"1 g 0 0 595 842 re f"]), [(724, 1024)]),
    "picture on most of the page": (picture_page(BIG, (600, 850), b"500 0 0 700 40 60"), [(1280, 1920)]),
    "small picture": (picture_page(BIG, (600, 850), b"200 0 0 300 40 60"), [(724, 1024), (1280, 1920)]),
    "nothing but a JPEG": (documents.scanned_pdf(1), []),
}


@pytest.mark.parametrize("case", RENDERED)
def test_pages_are_rendered_for_what_is_needed(case: str) -> None:
    """Drawn pages once for the view and once for the crops, those with a large picture once, scans and blanks less."""
    content, expected = RENDERED[case]
    pymupdf = mupdf()
    with pymupdf.open(stream=content, filetype="pdf") as document:
        page = document[0]
        drawing = Drawing(page.get_displaylist())
        page.get_displaylist = lambda: drawing
        found = render_tiles(pymupdf, page, (1190, 1684), Mode.GUNDAM)
        assert found is not None
        assert drawing.sizes == expected
        tiles, ink = found
        assert (tiles is None) == (ink.share == 0) == (case == "blank")
        if tiles is not None:
            assert tiles.grid != NO_CROPS
