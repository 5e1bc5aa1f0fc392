"""What the model sees of a page; `tests/vllm_cpu/test_tiles.py` compares it with vLLM's own processor."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from deepseek_ocr.prompt import Mode
from deepseek_ocr.tiles import (
    CROP_SIDE_PX,
    GRIDS,
    MAX_TOKENS,
    NO_CROPS,
    PADDING,
    VIEW_SIDE_PX,
    grid_for,
    tile,
    token_count,
)
from tests.tile_samples import DIGESTS, SIZES, digest, picture

WHITE = 255
SIDES = st.integers(1, 5000)
#: Modes whose view keeps the picture's shape.
PADDED = (Mode.BASE, Mode.LARGE, Mode.GUNDAM)


# Grids


@pytest.mark.parametrize("name", SIZES)
def test_known_sizes_have_their_grids(name: str) -> None:
    """Usual, tiny and extreme pages are cut into the grid nearest in shape, small ones not at all."""
    size, grid = SIZES[name]
    assert grid_for(*size) == grid


@given(width=SIDES, height=SIDES)
def test_no_other_grid_is_nearer(width: int, height: int) -> None:
    """Any page with a side over 640 gets 2 to 6 crops, and no other grid is nearer to its shape; others get none."""
    grid = across, down = grid_for(width, height)
    if max(width, height) <= CROP_SIDE_PX:
        assert grid == NO_CROPS
    else:
        assert grid in GRIDS
        assert abs(width / height - across / down) == min(abs(width / height - i / j) for i, j in GRIDS)


def test_there_are_thirteen_grids() -> None:
    """Every grid of 2 to 6 crops, each once, fewest crops first."""
    counts = [across * down for across, down in GRIDS]
    assert len(set(GRIDS)) == len(GRIDS) == 13
    assert counts == sorted(counts)
    assert (counts[0], counts[-1]) == (2, 6)


# Tokens

#: Mode and size of a page -> its tokens (research of the model's published code; vLLM's processor says the same).
TOKENS = {
    "tiny": (Mode.TINY, (1191, 1684), 73),
    "small": (Mode.SMALL, (1191, 1684), 111),
    "base": (Mode.BASE, (1191, 1684), 273),
    "large": (Mode.LARGE, (1191, 1684), 421),
    "gundam, A4 portrait": (Mode.GUNDAM, (1191, 1684), 903),
    "gundam, A4 landscape": (Mode.GUNDAM, (1684, 1191), 893),
    "gundam, slide 16:9": (Mode.GUNDAM, (1920, 1080), 483),
    "gundam, square": (Mode.GUNDAM, (1000, 1000), 693),
    "gundam, one column too many": (Mode.GUNDAM, (641, 640), 693),
    "gundam, without crops": (Mode.GUNDAM, (640, 640), 273),
}


@pytest.mark.parametrize("name", TOKENS)
def test_pages_have_the_published_token_counts(name: str) -> None:
    """A page takes as many tokens as the model's publications say."""
    mode, (width, height), expected = TOKENS[name]
    assert tile(np.zeros((height, width, 3), np.uint8), mode).token_count == expected


def test_gundam_has_these_totals_and_no_others() -> None:
    """The thirteen grids have thirteen token counts, the most of any mode among them."""
    totals = {token_count(Mode.GUNDAM, grid) for grid in GRIDS}
    assert totals == {483, 493, 583, 603, 683, 693, 713, 783, 823, 883, 893, 903, 933}
    assert max(*totals, *(token_count(mode, NO_CROPS) for mode in Mode)) == MAX_TOKENS


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("grid", [(2, 3), (1, 7), (3, 3), (0, 2)], ids=str)
def test_grids_that_a_mode_lacks_have_no_token_count(mode: Mode, grid: tuple[int, int]) -> None:
    """A grid that the mode cannot have is an error, never a count that the encoder would contradict."""
    if mode is Mode.GUNDAM and grid in GRIDS:
        assert token_count(mode, grid) == 903
        return
    with pytest.raises(ValueError, match=f"mode {mode} has no grid"):
        token_count(mode, grid)


