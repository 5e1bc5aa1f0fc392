"""The encoder computes what vLLM's towers do, in batches that change nothing."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from vllm.model_executor.models.deepencoder import RelPosAttention, window_partition, window_unpartition

from bench.embeddings import Encoder as Model
from bench.embeddings import Towers as Depth
from bench.embeddings import one_process
from deepseek_ocr.engine.vllm_encoder import BATCHES, PAGE_PATCHES, Encoder, Graph, Plan, batches
from deepseek_ocr.engine.vllm_model import order, plan_in
from deepseek_ocr.engine.vllm_plan import Plan as Taken
from deepseek_ocr.engine.vllm_sam import Towers, _distances
from deepseek_ocr.engine.vllm_sam_attention import HEAD, Shape, attention
from deepseek_ocr.prompt import Mode
from deepseek_ocr.tiles import GRIDS, MAX_CROPS, NO_CROPS, TOKEN_SIDE_PX, VIEW_SIDE_PX, token_count

if TYPE_CHECKING:
    from collections.abc import Iterator

LARGEST = 8
#: Sides in patches: of all modes, and one that is a single window.
SIDES = sorted({14, *(side_px // 16 for side_px in VIEW_SIDE_PX.values())})


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    """Few layers with random weights, in float32: the first in windows, the second of the whole picture."""
    with one_process():
        yield Model(Depth(2, (1,), 128, 1, 64), torch.float32, torch.device("cpu"))


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    """Normally distributed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pixels(count: int, side_px: int, seed: int = 0) -> torch.Tensor:
    """Noise as bytes."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, side_px, side_px), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("window", [0, 14], ids=["whole", "windows"])
@torch.inference_mode()
def test_attention_is_that_of_vllm(side: int, window: int) -> None:
    """Two pictures with two heads (one where the bias is large), cut or not, with tables made for a side of 64."""
    pictures = heads = 2 if window or side <= 640 // 16 else 1
    wide = heads * HEAD
    theirs = RelPosAttention(wide, heads, use_rel_pos=True, input_size=(window or 64,) * 2)
    for index, parameter in enumerate(theirs.parameters()):
        parameter.copy_(random(*parameter.shape, seed=index) * (0.2 if parameter.ndim > 1 else 0.05))
    rows = random(pictures, side, side, wide, seed=9)
    expected = rows
    if window:
        expected, padded = window_partition(rows, window)
    expected = theirs(expected)
    if window:
        expected = window_unpartition(expected, window, padded, (side, side))
    qkv = torch.cat((theirs.qkv(rows).flatten(0, 2), torch.empty(1, 3 * wide)))
    size = window or side
    down, across = (_distances(table, size) for table in (theirs.rel_pos_h, theirs.rel_pos_w))
    seen = attention(qkv, theirs.qkv.bias, down, across, Shape(pictures, side, size, heads))
    torch.testing.assert_close(theirs.proj(seen), expected.flatten(0, 2), rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("side_px", [128, 320, 512])
@torch.inference_mode()
def test_towers_are_those_of_vllm(model: Model, side_px: int) -> None:
    """SAM's and CLIP's features of two pictures."""
    some = model._normalize(pixels(2, side_px))  # noqa: SLF001 - what the towers get
    towers = Towers(model.sam_model, model.vision_model, fused=False)
    local = model.sam_model(some)
    torch.testing.assert_close(towers.local(some), local.flatten(2).transpose(1, 2), rtol=1e-4, atol=2e-5)
    torch.testing.assert_close(
        towers(some)[..., : -local.shape[1]], model.vision_model(some, local)[:, 1:], rtol=1e-4, atol=2e-5
    )


class Replayed:
    """Stands for a CUDA graph: computes, when it is replayed, what its batch then holds."""

    def __init__(self, encoder: Encoder, side_px: int, size: int) -> None:
        self.encoder, self.times = encoder, 0
        # What a former step left.
        self.pixels = pixels(size, side_px, seed=size)
        self.features = encoder.encode(self.pixels)

    def replay(self) -> None:
        """In place, as a graph does."""
        self.times += 1
        self.features.copy_(self.encoder.encode(self.pixels))


def with_graphs(model: Model, plan: Plan) -> tuple[Encoder, dict[tuple[int, int], Replayed]]:
    """An encoder whose graphs are those of a plan."""
    towers = Towers(model.sam_model, model.vision_model, fused=False)
    encoder = Encoder(towers, model.projector, model._normalize, plan)  # noqa: SLF001 - as the model class does
    # A batch without its graph is launched, and these tests have none above 8.
    graphs = {
        (side, size): Replayed(encoder, side, size) for side in plan.sides_px for size in BATCHES if size <= LARGEST
    }
    encoder._graphs = {key: Graph(one, one.pixels, one.features) for key, one in graphs.items()}  # noqa: SLF001
    return encoder, graphs


@pytest.mark.parametrize("counts", [[1], [1, 1], [1, 0, 2], [5], [0], [2, 5], [10]], ids=str)
@torch.inference_mode()
def test_a_batch_in_a_graph_is_as_launched(model: Model, counts: list[int]) -> None:
    """Stacks of pictures go through graphs or not, with what was left in these or not, and come out the same."""
    stacks = [pixels(count, 128, seed=index) for index, count in enumerate(counts)]
    plain, _ = with_graphs(model, Plan())
    graphed, _ = with_graphs(model, Plan(1, (128,)))
    for _ in range(2):
        for found, stack in zip(graphed(stacks), stacks, strict=True):
            assert len(found) == len(stack)
            if len(stack):
                torch.testing.assert_close(found, plain.encode(stack), rtol=1e-4, atol=2e-5)


@torch.inference_mode()
def test_the_smallest_graph_that_holds_a_batch_is_replayed(model: Model) -> None:
    """One replay; pictures of other sizes and normalised ones take none."""
    encoder, graphs = with_graphs(model, Plan(1, (128,)))
    first, _, _ = encoder([pixels(5, 128), pixels(1, 192), model._normalize(pixels(1, 128))])  # noqa: SLF001
    kept = first.clone()
    assert {size for (_, size), one in graphs.items() if one.times} == {6}
    encoder([pixels(5, 128, seed=5)])
    assert torch.equal(first, kept), "what was given is not the graph's own memory"


@given(counts=st.lists(st.integers(0, 30), max_size=8), largest=st.sampled_from(BATCHES))
def test_batches_are_full_and_in_order(counts: list[int], largest: int) -> None:
    """All pictures once, in order; only the last batch may have room; a stack is cut where a batch ends, only."""
    numbers = torch.arange(sum(counts))
    found = list(batches(numbers.split(counts), largest))
    pieces = [piece for batch in found for piece in batch]
    assert torch.equal(torch.cat([*pieces, numbers[:0]]), numbers)
    sizes = [sum(len(piece) for piece in batch) for batch in found]
    assert all(size == largest for size in sizes[:-1])
    assert all(0 < size <= largest for size in sizes)
    assert len(pieces) <= sum(count > 0 for count in counts) + len(found) - 1 + (not found)


@pytest.mark.parametrize("pages", [1, 2, 4])
def test_the_largest_batch_holds_whole_pages(pages: int) -> None:
    """Crops of so many pages make one batch; no side has none, and none has more patches than these crops."""
    plan = Plan(pages)
    assert plan.sizes(640)[-1] == pages * MAX_CROPS
    for side_px in VIEW_SIDE_PX.values():
        sizes = plan.sizes(side_px)
        assert sizes[0] == 1
        assert all(one < other for one, other in pairwise(sizes))
        assert sizes[-1] * (side_px // 16) ** 2 <= pages * PAGE_PATCHES


@pytest.mark.parametrize("grid", [NO_CROPS, *GRIDS], ids=str)
def test_tokens_stand_in_the_order_of_reading(grid: tuple[int, int]) -> None:
    """Every token of crops and view once, a newline after each row, the separator last, as many as the prompt has."""
    view_side = VIEW_SIDE_PX[Mode.GUNDAM] // TOKEN_SIDE_PX
    crop_side = 640 // TOKEN_SIDE_PX
    places = order(view_side, crop_side, grid).tolist()
    assert len(places) == token_count(Mode.GUNDAM, grid)
    across, down = grid if grid != NO_CROPS else (0, 0)
    newline = across * down * crop_side**2 + view_side**2
    assert places[-1] == newline + 1
    assert places.count(newline) == down * crop_side + view_side
    assert sorted(place for place in places if place < newline) == list(range(newline))
    if grid != NO_CROPS:
        beside = crop_side**2 if across > 1 else newline
        assert places[crop_side - 1 : crop_side + 1] == [crop_side - 1, beside]


def test_the_engine_asks_for_its_graphs() -> None:
    """What the plan of a card says reaches the model class, and nothing said is a small batch without graphs."""
    assert plan_in({}) == Plan(1, ())
    assert plan_in(Taken(8, 4096, 0.9, "", 4).encoder(Mode.GUNDAM)) == Plan(4, (1024, 640))
    assert plan_in(Taken(8, 4096, 0.9, "", 1).encoder(Mode.LARGE)) == Plan(1, (1280,))
