"""A page of a PDF that is nothing but one JPEG, as scanners write them: the picture itself, for Pillow to decode.

MuPDF decodes and scales it in two to three times Pillow's time.  What the page draws is asked of MuPDF's trace of it,
line by line; anything beside one whole, upright, opaque picture and invisible text (of a recognizer) is no such page.

Residual risk: colour profiles are ignored, as in picture files.
"""

from __future__ import annotations

import io
import re
from math import ceil
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image

from deepseek_ocr.pages_image import DECODER_ERRORS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from deepseek_ocr.completion import Box

#: What a page may draw beside its picture, in the words of MuPDF's trace: nothing that can be seen.
_UNSEEN: Final = re.compile(r"</?ignore_text\b|<set_default_colorspaces\b|\s|$")
_PICTURE: Final = re.compile(
    r'<fill_image alpha="1" colorspace="(?:DeviceGray|DeviceRGB|ICCBased\((?:Gray|RGB),[^"]*)" '
    r'[^>]*transform="(\S+) (\S+) (\S+) (\S+) (\S+) (\S+)" width="(\d+)" height="(\d+)"/>'
)
#: What of a page's side may lie outside of its picture: a pixel of a view.
MARGIN: Final = 0.001
#: Keys of a picture that change its samples.
_ALTERING: Final = ("Decode", "DecodeParms", "Mask", "SMask", "ImageMask")


def pictures_of(page: Any) -> set[int]:
    """The numbers of the pictures that the page may draw, those written into its instructions left out.

    Only its resources are looked at, which takes no time.
    """
    return {picture[0] for picture in page.get_images()}


def scan_of(pymupdf: Any, page: Any, drawing: Any) -> tuple[Image.Image, Box] | None:
    """The JPEG, not decoded, that the page is, and the part of it in pixels that the page shows; None for other pages.

    `drawing` is the display list of the page.
    """
    pictures = pictures_of(page)
    picture = _plain_jpeg(page.parent, *pictures) if len(pictures) == 1 else None
    if picture is None:
        return None
    seen = [line for line in _trace(pymupdf, drawing).splitlines() if not _UNSEEN.match(line)]
    found = _PICTURE.fullmatch(seen[0]) if len(seen) == 1 else None
    if found is None or (int(found[7]), int(found[8])) != picture.size:
        return None
    across, skew, slant, down, left, top = map(float, found.groups()[:6])
    if across <= 0 or down <= 0 or skew or slant:
        return None
    box = (-left / across, -top / down, (page.rect.width - left) / across, (page.rect.height - top) / down)
    if max(-box[0], -box[1], box[2] - 1, box[3] - 1) > MARGIN:
        return None
    x0, y0, x1, y1 = (min(1.0, max(0.0, side)) for side in box)
    return picture, (x0 * picture.width, y0 * picture.height, x1 * picture.width, y1 * picture.height)


def _plain_jpeg(document: Any, xref: int) -> Image.Image | None:
    """The picture of this number if it is a JPEG whose samples are what is seen."""
    if document.xref_get_key(xref, "Filter")[1].strip("[ ]") != "/DCTDecode":
        return None
    if any(document.xref_get_key(xref, key)[0] != "null" for key in _ALTERING):
        return None
    try:
        picture = Image.open(io.BytesIO(document.xref_stream_raw(xref)), formats=["JPEG"])
    except DECODER_ERRORS:
        return None
    return picture if picture.mode in {"L", "RGB"} else None


def _trace(pymupdf: Any, drawing: Any) -> str:
    """What the page draws, a line for each step; steps within a step are indented."""
    mupdf = pymupdf.mupdf
    written = mupdf.FzBuffer(4096)
    output = mupdf.FzOutput(written)
    device = mupdf.fz_new_trace_device(output)
    mupdf.fz_run_display_list(
        drawing.this, device, mupdf.FzMatrix(), mupdf.FzRect(mupdf.FzRect.Fixed_INFINITE), mupdf.FzCookie()
    )
    mupdf.fz_close_device(device)
    output.fz_close_output()
    return bytes(mupdf.fz_buffer_extract_copy(written)).decode("utf-8", "replace")


def scan_planes(
    scan: tuple[Image.Image, Box], size: tuple[int, int], enough: tuple[int, int]
) -> NDArray[np.uint8] | None:
    """The page in planes (N, height, width) of this size, one for a grey JPEG, else three; None where it is damaged.

    It is decoded at a half, a quarter or an eighth where that leaves `enough` pixels (width, height) of the page.
    """
    picture, box = scan
    whole = picture.size
    width, height = (min(side) for side in zip(size, enough, strict=True))
    picture.draft(None, (ceil(width * whole[0] / (box[2] - box[0])), ceil(height * whole[1] / (box[3] - box[1]))))
    try:
        bands = picture.split()
    except DECODER_ERRORS:
        return None
    x0, x1 = (min(side * picture.width / whole[0], picture.width) for side in box[::2])
    y0, y1 = (min(side * picture.height / whole[1], picture.height) for side in box[1::2])
    # As sharp as bicubic where it makes a picture smaller (Pillow, "Concepts", "Filters"), in two thirds of the time.
    smaller = x1 - x0 >= size[0] and y1 - y0 >= size[1]
    method = Image.Resampling.HAMMING if smaller else Image.Resampling.BICUBIC
    return np.stack([np.asarray(band.resize(size, method, box=(x0, y0, x1, y1))) for band in bands])
