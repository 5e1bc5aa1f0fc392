"""Pages of a picture file: PNG, JPEG, TIFF, WebP, BMP, GIF and HEIC, with Pillow.

TIFF is the only one with pages: its thumbnails and masks are none.  Of an animated GIF or WebP, of a HEIC with several
pictures and of a JPEG with a second one behind it, the first (primary) picture is the one page.

Left to others: which of these kinds a file is (`pages.py`).
Residual risks: colour profiles are ignored, so CMYK comes out a little off; a JPEG that ends early but in order is
filled up with grey by its decoder, which tells nobody; a picture is decoded whole before it is
made smaller (JPEG excepted), so the process needs 4 bytes for each of up to `max_page_px` pixels and twice that for
HEIC and WebP.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import warnings
from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from deepseek_ocr.completion import PageImage
from deepseek_ocr.density import is_seen_well
from deepseek_ocr.errors import Corrupt, DocumentError, PageError, TooManyPages, TooManyPixels
from deepseek_ocr.ink import GRID_CELLS, look
from deepseek_ocr.prompt import AUTO
from deepseek_ocr.sizes import image_size
from deepseek_ocr.tiles import distinct, layout_for, tiles_of
from deepseek_ocr.view import WHOLE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from deepseek_ocr.completion import Box
    from deepseek_ocr.prompt import ModeChoice
    from deepseek_ocr.tiles import Layout
    from deepseek_ocr.view import View

#: What this package calls a kind -> the only decoder Pillow may try.
FORMATS: Final = {
    "png": "PNG",
    "jpeg": "JPEG",
    "tiff": "TIFF",
    "webp": "WEBP",
    "bmp": "BMP",
    "gif": "GIF",
    "heic": "HEIF",
}
#: TIFF 6.0, tag 254 (NewSubfileType): a smaller copy of another picture, and a mask for one.
REDUCED_COPY: Final = 1
MASK: Final = 4
#: EXIF and TIFF tag 274 (Orientation) -> what sets the picture upright.
ORIENTATION_TAG: Final = 274
UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
TRANSPOSED: Final = (5, 6, 7, 8)
#: Those that exchange left and right, and top and bottom, of what is stored (after the transposition).
MIRRORED_X: Final = (2, 3, 7, 8)
MIRRORED_Y: Final = (3, 4, 6, 7)
#: Ratio of the two resolutions of a TIFF from which its pixels are no squares (a fax has 204 x 98 or 204 x 196 dots per
#: inch), and from which the tags are nonsense.
OBLONG_PIXELS: Final = 1.02
NONSENSE_PIXELS: Final = 4.1
#: What Pillow and its decoders throw at damaged input.
DECODER_ERRORS: Final = (
    OSError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    SyntaxError,
    AssertionError,
    OverflowError,
    EOFError,
)


class OpenImage:
    """A picture file whose header has been read; raises a `DocumentError` where that fails.

    Nothing is kept open: decoded pixels would stay in the process as long as the file does.
    """

    repaired = False

    def __init__(self, path: Path, kind: str, *, max_pages: int, max_page_px: int) -> None:
        """Read the headers of all pages of the file, which is of this kind."""
        self._path = path
        self.kind = kind
        try:
            with _opened(path, kind) as image:
                #: Which pictures of the file are its pages.
                self._frames = _frames(image, kind, max_pages=max_pages, max_page_px=max_page_px)
        except DocumentError:
            raise
        except DECODER_ERRORS as error:
            raise_if_environment(error)
            raise Corrupt(f"the {FORMATS[kind]} cannot be opened: {_explain(error)}") from error
        self.page_count = len(self._frames)

    def close(self) -> None:
        """Nothing to release."""

    def load(
        self,
        page_index: int,
        *,
        pixels: bool,
        dpi: float,  # noqa: ARG002 - a PDF's
        max_page_px: int,
        view: View = WHOLE,
        mode: ModeChoice | None = None,
    ) -> PageImage:
        """One page, or a part of it (not turned); raises `PageError`, or `Corrupt` where the only picture is broken.

        With a mode a whole page comes as tiles instead of pixels, if it has ink.
        """
        if not 0 <= page_index < self.page_count:
            raise PageError(f"there is no page {page_index + 1}; the document has {self.page_count}")
        frame = self._frames[page_index]
        try:
            with _opened(self._path, self.kind) as image:
                if frame:
                    image.seek(frame)
                mode = mode if pixels and view == WHOLE else None
                upright, width, height, layout = _upright(image, view, mode, pixels=pixels, max_page_px=max_page_px)
        except DECODER_ERRORS as error:
            raise_if_environment(error)
            message = f"the picture cannot be decoded: {_explain(error)}"
            raise (Corrupt(message) if self.page_count == 1 else PageError(message)) from error
        planes = distinct([np.asarray(band) for band in upright.split()]) if layout else []
        ink = look(Image.fromarray(planes[0]) if len(planes) == 1 else upright)
        is_enough = partial(is_seen_well, ink=ink) if mode == AUTO else lambda _: False
        tiles = tiles_of(planes, layout, is_enough) if layout and ink.share else None
        rgb = np.array(upright.convert("RGB")) if pixels and not layout else None
        return PageImage(
            page_index, width, height, "px", rgb, ink.share, tiles=tiles, ink_grid=ink.grid, sideways=ink.sideways
        )


def raise_if_environment(error: BaseException) -> None:
    """Raise an error of the file system again: it has a number, where a decoder's `OSError` has only words."""
    if isinstance(error, OSError) and error.errno is not None:
        raise error


