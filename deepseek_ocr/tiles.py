"""A page image -> the view and the crops that DeepSeek-OCR looks at, and how many tokens they become.

Made as the model was trained (`infer` in DeepSeek-OCR's modeling_deepseekocr.py, and its vLLM port in
vllm/transformers_utils/processors/deepseek_ocr.py, whose bytes these are): all resizing is Pillow's bicubic.
Importing this module is cheap (the daemon does, for its types); `tile` runs in worker processes, with Pillow and NumPy.

Left to others: normalising the bytes (x / 127.5 - 1, on the GPU) and the tokens' embeddings.  They stand in this order,
one token for each square of `TOKEN_SIDE_PX` pixels and a newline token after each row: the rows of the whole picture
that the crops form, if there are any; the rows of the view; one separator.
Residual risks: a strip 2048 times as long as wide has no pixel in a padded view, which is all grey then (the crops
of gundam still show it); detail beyond 1280 x 1920 pixels of an A4 page is lost, and crops do not keep its shape.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from deepseek_ocr.prompt import AUTO, Mode

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from deepseek_ocr.prompt import ModeChoice

#: Side of the view in pixels (DeepSeek-OCR README, "Support-Modes").
VIEW_SIDE_PX: Final = {Mode.TINY: 512, Mode.SMALL: 640, Mode.BASE: 1024, Mode.LARGE: 1280, Mode.GUNDAM: 1024}
#: Modes whose view is stretched to the square; the others keep the picture's shape and pad it (`infer` does so where
#: `image_size <= 640`).
SQUASHED: Final = frozenset({Mode.TINY, Mode.SMALL})
#: Side of a crop in pixels.  A picture with no side above it gets no crops.
CROP_SIDE_PX: Final = 640
#: Crops of a page (MIN_CROPS and MAX_CROPS in DeepSeek-OCR-vllm/config.py).
MIN_CROPS: Final = 2
MAX_CROPS: Final = 6
#: Side of what becomes one token: patches of 16 pixels, of which the encoder joins 4 x 4.
TOKEN_SIDE_PX: Final = 64
#: What pads a view: int(0.5 * 255) in the training code, 0.5 being the mean that normalising takes away.
PADDING: Final = 127
#: Crops side by side, and rows of them.
Grid = tuple[int, int]
#: The grid of a page without crops.
NO_CROPS: Final[Grid] = (1, 1)
#: What a page may be cut into, fewest crops first: the order decides between two that fit equally well.
GRIDS: Final[tuple[Grid, ...]] = tuple(
    sorted(
        (
            (across, down)
            for across in range(1, MAX_CROPS + 1)
            for down in range(1, MAX_CROPS + 1)
            if MIN_CROPS <= across * down <= MAX_CROPS
        ),
        key=lambda grid: grid[0] * grid[1],
    )
)
#: Tokens of one page at most: gundam with six crops one above the other.
MAX_TOKENS: Final = 933


@dataclass(frozen=True, slots=True, eq=False)
class Tiles:
    """What the model sees of one page: RGB planes, C-contiguous, not normalised."""

    mode: Mode
    #: (3, S, S), the whole page; S is `VIEW_SIDE_PX` of the mode.
    view: NDArray[np.uint8]
    #: (across * down, 3, 640, 640), row by row; (0, 3, 640, 640) where there are none.
    crops: NDArray[np.uint8]
    #: (across, down); `NO_CROPS` where there are none.
    grid: Grid

    @property
    def token_count(self) -> int:
        """Tokens that this page takes in the prompt."""
        return token_count(self.mode, self.grid)


def grid_for(width: int, height: int) -> Grid:
    """The crops (across, down) of a picture of this size in gundam mode: the grid nearest to it in shape.

    Of two equally near the one with more crops is taken if the picture would fill over half of its pixels.
    """
    if width <= CROP_SIDE_PX and height <= CROP_SIDE_PX:
        return NO_CROPS
    best, best_distance = NO_CROPS, float("inf")
    for across, down in GRIDS:
        # Floats in the training code's own order of steps: a tie there must be a tie here.
        distance = abs(width / height - across / down)
        fills = width * height > 0.5 * CROP_SIDE_PX * CROP_SIDE_PX * across * down
        if distance < best_distance or (distance == best_distance and fills):
            best, best_distance = (across, down), distance
    return best


def token_count(mode: Mode, grid: Grid) -> int:
    """Tokens of a page's picture in the prompt; raises `ValueError` for a grid that the mode does not have.

    A count that differs from what the encoder makes of the picture kills vLLM's worker, hence the check.
    """
    if grid != NO_CROPS and (mode is not Mode.GUNDAM or grid not in GRIDS):
        raise ValueError(f"mode {mode} has no grid of {grid[0]} x {grid[1]} crops")
    rows = VIEW_SIDE_PX[mode] // TOKEN_SIDE_PX
    view = rows * (rows + 1) + 1
    if grid == NO_CROPS:
        return view
    across, down = (CROP_SIDE_PX // TOKEN_SIDE_PX * crops for crops in grid)
    return view + down * (across + 1)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the pixels of a page go in a mode; sizes are (width, height) in pixels."""

    mode: Mode
    grid: Grid
    #: The page in the view: all of it, or what the padding leaves; a strip may have no pixel on one side.
    view: tuple[int, int]
    #: All crops put together; (0, 0) where there are none.
    canvas: tuple[int, int]

    def without_crops(self) -> Layout:
        """The same for base mode, which has the view of gundam."""
        return Layout(Mode.BASE, NO_CROPS, self.view, (0, 0))

    def blank(self) -> Tiles:
        """Tiles whose pixels are still to be written, but for the padding of the view."""
        import numpy as np  # noqa: PLC0415 - 0.2 s, in workers only

        across, down = self.grid
        side = VIEW_SIDE_PX[self.mode]
        view = np.empty((3, side, side), np.uint8)
        top, left = self._corner()
        width, height = self.view
        view[:, :top] = view[:, top + height :] = PADDING
        view[:, :, :left] = view[:, :, left + width :] = PADDING
        count = across * down if self.grid != NO_CROPS else 0
        return Tiles(self.mode, view, np.empty((count, 3, CROP_SIDE_PX, CROP_SIDE_PX), np.uint8), self.grid)

    def put_view(self, tiles: Tiles, planes: NDArray[np.uint8]) -> None:
        """Write the page as the view has it; planes are (N, *sides of `view`), N = 1 for a grey page, or 3."""
        top, left = self._corner()
        width, height = self.view
        tiles.view[:, top : top + height, left : left + width] = planes

    def put_crops(self, tiles: Tiles, planes: NDArray[np.uint8]) -> None:
        """Write the page as the crops have it, planes as for `put_view`."""
        across, down = self.grid
        cut = planes.reshape(len(planes), down, CROP_SIDE_PX, across, CROP_SIDE_PX).transpose(1, 3, 0, 2, 4)
        tiles.crops.reshape(down, across, 3, CROP_SIDE_PX, CROP_SIDE_PX)[:] = cut

    def _corner(self) -> tuple[int, int]:
        """Where in the view the page begins: top and left, rounded as Pillow's `ImageOps.pad` does."""
        side = VIEW_SIDE_PX[self.mode]
        width, height = self.view
        return round((side - height) * 0.5), round((side - width) * 0.5)


