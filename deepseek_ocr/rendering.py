"""A page of a PDF -> pixels, with MuPDF: any part of it at any size, or at once the tiles that the model sees.

Tiles of a page that is drawn come from two renderings, each with just the pixels that are needed, so nothing is scaled
afterwards and type is as sharp as MuPDF draws it.  A page that is mostly a picture is rendered once, as the picture
would be decoded and scaled once for each; its view is scaled from its crops.  One that is nothing but a JPEG is not
rendered at all.

Left to others: which page and when (`pages_pdf.py`), the JPEG of a scan (`scans.py`), how tiles lie in memory
(`tiles.py`).
Residual risk: colour so faint and small that it changes no pixel of the view is grey in the crops.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image

from deepseek_ocr.density import is_seen_well
from deepseek_ocr.ink import cell_grid, look
from deepseek_ocr.prompt import AUTO
from deepseek_ocr.scans import pictures_of, scan_of, scan_planes
from deepseek_ocr.tiles import layout_for

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from deepseek_ocr.completion import Box
    from deepseek_ocr.ink import Ink
    from deepseek_ocr.prompt import ModeChoice
    from deepseek_ocr.tiles import Tiles

#: Share of the page that a picture must cover for the page to be rendered once.  A JPEG of the whole page at 200 dpi
#: takes 80 ms for the crops, 24 more for the view, which scaling makes in 9 (grey) to 25; half a page is where both
#: are equal.
MOSTLY_PICTURE: Final = 0.5
#: MuPDF's names of the components.
GREY: Final = 1
RGB: Final = 3


def render(pymupdf: Any, page: Any, part: Box, size: tuple[int, int]) -> NDArray[np.uint8]:
    """A part of the page, in points, with its annotations and form fields, as RGB (height, width, 3)."""
    left, top, right, bottom = part
    matrix = pymupdf.Matrix(size[0] / (right - left), size[1] / (bottom - top))
    clip = None
    if (right - left, bottom - top) != (page.rect.width, page.rect.height):
        # The part begins at a whole pixel, or it would end on one pixel more than asked for.
        matrix, clip = matrix.pretranslate(-left, -top), pymupdf.Rect(part)
    pixmap = page.get_pixmap(matrix=matrix, clip=clip, alpha=False, colorspace=pymupdf.csRGB)
    shape = (pixmap.height, pixmap.width, 3)
    rgb = np.frombuffer(pixmap.samples_mv, np.uint8).reshape(shape)
    # MuPDF counts in 32 bits, and on large pages it takes a pixel too many after all.
    return (rgb if clip is None else rgb[: size[1], : size[0]]).copy()


def render_tiles(pymupdf: Any, page: Any, size: tuple[int, int], mode: ModeChoice) -> tuple[Tiles | None, Ink] | None:
    """The tiles of a page whose image would have this many pixels (width, height), and its ink; no tiles without ink.

    None where MuPDF cannot: for strips so narrow that a view has no pixel of them, and for absurd sizes.
    """
    layout = layout_for(*size, mode)
    sizes = [layout.view, layout.canvas] if min(layout.canvas) else [layout.view]
    # What is drawn, read once for both renderings.
    drawing = page.get_displaylist()
    if not min(layout.view) or not all(_fits(pymupdf, page, wanted) for wanted in sizes):
        return None
    scan = scan_of(pymupdf, page, drawing)
    # 144 dpi are enough of a scan, as of any other page: one at 300 is decoded at a half.
    first = scan_planes(scan, sizes[-1], enough=size) if scan else None
    once = len(sizes) > 1 and (first is not None or _picture_share(page) >= MOSTLY_PICTURE)
    if first is None:
        first = _planes(pymupdf, page, drawing, sizes[once])
    view = _scaled(first, layout.view) if once else first
    ink = look(_cells(view, cell_grid(*size)))
    if not ink.share:
        return None, ink
    if mode == AUTO and min(layout.canvas) and is_seen_well(view.min(axis=0), ink):
        layout = layout.without_crops()
    tiles = layout.blank()
    layout.put_view(tiles, view)
    if min(layout.canvas):
        rest = first if once else _planes(pymupdf, page, drawing, layout.canvas, grey=len(view) == GREY)
        layout.put_crops(tiles, rest)
    return tiles, ink


def _fits(pymupdf: Any, page: Any, size: tuple[int, int]) -> bool:
    """Whether MuPDF, which counts in 32 bits, renders the page with just so many pixels."""
    rendered = (page.rect * _matrix(pymupdf, page, size)).round()
    return (rendered.width, rendered.height) == size


def _matrix(pymupdf: Any, page: Any, size: tuple[int, int]) -> Any:
    return pymupdf.Matrix(size[0] / page.rect.width, size[1] / page.rect.height)


def _planes(
    pymupdf: Any, page: Any, drawing: Any, size: tuple[int, int], *, grey: bool | None = None
) -> NDArray[np.uint8]:
    """The whole page in planes (N, height, width): one if it is grey, which is looked for where it is not known.

    A page known to be grey is rendered so: MuPDF's pixels are the same then (compared over the sample documents), and a
    fourth of the time is saved.
    """
    components, colorspace = (GREY, pymupdf.csGRAY) if grey else (RGB, pymupdf.csRGB)
    pixmap = drawing.get_pixmap(matrix=_matrix(pymupdf, page, size), colorspace=colorspace, alpha=False)
    pixels = np.frombuffer(pixmap.samples_mv, np.uint8).reshape(size[1], size[0], components)
    if grey is None:
        grey = all(np.array_equal(pixels[:, :, 0], pixels[:, :, other]) for other in (1, 2))
    # A copy, as MuPDF's memory goes with the pixmap.
    return np.array(pixels[:, :, : GREY if grey else RGB].transpose(2, 0, 1), order="C")


def _picture_share(page: Any) -> float:
    """The share of the page that its largest picture covers; pictures written into the instructions count as none."""
    if not pictures_of(page):
        return 0.0
    x0, y0, x1, y1 = page.rect
    areas = [0.0]
    for picture in page.get_image_info():
        left, top, right, bottom = picture["bbox"]
        areas.append(max(0.0, right - left) * max(0.0, bottom - top))
    return float(max(areas) / ((x1 - x0) * (y1 - y0)))


def _scaled(planes: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    pictures = [Image.fromarray(plane).resize(size, Image.Resampling.HAMMING) for plane in planes]
    return np.stack([np.asarray(picture) for picture in pictures])


def _cells(planes: NDArray[np.uint8], size: tuple[int, int]) -> Image.Image:
    """The page in the cells that ink is looked for in, in grey."""
    bands = [Image.fromarray(plane) for plane in planes]
    picture = bands[0] if len(bands) == GREY else Image.merge("RGB", bands).convert("L")
    return picture.resize(size, Image.Resampling.BOX)
