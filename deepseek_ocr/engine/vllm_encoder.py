"""The vision encoder in batches of a few sizes, each a CUDA graph: one launch instead of some seven hundred.

Pictures of one size go together, padded to the next batch size with whatever the last batch left.  All graphs share one
pool of memory; what a graph gives is copied before the next one runs.
Left to others: what is computed (`vllm_sam.py`), pages (`vllm_model.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import torch

from deepseek_ocr.engine.vllm_sam import PATCH_PX, Towers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

#: Pictures of a batch: the whole numbers of crops that pages have come first, and little is padded between them.
BATCHES: Final = (1, 2, 3, 4, 6, 8, 12, 18, 24)
#: Patches of a batch at most: those of 24 crops of 640 pixels; 9 views of 1024.
MAX_PATCHES: Final = 24 * (640 // PATCH_PX) ** 2


def batches(count: int, side_px: int) -> list[int]:
    """The sizes of the batches that `count` pictures of this side make: full ones, and one that holds the rest."""
    sizes = [size for size in BATCHES if size * (side_px // PATCH_PX) ** 2 <= MAX_PATCHES] or [1]
    full, rest = divmod(count, sizes[-1])
    return [sizes[-1]] * full + ([min(size for size in sizes if size >= rest)] if rest else [])


class Graph(NamedTuple):
    """One captured batch."""

    graph: Any
    pixels: torch.Tensor
    features: torch.Tensor


class Encoder:
    """From pictures to embeddings; `encoder(pictures)`."""

    def __init__(
        self,
        towers: Towers,
        project: Callable[[torch.Tensor], torch.Tensor],
        normalize: Callable[[torch.Tensor], torch.Tensor],
        *,
        graphs: bool,
    ) -> None:
        self.towers = towers
        self.project = project
        self.normalize = normalize
        #: Whether uint8 pictures go through CUDA graphs, which are captured at the first batch of their size.
        self.graphs = graphs
        self._captured: dict[tuple[int, int], Graph] = {}
        self._pool: Any = None
        #: One for all captures: cuBLAS keeps a workspace for each stream.
        self._stream: Any = None

    def __call__(self, pictures: Sequence[torch.Tensor]) -> torch.Tensor:
        """The embeddings (N, tokens, dim) of N pictures (3, S, S) of one size and type."""
        side_px, start, parts = pictures[0].shape[-1], 0, []
        for size in batches(len(pictures), side_px):
            some = pictures[start : start + size]
            start += size
            if self.graphs and some[0].dtype == torch.uint8:
                parts.append(self._replay(some, size))
            else:
                parts.append(self.encode(torch.stack(list(some))))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels (N, 3, S, S), bytes or normalised -> embeddings (N, tokens, dim), launch by launch."""
        return self.project(self.towers(self.normalize(pixels)))

    def _replay(self, pictures: Sequence[torch.Tensor], size: int) -> torch.Tensor:
        """The same by a graph of `size` pictures."""
        side_px = pictures[0].shape[-1]
        if (side_px, size) not in self._captured:
            self._captured[side_px, size] = self._capture(side_px, size, pictures[0].device)
        graph, pixels, features = self._captured[side_px, size]
        torch.stack(list(pictures), out=pixels[: len(pictures)])
        graph.replay()
        return features[: len(pictures)].clone()

    def _capture(self, side_px: int, size: int, device: torch.device) -> Graph:
        """Record what `encode` launches, after one run that compiles kernels and fills what is kept."""
        pixels = torch.zeros(size, 3, side_px, side_px, dtype=torch.uint8, device=device)
        if self._pool is None:
            self._pool, self._stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream(device)
        stream = self._stream
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            self.encode(pixels)
        torch.cuda.current_stream(device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"):
            features = self.encode(pixels)
        return Graph(graph, pixels, features)
