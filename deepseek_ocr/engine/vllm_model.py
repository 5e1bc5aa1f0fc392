"""DeepSeek-OCR as a vLLM model class (0.25.1 to 0.28.0): uint8 pictures in, all pages of a step encoded together.

What it adds to vLLM's own class, whose weights, towers and decoder it keeps: pixels travel as bytes (a quarter of
float32) and are normalised on the device; views and crops of all pages are encoded in batches, one page after another
there; pages of different modes share a step, which there fails; a black page is a page, which there is none; nothing
waits for the device if `images_spatial_crop` stays on the CPU (`batched("image", keep_on_cpu=True)`).
Left to others: telling vLLM of it (`vllm_plugin.py`), and pictures, grids and token counts that belong together
(`tiles.py`): a count that differs from the rows made here kills the engine.
Residual risks: vLLM measures the memory for encoding with as many largest pages as fit into `max_num_batched_tokens`;
below 4 of them (3,732 tokens) a step of other modes can take up to 0.8 GB more than was measured.  fp8 weights of the
whole model include CLIP's.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import torch
from vllm.model_executor.models.deepseek_ocr import (
    DeepseekOCRDummyInputsBuilder,
    DeepseekOCRForCausalLM,
    DeepseekOCRMultiModalProcessor,
    DeepseekOCRProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.multimodal.inputs import MultiModalFieldConfig
from vllm.multimodal.parse import ImageSize

from deepseek_ocr.tiles import CROP_SIDE_PX, MAX_CROPS, NO_CROPS, TOKEN_SIDE_PX

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from transformers import BatchFeature
    from vllm.config import VllmConfig

#: Side of SAM's patches (`vit_patch_size` in vLLM's deepencoder.py).
PATCH_PX: Final = 16
#: Pairs of patches that SAM attends to at once: those of 4 views of 1024 pixels.  For each its global blocks hold a
#: bias of 12 heads in bf16 (`attn_bias` in deepencoder.py), 1.6 GB in all; 26 crops, or one view of 1280 pixels.
MAX_PAIRS: Final = 4 * (1024 // PATCH_PX) ** 4


#: The fields that hold pixels.
PIXELS: Final = ("pixel_values", "images_crop")


class LargestPage(DeepseekOCRProcessingInfo):
    """vLLM's facts about the model, with the page that takes most tokens: 933, where vLLM measures with 693."""

    def get_image_size_with_most_features(self) -> ImageSize:
        """A strip that is cut into six crops, one above the other: their rows are short, so they have most newlines."""
        return ImageSize(width=CROP_SIDE_PX, height=MAX_CROPS * CROP_SIDE_PX)


class BytesProcessor(DeepseekOCRMultiModalProcessor):
    """vLLM's own processor, giving bytes: vLLM measures with what we send, and raw prompts can join ready pages."""

    def _call_hf_processor(self, *args: Any, **kwargs: Any) -> BatchFeature:
        """What vLLM makes of a raw prompt, its normalising undone."""
        outputs = super()._call_hf_processor(*args, **kwargs)
        outputs.update({name: to_bytes(outputs[name]) for name in PIXELS if name in outputs})
        return outputs

    def _get_mm_fields_config(self, *args: Any, **kwargs: Any) -> Mapping[str, MultiModalFieldConfig]:
        """The fields as vLLM has them, but with the grids left on the CPU, where they are read."""
        grids = MultiModalFieldConfig.batched("image", keep_on_cpu=True)
        return {**super()._get_mm_fields_config(*args, **kwargs), "images_spatial_crop": grids}


