"""What a slow share costs: one-page documents through the service, every fsync longer, against the disk as it is.

Bar: nine tenths of the documents a second where an fsync takes 100 ms longer.  A card reads 30 pages of print a second,
hundreds at once; in its place an engine waits, and says what the file says, so that a disk that keeps up is given 30
documents a second.  The ledger, which is not on the share, is as quick as ever.  Prints the ratio first.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.journey import has_finished, write_documents
from bench.service import service
from deepseek_ocr.engine import textlayer

if TYPE_CHECKING:
    from collections.abc import Callable

    from deepseek_ocr.completion import Completion, PageImage
    from deepseek_ocr.prompt import Options

BAR = 0.9
#: Milliseconds that every fsync takes longer; the last has the bar.
DELAYS_MS = (0, 30, 100)
#: Pages at once, and seconds until each is read, at least and at most: 30 a second.
AT_ONCE, PAGE_S = 300, (5.0, 15.0)
DOCUMENTS = 1200
#: Between these shares of the documents the rate is taken: the first are claimed before them, and few are left behind.
FROM, TO = 0.25, 0.7
#: Names the delay for the service's process.
DELAY = "BENCH_FSYNC_MS"


class WaitingEngine(textlayer.TextLayerEngine):
    """Takes its time over each page, as a card that reads many at once does."""

    def __init__(self) -> None:
        super().__init__()
        self.info = replace(self.info, capacity=AT_ONCE)
        self._chosen = random.Random(1)  # noqa: S311 - times, not secrets

    async def recognize(
        self, page: PageImage, options: Options, on_text: Callable[[str], None] | None = None
    ) -> Completion:
        """The text layer of the page, later."""
        await asyncio.sleep(self._chosen.uniform(*PAGE_S))
        return await super().recognize(page, options, on_text)


def delay_fsync(seconds: float) -> None:
    """Make every fsync of this process slow."""
    fsync = os.fsync

    def slow(fd: Any) -> None:
        time.sleep(seconds)
        fsync(fd)

    os.fsync = slow


def rate(documents: Path, delay_ms: int) -> float:
    """Documents a second in the middle of a run."""
    os.environ[DELAY] = str(delay_ms)
    with service(module="bench.slow_disk", ENGINE__BACKEND="textlayer", WATCH__SETTLE_S=1.0) as one:
        one.start()
        for path in sorted(documents.iterdir()):
            shutil.copyfile(path, one.root / path.name)
        for path in sorted(documents.iterdir()):
            (one.root / path.name).rename(one.root / "inbox" / path.name)
        marks = []
        for share in (FROM, TO):
            one.wait(partial(has_finished, one, int(share * DOCUMENTS)), 600, "documents are done")
            marks.append((time.perf_counter(), one.finished()))
        one.wait(partial(has_finished, one, DOCUMENTS), 600, "all documents are done")
        assert {account["status"] for account in one.accounts()} == {"done"}
    (begun, before), (ended, after) = marks
    return (after - before) / (ended - begun)


def main() -> int:
    """Print the ratio and what it is made of."""
    with tempfile.TemporaryDirectory(prefix="ocr-daemon-bench-") as temporary:
        documents = Path(temporary)
        write_documents(documents, DOCUMENTS)
        rates = [rate(documents, delay) for delay in DELAYS_MS]
    ratio = rates[-1] / rates[0]
    print(f"ratio {ratio:.2f} (bar {BAR})")
    for delay, found in zip(DELAYS_MS, rates, strict=True):
        print(f"every fsync {delay:3} ms longer: {found:.1f} documents/s")
    return 0 if ratio >= BAR else 1


if __name__ == "__main__":
    if "run" in sys.argv:
        from daemon.cli import main as command

        delay_fsync(float(os.environ[DELAY]) / 1000)
        textlayer.TextLayerEngine = WaitingEngine  # type: ignore[misc]
        sys.exit(command())
    sys.exit(main())
