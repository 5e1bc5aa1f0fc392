"""DeepSeek-OCR as a vLLM model class (0.25.1 to 0.28.0): uint8 pictures in, all pages of a step encoded together.

What it adds to vLLM's own class, whose weights, towers and decoder it keeps: pixels travel as bytes (a quarter of
float32) and are normalised on the device; views and crops of all pages are encoded in batches, on a card as CUDA
graphs, one page after another there; pages of different modes share a step, which there fails; a black page is a page,
which there is none; nothing waits for the device if `images_spatial_crop` stays on the CPU (`batched("image",
keep_on_cpu=True)`).
Left to others: telling vLLM of it (`vllm_plugin.py`), batches and graphs (`vllm_encoder.py`), and pictures, grids and
token counts that belong together (`tiles.py`): a count that differs from the rows made here kills the engine.
Residual risk: fp8 weights of the whole model include CLIP's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import torch
from torch.nn import functional
from vllm.model_executor.models.deepseek_ocr import (
    DeepseekOCRDummyInputsBuilder,
    DeepseekOCRForCausalLM,
    DeepseekOCRMultiModalProcessor,
    DeepseekOCRProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.multimodal.inputs import MultiModalFieldConfig
from vllm.multimodal.parse import ImageSize

from deepseek_ocr.engine import vllm_attention
from deepseek_ocr.engine.vllm_encoder import Encoder, Plan
from deepseek_ocr.engine.vllm_pixels import PixelReader
from deepseek_ocr.engine.vllm_plan import ENCODER_KEY
from deepseek_ocr.engine.vllm_sam import Towers
from deepseek_ocr.tiles import CROP_SIDE_PX, MAX_CROPS, NO_CROPS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import BatchFeature
    from vllm.config import VllmConfig

    from deepseek_ocr.tiles import Grid

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


class Pictures(NamedTuple):
    """The pixels of a step's pages, on the device: uint8, or normalised floats."""

    #: (3, S, S) for each page.
    views: list[torch.Tensor]
    #: (K, 3, 640, 640) for each page, K >= 0.
    crops: list[torch.Tensor]
    #: Of the crops; on the host.
    grids: list[Grid]