def _explain(error: BaseException) -> str:
    """The decoder's words on one line; Pillow has none but the path where a header makes no sense."""
    if isinstance(error, UnidentifiedImageError):
        return "its header makes no sense"
    return " ".join(str(error).split()) or type(error).__name__


@contextlib.contextmanager
def _opened(path: Path, kind: str) -> Iterator[Image.Image]:
    if kind == "heic":
        _register_heif()
    # The limit is ours and checked on the header; Pillow's own would only warn between one and two times its value.
    Image.MAX_IMAGE_PIXELS = None
    with warnings.catch_warnings():
        # Pillow warns of odd metadata, which says nothing about the picture.
        warnings.simplefilter("ignore")
        with Image.open(path, formats=[FORMATS[kind]]) as image:
            yield image


def _register_heif() -> None:
    if "HEIF" not in Image.OPEN:
        import pillow_heif  # noqa: PLC0415 - 20 ms, for few files

        # One thread: the processes around this one use the other cores.
        pillow_heif.register_heif_opener(decode_threads=1, thumbnails=False)


# Headers


def _frames(image: Image.Image, kind: str, *, max_pages: int, max_page_px: int) -> list[int]:
    """The numbers of the pictures that are pages; none is decoded."""
    if kind != "tiff":
        _check_pixels(image, max_page_px)
        return [0]
    pages: list[int] = []
    for number in itertools.count():
        try:
            image.seek(number)
        except EOFError:
            break
        except DECODER_ERRORS as error:
            raise_if_environment(error)
            if number == 0:
                raise
            # The list of pages is torn here.  The page that should follow is counted, so that it is missed.
            pages.append(number)
            break
        _check_pixels(image, max_page_px)
        if not _is_extra(image):
            pages.append(number)
        # Two pictures that are none for each page: a thumbnail and a mask.  More make an endless list.
        if len(pages) > max_pages or number > 3 * max_pages:
            raise TooManyPages(f"the TIFF has more than {max_pages} pages, which is the limit")
    return pages or [0]


def _check_pixels(image: Image.Image, max_page_px: int) -> None:
    width, height = image.size
    if width * height > max_page_px:
        raise TooManyPixels(f"the picture has {width} x {height} pixels, the limit is {max_page_px} in all")


def _is_extra(image: Image.Image) -> bool:
    tags = image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}
    return bool(int(tags.get(254, 0)) & (REDUCED_COPY | MASK))


def _orientation(image: Image.Image) -> int:
    """1 to 8, of a picture that has been decoded (for a PNG, Pillow would do it now); odd metadata count as 1."""
    try:
        return int(image.getexif().get(ORIENTATION_TAG, 1))
    except DECODER_ERRORS:
        return 1