def layout_for(width: int, height: int, mode: ModeChoice) -> Layout:
    """The layout of a page image of this size in pixels; that of gundam where the mode is still to be chosen."""
    mode = Mode.GUNDAM if mode == AUTO else mode
    side = VIEW_SIDE_PX[mode]
    view = (side, side)
    if mode not in SQUASHED and width != height:  # as Pillow's `ImageOps.contain`, float for float
        view = (side, round(height / width * side)) if width > height else (round(width / height * side), side)
    grid = grid_for(width, height) if mode is Mode.GUNDAM else NO_CROPS
    canvas = (0, 0) if grid == NO_CROPS else (CROP_SIDE_PX * grid[0], CROP_SIDE_PX * grid[1])
    return Layout(mode, grid, view, canvas)


def tile(pixels: NDArray[np.uint8], mode: ModeChoice) -> Tiles:
    """The view and the crops of a page image (height, width, 3) in RGB; raises `ValueError` for any other array.

    A mode that is still to be chosen is gundam.

    An A4 page at 144 dpi takes 70 ms in gundam mode, 27 ms if it is grey and 55 if little of it has colour (Pillow
    13.0.0, one core), mostly resizing.
    """
    import numpy as np  # noqa: PLC0415 - 0.2 s, in workers only

    if pixels.shape[2:] != (3,) or pixels.dtype != np.uint8 or not pixels.size:
        raise ValueError(f"a page image is (height, width, 3) of uint8, not {pixels.shape} of {pixels.dtype}")
    height, width, _ = pixels.shape
    planes = [np.ascontiguousarray(pixels[:, :, channel]) for channel in range(3)]
    return tiles_of(distinct(planes), layout_for(width, height, mode))