@MULTIMODAL_REGISTRY.register_processor(BytesProcessor, info=LargestPage, dummy_inputs=DeepseekOCRDummyInputsBuilder)
class ResidentDeepseekOCR(DeepseekOCRForCausalLM):
    """vLLM's DeepSeek-OCR with another way from pixels to embeddings."""

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        # vLLM's CUDA graphs of the encoder hold one view size and float pixels.  It asks whether the class has the
        # methods, which it inherits; so the wish is taken back, before vLLM acts on it after loading.
        vllm_config.compilation_config.cudagraph_mm_encoder = False
        super().__init__(vllm_config=vllm_config, prefix=prefix)

    def embed_multimodal(self, **kwargs: Any) -> list[torch.Tensor] | None:
        """The embeddings of each page (its tokens, dim), in order.

        `pixel_values`: the views, a tensor (N, 3, S, S) or, where S differs, a list of (3, S, S); `images_crop`: the
        crops of all pages (K, 3, 640, 640), K >= 0; `images_spatial_crop`: the grids (N, 2), across and down,
        (1, 1) = no crops.  Pixels are uint8, or normalised floats.
        """
        views = _pictures(kwargs.get("pixel_values"))
        if not views:
            return None
        crops = _pictures(kwargs.get("images_crop"))
        grids = [tuple(grid) for grid in kwargs["images_spatial_crop"].reshape(-1, 2).tolist()]
        features = self._encode([*views, *crops])
        pages, rest = features[: len(views)], iter(features[len(views) :])
        return [
            self._assemble(view, list(islice(rest, across * down if (across, down) != NO_CROPS else 0)), across)
            for view, (across, down) in zip(pages, grids, strict=True)
        ]

    def _encode(self, pictures: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The features (side, side, dim) of each picture, in order; those of one size and type go together."""
        batches = defaultdict(list)
        for index, picture in enumerate(pictures):
            batches[picture.shape[-1], picture.dtype].append(index)
        features: dict[int, torch.Tensor] = {}
        for indices in batches.values():
            encoded = self._encode_views([pictures[index] for index in indices])
            features.update(zip(indices, encoded.unbind(0), strict=True))
        return [features[index] for index in range(len(pictures))]

    def _encode_views(self, pictures: Sequence[torch.Tensor]) -> torch.Tensor:
        """The features (N, side, side, dim) of N pictures of one size; SAM sees few at once, CLIP and the rest all."""
        side_px = pictures[0].shape[-1]
        step = max(1, MAX_PAIRS // (side_px // PATCH_PX) ** 4)
        local = torch.cat(
            [
                self.sam_model(self._normalize(torch.stack(pictures[start : start + step])))
                for start in range(0, len(pictures), step)
            ]
        )
        # CLIP takes SAM's features for its patches; of the pixels it would only count the pictures.
        whole = self.vision_model(local, local)
        features = self.projector(torch.cat((whole[:, 1:], local.flatten(2).permute(0, 2, 1)), dim=-1))
        return features.unflatten(1, (side_px // TOKEN_SIDE_PX, -1))

    def _normalize(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 pixels -> (x / 255 - 0.5) / 0.5 in the model's type; floats are taken as normalised.

        2x - 255 is a whole number below 256, which bf16 holds, so only the division rounds: to the same value, for all
        256, as vLLM's float32 pixels rounded to bf16 or fp16 (float32 differs by 6e-8).
        """
        dtype = self.image_newline.dtype
        if pixels.dtype != torch.uint8:
            return pixels.to(dtype)
        return pixels.to(dtype).mul_(2).sub_(255).div_(255)

    def _assemble(self, view: torch.Tensor, crops: Sequence[torch.Tensor], across: int) -> torch.Tensor:
        """One page's embeddings (tokens, dim): the rows of its crops put together, those of its view, the separator."""
        rows = [self._with_newlines(view), self.view_seperator[None]]  # the spelling is the checkpoint's
        if crops:
            bands = [torch.cat(crops[start : start + across], dim=1) for start in range(0, len(crops), across)]
            rows.insert(0, self._with_newlines(torch.cat(bands)))
        return torch.cat(rows)

    def _with_newlines(self, features: torch.Tensor) -> torch.Tensor:
        """Features (down, across, dim) -> tokens (down * (across + 1), dim), a newline after each row."""
        newlines = self.image_newline.expand(features.shape[0], 1, -1)
        return torch.cat((features, newlines), dim=1).flatten(0, 1)


def to_bytes(pixels: torch.Tensor) -> torch.Tensor:
    """Normalised pixels -> uint8, exactly: they are 1 / 127.5 apart, and bf16 is off by 1 / 512 at most."""
    return ((pixels.float() + 1) * 127.5).round().to(torch.uint8)


def _pictures(values: Any) -> list[torch.Tensor]:
    """The single pictures (3, S, S) of a field: vLLM stacks items of one shape and lists those of several."""
    if values is None:
        return []
    if isinstance(values, torch.Tensor):
        return list(values.reshape(-1, *values.shape[-3:]).unbind(0))
    return [picture for value in values for picture in _pictures(value)]
