"""Pictures of every mode, orientation and kind of damage."""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING

import numpy as np
import pillow_heif
import pytest
from PIL import Image, ImageDraw

from deepseek_ocr.errors import Corrupt, PageError
from deepseek_ocr.pages import inspect, load_page
from deepseek_ocr.pages_image import ORIENTATION_TAG, _upright
from deepseek_ocr.prompt import Mode
from deepseek_ocr.sizes import MAX_IMAGE_PX
from deepseek_ocr.tiles import Tiles, tile
from deepseek_ocr.view import WHOLE
from tests import documents
from tests.documents import LIMITS, encoded, jpeg, load, rgb, write

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

PICTURE = documents.corners()


def corner_colours(pixels: NDArray[np.uint8]) -> list[int]:
    """Which of the colours of `documents.corners` stand in the corners, clockwise from the top left."""
    height, width, _ = pixels.shape
    places = [(height // 4, width // 4), (height // 4, 3 * width // 4)]
    places += [(3 * height // 4, 3 * width // 4), (3 * height // 4, width // 4)]
    palette = np.array(documents.CORNER_COLOURS)
    return [int(np.abs(palette - pixels[place]).sum(axis=1).argmin()) for place in places]


#: EXIF orientation -> the corners of the stored picture as they stand after it is set upright (EXIF 2.32, 4.6.4 A:
#: where the stored first row and first column belong).
ORIENTATIONS = {
    1: [0, 1, 2, 3],
    2: [1, 0, 3, 2],
    3: [2, 3, 0, 1],
    4: [3, 2, 1, 0],
    5: [0, 3, 2, 1],
    6: [3, 0, 1, 2],
    7: [2, 1, 0, 3],
    8: [1, 2, 3, 0],
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_exif_orientation(tmp_path: Path, kind: str, orientation: int) -> None:
    """A picture stands upright, and its size is that of the upright picture."""
    exif = Image.Exif()
    exif[274] = orientation
    path = write(tmp_path, encoded(PICTURE, kind, exif=exif.tobytes()))
    page = load(path)
    assert (page.width, page.height) == ((80, 120) if orientation >= 5 else (120, 80))
    assert rgb(page).shape[:2] == (page.height, page.width)
    assert corner_colours(rgb(page)) == ORIENTATIONS[orientation]
    small = load(path, pixels=False)
    assert (small.width, small.height, small.pixels) == (page.width, page.height, None)


def test_heic_orientation(tmp_path: Path) -> None:
    """HEIC stores the turn in two places; it is applied once."""
    exif = Image.Exif()
    exif[274] = 6
    pillow_heif.register_heif_opener()
    page = load(write(tmp_path, encoded(PICTURE, "HEIF", quality=95, exif=exif.tobytes())))
    assert (page.width, page.height) == (80, 120)
    assert corner_colours(rgb(page)) == ORIENTATIONS[6]


@pytest.mark.parametrize("orientation", [0, 9, 300])
def test_odd_orientation_is_upright(tmp_path: Path, orientation: int) -> None:
    """A value that does not exist turns nothing."""
    exif = Image.Exif()
    exif[274] = orientation
    assert corner_colours(rgb(load(write(tmp_path, jpeg(PICTURE, exif=exif.tobytes()))))) == [0, 1, 2, 3]


def _grey16(high: int) -> Image.Image:
    ramp = np.linspace(0, high, 64 * 64).reshape(64, 64)
    return Image.fromarray(ramp.astype(np.uint16))


def _half_transparent() -> Image.Image:
    image = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    image.paste((200, 0, 0, 255), (0, 0, 32, 64))
    return image


def _palette_transparent() -> bytes:
    image = Image.new("P", (64, 64), 1)
    image.putpalette([200, 0, 0, 0, 0, 0])
    image.paste(0, (0, 0, 32, 64))
    return encoded(image, "PNG", transparency=1)


#: Content, then the colour on the left edge and on the right.
MODES: dict[str, tuple[bytes, tuple[int, int, int], tuple[int, int, int]]] = {
    "1 bit": (
        encoded(Image.fromarray(np.tile(np.arange(64) >= 32, (64, 1))), "PNG"),
        (0, 0, 0),
        (255, 255, 255),
    ),
    "1 bit fax": (
        encoded(Image.fromarray(np.tile(np.arange(64) >= 32, (64, 1))), "TIFF", compression="group4"),
        (0, 0, 0),
        (255, 255, 255),
    ),
    "8 bit grey": (
        encoded(Image.linear_gradient("L").rotate(90), "PNG"),
        (0, 0, 0),
        (255, 255, 255),
    ),
    "16 bit grey": (encoded(_grey16(65535).transpose(Image.Transpose.ROTATE_90), "PNG"), (0, 0, 0), (255, 255, 255)),
    "12 bits in 16": (
        encoded(_grey16(4095).transpose(Image.Transpose.ROTATE_90), "TIFF"),
        (0, 0, 0),
        (255, 255, 255),
    ),
    "float": (
        encoded(Image.fromarray(np.tile(np.linspace(-3, 7, 64, dtype=np.float32), (64, 1))), "TIFF"),
        (0, 0, 0),
        (255, 255, 255),
    ),
    "alpha": (encoded(_half_transparent(), "PNG"), (200, 0, 0), (255, 255, 255)),
    "alpha in WebP": (encoded(_half_transparent(), "WEBP", lossless=True), (200, 0, 0), (255, 255, 255)),
    "grey and alpha": (encoded(_half_transparent().convert("LA"), "PNG"), (60, 60, 60), (255, 255, 255)),
    "palette": (
        encoded(_half_transparent().convert("RGB").convert("P", palette=Image.Palette.ADAPTIVE), "PNG"),
        (200, 0, 0),
        (0, 0, 0),
    ),
    "palette with transparency": (_palette_transparent(), (200, 0, 0), (255, 255, 255)),
    "CMYK": (
        jpeg(_half_transparent().convert("RGB").convert("CMYK"), quality=95),
        (200, 0, 0),
        (0, 0, 0),
    ),
    "CMYK in TIFF": (
        encoded(_half_transparent().convert("RGB").convert("CMYK"), "TIFF"),
        (200, 0, 0),
        (0, 0, 0),
    ),
}


@pytest.mark.parametrize("mode", MODES)
def test_colour_modes(tmp_path: Path, mode: str) -> None:
    """Every way of storing pixels comes out in the right colours, on white where there is nothing."""
    content, left, right = MODES[mode]
    pixels = rgb(load(write(tmp_path, content))).astype(int)
    middle = pixels.shape[0] // 2
    assert np.abs(pixels[middle, 1] - left).max() <= 10
    assert np.abs(pixels[middle, -2] - right).max() <= 10


def test_first_picture_of_an_animation_is_the_page(tmp_path: Path) -> None:
    """An animated GIF or WebP is one page, its first picture."""
    second = PICTURE.transpose(Image.Transpose.ROTATE_180)
    for kind in ("GIF", "WEBP"):
        path = write(tmp_path, encoded(PICTURE, kind, save_all=True, append_images=[second], duration=100))
        assert inspect(path, LIMITS).page_count == 1
        assert corner_colours(rgb(load(path))) == [0, 1, 2, 3]


def test_primary_picture_of_a_heic_is_the_page(tmp_path: Path) -> None:
    """A HEIC may hold several pictures; the one marked as primary counts."""
    pillow_heif.register_heif_opener()
    second = PICTURE.transpose(Image.Transpose.ROTATE_180)
    content = encoded(second, "HEIF", save_all=True, append_images=[PICTURE], primary_index=1, quality=95)
    path = write(tmp_path, content)
    assert inspect(path, LIMITS).page_count == 1
    assert corner_colours(rgb(load(path))) == [0, 1, 2, 3]


def test_tiff_pages_have_their_own_size(tmp_path: Path) -> None:
    """Pages of a TIFF differ in size, resolution and colour, and are read in any order."""
    grey = documents.bars((300, 400))
    grey.encoderinfo = {"dpi": (72, 72)}
    colour = PICTURE.copy()
    colour.encoderinfo = {"dpi": (200, 200), "compression": "tiff_lzw"}
    fine = documents.bars((600, 800)).convert("1")
    path = write(tmp_path, encoded(fine, "TIFF", save_all=True, append_images=[grey, colour], dpi=(300, 300)))
    assert inspect(path, LIMITS).page_count == 3
    assert [load(path, index).width for index in (2, 0, 1)] == [120, 600, 300]
    assert corner_colours(rgb(load(path, 2))) == [0, 1, 2, 3]


def test_fax_pixels_are_made_square(tmp_path: Path) -> None:
    """A fax of 204 x 98 dots per inch is flat as stored; it is read at its true height, its size stays as stored."""
    fax = Image.new("1", (800, 500), 1)
    ImageDraw.Draw(fax).rectangle((100, 100, 200, 150), fill=0)
    page = load(write(tmp_path, encoded(fax, "TIFF", dpi=(204, 98))))
    assert (page.width, page.height) == (800, 500)
    assert rgb(page).shape[:2] == (1040, 800)
    assert load(write(tmp_path, encoded(fax, "TIFF", dpi=(204, 1)))).pixels.shape[:2] == (500, 800)  # type: ignore[union-attr]


def test_tiff_thumbnails_are_no_pages(tmp_path: Path) -> None:
    """A smaller copy and a mask, marked as such, are left out; a file of nothing else keeps its first."""
    page = documents.bars((300, 400))
    thumbnail = documents.bars((30, 40))
    thumbnail.encoderinfo = {"tiffinfo": {254: 1}}
    path = write(tmp_path, encoded(page, "TIFF", save_all=True, append_images=[thumbnail, page]))
    assert inspect(path, LIMITS).page_count == 2
    assert load(path, 1).width == 300
    assert inspect(write(tmp_path, encoded(page, "TIFF", tiffinfo={254: 1})), LIMITS).page_count == 1


def test_torn_tiff_misses_a_page(tmp_path: Path) -> None:
    """Where the list of pages of a TIFF is torn, the next page is counted and fails: it is not dropped in silence."""
    pages = [documents.bars((60, 80), seed=seed) for seed in range(3)]
    content = bytearray(encoded(pages[0], "TIFF", save_all=True, append_images=pages[1:]))
    with Image.open(io.BytesIO(content)) as image:
        image.seek(2)
        place = image.tag_v2._offset  # type: ignore[attr-defined] # noqa: SLF001 - where the list stands in the file
    path = write(tmp_path, bytes(content[: place + 30]))
    count = inspect(path, LIMITS).page_count
    assert count == 3
    assert load(path, 1).width == 60
    with pytest.raises(PageError, match="cannot be decoded"):
        load(path, 2)


def test_cut_off_picture(tmp_path: Path) -> None:
    """The only picture of a file makes the document corrupt, one page of several only that page."""
    page = documents.bars((600, 800))
    with pytest.raises(Corrupt, match="cannot be decoded"):
        load(write(tmp_path, jpeg(page)[:-9000]))
    assert inspect(tmp_path / "document.bin", LIMITS).page_count == 1


def test_no_warning_leaks(tmp_path: Path) -> None:
    """Odd metadata and large pictures make Pillow warn; nobody would read it."""
    content = jpeg(PICTURE, exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12")
    large = encoded(Image.new("1", (10_000, 10_000), 1), "PNG")  # over Pillow's own limit
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load(write(tmp_path, content))
        page = load(write(tmp_path, large, "large"))
    assert not caught
    assert page.width == 10_000
    assert rgb(page).shape[0] * rgb(page).shape[1] <= MAX_IMAGE_PX


# Tiles


def seen(path: Path, mode: Mode = Mode.GUNDAM) -> Tiles:
    """The tiles of the only page."""
    page = load_page(path, 0, needs="tiles", limits=LIMITS, mode=mode)
    assert page.pixels is None
    assert isinstance(page.tiles, Tiles)
    return page.tiles


def lying(image: Image.Image, orientation: int = 6) -> bytes:
    """A JPEG that says how it is to be turned."""
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = orientation
    return jpeg(image, exif=exif)


#: Kind -> a picture, as it is stored.
STORED = {
    "grey": encoded(documents.bars((700, 900)), "PNG"),
    "colour": encoded(documents.corners(900, 700), "PNG"),
    "black and white": encoded(documents.bars((700, 900)).convert("1"), "TIFF", compression="group4"),
    "palette": encoded(documents.corners(700, 900).convert("P"), "PNG"),
    "transparent": encoded(documents.bars((700, 900)).convert("LA"), "PNG"),
    "16 bits": encoded(Image.fromarray(np.asarray(documents.bars((700, 900))).astype(np.uint16) * 257), "PNG"),
    "lying": lying(documents.corners(900, 700)),
    "oblong pixels": encoded(documents.bars((700, 450)), "TIFF", dpi=(204, 98)),
    "JPEG of just twice the crops": documents.jpeg(documents.bars((2559, 3840))),
}


@pytest.mark.parametrize("mode", [Mode.BASE, Mode.GUNDAM])
@pytest.mark.parametrize("kind", STORED)
def test_tiles_are_those_of_the_pixels(tmp_path: Path, kind: str, mode: Mode) -> None:
    """However a picture is stored, its tiles are those of its pixels, byte for byte."""
    path = write(tmp_path, STORED[kind])
    tiles, expected = seen(path, mode), tile(rgb(load(path)), mode)
    assert tiles.grid == expected.grid
    if mode is Mode.GUNDAM or "twice" not in kind:
        assert np.array_equal(tiles.view, expected.view)
        assert np.array_equal(tiles.crops, expected.crops)


@pytest.mark.parametrize("orientation", [1, 6])
def test_large_jpeg_is_decoded_smaller(tmp_path: Path, orientation: int) -> None:
    """A JPEG of more than twice the pixels needed gives nearly the same tiles, and the grid of its full size."""
    path = write(tmp_path, lying(documents.corners(4200, 2801), orientation))
    page = load_page(path, 0, needs="tiles", limits=LIMITS, mode=Mode.GUNDAM)
    assert isinstance(page.tiles, Tiles)
    assert (page.width, page.height) == ((4200, 2801) if orientation == 1 else (2801, 4200))
    expected = tile(rgb(load(path)), Mode.GUNDAM)
    assert page.tiles.grid == expected.grid
    for ours, theirs in ((page.tiles.view, expected.view), (page.tiles.crops, expected.crops)):
        assert np.abs(ours.astype(np.int16) - theirs).mean() < 1


@pytest.mark.parametrize(
    ("size", "mode", "decoded"),
    [
        ((2560, 3840), Mode.GUNDAM, (1280, 1920)),
        ((2559, 3840), Mode.GUNDAM, (2559, 3840)),
        ((2480, 3508), Mode.BASE, (1240, 1754)),
        ((2480, 3508), Mode.GUNDAM, (2480, 3508)),
        ((500, 400), Mode.GUNDAM, (500, 400)),
    ],
    ids=str,
)
def test_no_pixel_that_is_needed_is_left_undecoded(size: tuple[int, int], mode: Mode, decoded: tuple[int, int]) -> None:
    """What is decoded is never smaller than the crops together, or than the view."""
    with Image.open(io.BytesIO(documents.jpeg(Image.new("L", size)))) as image:
        upright, *_ = _upright(image, WHOLE, mode, pixels=True, max_page_px=LIMITS.max_page_px)
        assert upright.size == decoded
        assert upright.mode == "L"