def distinct(planes: Sequence[NDArray[np.uint8]]) -> Sequence[NDArray[np.uint8]]:
    """Red, green and blue planes, or one of them where all are equal.

    The bytes are those of resizing in RGB, Pillow's copy of the page takes one byte a pixel instead of four, and of
    most pages (black on white) one plane is all there is.
    """
    import numpy as np  # noqa: PLC0415 - 0.2 s, in workers only

    return planes[:1] if all(np.array_equal(planes[0], plane) for plane in planes[1:]) else planes


def tiles_of(
    planes: Sequence[NDArray[np.uint8]],
    layout: Layout,
    is_enough: Callable[[NDArray[np.uint8]], bool] = lambda _: False,
) -> Tiles:
    """The tiles of a page from its planes (height, width): one if it is grey, else red, green and blue.

    Where the view, its darkest plane at each pixel, is enough, they are those of base mode.
    """
    view = _resized(planes, layout.view) if min(layout.view) else None
    if view is not None and min(layout.canvas) and is_enough(view.min(axis=0)):
        layout = layout.without_crops()
    tiles = layout.blank()
    if view is not None:
        layout.put_view(tiles, view)
    if len(tiles.crops):
        layout.put_crops(tiles, _resized(planes, layout.canvas))
    return tiles


def _resized(planes: Sequence[NDArray[np.uint8]], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Planes (height, width) -> (N, new height, new width).

    To make a picture higher, Pillow resizes each row, then each column, by itself.  So of a second plane only the rows
    that differ from the first one's are resized, then the columns: a page with a coloured heading takes a little more
    time than a grey one.  To make it lower, Pillow 13 may begin with the columns.
    """
    import numpy as np  # noqa: PLC0415 - 0.2 s, in workers only
    from PIL import Image  # noqa: PLC0415 - 0.1 s, in workers only

    def bicubic(plane: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
        return np.asarray(Image.fromarray(plane).resize((width, height), Image.Resampling.BICUBIC))

    width, height = size
    first = planes[0]
    wide = bicubic(first, width, len(first)) if height >= len(first) else None
    result = [bicubic(first if wide is None else wide, width, height)]
    for plane in planes[1:]:
        rows = (plane != first).any(axis=1).nonzero()[0]
        if not len(rows):
            result.append(result[0])
        elif wide is None:
            result.append(bicubic(plane, width, height))
        else:
            wide_too, other = wide.copy(), result[0].copy()
            wide_too[rows] = bicubic(plane[rows], width, len(rows))
            columns = (wide_too != wide).any(axis=0).nonzero()[0]
            if len(columns):
                other[:, columns] = bicubic(wide_too[:, columns], len(columns), height)
            result.append(other)
    return np.stack(result)
