"""Where lines of text stand on a page of any size, with RapidOCR's detector (`text_det`).

RapidOCR looks at a page once, scaled down to 2000 pixels; small print on a large page is lost.  When that look left
much of the ink unread, the same detector looks again here, tile by tile at full resolution.

Left to others: loading and sizing (`recognition.py`).
Residual risks: letters under eight pixels high are not found; text on curves comes in pieces.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Image = NDArray[np.uint8]
    #: The corners of a line in pixels, (4, 2): top left, top right, bottom right, bottom left.
    Quad = NDArray[np.float32]

#: Longest side looked at in one piece (RapidOCR's Global.max_side_len).
MAX_SIDE_PX = 2000
#: Side of a tile, and how much more the model sees around it, so that every letter has its neighbours.
TILE_PX = 1280
TILE_MARGIN_PX = 96
#: Grey levels (of 255) between neighbouring pixels that make an edge of ink.
EDGE_CONTRAST = 48
#: Share of the edges outside all lines found from which on it is worth looking closer.  Measured on generated pages:
#: 0.00 to 0.03 when all text is found, above 0.5 when it is too small; pictures are above, and cost the time.
UNREAD_SHARE = 0.15
#: A line found in the small picture that holds lines of less than this share of its height in a tile is a blur of them.
BLUR_RATIO = 0.6


def find_lines(detector: Any, image: Image, *, deadline: float) -> tuple[list[Quad], bool]:
    """Lines on a BGR image, in no order; False with them if the time was up before all of it was looked at closely.

    `deadline` is a `time.monotonic()` after which no further tile is looked at.
    """
    overview = _at_once(detector, image)
    if max(image.shape[:2]) <= MAX_SIDE_PX or not _much_is_unread(image, overview):
        return overview, True
    close, complete = _tile_by_tile(detector, image, deadline)
    return _merged(overview, close), complete


def _at_once(detector: Any, image: Image) -> list[Quad]:
    """Lines as RapidOCR's detector finds them in the whole image."""
    pixels = _prepared(detector, image)
    if pixels is None:
        return []
    boxes, _ = detector.postprocess_op(detector.session(pixels), image.shape[:2])
    return list(detector.sorted_boxes(boxes))


def _prepared(detector: Any, image: Image) -> NDArray[np.float32] | None:
    """What the network takes, (1, 3, height, width); None of an image that is too narrow or too low.

    The figures are RapidOCR's, but looked up: it computes each of them, in float64 (0.1 s for a page).
    """
    prepare = detector.get_preprocess()
    resized = prepare.resize(image)
    if resized is None:
        return None
    levels = np.repeat(np.arange(256, dtype=np.uint8).reshape(256, 1, 1), 3, axis=2)
    table = prepare.normalize(levels).astype(np.float32)
    planes = [cv2.LUT(cv2.extractChannel(resized, plane), table[:, :, plane].copy()) for plane in range(3)]
    return np.stack(planes)[None]


def _tile_by_tile(detector: Any, image: Image, deadline: float) -> tuple[list[Quad], bool]:
    """The network runs on tiles; RapidOCR's post-processing sees the whole, so that no line ends at a seam."""
    height, width = image.shape[:2]
    whole = np.zeros((height, width), np.float32)
    complete = True
    for top, left in np.ndindex(-(-height // TILE_PX), -(-width // TILE_PX)):
        y, x = top * TILE_PX, left * TILE_PX
        y0, x0 = max(0, y - TILE_MARGIN_PX), max(0, x - TILE_MARGIN_PX)
        tile = image[y0 : y + TILE_PX + TILE_MARGIN_PX, x0 : x + TILE_PX + TILE_MARGIN_PX]
        if int(tile.max()) - int(tile.min()) < EDGE_CONTRAST:
            continue
        if time.monotonic() > deadline:
            complete = False
            break
        pixels = _prepared(detector, tile)
        if pixels is None:
            continue
        found = cv2.resize(detector.session(pixels)[0, 0], tile.shape[1::-1])
        whole[y : y + TILE_PX, x : x + TILE_PX] = found[y - y0 : y - y0 + TILE_PX, x - x0 : x - x0 + TILE_PX]
    return list(detector.postprocess_op(whole[None, None], (height, width))[0]), complete


def _much_is_unread(image: Image, quads: list[Quad]) -> bool:
    """Whether much of what stands out on the page lies outside the lines found."""
    scale = MAX_SIDE_PX / max(image.shape[:2])
    grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    # Whole pixels, at least one: an image may be 30000 times as wide as high.
    size = max(1, round(grey.shape[1] * scale)), max(1, round(grey.shape[0] * scale))
    edges = cv2.morphologyEx(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), cv2.MORPH_GRADIENT, np.ones((3, 3)))
    edges = (edges > EDGE_CONTRAST).astype(np.uint8)
    total = int(edges.sum())
    for quad in quads:
        cv2.fillConvexPoly(edges, np.rint(quad * scale).astype(np.int32), 0)
    return int(edges.sum()) > UNREAD_SHARE * total


def _merged(overview: list[Quad], close: list[Quad]) -> list[Quad]:
    """Lines of the small picture, which sees large letters whole, and those that only a closer look found.

    Where both have something, the small picture is right, unless what it has is several lines run together.
    """
    left = list(close)
    kept = []
    for quad in overview:
        inside = [other for other in left if cv2.pointPolygonTest(quad, other.mean(axis=0).tolist(), False) >= 0]
        if any(_height(other) < BLUR_RATIO * _height(quad) for other in inside):
            continue
        kept.append(quad)
        left = [other for other in left if not any(other is one for one in inside)]
    return kept + left


def _height(quad: Quad) -> float:
    return float(np.linalg.norm(quad[3] - quad[0]))
