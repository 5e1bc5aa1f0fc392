"""A worker that takes its ways for many pages from three on: no test reads as many as a card does."""

from __future__ import annotations

from deepseek_ocr.engine import vllm_worker


class ArraysFromThree(vllm_worker.PageWorker):
    """As `worker_extension_cls`; it lives in the engine core's process.

    What a test reads alone goes the way for few, and what it reads together the other.
    """

    def prepare_for_pages(self) -> None:
        """Before the first page."""
        vllm_worker.FEW = 2  # type: ignore[misc]
        super().prepare_for_pages()
