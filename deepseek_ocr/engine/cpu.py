"""The embedded engine: RapidOCR in worker processes, one thread each, so that all cores work.

Left to others: reading a page (`recognition.py`, which the worker processes load; this one never does), retries and
what to do with a page that fails.
Residual risks: a page image is copied into the worker's pipe (72 MB for the largest that `sizes.py` makes); a worker
process takes 0.8 GB over A4 pages at 144 dpi (and keeps 0.5), for a moment 1.3 GB over the largest (and keeps 0.7).
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import time
from dataclasses import replace
from importlib import metadata, util
from pathlib import Path
from typing import TYPE_CHECKING

from deepseek_ocr.completion import Completion, EngineInfo, Health
from deepseek_ocr.errors import EngineStartError, PageError, WorkerDied
from deepseek_ocr.layout import VERSION as LAYOUT
from deepseek_ocr.processes import ProcessPool
from deepseek_ocr.prompt import READING_TASKS

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from deepseek_ocr.completion import PageImage
    from deepseek_ocr.prompt import Options
    from deepseek_ocr.recognition import Reading

DETECTION_MODEL = "PP-OCRv6_det_small.onnx"
RECOGNITION_MODEL = "PP-OCRv6_rec_small.onnx"
#: What the dictionary inside the recognition model covers, as `scripts.py` tells; a test holds it against the model.
SCRIPTS = ("Latin", "Chinese", "Japanese")
#: A page gets no longer.  The limit of the main job is 60 s; most of the rest is left to the renderer.
PAGE_TIMEOUT_S = 55.0
#: Share of it after which a page ends with what was read so far: loading the models in a fresh process counts too.
BUDGET_SHARE = 0.75
#: Loading the models and reading one line takes 3 s; a machine that starts up has other things to do as well.
START_TIMEOUT_S = 120.0
#: What a worker process needs: measured 0.8 GB at most over A4 pages at 144 dpi, 1.3 GB for a moment over the largest.
WORKER_BYTES = 1_000_000_000
#: glibc's malloc gives each large array of a model back to the system and asks for it again; clearing those pages took
#: 0.35 to 0.52 s of 8.6 s a page, with this 0.18 s.  What it holds back at the end of a page is what it was, 0.5 GB.
#: Parameters of mallopt(3): from which size on an array gets pages of its own, and how much of free memory is kept.
M_MMAP_THRESHOLD, MMAP_BYTES = -3, 1 << 30
M_TRIM_THRESHOLD, KEPT_BYTES = -1, 256 << 20
#: A process is replaced after so many pages, against slow leaks in the libraries.
MAX_CALLS = 1000


class CpuEngine:
    """Reads pages with RapidOCR on all cores."""

    def __init__(
        self, *, workers: int = 0, rec_model: Path | None = None, page_timeout_s: float = PAGE_TIMEOUT_S
    ) -> None:
        """`workers` 0 = one per usable core, as far as the memory goes.

        `rec_model` is another recognition model (ONNX), for other scripts.  Its dictionary is inside it, as in
        RapidOCR's ONNX models, or in a .txt of the same name beside it.
        """
        size = workers or usable_workers()
        self._own = rec_model is not None
        self._files = _model_files(rec_model)
        self._page_timeout_s = page_timeout_s
        self._pool = ProcessPool(size, initializer=_initialize_worker, max_calls=MAX_CALLS)
        self._state = "not started"
        #: `scripts` of another model are known when `start` has loaded it.
        self.info = EngineInfo(
            name="cpu",
            model=_model_name(self._files, own=self._own),
            tasks=READING_TASKS,
            needs="pixels",
            capacity=size + 1,
            scripts=SCRIPTS if rec_model is None else (f"those of {rec_model.name}",),
        )

    async def start(self) -> None:
        """Read a small page in a worker process; raises `EngineStartError`."""
        _check(self._files, own=self._own)
        try:
            scripts = await self._pool.run_within(START_TIMEOUT_S, _warm_up, *self._files)
        except WorkerDied as error:
            raise EngineStartError(
                f"the cpu engine cannot start: {error}; a script of your own needs "
                f'`if __name__ == "__main__":` around its start, as worker processes import it'
            ) from error
        except PageError as error:
            raise EngineStartError(f"the cpu engine cannot read its warm-up page: {error}") from error
        self.info = replace(self.info, scripts=scripts)
        self._state = "ready"

    async def recognize(
        self,
        page: PageImage,
        options: Options,
        on_text: Callable[[str], None] | None = None,  # noqa: ARG002 - all at once
    ) -> Completion:
        """Read one page; the time limit makes it come back cut off (`length`), or at last as `WorkerTimeout`."""
        if options.task not in READING_TASKS:
            raise ValueError(f"the cpu engine only reads, it cannot do {options.task!r}")
        started = time.perf_counter()
        if page.ink == 0:
            return Completion("", "stop", seconds=time.perf_counter() - started)
        if page.pixels is None:
            raise ValueError("the cpu engine needs the pixels of the page")
        reading = await self._pool.run_within(
            self._page_timeout_s, _read, *self._files, page.pixels, BUDGET_SHARE * self._page_timeout_s
        )
        text = "\n\n".join(region.text for region in reading.regions if region.text)
        return Completion(
            text,
            "stop" if reading.complete else "length",
            seconds=time.perf_counter() - started,
            regions=reading.regions,
        )

    async def stop(self) -> None:
        """Kill the worker processes."""
        self._pool.close()
        self._state = "stopped"

    def health(self) -> Health:
        """Ready once the warm-up page was read; processes that die later are replaced one by one."""
        return Health(ok=self._state == "ready", detail=f"{self._state}, {self._pool.size} worker processes at most")

    def pids(self) -> list[int]:
        """Process ids of the workers that run now."""
        return self._pool.pids()


def usable_workers(cgroup: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> int:
    """One worker per core this process may use, as far as its memory goes; at least one.

    Cores are bounded by the CPU affinity and by the quota of the cgroup (v2) or of one above it, memory likewise.
    """
    cores = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for quota, period in _cgroup_limits("cpu.max", cgroup, root):
        cores = min(cores, quota // period)
    for (most,) in _cgroup_limits("memory.max", cgroup, root):
        memory = min(memory, most)
    return max(1, min(cores, memory // WORKER_BYTES))


def _cgroup_limits(name: str, cgroup: Path, root: Path) -> list[list[int]]:
    """The numbers in this file of our cgroup and of those above it, where they set a limit."""
    try:
        own = next(line[3:].strip("/ ") for line in cgroup.read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):  # no cgroup v2
        return []
    limits = []
    for level in (root / own, *(root / own).parents):
        if not level.is_relative_to(root):
            break
        try:
            words = (level / name).read_text().split()
        except OSError:  # the root has no such file, and a container does not see its own path
            continue
        if words[0] != "max":
            limits.append([int(word) for word in words])
    return limits


def _model_files(rec_model: Path | None) -> tuple[Path, Path]:
    """The detection and the recognition model; they are found without importing RapidOCR."""
    spec = util.find_spec("rapidocr")
    folder = Path(spec.origin).parent / "models" if spec is not None and spec.origin else Path()
    return folder / DETECTION_MODEL, rec_model or folder / RECOGNITION_MODEL


def _model_name(files: tuple[Path, Path], *, own: bool) -> str:
    """Another name for whatever gives other results; a model of the operator's own is known by its content."""
    detection, recognition = files
    try:
        package = f"rapidocr-{metadata.version('rapidocr')}"
        content = hashlib.sha256(recognition.read_bytes()).hexdigest()[:12] if own else ""
    except (metadata.PackageNotFoundError, OSError):
        return "missing"  # `start` says what and how to get it
    return f"{package} {LAYOUT} {detection.stem} {recognition.stem}" + (f"@{content}" if own else "")


