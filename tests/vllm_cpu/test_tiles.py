"""What the model sees is what vLLM's own processor would show it, byte for byte and token for token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast
from vllm.model_executor.models.deepseek_ocr import DeepseekOCRProcessingInfo
from vllm.transformers_utils.processors.deepseek_ocr import DeepseekOCRProcessor, count_tiles

from deepseek_ocr.prompt import Mode
from deepseek_ocr.tiles import CROP_SIDE_PX, GRIDS, VIEW_SIDE_PX, grid_for, tile, token_count
from tests.tile_samples import DIGESTS, SIZES, digest, picture

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: Ordinary sides are common, long ones possible.
SIDES = st.integers(1, 900) | st.integers(600, 2500)


def bytes_of(values: torch.Tensor) -> NDArray[np.uint8]:
    """The bytes that the processor divided by 255; fails unless they are exactly these."""
    found = (values * 255).round().to(torch.uint8)
    assert torch.equal(found.to(torch.float32) / 255, values)
    array: NDArray[np.uint8] = found.numpy()
    return array


def by_vllm(pixels: NDArray[np.uint8], mode: Mode) -> tuple[NDArray[np.uint8], NDArray[np.uint8], tuple[int, int], int]:
    """View, crops, grid and token count from vLLM's processor, set for this mode."""
    height, width, _ = pixels.shape
    side = VIEW_SIDE_PX[mode]
    if mode is Mode.GUNDAM:
        image_size, cropping = CROP_SIDE_PX, True
    elif mode in {Mode.BASE, Mode.LARGE}:
        image_size, cropping = max(side, width, height), True
    else:
        image_size, cropping = side, False
    words = {"<unk>": 0, "<s>": 1, "</s>": 2, "<pad>": 3, "<image>": 4}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words, unk_token="<unk>")),  # noqa: S106 - no password
        unk_token="<unk>",  # noqa: S106
        bos_token="<s>",  # noqa: S106
        eos_token="</s>",  # noqa: S106
        pad_token="<pad>",  # noqa: S106
    )
    processor = DeepseekOCRProcessor(tokenizer, normalize=False, image_size=image_size, base_size=side)
    made: Any = processor(prompt="<image>", images=[Image.fromarray(pixels)], crop_mode=cropping)
    across, down = made["images_spatial_crop"][0].tolist()
    (count,) = made["num_image_tokens"].tolist()
    assert int((made["input_ids"] == words["<image>"]).sum()) == count
    return bytes_of(made["pixel_values"][0]), bytes_of(made["images_crop"]), (across, down), count


def assert_equal(width: int, height: int, mode: Mode) -> None:
    """Ours and vLLM's are the same bytes, grid and count."""
    pixels = picture(width, height)
    ours = tile(pixels, mode)
    view, crops, grid, count = by_vllm(pixels, mode)
    assert ours.view.tobytes() == view.tobytes()
    assert ours.view.shape == view.shape
    if len(crops):
        assert ours.crops.shape == crops.shape
        assert ours.crops.tobytes() == crops.tobytes()
    else:
        assert not len(ours.crops)
    assert (ours.grid, ours.token_count) == (grid, count)


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("mode", Mode)
def test_known_sizes_are_as_vllm_makes_them(mode: Mode, name: str) -> None:
    """Every mode shows the model what vLLM's processor does, before normalising, and counts as many tokens.

    The processor has no modes; it is set as the model's own code (`infer`) would work.  Tiny and small are its
    `crop_mode=False`, which stretches the picture to its size.  It does so at every size, where `infer` stretches up to
    640 only and pads above.  So base and large are asked for with cropping on and an `image_size` that no side of the
    picture exceeds: then it neither crops nor stretches, and its view is the padded one.
    """
    assert_equal(*SIZES[name][0], mode)


@settings(max_examples=15, deadline=None)
@given(width=SIDES, height=SIDES, mode=st.sampled_from(Mode))
def test_any_size_is_as_vllm_makes_it(width: int, height: int, mode: Mode) -> None:
    """The same holds for sizes that nobody thought of."""
    assert_equal(width, height, mode)


@settings(max_examples=2000, deadline=None)
@given(width=st.integers(1, 5000), height=st.integers(1, 5000))
def test_grids_and_counts_are_those_of_vllm(width: int, height: int) -> None:
    """Grid and token count of any size are what vLLM reserves for it, else its worker dies of the difference."""
    grid = grid_for(width, height)
    if max(width, height) > CROP_SIDE_PX:
        assert grid == tuple(count_tiles(width, height))
    count = DeepseekOCRProcessingInfo.get_num_image_tokens
    assert token_count(Mode.GUNDAM, grid) == count(None, image_width=width, image_height=height)


@pytest.mark.parametrize("unit", [1, 3, 50, 333], ids="times {}".format)
def test_ties_are_broken_as_in_vllm(unit: int) -> None:
    """A shape exactly between two grids, small or large, goes where vLLM sends it."""
    for across, down in GRIDS:
        for other_across, other_down in GRIDS:
            width, height = across * other_down + other_across * down, 2 * down * other_down
            size = width * unit, height * unit
            if max(size) > CROP_SIDE_PX:
                assert grid_for(*size) == tuple(count_tiles(*size))


@pytest.mark.parametrize(("mode", "name"), DIGESTS, ids=str)
def test_digests_are_those_of_vllm(mode: Mode, name: str) -> None:
    """What the other environment compares itself with is vLLM's work."""
    view, crops, _, _ = by_vllm(picture(*SIZES[name][0]), mode)
    assert digest(view, crops) == DIGESTS[mode, name]
