"""The presets for small cards on a large one: what the driver says they take, and when; a stage of `bench.gpu`.

The driver's figure has all of it: weights, cache, graphs, and the contexts of CUDA, of which vLLM counts only a part.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from typing import TYPE_CHECKING, Any

from bench.gpu_stages import figures_of, report

if TYPE_CHECKING:
    from pathlib import Path

PRESETS = ("24gb", "8gb")
#: The driver is asked so often; a change of so much is told.
EVERY_S, CHANGE_MIB = 0.2, 200


def presets(model: str, names: list[str], pictures: list[Path], count: int, folder: Path) -> None:
    """Each of these presets reads so many pages; 0 = as `bench.gpu.png` has it."""
    for preset in names:
        environment = {**os.environ, "BENCH_VLLM_SETTINGS": json.dumps({"preset": preset})}
        memory = _Memory()
        figures: dict[str, Any] = {}
        stage = figures_of(
            "bench.gpu", "--stage", "png", "--model", model, "--pages", count,
            "--pictures", pictures[0].parent, "--folder", folder, environment=environment,
        )  # fmt: skip
        for some in stage:
            figures |= some
            if "start_s" in some:
                memory.mark()
        report(preset=preset, **memory.end(), **figures)


class _Memory:
    """What is in use on the card beyond what was at first, before and after a mark."""

    def __init__(self) -> None:
        self._before = _used_mib()
        self._begun = time.perf_counter()
        #: (seconds since it began, MiB).
        self._samples: list[tuple[float, int]] = []
        self._ready_s = float("inf")
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        while not self._ended.wait(EVERY_S):
            self._samples.append((time.perf_counter() - self._begun, _used_mib() - self._before))

    def mark(self) -> None:
        """The engine is ready."""
        self._ready_s = time.perf_counter() - self._begun

    def end(self) -> dict[str, Any]:
        """The most while it started and while it read, in MiB, and each larger change."""
        self._ended.set()
        self._thread.join()
        changes: list[tuple[float, int]] = []
        for at, used in self._samples:
            if not changes or abs(used - changes[-1][1]) >= CHANGE_MIB:
                changes.append((round(at, 1), used))
        starting = [used for at, used in self._samples if at <= self._ready_s]
        reading = [used for at, used in self._samples if at > self._ready_s]
        return {
            "most_mib": max(starting + reading, default=0),
            "start_mib": max(starting, default=0),
            "reading_mib": max(reading, default=0),
            "ready_s": round(min(self._ready_s, time.perf_counter() - self._begun), 1),
            "changes_s_mib": changes,
        }


def _used_mib() -> int:
    """Memory that is in use on the card."""
    command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id=0"]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)  # noqa: S603


def table(figures: list[dict[str, Any]]) -> None:
    """Print what the stage reported."""
    for one in figures:
        if "preset" not in one:
            continue
        speed = f"{one['pages'] / one['seconds']:6.2f} pages/s" if "seconds" in one else "failed"
        print(
            f"preset {one['preset']:5} {speed}, most {one['most_mib']:,} MiB: {one['start_mib']:,} until it was ready "
            f"({one['ready_s']:.0f} s), {one['reading_mib']:,} while it read"
        )
