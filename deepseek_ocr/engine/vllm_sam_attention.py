"""SAM's attention with relative positions, windows included, as one Triton kernel that never holds the bias.

A logit is q.k * scale + down[q, row of k] + across[q, column of k].  The kernel takes keys in tiles of a few rows and
columns, so that the bias of a tile is one small product more: (queries, rows + columns) of the two tables times a
constant matrix of zeros and ones that says which row and column a key has.  Windows are cut and put together by
addresses alone.  `attention` is the same in plain torch, for the CPU and for types that the kernel does not take.
Left to others: the projections (`vllm_sam.py`).
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import torch
from torch.nn import functional
from vllm.triton_utils import tl, triton

#: Dimensions of a head; its square root divides the logits: a power of two, by which tables are multiplied exactly.
HEAD: Final = 64
#: The bias of a place that no key has: far below all others, and finite in fp16 and when multiplied by 0.
NOWHERE: Final = -30000.0


class Shape(NamedTuple):
    """What is attended to: `pictures` of side x side tokens, cut into windows of window x window (= side: uncut)."""

    pictures: int
    side: int
    window: int
    heads: int

    @property
    def across(self) -> int:
        """Windows across (and down) a picture, the last ones partly outside."""
        return -(-self.side // self.window)

    @property
    def tokens(self) -> int:
        """Of all pictures."""
        return self.pictures * self.side**2


def attention(
    qkv: torch.Tensor, padding: torch.Tensor, down: torch.Tensor, across: torch.Tensor, shape: Shape
) -> torch.Tensor:
    """What the tokens of each window see, (tokens, heads * 64), in plain torch.

    `qkv` (tokens + 1, 3 * heads * 64) holds the pictures' tokens, row by row; its last row is free for use.  `padding`
    (3 * heads * 64) stands for places outside a picture, which are keys as any other.  `down` and `across`
    (2 * window - 1, 64): for the query at place a and the key at b, entry a - b + window - 1.
    """
    windows = _cut(qkv[:-1], padding, shape)
    count = shape.window**2
    queries, keys, values = windows.view(-1, count, 3, shape.heads, HEAD).permute(2, 0, 3, 1, 4)
    places = torch.arange(shape.window, device=qkv.device)
    distances = places[:, None] - places + shape.window - 1
    square = queries.unflatten(2, (shape.window, shape.window))
    bias = torch.einsum("nhyxc,ykc->nhyxk", square, down[distances])[..., :, None]
    bias = bias + torch.einsum("nhyxc,xkc->nhyxk", square, across[distances])[..., None, :]
    bias = bias.flatten(4).flatten(2, 3)
    seen = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=bias)
    return _join(seen.transpose(1, 2).reshape(-1, count, shape.heads * HEAD), shape)


def _cut(rows: torch.Tensor, padding: torch.Tensor, shape: Shape) -> torch.Tensor:
    """Tokens (tokens, C) -> windows (pictures * windows, window * window, C)."""
    full = shape.across * shape.window
    pictures = padding.expand(shape.pictures, full, full, -1).clone()
    pictures[:, : shape.side, : shape.side] = rows.view(shape.pictures, shape.side, shape.side, -1)
    pieces = pictures.view(shape.pictures, shape.across, shape.window, shape.across, shape.window, -1)
    return pieces.transpose(2, 3).reshape(-1, shape.window**2, rows.shape[-1])


def _join(windows: torch.Tensor, shape: Shape) -> torch.Tensor:
    """The reverse of `_cut`."""
    pieces = windows.view(shape.pictures, shape.across, shape.across, shape.window, shape.window, -1).transpose(2, 3)
    full = shape.across * shape.window
    pictures = pieces.reshape(shape.pictures, full, full, -1)[:, : shape.side, : shape.side]
    return pictures.reshape(shape.tokens, -1)


class Tiling(NamedTuple):
    """How the kernel is cut up: queries of a program, rows and columns of keys of a step, and Triton's own numbers."""

    queries: int
    rows: int
    columns: int
    warps: int
    stages: int


#: The fastest of those that were tried on an H200 (bench/LOG.md), for views of 1024 pixels as for crops of 640.
WINDOW_TILING: Final = Tiling(128, 8, 8, 8, 2)
WHOLE_TILING: Final = Tiling(128, 8, 8, 8, 3)


