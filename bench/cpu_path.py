"""Where a page's processor time goes with the `cpu` engine: the whole daemon, against the models alone.

Bar: 1.08 times the models.  Documents of a few A4 pages, born-digital PDFs and scans in PDFs (grey JPEG of 200 dpi,
turned a little, with grain), go through the real daemon with its two recognizers, from the inbox to the manifest, when
every process has read a page already.  What the models themselves (the runs of ONNX Runtime in the recognizer's
processes) take is measured in the same run, as pages cost twice the processor time when something else shares their
core.  The recognizer alone, without the daemon, on the same pages in as many processes, stands beside it.
Prints the ratio first, for each kind of document, then a table of the stages.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from bench import cpu
from bench.cpu_stages import FOLDER, MODELS, STARTING
from bench.service import Service, cpu_s, service
from deepseek_ocr.engine.cpu import _initialize_worker, _model_files
from deepseek_ocr.pages import Limits, load_page
from deepseek_ocr.pages_pdf import mupdf

if TYPE_CHECKING:
    from collections.abc import Sequence

BAR = 1.08
WORKERS = 2
SCAN_DPI = 200
#: Degrees, grey levels (standard deviation) and JPEG quality of a scan.
TURN, GRAIN, QUALITY = 0.4, 6, 80
KINDS = ("born-digital", "scan")


def write_document(path: Path, kind: str, pages: int, seed: int) -> None:
    """A PDF of full pages of prose, with their text or as pictures."""
    with mupdf().open() as document:
        for number in range(pages):
            dice = random.Random(seed + number)  # noqa: S311 - pages, not secrets
            cpu.draw(document, dice, columns=1 + number % 2)
        if kind == "born-digital":
            document.save(path)
            return
        with mupdf().open() as scan:
            for page in document:
                pixmap = page.get_pixmap(dpi=SCAN_DPI, colorspace=mupdf().csGRAY)
                picture = Image.frombytes("L", (pixmap.width, pixmap.height), pixmap.samples)
                picture = picture.rotate(TURN, Image.Resampling.BICUBIC, fillcolor=255)
                grain = np.random.default_rng(seed).normal(0, GRAIN, (picture.height, picture.width))
                grey = np.clip(0.95 * np.asarray(picture, np.float64) + grain, 0, 255).astype(np.uint8)
                file = io.BytesIO()
                Image.fromarray(grey).save(file, "JPEG", quality=QUALITY)
                scan.new_page(width=595, height=842).insert_image(mupdf().Rect(0, 0, 595, 842), stream=file.getvalue())
            scan.save(path)


class Stages:
    """What the clocks of a service have noted."""

    def __init__(self, folder: Path, one: Service) -> None:
        self._folder, self._service = folder, one
        self._seen: dict[Path, int] = {}
        self._cpu_s: dict[int, float] = {}

    def since_last(self) -> dict[str, float]:
        """Seconds of processor time by stage since it was last asked for; the rest of the daemon is one, too."""
        seconds: dict[str, float] = defaultdict(float)
        noted: dict[int, float] = defaultdict(float)
        for path in self._folder.glob("*.jsonl"):
            content = path.read_bytes()
            for line in content[self._seen.get(path, 0) :].splitlines():
                stage, took = json.loads(line)
                seconds[stage] += took
                noted[int(path.stem)] += took
            self._seen[path] = len(content)
        for pid in self._service.pids():
            now = cpu_s(pid)
            rest = now - self._cpu_s.get(pid, 0.0) - noted[pid]
            self._cpu_s[pid] = now
            seconds["rest of the daemon" if pid == self._service.pid else "rest of the workers"] += rest
        return dict(seconds)


def through_daemon(documents: Sequence[Path], warm: Path, folder: Path) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds of processor time by stage until every process has read a page, and for the documents after that."""
    os.environ[FOLDER] = str(folder)
    settings = {"ENGINE__BACKEND": "cpu", "ENGINE__CPU__WORKERS": WORKERS, "WATCH__SETTLE_S": "0.3"}
    with service(module="bench.cpu_stages", **settings) as one:
        stages = Stages(folder, one)
        (one.root / "inbox").mkdir(parents=True)
        shutil.copyfile(warm, one.root / "inbox" / warm.name)
        one.start()
        one.wait(lambda: one.finished() == 1, 600, "the first document is done")
        start = stages.since_last()
        for path in documents:
            shutil.copyfile(path, one.root / "inbox" / path.name)
        one.wait(lambda: one.finished() == 1 + len(documents), 600, "all documents are done")
        time.sleep(0.5)  # what comes after the line
        steady = stages.since_last()
        bad = [line["reason"] for line in one.accounts() if line["status"] != "done"]
        assert not bad, f"pages were cut off at the engine's time limit, so the machine is too busy: {bad}"
        return start, steady


def alone(path: Path, pages: int) -> tuple[float, float]:
    """Processor time of the recognizer over these pages, and of the models within; runs in a process of its own."""
    import onnxruntime  # noqa: PLC0415 - in that process only

    from deepseek_ocr.recognition import read_image  # noqa: PLC0415

    in_models, run = 0.0, onnxruntime.InferenceSession.run

    def clocked(*args: object) -> object:
        nonlocal in_models
        began = time.thread_time()
        try:
            return run(*args)
        finally:
            in_models += time.thread_time() - began

    onnxruntime.InferenceSession.run = clocked
    models = _model_files(None)
    loaded = (load_page(path, index, needs="pixels", limits=Limits()) for index in range(pages))
    images = [page.pixels for page in loaded if page.pixels is not None]
    read_image(*models, images[0], 600)
    in_models, began = 0.0, time.process_time()
    for image in images:
        read_image(*models, image, 600)
    return time.process_time() - began, in_models


def compare(kind: str, documents: int, pages: int, folder: Path) -> float:
    """Print where the time of one kind of document goes; the ratio."""
    paths = [folder / f"{kind}-{number}.pdf" for number in range(documents + 1)]
    for number, path in enumerate(paths):
        write_document(path, kind, pages, seed=100 * number)
    stages = folder / f"{kind}-stages"
    stages.mkdir()
    with ProcessPoolExecutor(WORKERS, multiprocessing.get_context("spawn"), _initialize_worker) as processes:
        beside = [processes.submit(alone, path, pages) for path in paths[1:]]
        whole, models = (sum(times) for times in zip(*(one.result() for one in beside), strict=True))
    start, steady = through_daemon(paths[1:], paths[0], stages)
    count, total = documents * pages, sum(steady.values())
    ratio = total / steady[MODELS]
    print(f"{kind}: ratio {ratio:.3f} (bar {BAR}), {total / count:.2f} s of processor time a page")
    print(f"  recognizer alone: ratio {whole / models:.3f}, {whole / count:.2f} s a page")
    for stage, seconds in sorted(steady.items(), key=lambda item: -item[1]):
        print(f"  {1000 * seconds / count:8.1f} ms a page  {100 * seconds / total:5.1f} %  {stage}")
    first = sum(start.values())
    print(f"  until {pages} pages are read: {first:.1f} s, {start[STARTING]:.1f} of them {STARTING}")
    return ratio


def main() -> int:
    """Both kinds; 1 if one is above the bar."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--documents", type=int, default=4)
    parser.add_argument("--pages", type=int, default=3)
    parser.add_argument("--kind", choices=KINDS)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="ocr-daemon-bench-"))
    try:
        kinds = [options.kind] if options.kind else KINDS
        ratios = [compare(kind, options.documents, options.pages, folder) for kind in kinds]
        return int(max(ratios) > BAR)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
