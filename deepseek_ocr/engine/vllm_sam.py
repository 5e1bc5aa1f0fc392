"""SAM and CLIP of DeepSeek-OCR on vLLM's modules, which hold the weights: the same sums in fewer, larger steps.

SAM runs on rows of tokens, channels last, so that nothing is permuted between its products, its normalisations and its
convolutions; a sum and the normalisation after it are one kernel; what depends on the picture's size alone (positions,
tables of distances) is made once for each size.  CLIP's linear layers are called as vLLM has them, quantised or not.
Left to others: SAM's attention (`vllm_sam_attention.py`), batches and CUDA graphs (`vllm_encoder.py`).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

import torch
from torch.nn import functional
from vllm.triton_utils import tl, triton

from deepseek_ocr.engine.vllm_sam_attention import Shape, attention, fused_attention

if TYPE_CHECKING:
    from torch import nn

#: Side of SAM's patches (`vit_patch_size` in vLLM's deepencoder.py).
PATCH_PX: Final = 16


class Towers:
    """From pixels to what the projector gets; `towers(pixels)`.

    `fused` chooses the kernels for a card instead of plain torch.  Weights are read at each call, but what is derived
    from them is kept: they must have been loaded before the first one.
    """

    def __init__(self, sam: nn.Module, clip: nn.Module, *, fused: bool) -> None:
        self.sam = sam
        self.clip = clip
        self.fused = fused
        #: What depends on weights and on a size alone, by kind and size.
        self._kept: dict[tuple[Any, ...], torch.Tensor] = {}

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """Normalised pixels (N, 3, S, S) -> CLIP's and SAM's features side by side, (N, tokens, 2048)."""
        local = self.local(pixels)
        return torch.cat((self.whole(local)[:, 1:], local), dim=-1)

    def local(self, pixels: torch.Tensor) -> torch.Tensor:
        """SAM's features of pixels (N, 3, S, S): (N, (S / 64)^2, 1024)."""
        sam: Any = self.sam
        count, side = pixels.shape[0], pixels.shape[-1] // PATCH_PX
        cut = pixels.view(count, 3, side, PATCH_PX, side, PATCH_PX).permute(0, 2, 4, 1, 3, 5)
        embed = sam.patch_embed.proj
        rows = functional.linear(cut.reshape(count * side**2, -1), embed.weight.flatten(1), embed.bias)
        if sam.pos_embed is not None:
            rows = (rows.view(count, -1, rows.shape[-1]) + self._keep(self._sam_positions, side)).flatten(0, 1)
        blocks = list(sam.blocks)
        normed = _norm(rows, blocks[0].norm1)
        for index, block in enumerate(blocks):
            rows, normed = self._add_norm(rows, self._attend(normed, index, count, side), block.norm2)
            change = block.mlp(normed)
            if index + 1 < len(blocks):
                rows, normed = self._add_norm(rows, change, blocks[index + 1].norm1)
            else:
                rows = rows + change
        return self._neck(rows, count, side)

    def _attend(self, normed: torch.Tensor, index: int, count: int, side: int) -> torch.Tensor:
        """The attention of a block, with its projections: rows (tokens, C) -> the same."""
        block: Any = self.sam.blocks[index]
        attn = block.attn
        shape = Shape(count, side, block.window_size or side, attn.num_heads)
        qkv = normed.new_empty(shape.tokens + 1, attn.qkv.out_features)
        torch.addmm(attn.qkv.bias, normed, attn.qkv.weight.t(), out=qkv[:-1])
        down = self._keep(partial(_distances, attn.rel_pos_h), shape.window, ("down", index))
        across = self._keep(partial(_distances, attn.rel_pos_w), shape.window, ("across", index))
        seen = (fused_attention if self.fused else attention)(qkv, attn.qkv.bias, down, across, shape)
        return functional.linear(seen, attn.proj.weight, attn.proj.bias)

    def _neck(self, rows: torch.Tensor, count: int, side: int) -> torch.Tensor:
        """SAM's rows (tokens, C) -> its features, a quarter of them down and across: (N, tokens / 16, 1024)."""
        sam: Any = self.sam
        narrow, norm, smooth, norm_after = sam.neck
        rows = _norm(functional.linear(rows, narrow.weight.flatten(1)), norm)
        picture = rows.view(count, side, side, -1).permute(0, 3, 1, 2)
        picture = self._convolve(picture, smooth)
        picture = _norm(picture.permute(0, 2, 3, 1), norm_after).permute(0, 3, 1, 2)
        picture = self._convolve(self._convolve(picture, sam.net_2), sam.net_3)
        return picture.permute(0, 2, 3, 1).flatten(1, 2)

    def _convolve(self, picture: torch.Tensor, layer: Any) -> torch.Tensor:
        """A convolution with the picture's and the weights' channels last."""
        weight = self._keep(lambda _: layer.weight.to(memory_format=torch.channels_last), 0, ("convolution", id(layer)))
        return functional.conv2d(picture, weight, layer.bias, stride=layer.stride, padding=layer.padding)

    def whole(self, local: torch.Tensor) -> torch.Tensor:
        """CLIP's features of SAM's (N, tokens, 1024): (N, 1 + tokens, 1024)."""
        clip: Any = self.clip
        first = clip.embeddings.class_embedding.expand(local.shape[0], 1, -1)
        places = self._keep(self._clip_positions, local.shape[1] + 1)
        states = clip.pre_layrnorm(torch.cat((first, local), dim=1) + places)
        layers = list(clip.transformer.layers)
        normed = _norm(states, layers[0].layer_norm1)
        for layer, following in zip(layers, [*layers[1:], None], strict=True):
            seen, _ = layer.self_attn(hidden_states=normed)
            states, normed = self._add_norm(states, seen, layer.layer_norm2)
            change = self._feed(layer.mlp, normed)
            if following is None:
                break
            states, normed = self._add_norm(states, change, following.layer_norm1)
        return states + change

    def _feed(self, mlp: Any, normed: torch.Tensor) -> torch.Tensor:
        """CLIP's other half of a layer; on a card its activation is vLLM's one kernel, not the three of plain torch."""
        if not self.fused:
            change: torch.Tensor = mlp(normed)
            return change
        inner, _ = mlp.fc1(normed)
        change, _ = mlp.fc2(mlp.activation_fn.forward_cuda(inner))
        return change

    def _add_norm(self, rows: torch.Tensor, change: torch.Tensor, norm: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """The sum, and the sum normalised."""
        if self.fused:
            return fused_add_norm(rows, change, norm.weight, norm.bias, norm.eps)
        rows = rows + change
        return rows, _norm(rows, norm)

    def _sam_positions(self, side: int) -> torch.Tensor:
        sam: Any = self.sam
        return sam.get_abs_pos(sam.pos_embed, side).flatten(1, 2).contiguous()

    def _clip_positions(self, tokens: int) -> torch.Tensor:
        embeddings: Any = self.clip.embeddings
        return embeddings.get_abs_pos(embeddings.position_embedding(embeddings.position_ids), tokens)

    def _keep(self, make: Any, size: int, kind: tuple[Any, ...] = ()) -> torch.Tensor:
        """What `make(size)` gave at the first call for this kind and size."""
        key = (*(kind or (make.__name__,)), size)
        if key not in self._kept:
            self._kept[key] = make(size)
        return self._kept[key]


def _norm(rows: torch.Tensor, norm: Any) -> torch.Tensor:
    """Normalised over the last dimension (SAM's own class for pictures does it over the channels, too)."""
    return functional.layer_norm(rows, norm.weight.shape, norm.weight, norm.bias, norm.eps)


def _distances(table: torch.Tensor, size: int) -> torch.Tensor:
    """A table of relative positions for windows of this size, (2 * size - 1, C), as vLLM's `get_rel_pos` resizes it."""
    wanted = 2 * size - 1
    if table.shape[0] == wanted:
        return table.detach().contiguous()
    stretched = functional.interpolate(table.detach().float().t()[None], size=wanted, mode="linear")[0]
    return stretched.to(table.dtype).t().contiguous()


def fused_add_norm(
    rows: torch.Tensor, change: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The sum of both, and that normalised over its last dimension, in one kernel; both tensors are contiguous."""
    total, normed = torch.empty_like(rows), torch.empty_like(rows)
    width = rows.shape[-1]
    _add_norm_kernel[(rows.numel() // width,)](
        rows, change, weight, bias, total, normed, eps,
        WIDTH=width, BLOCK=triton.next_power_of_2(width), num_warps=4,
    )  # fmt: skip
    return total, normed


@triton.jit
def _add_norm_kernel(
    rows: tl.tensor, change: tl.tensor, weight: tl.tensor, bias: tl.tensor, total: tl.tensor, normed: tl.tensor,
    eps: tl.tensor,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr,  # noqa: N803
) -> None:  # fmt: skip
    """One row, its mean and variance in float32."""
    at = tl.program_id(0).to(tl.int64) * WIDTH
    column = tl.arange(0, BLOCK)
    real = column < WIDTH
    sums = tl.load(rows + at + column, mask=real, other=0.0).to(tl.float32)
    sums += tl.load(change + at + column, mask=real, other=0.0).to(tl.float32)
    tl.store(total + at + column, sums.to(total.dtype.element_ty), mask=real)
    mean = tl.sum(sums, 0) / WIDTH
    centred = tl.where(real, sums - mean, 0.0)
    scale = 1 / tl.sqrt(tl.sum(centred * centred, 0) / WIDTH + eps)
    scaled = centred * scale * tl.load(weight + column, mask=real, other=0.0).to(tl.float32)
    scaled += tl.load(bias + column, mask=real, other=0.0).to(tl.float32)
    tl.store(normed + at + column, scaled.to(normed.dtype.element_ty), mask=real)
