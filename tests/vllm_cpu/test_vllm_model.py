"""The model class makes of a page what vLLM's own makes of it, and more at once."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BatchFeature
from vllm import ModelRegistry
from vllm.model_executor.models.deepseek_ocr import DeepseekOCRForCausalLM
from vllm.multimodal.inputs import MultiModalFieldConfig, MultiModalKwargsItem, MultiModalKwargsItems
from vllm.multimodal.utils import group_and_batch_mm_kwargs

from bench.embeddings import BAR, SHALLOW, Encoder, Towers, deviations, drawing, one_process, ours, pages, vllms
from deepseek_ocr.engine import vllm_plugin
from deepseek_ocr.engine.vllm_model import LargestPage, ResidentDeepseekOCR, to_bytes
from deepseek_ocr.prompt import Mode
from deepseek_ocr.tiles import GRIDS, MAX_TOKENS, NO_CROPS, Tiles, tile

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
#: Sides of small pictures, which the towers take as well: 2 to 4 tokens.
SIDES = (128, 192, 256)


@pytest.fixture(scope="module")
def model() -> Iterator[Encoder]:
    """Few layers with random weights, in float32."""
    with one_process():
        yield Encoder(Towers(2, (1,), 128, 1, 64), torch.float32, torch.device("cpu"))


class Small(NamedTuple):
    """A page of noise, smaller than the modes have them."""

    side: int
    grid: tuple[int, int]
    seed: int

    @property
    def tiles(self) -> Tiles:
        """A view of this side, and crops of 128 pixels."""
        random = np.random.default_rng(self.seed)
        crops = self.grid[0] * self.grid[1] if self.grid != NO_CROPS else 0
        view, cut = (
            random.integers(0, 256, (count, 3, side, side), np.uint8) for count, side in ((1, self.side), (crops, 128))
        )
        return Tiles(Mode.GUNDAM, view[0], cut, self.grid)


def embed(model: Encoder, **fields: Any) -> list[torch.Tensor]:
    """What vLLM gets for these fields."""
    with torch.inference_mode():
        embeddings = model.embed_multimodal(**fields)
    assert embeddings is not None
    return embeddings


def assert_same(embeddings: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal but for the order in which float32 was summed."""
    torch.testing.assert_close(embeddings, expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.timeout(120)
def test_each_mode_is_embedded_as_by_vllm(model: Encoder, mode: Mode) -> None:
    """Two pages together give what vLLM's class gives for each, with as many rows as the prompt has places."""
    batch = [tile(drawing(920, 1300, seed), mode) for seed in range(2)]
    for embeddings, tiles in zip(ours(model, batch), batch, strict=True):
        assert len(embeddings) == tiles.token_count
        assert_same(embeddings, vllms(model, tiles))


@pytest.mark.parametrize("grid", [NO_CROPS, *GRIDS], ids=lambda grid: f"{grid[0]}x{grid[1]}")
def test_each_grid_is_put_together_as_by_vllm(model: Encoder, grid: tuple[int, int]) -> None:
    """Rows run across the crops of the whole page, then through its view, each with its newline; one separator."""
    tiles = Small(192, grid, 1).tiles
    (embeddings,) = ours(model, [tiles])
    assert_same(embeddings, vllms(model, tiles))
    assert_same(embeddings[-1], model.view_seperator)
    assert_same(embeddings[-2], model.image_newline)


PAGES = st.builds(Small, st.sampled_from(SIDES), st.sampled_from([NO_CROPS, *GRIDS]), st.integers(0, 99))


@settings(max_examples=15, deadline=None)
@given(pages=st.lists(PAGES, min_size=1, max_size=5))
@pytest.mark.timeout(120)
def test_a_mixed_batch_equals_one_by_one(model: Encoder, pages: list[Small]) -> None:
    """Pages of any sizes and grids in one batch, through vLLM's own batching, come out in order and as alone."""
    batch = [page.tiles for page in pages]
    ready = [item(tiles) for tiles in batch]
    # Every second one as it comes of a raw prompt.
    ready[1::2] = [item(tiles, images_spatial_crop=torch.tensor([tiles.grid])) for tiles in batch[1::2]]
    ((_, count, fields),) = group_and_batch_mm_kwargs([("image", each) for each in ready], device="cpu")
    assert count == len(batch)
    for embeddings, tiles in zip(embed(model, **fields), batch, strict=True):
        assert_same(embeddings, ours(model, [tiles])[0])


def item(tiles: Tiles, **wrapped: Any) -> MultiModalKwargsItem:
    """A page as it goes into vLLM."""
    features = {
        "pixel_values": torch.from_numpy(tiles.view)[None],
        "images_crop": torch.from_numpy(tiles.crops),
        "images_spatial_crop": [list(tiles.grid)],
    }
    fields = {
        "pixel_values": MultiModalFieldConfig.batched("image"),
        "images_crop": MultiModalFieldConfig.flat_from_sizes("image", torch.tensor([len(tiles.crops)])),
        "images_spatial_crop": MultiModalFieldConfig.batched("image", keep_on_cpu=True),
    }
    (only,) = MultiModalKwargsItems.from_hf_inputs(BatchFeature({**features, **wrapped}), fields)["image"]
    return only


@pytest.mark.parametrize("sides", [(192, 192), (128, 256)], ids=["one size", "two sizes"])
def test_pictures_with_a_dimension_more_are_taken(model: Encoder, sides: tuple[int, int]) -> None:
    """Items that hold (1, 3, S, S) and (1, 2) arrive as five and three dimensions, or as a list, and mean the same."""
    batch = [Small(side, (1, 2), side).tiles for side in sides]
    items = [
        item(
            tiles,
            pixel_values=torch.from_numpy(tiles.view)[None, None],
            images_spatial_crop=torch.tensor([[tiles.grid]]),
        )
        for tiles in batch
    ]
    ((_, _, fields),) = group_and_batch_mm_kwargs([("image", each) for each in items], device="cpu")
    for page, expected in zip(embed(model, **fields), ours(model, batch), strict=True):
        assert_same(page, expected)


def test_no_picture_is_no_embedding(model: Encoder) -> None:
    """Without pictures there is nothing to embed, which is no error."""
    assert model.embed_multimodal() is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_bytes_are_normalised_as_vllm_does(dtype: torch.dtype) -> None:
    """Every byte becomes the number that vLLM's processor makes of it, and that one becomes the byte again."""

    class Typed(ResidentDeepseekOCR):
        def __init__(self) -> None:
            torch.nn.Module.__init__(self)
            self.image_newline = torch.nn.Parameter(torch.zeros(1, dtype=dtype))

    every = torch.arange(256, dtype=torch.uint8)
    expected = ((every.float() / 255 - 0.5) / 0.5).to(dtype)
    found = Typed()._normalize(every)  # noqa: SLF001 - the step whose rounding matters
    torch.testing.assert_close(found, expected, rtol=0, atol=6e-8 if dtype == torch.float32 else 0)
    # A CUDA device multiplies by the rounded reciprocal instead of dividing.
    on_cuda = (every.float() * 2 - 255) * (torch.tensor(1.0) / 255)
    torch.testing.assert_close(on_cuda.to(dtype), expected, rtol=0, atol=1.2e-7 if dtype == torch.float32 else 0)
    assert torch.equal(to_bytes(expected), every)


def test_normalised_pixels_give_the_same_as_bytes(model: Encoder) -> None:
    """Floats are taken as normalised already, and may stand beside bytes in one batch."""
    tiles = Small(192, NO_CROPS, 2).tiles
    view = torch.from_numpy(tiles.view)
    floats, of_bytes = embed(
        model,
        pixel_values=[(view.float() / 255 - 0.5) / 0.5, view],
        images_crop=torch.from_numpy(tiles.crops),
        images_spatial_crop=torch.tensor([NO_CROPS, NO_CROPS]),
    )
    assert_same(floats, of_bytes)


@pytest.mark.timeout(300)
def test_bf16_is_no_further_from_float32_than_vllms() -> None:
    """Embeddings in bf16 differ from a float32 reference by at most 1.2 x what vLLM's differ, for every page."""
    with one_process():
        rows = deviations("cpu", SHALLOW, pages([Mode.TINY, Mode.GUNDAM]))
    assert {row.page: row.ratio for row in rows if row.ratio > BAR} == {}


def test_memory_is_measured_with_the_largest_page() -> None:
    """The picture that vLLM measures with takes as many tokens as any can."""
    info = LargestPage.__new__(LargestPage)
    size = info.get_image_size_with_most_features()
    counts = [
        info.get_num_image_tokens(image_width=640 * across, image_height=640 * down)
        for across, down in [NO_CROPS, *GRIDS]
    ]
    assert info.get_num_image_tokens(image_width=size.width, image_height=size.height) == max(counts) == MAX_TOKENS


def test_registering_twice_is_harmless() -> None:
    """The architecture leads to our class, however often it was registered; vLLM's own stays vLLM's."""
    for _ in range(2):
        vllm_plugin.register()
    assert ModelRegistry.models[vllm_plugin.ARCHITECTURE].load_model_cls() is ResidentDeepseekOCR
    assert ModelRegistry.models["DeepseekOCRForCausalLM"].load_model_cls() is DeepseekOCRForCausalLM


def test_the_entry_point_leads_to_register() -> None:
    """What pyproject.toml promises vLLM is there, and loading it loads no model code."""
    points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["vllm.general_plugins"]
    ((_, value),) = points.items()
    module, _, name = value.partition(":")
    assert getattr(import_module(module), name) is vllm_plugin.register
    code = f"import sys, {module}; sys.exit(bool({{'torch', 'vllm', 'numpy'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT).returncode == 0
