"""How far the embeddings of our model class are from float32, against those of vLLM's own class, on random weights.

Bar: at most 1.2 x vLLM's deviation, for every page.  Both classes use one set of towers in bf16; the reference is
vLLM's way with the same (rounded) weights in float32.  Pages: a text-like drawing, noise, white and black, in several
modes; ours are encoded in one batch.  The weights have the scale of trained ones: products keep their variance, and
the attention biases are large enough to decide where to look.  They are no trained weights: outliers are missing.

`python -m bench.embeddings` measures the towers at full depth on the GPU, `--shallow` a few layers on the CPU.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import nn
from transformers import CLIPVisionConfig
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.distributed import (
    cleanup_dist_env_and_memory,
    init_distributed_environment,
    initialize_model_parallel,
    model_parallel_is_initialized,
)
from vllm.model_executor.layers.attention import MMEncoderAttention
from vllm.model_executor.model_loader.utils import process_weights_after_loading
from vllm.model_executor.models.deepencoder import DeepCLIPVisionTransformer, _build_sam
from vllm.model_executor.models.deepseek_ocr import DeepseekOCRForCausalLM
from vllm.model_executor.models.deepseek_vl2 import MlpProjector
from vllm.transformers_utils.configs.deepseek_vl2 import MlpProjectorConfig
from vllm.v1.attention.backends.registry import AttentionBackendEnum

from deepseek_ocr.engine.vllm_model import ResidentDeepseekOCR
from deepseek_ocr.prompt import Mode
from deepseek_ocr.tiles import Tiles, tile

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

BAR = 1.2
#: Two vectors that have nothing to do with each other are 1.4 apart; bf16 is 0.02 from float32.
UNRELATED = 0.3
SEED = 20


class Towers(NamedTuple):
    """The size of the encoder."""

    sam_layers: int
    #: Those of SAM's that attend to the whole picture, the others to windows.
    whole: tuple[int, ...]
    sam_width: int
    clip_layers: int
    #: Of the embeddings.
    width: int


#: As published (`build_sam_vit_b` and `CLIPVisionConfig` in vLLM's deepseek_ocr.py).
FULL = Towers(12, (2, 5, 8, 11), 768, 24, 1280)
SHALLOW = Towers(2, (1,), 256, 2, 128)


class Page(NamedTuple):
    """What is encoded."""

    name: str
    tiles: Tiles


class Deviation(NamedTuple):
    """Relative distance (L2) of a page's embeddings from the reference."""

    page: str
    ours: float
    vllm: float

    @property
    def ratio(self) -> float:
        """1 = as far as vLLM's."""
        return self.ours / self.vllm