def fused_attention(
    qkv: torch.Tensor, padding: torch.Tensor, down: torch.Tensor, across: torch.Tensor, shape: Shape
) -> torch.Tensor:
    """`attention` on a card, in bf16 or fp16; writes `padding` into the last row of `qkv`."""
    tiling = WHOLE_TILING if shape.window == shape.side else WINDOW_TILING
    groups = shape.pictures * shape.across**2
    count = shape.window**2
    rows = -(-shape.window // tiling.rows) * tiling.rows
    columns = -(-shape.window // tiling.columns) * tiling.columns
    tables = qkv.new_empty(groups, shape.heads, count, rows + columns)
    seen = qkv.new_empty(shape.tokens, shape.heads * HEAD)
    span = triton.next_power_of_2(max(rows, columns) + shape.window - 1)
    fixed: dict[str, Any] = {
        "SIDE": shape.side, "WINDOW": shape.window, "ACROSS": shape.across, "HEADS": shape.heads, "D": HEAD,
        "ROWS": rows, "COLUMNS": columns,
    }  # fmt: skip
    _tables_kernel[triton.cdiv(count, 64), shape.heads, groups](
        qkv, padding, down, across, tables, shape.tokens,
        **fixed, SCALE=HEAD**0.5, LOW=NOWHERE, SPAN=span, WIDTH=triton.next_power_of_2(3 * shape.heads * HEAD),
        BLOCK=64, num_warps=8 if span > HEAD else 4,
    )  # fmt: skip
    _attention_kernel[triton.cdiv(count, tiling.queries), shape.heads, groups](
        qkv, tables, seen, shape.tokens,
        **fixed, SCALE=HEAD**-0.5 * 1.4426950408889634, TR=tiling.rows, TC=tiling.columns,
        J=max(16, triton.next_power_of_2(tiling.rows + tiling.columns)),
        WHOLE=shape.window == shape.side and rows == columns == shape.side, BLOCK=tiling.queries,
        num_warps=tiling.warps, num_stages=tiling.stages,
    )  # fmt: skip
    return seen


@triton.jit
def _token(
    group: tl.tensor, y: tl.tensor, x: tl.tensor, tokens: tl.tensor,
    SIDE: tl.constexpr, WINDOW: tl.constexpr, ACROSS: tl.constexpr,  # noqa: N803
) -> tuple[tl.tensor, tl.tensor]:  # fmt: skip
    """The row of the place (y, x) of a window, and whether it lies in the picture; outside, the row `tokens`."""
    windows: tl.constexpr = ACROSS * ACROSS
    picture = group // windows
    window = group % windows
    down = window // ACROSS * WINDOW + y
    across = window % ACROSS * WINDOW + x
    inside = (y < WINDOW) & (x < WINDOW) & (down < SIDE) & (across < SIDE)
    return tl.where(inside, (picture * SIDE + down) * SIDE + across, tokens), inside


@triton.jit
def _tables_kernel(
    qkv: tl.tensor, padding: tl.tensor, down: tl.tensor, across: tl.tensor, tables: tl.tensor, tokens: tl.tensor,
    SIDE: tl.constexpr, WINDOW: tl.constexpr, ACROSS: tl.constexpr, HEADS: tl.constexpr, D: tl.constexpr,  # noqa: N803
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, SCALE: tl.constexpr, LOW: tl.constexpr, SPAN: tl.constexpr,  # noqa: N803
    WIDTH: tl.constexpr, BLOCK: tl.constexpr,  # noqa: N803
) -> None:  # fmt: skip
    """For each query its bias by row (ROWS) and by column (COLUMNS) of a key, times sqrt(64)."""
    block = tl.program_id(0)
    head = tl.program_id(1)
    group = tl.program_id(2)
    if (block == 0) & (head == 0) & (group == 0):
        wide = tl.arange(0, WIDTH)
        real = wide < 3 * HEADS * D
        tl.store(qkv + tokens * 3 * HEADS * D + wide, tl.load(padding + wide, mask=real), mask=real)
    query = block * BLOCK + tl.arange(0, BLOCK)
    y = query // WINDOW
    x = query % WINDOW
    row, inside = _token(group, y, x, tokens, SIDE, WINDOW, ACROSS)
    inside = inside & (query < WINDOW * WINDOW)
    dim = tl.arange(0, D)
    q = tl.load(qkv + row[:, None] * (3 * HEADS * D) + head * D + dim[None, :], mask=inside[:, None], other=0.0)
    # Entry j of the reversed table belongs to the key at j - (WINDOW - 1) + the query's place.
    j = tl.arange(0, SPAN)
    entry = (2 * WINDOW - 2 - j)[None, :] * D + dim[:, None]
    known = (j < 2 * WINDOW - 1)[None, :]
    into = tables + ((group * HEADS + head) * WINDOW * WINDOW + query)[:, None] * (ROWS + COLUMNS)

    bias = tl.dot(q, tl.load(down + entry, mask=known, other=0.0)) * SCALE
    key = j[None, :] - (WINDOW - 1) + y[:, None]
    bias = tl.where(key < WINDOW, bias, LOW)
    tl.store(into + key, bias.to(q.dtype), mask=inside[:, None] & (key >= 0) & (key < ROWS))

    bias = tl.dot(q, tl.load(across + entry, mask=known, other=0.0)) * SCALE
    key = j[None, :] - (WINDOW - 1) + x[:, None]
    bias = tl.where(key < WINDOW, bias, LOW)
    tl.store(into + ROWS + key, bias.to(q.dtype), mask=inside[:, None] & (key >= 0) & (key < COLUMNS))


@triton.jit
def _attention_kernel(
    qkv: tl.tensor, tables: tl.tensor, seen: tl.tensor, tokens: tl.tensor,
    SIDE: tl.constexpr, WINDOW: tl.constexpr, ACROSS: tl.constexpr, HEADS: tl.constexpr, D: tl.constexpr,  # noqa: N803
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, SCALE: tl.constexpr, TR: tl.constexpr, TC: tl.constexpr,  # noqa: N803
    J: tl.constexpr, WHOLE: tl.constexpr, BLOCK: tl.constexpr,  # noqa: N803
) -> None:  # fmt: skip
    """Softmax over all keys of a window, tile by tile, with running maximum and sum, in base 2."""
    block = tl.program_id(0)
    head = tl.program_id(1)
    group = tl.program_id(2)
    stride: tl.constexpr = 3 * HEADS * D
    query = block * BLOCK + tl.arange(0, BLOCK)
    row, inside = _token(group, query // WINDOW, query % WINDOW, tokens, SIDE, WINDOW, ACROSS)
    inside = inside & (query < WINDOW * WINDOW)
    dim = tl.arange(0, D)
    q = tl.load(qkv + row[:, None] * stride + head * D + dim[None, :], mask=inside[:, None], other=0.0)
    j = tl.arange(0, J)
    # Queries beyond the last take the tables of the last: nothing is stored for them.
    place = tl.minimum(query, WINDOW * WINDOW - 1)
    table = tables + ((group * HEADS + head) * (WINDOW * WINDOW) + place)[:, None] * (ROWS + COLUMNS) + j[None, :]
    key = tl.arange(0, TR * TC)
    key_y = key // TC
    key_x = key % TC
    of_row = j[:, None] == key_y[None, :]
    of_column = j[:, None] == key_x[None, :] + TR
    chosen = tl.where(of_row | of_column, 1.0, 0.0).to(q.dtype)

    top = tl.full([BLOCK], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    mean = tl.zeros([BLOCK, D], tl.float32)
    tiles: tl.constexpr = COLUMNS // TC
    for tile in range(ROWS // TR * tiles):
        first_y = tile // tiles * TR
        first_x = tile % tiles * TC
        if WHOLE:
            token = (group * SIDE + first_y + key_y) * SIDE + first_x + key_x
        else:
            token, _ = _token(group, first_y + key_y, first_x + key_x, tokens, SIDE, WINDOW, ACROSS)
        k = tl.load(qkv + token[None, :] * stride + (HEADS + head) * D + dim[:, None])
        start = tl.where(j < TR, first_y, ROWS - TR + first_x)
        if J > TR + TC:
            bias = tl.load(table + start[None, :], mask=(j < TR + TC)[None, :], other=0.0)
        else:
            bias = tl.load(table + start[None, :])
        logits = tl.dot(q, k)
        logits = tl.dot(bias, chosen, logits)
        v = tl.load(qkv + token[:, None] * stride + (2 * HEADS + head) * D + dim[None, :])
        highest = tl.maximum(top, tl.max(logits, 1) * SCALE)
        weights = tl.exp2(logits * SCALE - highest[:, None])
        shrink = tl.exp2(top - highest)
        total = total * shrink + tl.sum(weights, 1)
        mean = mean * shrink[:, None]
        mean = tl.dot(weights.to(v.dtype), v, mean)
        top = highest
    mean = mean / total[:, None]
    tl.store(seen + row[:, None] * (HEADS * D) + head * D + dim[None, :], mean.to(q.dtype), mask=inside[:, None])