# Pixels


@pytest.mark.parametrize(("mode", "name"), DIGESTS, ids=str)
def test_bytes_are_those_of_vllm(mode: Mode, name: str) -> None:
    """Every path gives the bytes of vLLM's processor, also with the Pillow of this environment."""
    tiles = tile(picture(*SIZES[name][0]), mode)
    assert digest(tiles.view, tiles.crops) == DIGESTS[mode, name]


@settings(max_examples=40)
@given(width=st.integers(1, 1500), height=st.integers(1, 1500), mode=st.sampled_from(Mode))
def test_arrays_are_what_an_engine_takes(width: int, height: int, mode: Mode) -> None:
    """Whatever the size, view and crops are bytes in planes, contiguous, as many as the grid says, and own."""
    tiles = tile(picture(width, height), mode)
    side = VIEW_SIDE_PX[mode]
    crop_count = 0 if tiles.grid == NO_CROPS else tiles.grid[0] * tiles.grid[1]
    assert tiles.view.shape == (3, side, side)
    assert tiles.crops.shape == (crop_count, 3, CROP_SIDE_PX, CROP_SIDE_PX)
    assert tiles.grid == (grid_for(width, height) if mode is Mode.GUNDAM else NO_CROPS)
    for array in (tiles.view, tiles.crops):
        assert array.dtype == np.uint8
        assert array.flags.c_contiguous
        assert array.flags.writeable


@pytest.mark.parametrize("mode", Mode)
def test_channels_do_not_touch_each_other(mode: Mode) -> None:
    """Each plane comes from its own channel alone, whether others are equal to it or not."""
    pixels = picture(700, 900)
    tiles = tile(pixels, mode)
    for channels in ([0, 0, 0], [0, 0, 2], [1, 0, 0], [2, 1, 2]):
        mixed = tile(pixels[:, :, channels], mode)
        assert np.array_equal(mixed.view, tiles.view[channels])
        assert np.array_equal(mixed.crops, tiles.crops[:, channels])


@settings(max_examples=60)
@given(
    size=st.tuples(st.integers(1, 1700), st.integers(1, 1700)),
    box=st.tuples(*[st.floats(0, 1)] * 4),
    channel=st.integers(0, 2),
    mode=st.sampled_from([Mode.BASE, Mode.GUNDAM]),
)
def test_bytes_are_those_of_resizing_in_colour(
    size: tuple[int, int], box: tuple[float, float, float, float], channel: int, mode: Mode
) -> None:
    """A grey page with some colour in one place becomes what Pillow makes of it in RGB, wherever that is."""
    width, height = size
    pixels = picture(width, height)[:, :, [0, 0, 0]]
    left, right = sorted((round(box[0] * width), round(box[1] * width)))
    top, bottom = sorted((round(box[2] * height), round(box[3] * height)))
    pixels[top:bottom, left:right, channel] //= 2
    image = Image.fromarray(pixels)
    side = VIEW_SIDE_PX[mode]
    tiles = tile(pixels, mode)
    view = ImageOps.pad(image, (side, side), Image.Resampling.BICUBIC, (PADDING, PADDING, PADDING))
    assert np.array_equal(tiles.view, np.asarray(view).transpose(2, 0, 1))
    if len(tiles.crops):
        across, down = tiles.grid
        canvas = image.resize((CROP_SIDE_PX * across, CROP_SIDE_PX * down), Image.Resampling.BICUBIC)
        cut = np.asarray(canvas).reshape(down, CROP_SIDE_PX, across, CROP_SIDE_PX, 3).transpose(0, 2, 4, 1, 3)
        assert np.array_equal(tiles.crops, cut.reshape(tiles.crops.shape))