class Encoder(ResidentDeepseekOCR):
    """The class with its towers and no decoder, holding random weights."""

    def __init__(self, towers: Towers, dtype: torch.dtype, device: torch.device) -> None:
        nn.Module.__init__(self)
        clip = CLIPVisionConfig(
            hidden_size=1024,
            intermediate_size=4096,
            num_attention_heads=16,
            num_hidden_layers=towers.clip_layers,
            image_size=224,
            patch_size=14,
            projection_dim=512,
            layer_norm_eps=1e-5,
        )
        default = torch.get_default_dtype()
        torch.set_default_dtype(dtype)  # vLLM's layers choose their kernels by it
        try:
            self.sam_model = _build_sam(towers.sam_width, towers.sam_layers, towers.sam_width // 64, towers.whole)
            self.vision_model = DeepCLIPVisionTransformer(clip, prefix="vision_model")
            self.projector = MlpProjector(MlpProjectorConfig("linear", input_dim=2048, n_embed=towers.width))
            self.image_newline = nn.Parameter(torch.empty(towers.width))
            self.view_seperator = nn.Parameter(torch.empty(towers.width))
            self.to(device)
            _fill(self)
            for module in self.modules():
                if dtype == torch.float32 and isinstance(module, MMEncoderAttention):
                    # On a card vLLM's other kernels multiply float32 with fewer digits.
                    module.attn_backend, module.is_flash_attn_backend = AttentionBackendEnum.TORCH_SDPA, False
            process_weights_after_loading(self, SimpleNamespace(dtype=dtype, quantization=None), device)
        finally:
            torch.set_default_dtype(default)


def _fill(module: nn.Module) -> None:
    """Give every parameter random values of trained scale: the same in float32 and bf16, on every device."""
    random = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for name, parameter in sorted(module.named_parameters()):
            # In bf16, the default type while such a model is built, some versions of torch draw other numbers.
            values = torch.randn(parameter.shape, generator=random, dtype=torch.float32)
            if name.endswith("bias"):
                values *= 0.05
            elif parameter.ndim == 1 and name.endswith("weight"):  # a norm
                values = 1 + 0.1 * values
            elif "rel_pos" in name:
                values *= 0.2  # times 64 dimensions of a query: differences of 1.6 between two places
            elif "embed" in name and "patch_embed" not in name:
                values *= 0.5
            else:
                values *= parameter[0].numel() ** -0.5
            parameter.copy_(values.to(torch.bfloat16))


@contextmanager
def one_process() -> Iterator[None]:
    """What vLLM's layers want around them: a configuration, and a group of one process."""
    with tempfile.TemporaryDirectory() as folder, set_current_vllm_config(VllmConfig()):
        mine = not model_parallel_is_initialized()
        if mine:
            init_distributed_environment(1, 0, f"file://{folder}/group", 0, backend="gloo")
            initialize_model_parallel(1, 1)
        try:
            yield
        finally:
            if mine:
                cleanup_dist_env_and_memory()


def pages(modes: Sequence[Mode] = tuple(Mode)) -> list[Page]:
    """A drawing in each mode, and noise, white and black in the first of them."""
    height, width = 1300, 920
    random = np.random.default_rng(SEED)
    noise = random.integers(0, 256, (height, width, 3), np.uint8)
    extremes = [("noise", noise), ("white", np.full_like(noise, 255)), ("black", np.zeros_like(noise))]
    drawn = [Page(f"text {mode}", tile(drawing(width, height), mode)) for mode in modes]
    return drawn + [Page(f"{name} {modes[0]}", tile(pixels, modes[0])) for name, pixels in extremes]


def drawing(width: int, height: int, seed: int = SEED) -> NDArray[np.uint8]:
    """Lines of dark strokes of letter size, a box and a red line on white: a page at a glance."""
    random = np.random.default_rng(seed)
    image = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(image)
    for y in range(20, height - 20, 24):
        x = 20
        while x < width - 40:
            length = int(random.integers(4, 14))
            if random.random() < 0.85:  # noqa: PLR2004 - the rest are spaces
                top = y + int(random.integers(0, 6))
                pen.line((x, top, x + length, y + 12), fill=(20, 20, 20), width=2)
            x += length + 3
    pen.rectangle((width // 4, height // 3, width // 2, height // 2), outline="black", fill=(200, 210, 255))
    pen.line((0, height // 2, width, height // 2), fill=(220, 30, 30), width=3)
    return np.asarray(image)


def ours(model: ResidentDeepseekOCR, batch: Sequence[Tiles]) -> list[torch.Tensor]:
    """The embeddings of all pages, encoded together from bytes as vLLM passes them."""
    device = model.image_newline.device
    views = [torch.from_numpy(tiles.view).to(device) for tiles in batch]
    one_size = len({view.shape for view in views}) == 1
    with torch.inference_mode():
        embeddings = model.embed_multimodal(
            pixel_values=torch.stack(views) if one_size else views,
            images_crop=torch.cat([torch.from_numpy(tiles.crops) for tiles in batch]).to(device),
            images_spatial_crop=torch.tensor([tiles.grid for tiles in batch]),
        )
    assert embeddings is not None
    return embeddings


def vllms(model: ResidentDeepseekOCR, tiles: Tiles) -> torch.Tensor:
    """The embeddings of one page as vLLM's own class makes them, from pixels normalised as its processor does."""
    weights = model.image_newline
    view, crops = (
        ((torch.from_numpy(pixels).float() / 255 - 0.5) / 0.5).to(weights.device, weights.dtype)
        for pixels in (tiles.view[None], tiles.crops)
    )
    with torch.inference_mode():
        embeddings = DeepseekOCRForCausalLM.embed_multimodal(
            model, pixel_values=view, images_crop=crops, images_spatial_crop=torch.tensor([tiles.grid])
        )
    assert isinstance(embeddings, list)
    (page,) = embeddings
    assert isinstance(page, torch.Tensor)
    return page


def deviations(device: str, towers: Towers, batch: Sequence[Page]) -> list[Deviation]:
    """How far both ways are from float32 in bf16, page by page; inside `one_process`."""
    where = torch.device(device)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    exact = Encoder(towers, torch.float32, where)
    references = [vllms(exact, page.tiles) for page in batch]
    del exact
    model = Encoder(towers, torch.bfloat16, where)
    rows = []
    for page, reference, own in zip(batch, references, ours(model, [page.tiles for page in batch]), strict=True):
        rows.append(Deviation(page.name, distance(own, reference), distance(vllms(model, page.tiles), reference)))
    return rows


def distance(values: torch.Tensor, reference: torch.Tensor) -> float:
    """Relative L2 distance; raises `ValueError` for a value that is not finite, or has nothing in common with it."""
    found = float((values.float() - reference).norm() / reference.norm())
    if not found < UNRELATED:
        raise ValueError(f"{found} from float32: not finite, or the reference has other weights")
    return found


def main() -> int:
    """Print the table; 1 if a page is over the bar."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--shallow", action="store_true", help="a few layers on the CPU")
    shallow = arguments.parse_args().shallow
    with one_process():
        rows = deviations("cpu", SHALLOW, pages()) if shallow else deviations("cuda", FULL, pages())
    print(f"{'page':16} {'ours':>9} {'vLLM':>9} {'ratio':>6}")
    for row in rows:
        print(f"{row.page:16} {row.ours:9.5f} {row.vllm:9.5f} {row.ratio:6.3f}")
    worst = max(row.ratio for row in rows)
    print(f"worst ratio {worst:.3f}, bar {BAR}")
    return int(worst > BAR)


if __name__ == "__main__":
    sys.exit(main())