def _check(files: tuple[Path, Path], *, own: bool) -> None:
    detection, recognition = files
    if own and not recognition.is_file():
        raise EngineStartError(
            f"the recognition model {recognition} does not exist: correct engine.cpu.rec_model, "
            f"or leave it empty for the one that comes with RapidOCR"
        )
    for path in (detection, recognition):
        if not path.is_file():
            raise EngineStartError(
                f"RapidOCR's model {path.name} is missing (looked for {path}): install rapidocr 3.10 again, "
                f"the models are part of its wheel"
            )


# In the worker processes


def _initialize_worker() -> None:
    """One thread for every library that would take more; before any of them is imported."""
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = "1"
    import cv2  # noqa: PLC0415 - not in the daemon's own process

    cv2.setNumThreads(1)
    libc = ctypes.CDLL(None)
    # Other C libraries have none, and old ones refuse so high a threshold: then the second alone would do harm.
    if hasattr(libc, "mallopt") and libc.mallopt(M_MMAP_THRESHOLD, MMAP_BYTES):
        libc.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)


def _warm_up(detection: Path, recognition: Path) -> tuple[str, ...]:
    from deepseek_ocr.recognition import warm_up  # noqa: PLC0415

    return warm_up(detection, recognition)


def _read(detection: Path, recognition: Path, pixels: NDArray[np.uint8], budget_s: float) -> Reading:
    from deepseek_ocr.recognition import read_image  # noqa: PLC0415

    return read_image(detection, recognition, pixels, budget_s)
