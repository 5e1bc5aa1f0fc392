"""The vision encoder in batches, which on a card are CUDA graphs of a few sizes: one launch instead of seven hundred.

Pictures of one size go together; a graph that is larger than its batch computes whatever was left in it, too.  All
graphs share one pool of memory, and what one gives is copied before the next one runs.
Left to others: what is computed (`vllm_sam.py`), pages (`vllm_model.py`).
Residual risk: pictures of a size without graphs are launched one kernel after another, as vLLM does, which takes the
thread that schedules all pages some 40 ms a batch.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import torch

from deepseek_ocr.engine.vllm_sam import PATCH_PX, Towers
from deepseek_ocr.tiles import CROP_SIDE_PX, MAX_CROPS, VIEW_SIDE_PX

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

#: Pictures of a graph: the crops of whole A4 pages (6 each), and little is padded between them.  More than 24 make no
#: batch faster: 4 pages take 8.94 ms each, 16 take 9.03 (bench/LOG.md).
BATCHES: Final = (1, 2, 3, 4, 6, 8, 12, 18, 24)
#: Patches of the crops of one page; those of two views of 1024 pixels are fewer.
PAGE_PATCHES: Final = MAX_CROPS * (CROP_SIDE_PX // PATCH_PX) ** 2


class Plan(NamedTuple):
    """How much is encoded at once, and what is captured."""

    #: Pages whose crops make the largest batch; the memory that it takes grows with them.
    pages: int = 1
    #: Sides of the pictures that get graphs, in pixels.
    sides_px: tuple[int, ...] = ()

    def sizes(self, side_px: int) -> list[int]:
        """Pictures of this side in a batch, of which there may be graphs."""
        patches = (side_px // PATCH_PX) ** 2
        return [size for size in BATCHES if size * patches <= self.pages * PAGE_PATCHES] or [1]


class Graph(NamedTuple):
    """One captured batch."""

    graph: Any
    pixels: torch.Tensor
    features: torch.Tensor


class Encoder:
    """From pictures to embeddings; `encoder(stacks)`."""

    def __init__(
        self,
        towers: Towers,
        project: Callable[[torch.Tensor], torch.Tensor],
        normalize: Callable[[torch.Tensor], torch.Tensor],
        plan: Plan,
    ) -> None:
        self.towers = towers
        self.project = project
        self.normalize = normalize
        self.plan = plan
        #: By side and number of pictures.
        self._graphs: dict[tuple[int, int], Graph] = {}

    def __call__(self, stacks: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The embeddings (K, tokens, dim) of each stack of pictures (K, 3, S, S), bytes or normalised, K >= 0."""
        alike = defaultdict(list)
        for index, stack in enumerate(stacks):
            alike[stack.shape[-1], stack.dtype].append(index)
        found: dict[int, torch.Tensor] = {}
        for indices in alike.values():
            some = [stacks[index] for index in indices]
            counts = [len(stack) for stack in some]
            # A step without crops has empty stacks of them.
            features = self._encode_alike(some).split(counts) if sum(counts) else [part.new_empty(0) for part in some]
            found.update(zip(indices, features, strict=True))
        return [found[index] for index in range(len(stacks))]

    def _encode_alike(self, stacks: Sequence[torch.Tensor]) -> torch.Tensor:
        """The embeddings (N, tokens, dim) of all pictures in stacks of one size and type."""
        side_px = stacks[0].shape[-1]
        sizes = self.plan.sizes(side_px)
        parts = []
        for batch in batches(stacks, sizes[-1]):
            count = sum(len(stack) for stack in batch)
            size = next(size for size in sizes if size >= count)
            graph = self._graphs.get((side_px, size)) if batch[0].dtype == torch.uint8 else None
            if graph is None:
                parts.append(self.encode(torch.cat(batch) if len(batch) > 1 else batch[0]))
            else:
                torch.cat(batch, out=graph.pixels[:count])
                graph.graph.replay()
                parts.append(graph.features[:count].clone())
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels (N, 3, S, S), bytes or normalised -> embeddings (N, tokens, dim), launch by launch."""
        return self.project(self.towers(self.normalize(pixels)))

    def capture(self, device: torch.device) -> int:
        """Make all graphs, and compile the kernels of all modes; the bytes that the graphs hold without a tensor."""
        before = _unclaimed(device)
        pool, stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream(device)
        for side_px in self.plan.sides_px:
            # The largest first: the others find room in its memory.
            for size in reversed(self.plan.sizes(side_px)):
                self._graphs[side_px, size] = self._capture(side_px, size, pool, stream, device)
        held = _unclaimed(device) - before
        # A page of another mode must neither wait for a compiler nor take memory that vLLM has not seen in use beside
        # the graphs'.
        beside = torch.empty(held, dtype=torch.uint8, device=device)
        for side_px in sorted({*VIEW_SIDE_PX.values(), CROP_SIDE_PX}):
            self.encode(_black(self.plan.sizes(side_px)[-1], side_px, device))
        del beside
        return held

    def _capture(self, side_px: int, size: int, pool: Any, stream: Any, device: torch.device) -> Graph:
        """Record what `encode` launches, after one run that compiles kernels and fills what is kept.

        `stream` is one for all captures: cuBLAS keeps a workspace for each.
        """
        pixels = _black(size, side_px, device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            self.encode(pixels)
        torch.cuda.current_stream(device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            features = self.encode(pixels)
        return Graph(graph, pixels, features)


def batches(stacks: Sequence[torch.Tensor], largest: int) -> Iterator[list[torch.Tensor]]:
    """The pictures in order, `largest` at a time and in as few pieces as that takes."""
    batch: list[torch.Tensor] = []
    room = largest
    for stack in stacks:
        start = 0
        while start < len(stack):
            batch.append(stack[start : start + room])
            start += len(batch[-1])
            room -= len(batch[-1])
            if not room:
                yield batch
                batch, room = [], largest
    if batch:
        yield batch


def _black(count: int, side_px: int, device: torch.device) -> torch.Tensor:
    return torch.zeros(count, 3, side_px, side_px, dtype=torch.uint8, device=device)


def _unclaimed(device: torch.device) -> int:
    """Bytes that torch keeps of the card and no tensor uses; after `empty_cache` they are gaps, and what graphs use."""
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    return int(torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