def test_crops_go_row_by_row() -> None:
    """The crops of a picture that needs no stretching are its squares, left to right, then down."""
    pixels = picture(3 * CROP_SIDE_PX, 2 * CROP_SIDE_PX)
    tiles = tile(pixels, Mode.GUNDAM)
    assert tiles.grid == (3, 2)
    for index, crop in enumerate(tiles.crops):
        down, across = (CROP_SIDE_PX * number for number in divmod(index, 3))
        square = pixels[down : down + CROP_SIDE_PX, across : across + CROP_SIDE_PX]
        assert np.array_equal(crop, square.transpose(2, 0, 1))


@pytest.mark.parametrize("mode", Mode)
def test_views_of_unsquare_pages(mode: Mode) -> None:
    """Tiny and small stretch a page to their square, the others keep its shape between two bands of grey."""
    view = tile(np.full((1000, 500, 3), WHITE, np.uint8), mode).view
    if mode in PADDED:
        side = VIEW_SIDE_PX[mode]
        page = slice(side // 4, side // 4 + side // 2)
        assert (view[:, :, page] == WHITE).all()
        assert (np.delete(view, page, axis=2) == PADDING).all()
    else:
        assert (view == WHITE).all()


def test_a_strip_that_vanishes_from_the_view_is_in_the_crops() -> None:
    """A strip thousands of times as long as wide is padding alone when scaled to the view; the crops still have it."""
    tiles = tile(np.full((1, 3000, 3), WHITE, np.uint8), Mode.GUNDAM)
    assert (tiles.view == PADDING).all()
    assert (tiles.crops == WHITE).all()


def test_any_memory_layout_will_do() -> None:
    """Turned, mirrored, sliced and read-only arrays give what a plain copy of them gives, and stay as they were."""
    pixels = picture(700, 500)
    layouts = [pixels[::-1], pixels[:, ::2], pixels.transpose(1, 0, 2), pixels[:, :, ::-1], np.asfortranarray(pixels)]
    for layout in layouts:
        layout.flags.writeable = False
        before = layout.copy()
        tiles, expected = tile(layout, Mode.GUNDAM), tile(before, Mode.GUNDAM)
        assert np.array_equal(tiles.view, expected.view)
        assert np.array_equal(tiles.crops, expected.crops)
        assert np.array_equal(layout, before)


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((10, 10), np.uint8),
        np.zeros((10, 10, 4), np.uint8),
        np.zeros((1, 10, 10, 3), np.uint8),
        np.zeros((0, 10, 3), np.uint8),
        np.zeros((10, 10, 3), np.float32),
    ],
    ids=["grey", "with alpha", "batch", "empty", "floats"],
)
def test_other_arrays_are_refused(pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> None:
    """What is no page image is an error that names its shape and type."""
    with pytest.raises(ValueError, match=r"\(height, width, 3\) of uint8, not \("):
        tile(pixels, Mode.BASE)


# Processes


def test_tiles_travel_between_processes() -> None:
    """A worker's result arrives as it was, contiguous too."""
    tiles = tile(picture(700, 900), Mode.GUNDAM)
    arrived = pickle.loads(pickle.dumps(tiles, pickle.HIGHEST_PROTOCOL))  # noqa: S301 - our own
    assert (arrived.mode, arrived.grid, arrived.token_count) == (tiles.mode, tiles.grid, tiles.token_count)
    for name in ("view", "crops"):
        assert np.array_equal(getattr(arrived, name), getattr(tiles, name))
        assert getattr(arrived, name).flags.c_contiguous


def test_importing_is_light() -> None:
    """The daemon counts tokens without loading an image library."""
    code = """
import sys
from deepseek_ocr.prompt import Mode
from deepseek_ocr.tiles import grid_for, token_count
assert token_count(Mode.GUNDAM, grid_for(1191, 1684)) == 903
assert not {"numpy", "PIL", "torch"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent.parent)