def _pixel_ratio(image: Image.Image) -> float:
    """Height of a pixel divided by its width, upright; 1 for all but TIFF, as others fill in nonsense."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return 1.0
    try:
        x_dpi, y_dpi = (float(value) for value in image.info.get("dpi", (1, 1)))
        ratio = y_dpi / x_dpi if image.tag_v2.get(ORIENTATION_TAG) in TRANSPOSED else x_dpi / y_dpi
    except DECODER_ERRORS:
        return 1.0
    if not math.isfinite(ratio) or not 1 / NONSENSE_PIXELS < ratio < NONSENSE_PIXELS:
        return 1.0
    return ratio if max(ratio, 1 / ratio) >= OBLONG_PIXELS else 1.0


# Pixels


def _upright(
    image: Image.Image, view: View, mode: ModeChoice | None, *, pixels: bool, max_page_px: int
) -> tuple[Image.Image, int, int, Layout | None]:
    """The part as a person sees it, in grey or RGB on white, its size in pixels of the original, upright, its layout.

    Where no pixels are asked for it is made small at once, for the ink alone.  For tiles a JPEG of twice their
    pixels or more across and down is decoded at a half, a quarter or an eighth, never below them: they differ a little
    from those of the whole picture then, as libjpeg does a part of the scaling; all others are the same to the byte.
    """
    stretch = _pixel_ratio(image)
    layout: Layout | None = None
    if view == WHOLE:
        width, height = image.size
        size = enough = _size(width, height, stretch, 0 if pixels else 2 * GRID_CELLS, max_page_px)
        if mode and image.format == "JPEG":  # which says how it lies without being decoded
            turned = _orientation(image) in TRANSPOSED
            wanted = layout_for(*_turned_if(turned, size), mode)
            enough = _turned_if(turned, (max(wanted.view[0], wanted.canvas[0]), max(wanted.view[1], wanted.canvas[1])))
        image.draft(None, enough)  # a JPEG is decoded at a half, a quarter or an eighth where that is enough
        image.load()
        part = None
        if mode:
            layout = layout_for(*_turned_if(_orientation(image) in TRANSPOSED, size), mode)
            if image.size != (width, height):
                size = min(size, image.size)
    else:
        part = view.within()
        image.load()
    orientation = _orientation(image)  # Pillow has turned a TIFF by now and says 1
    if part is not None:
        part = _stored(part, orientation, image.size)
        width, height = part[2] - part[0], part[3] - part[1]
        size = _size(width, height, stretch, view.side_px if pixels else 2 * GRID_CELLS, max_page_px)
    upright = _on_white(image, size, part)
    if orientation in UPRIGHT:
        upright = upright.transpose(UPRIGHT[orientation])
    if orientation in TRANSPOSED:
        width, height = height, width
    return upright, width, height, layout


def _turned_if(turned: bool, size: tuple[int, int]) -> tuple[int, int]:
    return size[::-1] if turned else size


def _size(width: int, height: int, stretch: float, side_px: int, max_page_px: int) -> tuple[int, int]:
    """Pixels (width, height) of a picture: square ones, and no more on its longer side than asked for (0: all)."""
    # The finer resolution is kept: a fax becomes twice as high, not half as wide.
    square = (width, height * stretch) if stretch >= 1 else (width / stretch, height)
    scale = min(1.0, side_px / max(square)) if side_px else 1.0
    return image_size(*square, scale=scale, max_page_px=max_page_px)


def _stored(box: Box, orientation: int, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """A part in fractions of the upright picture -> in whole pixels of the stored one, which has this size."""
    left, top, right, bottom = box
    if orientation in TRANSPOSED:
        left, top, right, bottom = top, left, bottom, right
    if orientation in MIRRORED_X:
        left, right = 1 - right, 1 - left
    if orientation in MIRRORED_Y:
        top, bottom = 1 - bottom, 1 - top
    width, height = size
    x0, y0 = min(round(left * width), width - 1), min(round(top * height), height - 1)
    return x0, y0, max(round(right * width), x0 + 1), max(round(bottom * height), y0 + 1)


def _on_white(image: Image.Image, size: tuple[int, int], part: tuple[int, int, int, int] | None) -> Image.Image:
    """The decoded picture, or a part of it, in grey or RGB at this size, transparency filled with white."""
    if image.mode.startswith(("I", "F")):
        image = _eight_bits(image)
    elif image.mode == "1":
        image = image.convert("L")
    elif image.mode == "LAB":
        image = image.getchannel("L")
    if image.has_transparency_data:
        image = image.convert("RGBA")
    elif image.mode in ("P", "YCbCr", "HSV"):
        image = image.convert("RGB")
    if part is not None:
        image = image.crop(part)  # not before: its grey levels are scaled by those of the whole picture
    if image.size != size:
        image = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)
    if image.mode == "RGBA":
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image.getchannel("A"))
        return white
    return image if image.mode == "L" else image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """A picture of 16-bit, 32-bit or float grey levels in 8 bits.

    Whole numbers are scaled by the bits they use: scanners store 10 or 12 bits in 16.  Float has no usual white, so the
    span of its values is.
    """
    levels = np.asarray(image)
    if levels.dtype.kind == "f":
        low, high = float(np.nanmin(levels)), float(np.nanmax(levels))
        scaled = np.nan_to_num((levels - low) * (255 / (high - low) if high > low else 0.0))
        return Image.fromarray(scaled.astype(np.uint8))
    shift = max(0, int(levels.max()).bit_length() - 8)
    grey = np.empty(levels.shape, np.uint8)
    np.right_shift(np.maximum(levels, 0), shift, out=grey, casting="unsafe")
    inverted = isinstance(image, TiffImagePlugin.TiffImageFile) and image.tag_v2.get(262) == 0  # white is zero
    return Image.fromarray(255 - grey if inverted else grey)
