"""Parts of pages: what is seen of them, how large and which way up, told by the colours of their pixels."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Literal

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from deepseek_ocr.errors import PageError
from deepseek_ocr.pages import Limits, close_document, load_page
from deepseek_ocr.prompt import Mode
from deepseek_ocr.view import MIN_SHARE, WHOLE, View
from tests import documents
from tests.documents import LIMITS, encoded, load, rgb, write

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from deepseek_ocr.completion import Box

#: The four quarters of a page 400 wide and 200 high, clockwise from the top left, in the colours of documents.corners.
QUARTERS = b"""1 0 0 rg 0 100 200 100 re f  0 .627 0 rg 200 100 200 100 re f
0 0 1 rg 200 0 200 100 re f  1 .784 0 rg 0 0 200 100 re f"""
#: Where the quarters stand, clockwise as above.
PLACES: tuple[Box, ...] = ((0, 0, 0.5, 0.5), (0.5, 0, 1, 0.5), (0.5, 0.5, 1, 1), (0, 0.5, 0.5, 1))


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    """No document stays open between tests."""
    yield
    close_document()


def quarters_pdf(page: bytes = b"", content: bytes = QUARTERS, size: tuple[float, float] = (400, 200)) -> bytes:
    """A page of four coloured quarters."""
    return documents.content_pdf([content], size=size, page=page)


def quarters_seen(pixels: NDArray[np.uint8]) -> list[int | None]:
    """The colours in the corners, clockwise from the top left; None = of none of the quarters."""
    height, width, _ = pixels.shape
    ys, xs = (height // 8, height - 1 - height // 8), (width // 8, width - 1 - width // 8)
    places = [(ys[0], xs[0]), (ys[0], xs[1]), (ys[1], xs[1]), (ys[1], xs[0])]
    palette = np.array(documents.CORNER_COLOURS)
    distances = [np.abs(palette - pixels[place]).sum(axis=1) for place in places]
    return [int(distance.argmin()) if distance.min() < 40 else None for distance in distances]


@pytest.mark.parametrize("quarter", range(4))
@pytest.mark.parametrize(
    ("page", "shown"),
    [
        (b"", [0, 1, 2, 3]),
        (b"/Rotate 90", [3, 0, 1, 2]),
        (b"/Rotate 180", [2, 3, 0, 1]),
        (b"/Rotate 270", [1, 2, 3, 0]),
        (b"/MediaBox [-100 -50 500 250] /CropBox [0 0 400 200]", [0, 1, 2, 3]),
        (b"/MediaBox [-100 -50 500 250] /CropBox [0 0 400 200] /Rotate 90", [3, 0, 1, 2]),
        (b"/UserUnit 2", [0, 1, 2, 3]),
    ],
    ids=["plain", "rotated 90", "rotated 180", "rotated 270", "crop box", "crop box, rotated", "user unit"],
)
def test_part_of_a_pdf_is_that_of_the_displayed_page(
    tmp_path: Path, page: bytes, shown: list[int], quarter: int
) -> None:
    """A quarter of the page as displayed holds the colour that is displayed there, to its last pixel."""
    path = write(tmp_path, quarters_pdf(page))
    whole = load(path)
    assert quarters_seen(rgb(whole)) == shown
    part = load(path, view=View(PLACES[quarter], side_px=640))
    assert (part.width, part.height, part.unit) == (whole.width / 2, whole.height / 2, "pt")
    assert sorted(rgb(part).shape[:2]) == [320, 640]
    colour = np.array(documents.CORNER_COLOURS[shown[quarter]])
    assert np.abs(rgb(part).astype(int) - colour).max() <= 1


@pytest.mark.parametrize("kind", ["pdf", "png"])
@pytest.mark.parametrize(
    ("turn", "seen"), [(0, [0, 1, 2, 3]), (90, [3, 0, 1, 2]), (180, [2, 3, 0, 1]), (270, [1, 2, 3, 0])]
)
def test_turned_clockwise(tmp_path: Path, kind: str, turn: Literal[0, 90, 180, 270], seen: list[int]) -> None:
    """A view is turned clockwise, and its size is that of what is seen."""
    content = quarters_pdf() if kind == "pdf" else encoded(documents.corners(400, 200), "PNG")
    page = load(write(tmp_path, content), view=View((0.25, 0, 1, 1), turn, side_px=300))
    assert (page.width, page.height) == ((200, 300) if turn in (90, 270) else (300, 200))
    assert rgb(page).shape[:2] == ((300, 200) if turn in (90, 270) else (200, 300))
    assert quarters_seen(rgb(page)) == seen


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("quarter", range(4))
def test_part_of_a_picture_is_that_of_the_upright_one(
    tmp_path: Path, kind: str, orientation: int, quarter: int
) -> None:
    """Whatever way a picture is stored, a quarter of it is that of what a person sees."""
    exif = Image.Exif()
    exif[274] = orientation
    path = write(tmp_path, encoded(documents.corners(160, 80), kind, exif=exif.tobytes()))
    shown = quarters_seen(rgb(load(path)))
    part = load(path, view=View(PLACES[quarter]))
    assert (part.width, part.height) == ((40, 80) if orientation >= 5 else (80, 40))
    assert rgb(part).shape[:2] == (part.height, part.width)
    assert quarters_seen(rgb(part)) == [shown[quarter]] * 4


def test_pdf_is_rendered_for_the_part(tmp_path: Path) -> None:
    """A hairline pattern that runs together on the page at 144 dpi is told apart in a finer look at a part of it."""
    stripes = b"0 g " + b" ".join(b"%.1f 0 .2 200 re f" % (0.4 * number) for number in range(1000))
    path = write(tmp_path, quarters_pdf(content=stripes))
    assert rgb(load(path)).min() > 60
    part = rgb(load(path, view=View((0.5, 0.5, 0.55, 0.6), side_px=2000)))
    assert max(part.shape) == 2000
    assert (part.min(), part.max()) == (0, 255)


@pytest.mark.parametrize("side_px", [1, 17, 639, 640, 641, 1280, 2047])
@pytest.mark.parametrize("box", [(0.123, 0.456, 0.789, 0.991), (0.1, 0.1, 0.9, 0.101), (1 / 3, 0, 2 / 3, 1)])
def test_longer_side_is_as_asked_for(tmp_path: Path, box: Box, side_px: int) -> None:
    """A picture of 641 pixels costs the model 693 tokens and one of 640 only 273, so not one pixel may be too many."""
    part = load(write(tmp_path, quarters_pdf(size=(611.3, 792.7))), view=View(box, side_px=side_px))
    assert max(rgb(part).shape[:2]) == side_px


def test_part_as_fine_as_the_whole_page(tmp_path: Path) -> None:
    """Without a size of its own a part shows the pixels that the whole page shows there."""
    for size in ((400, 200), (1000, 800)):
        path = write(tmp_path, quarters_pdf(size=size, content=documents.text_content(["Sphinx of quartz"], top=60)))
        whole, part = rgb(load(path)), rgb(load(path, view=View((0, 0.5, 0.5, 1))))
        height, width, _ = whole.shape
        assert np.abs(part.astype(int) - whole[height // 2 :, : width // 2]).max() <= 8
        assert part.min() < 60


def test_picture_is_cut_out_of_the_original(tmp_path: Path) -> None:
    """Of a picture too large for one image a part is seen with all its pixels, and never with more than it has."""
    random = np.random.default_rng(0)
    original = random.integers(0, 256, (600, 800, 3), dtype=np.uint8)
    path = write(tmp_path, encoded(Image.fromarray(original), "PNG"))
    limits = Limits(max_page_px=480_000)
    part = load(path, limits=limits, view=View((0.25, 0.5, 0.5, 1), side_px=2000))
    assert np.array_equal(rgb(part), original[300:, 200:400])
    smaller = load(path, limits=limits, view=View((0.25, 0.5, 0.5, 1), side_px=150))
    assert rgb(smaller).shape == (150, 100, 3)
    assert (smaller.width, smaller.height) == (200, 300)


def test_fax_pixels_of_a_part_are_square(tmp_path: Path) -> None:
    """A part of a fax is as high as its paper, in the size of its original."""
    fax = encoded(Image.new("L", (400, 100), 200), "TIFF", dpi=(204, 98))
    part = load(write(tmp_path, fax), view=View((0, 0, 0.5, 0.5)))
    assert (part.width, part.height) == (200, 50)
    assert rgb(part).shape[:2] == (104, 200)


def test_deep_greys_of_a_part_are_those_of_the_page(tmp_path: Path) -> None:
    """12 bits in 16 are scaled by the brightest of the whole picture, also in a part without it."""
    levels = np.full((100, 100), 1024, np.uint16)
    levels[:10] = 4095
    part = load(write(tmp_path, encoded(Image.fromarray(levels), "TIFF")), view=View((0, 0.5, 1, 1)))
    assert set(rgb(part).flat) == {64}


@pytest.mark.parametrize("kind", ["pdf", "png"])
@pytest.mark.parametrize(
    "box",
    [
        (0.5, 0.5, 0.5, 0.9),
        (0.5, 0.5, 0.5 + MIN_SHARE / 2, 0.9),
        (0.9, 0.1, 0.1, 0.9),
        (1, 0, 2, 1),
        (-1, -1, 0, 0),
        (float("nan"), 0, 1, 1),
    ],
    ids=["no width", "a hair", "exchanged", "beside", "before", "no number"],
)
def test_nothing_to_look_at(tmp_path: Path, kind: str, box: Box) -> None:
    """A part without a size, or beside the page, costs this look and nothing else."""
    content = quarters_pdf() if kind == "pdf" else encoded(documents.corners(), "PNG")
    path = write(tmp_path, content)
    with pytest.raises(PageError, match="has no size, or is not on the page"):
        load(path, view=View(box))
    assert quarters_seen(rgb(load(path))) == [0, 1, 2, 3]


@pytest.mark.parametrize("kind", ["pdf", "png"])
def test_part_over_the_edge_is_cut_there(tmp_path: Path, kind: str) -> None:
    """What of a part lies beside the page is left out."""
    content = quarters_pdf() if kind == "pdf" else encoded(documents.corners(400, 200), "PNG")
    part = load(write(tmp_path, content), view=View((0.5, -3, 7, 0.5)))
    assert (part.width, part.height) == (200, 100)
    assert quarters_seen(rgb(part)) == [1, 1, 1, 1]


def test_thin_part_has_pixels(tmp_path: Path) -> None:
    """The thinnest part that counts is a pixel wide in a PDF and in a picture."""
    thin = View((0.5, 0.2, 0.5 + 2 * MIN_SHARE, 0.8))
    for content in (quarters_pdf(), encoded(documents.corners(), "PNG")):
        part = load(write(tmp_path, content), view=thin)
        assert rgb(part).shape[1] == 1
        close_document()


def test_part_has_its_own_ink_and_no_text(tmp_path: Path) -> None:
    """A blank part of a page with text is blank, and the text of the page is not given as that of a part."""
    path = write(tmp_path, documents.content_pdf([documents.text_content(["Sphinx of black quartz"] * 20)]))
    assert load(path).text_layer
    for pixels in (True, False):
        assert load(path, view=View((0, 0.6, 1, 1)), pixels=pixels).ink == 0
        part = load(path, view=View((0, 0, 1, 0.5)), pixels=pixels)
        assert part.ink > 0.01
        assert part.text_layer == ()
    assert load(path, view=View(side_px=800)).text_layer == ()


def test_damage_of_a_part_is_known(tmp_path: Path) -> None:
    """A content stream that is torn says so of a part too."""
    missing = documents.text_content(["Sphinx of black quartz"]) + b" /Im Do"
    path = write(tmp_path, documents.content_pdf([missing]))
    assert load(path).damage == load(path, view=View((0, 0, 1, 0.5))).damage
    assert load(path).damage


@pytest.mark.parametrize("needs", ["png", "tiles"])
def test_part_in_the_form_the_engine_needs(tmp_path: Path, needs: Literal["png", "tiles"]) -> None:
    """The picture of a part comes as that of a page does: a PNG file, or the views that the model sees."""
    stripes = b"0 g " + b" ".join(b"%d 0 3 200 re f" % (9 * number) for number in range(45))
    path = write(tmp_path, quarters_pdf(content=stripes))
    view = View((0, 0, 0.5, 1), 90, side_px=640)
    part = load_page(path, 0, needs=needs, limits=LIMITS, mode=Mode.GUNDAM, view=view)
    assert part.pixels is None
    if needs == "png":
        with Image.open(io.BytesIO(part.png)) as picture:
            assert picture.size == (640, 640)
    else:
        assert part.tiles is not None
        assert part.tiles.token_count == 273


def test_whole_view_is_the_page(tmp_path: Path) -> None:
    """A look at all of a page as it lies is the page itself, text and all."""
    path = write(tmp_path, documents.content_pdf([documents.text_content(["Sphinx of black quartz"])]))
    page, whole = load(path), load(path, view=View((0.0, 0.0, 1.0, 1.0), 0, 0))
    assert View((0.0, 0.0, 1.0, 1.0), 0, 0) == WHOLE
    assert np.array_equal(rgb(page), rgb(whole))
    assert (page.ink, page.text_layer) == (whole.ink, whole.text_layer)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.tuples(*[st.floats(-0.5, 1.5)] * 4),
    st.sampled_from([0, 90, 180, 270]),
    st.integers(0, 3000),
    st.sampled_from(["pdf", "jpeg"]),
)
def test_any_view(tmp_path: Path, box: Box, turn: Literal[0, 90, 180, 270], side_px: int, kind: str) -> None:
    """Any view gives a picture within all limits, or says that there is nothing to look at."""
    path = tmp_path / kind
    if not path.exists():
        path.write_bytes(quarters_pdf() if kind == "pdf" else documents.jpeg(documents.corners(400, 200)))
    view = View(box, turn, side_px)
    try:
        page = load(path, limits=Limits(max_page_px=100_000), view=view)
    except PageError:
        with pytest.raises(PageError):
            view.within()
        return
    height, width, _ = rgb(page).shape
    assert width * height <= 100_000
    assert max(width, height) <= (side_px or 1000)
    assert 0 < page.width <= 400
    assert 0 < page.height <= 400