@MULTIMODAL_REGISTRY.register_processor(BytesProcessor, info=LargestPage, dummy_inputs=DeepseekOCRDummyInputsBuilder)
class ResidentDeepseekOCR(DeepseekOCRForCausalLM):
    """vLLM's DeepSeek-OCR with another way from pixels to embeddings."""

    #: `plan_in`; before the encoder is made.
    encoder_plan = Plan()
    #: Made at the first call, when the weights are there.
    encoder: Encoder | None = None
    #: Made when a page comes by shared memory.
    reader: PixelReader | None = None
    #: By view's and crops' side in tokens and by grid: `order`, on the device.
    _orders: dict[tuple[int, int, Grid], torch.Tensor]

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        # vLLM's CUDA graphs of the encoder hold one view size and float pixels.  It asks whether the class has the
        # methods, which it inherits; so the wish is taken back, before vLLM acts on it after loading.
        vllm_config.compilation_config.cudagraph_mm_encoder = False
        vllm_attention.register()
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        self.encoder_plan = plan_in(vllm_config.additional_config)

    def embed_multimodal(self, **kwargs: Any) -> list[torch.Tensor] | None:
        """The embeddings of each page (its tokens, dim), in order; the fields are those of `pictures`."""
        pictures = self.pictures(kwargs)
        if not pictures.views:
            return None
        encoder, held = (self.encoder, 0) if self.encoder is not None else self._prepare()
        count = len(pictures.views)
        features = encoder([*(view[None] for view in pictures.views), *pictures.crops])
        pages = [
            self._assemble(view[0], crops, grid)
            for view, crops, grid in zip(features[:count], features[count:], pictures.grids, strict=True)
        ]
        return [_within(pages[0], held), *pages[1:]] if held else pages

    def pictures(self, fields: Mapping[str, Any]) -> Pictures:
        """The pictures of all pages from the fields that vLLM collected; the only place that knows how pixels travel.

        `pixel_values`: the views, a tensor (N, 3, S, S) or, where S differs, a list of (3, S, S); `images_crop`: the
        crops of all pages (K, 3, 640, 640), K >= 0, or a list of each page's; `images_spatial_crop`: the grids (N, 2),
        a tensor or N pairs, across and down, (1, 1) = no crops.  vLLM's items may have dimensions of 1 more.
        Instead of both `pixel_addresses`, N lists of 6 numbers: where in shared memory each page lies.
        """
        if (addresses := fields.get("pixel_addresses")) is not None:
            self.reader = self.reader or PixelReader(self.image_newline.device)
            pages = [self.reader.fetch(address) for address in addresses]
            return Pictures([page.view for page in pages], [page.crops for page in pages], _grids(fields))
        views = [view for stack in _stacks(fields.get("pixel_values")) for view in stack.unbind(0)]
        if not views:
            return Pictures([], [], [])
        grids = _grids(fields)
        counts = [across * down if (across, down) != NO_CROPS else 0 for across, down in grids]
        crops = fields["images_crop"]
        each = list(_stacks(crops)[0].split(counts)) if isinstance(crops, torch.Tensor) else _stacks(crops)
        return Pictures(views, each, grids)

    def _prepare(self) -> tuple[Encoder, int]:
        """Make the encoder; with it the bytes that its graphs hold and vLLM does not see.

        vLLM calls the model for the first time when it measures the memory that a step takes, with the weights loaded
        (and quantised) and before anything is promised: a graph captured later would stall all pages and take memory
        that has been given away.
        """
        weights = self.image_newline
        fused = weights.is_cuda and weights.dtype in (torch.bfloat16, torch.float16)
        towers = Towers(self.sam_model, self.vision_model, fused=fused)
        self._orders = {}
        self.encoder = encoder = Encoder(towers, self.projector, self._normalize, self.encoder_plan)
        return encoder, encoder.capture(weights.device) if fused and self.encoder_plan.sides_px else 0

    def _normalize(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 pixels -> (x / 255 - 0.5) / 0.5 in the model's type; floats are taken as normalised.

        2x - 255 is a whole number below 256, which bf16 holds, so only the division rounds: to the same value, for all
        256, as vLLM's float32 pixels rounded to bf16 or fp16 (float32 differs by 6e-8).
        """
        dtype = self.image_newline.dtype
        if pixels.dtype != torch.uint8:
            return pixels.to(dtype)
        return pixels.to(dtype).mul_(2).sub_(255).div_(255)

    def _assemble(self, view: torch.Tensor, crops: torch.Tensor, grid: Grid) -> torch.Tensor:
        """One page's embeddings (tokens, dim) from those of its view (T, dim) and of its crops (K, T, dim)."""
        has_crops = grid != NO_CROPS
        sides = round(view.shape[0] ** 0.5), round(crops.shape[1] ** 0.5) if has_crops else 0
        key = (*sides, grid)
        if key not in self._orders:
            self._orders[key] = order(*key).to(view.device)
        parts = [crops.flatten(0, 1), view] if has_crops else [view]
        # The spelling is the checkpoint's.
        rows = torch.cat((*parts, self.image_newline[None], self.view_seperator[None]))
        return rows.index_select(0, self._orders[key])


def plan_in(config: Any) -> Plan:
    """What the engine asks for in `additional_config`; without it a page is the largest batch, and none is a graph."""
    wished = config.get(ENCODER_KEY)
    return Plan(wished["pages"], tuple(wished["sides_px"])) if wished else Plan()


def order(view_side: int, crop_side: int, grid: Grid) -> torch.Tensor:
    """Where each token of a page stands among its crops', its view's, a newline and a separator; sides in tokens.

    The rows of the crops put together, those of the view, each with a newline, and the separator.
    """
    across, down = grid if grid != NO_CROPS else (0, 0)
    count = across * down * crop_side**2
    newline = count + view_side**2
    view = torch.arange(count, newline).view(view_side, view_side)
    crops = torch.arange(count).view(down, across, crop_side, crop_side).transpose(1, 2)
    lines = crops.reshape(down * crop_side, across * crop_side), view
    tokens = [functional.pad(line, (0, 1), value=newline).flatten() for line in lines if len(line)]
    return torch.cat((*tokens, torch.tensor([newline + 1])))


def _within(embeddings: torch.Tensor, held: int) -> torch.Tensor:
    """The same embeddings in a tensor that has so many bytes more.

    vLLM counts the bytes of tensors, and graphs hold theirs without one.  While it measures a whole step it keeps the
    embeddings that it got, so the bytes are counted with these.
    """
    size = embeddings.numel()
    room = embeddings.new_empty(size + held // embeddings.element_size())
    return room[:size].view_as(embeddings).copy_(embeddings)


def to_bytes(pixels: torch.Tensor) -> torch.Tensor:
    """Normalised pixels -> uint8, exactly: they are 1 / 127.5 apart, and bf16 is off by 1 / 512 at most."""
    return ((pixels.float() + 1) * 127.5).round().to(torch.uint8)


def _grids(fields: Mapping[str, Any]) -> list[Grid]:
    """As numbers of a page that came ready, as a tensor of a raw prompt, or listed where both share a step."""
    grids = (torch.as_tensor(grid).reshape(-1, 2).tolist() for grid in fields["images_spatial_crop"])
    return [(across, down) for page in grids for across, down in page]


def _stacks(values: Any) -> list[torch.Tensor]:
    """The pictures (K, 3, S, S) of a field: vLLM joins items of one shape and lists those of several."""
    if values is None:
        return []
    if isinstance(values, torch.Tensor):
        return [values.reshape(-1, *values.shape[-3:])]
    return [stack for value in values for stack in _stacks(value)]
