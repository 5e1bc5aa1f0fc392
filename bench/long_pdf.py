"""A long document: 2,800 pages with `textlayer`, against one of 200 pages, and a one-page file dropped meanwhile.

Bars: peak memory of all processes at most 150 MB above that of the 200-page document; the one-page file is done
within three times what it takes alone.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import threading
import time
from typing import TYPE_CHECKING

from bench.service import Service, service
from deepseek_ocr.pages_pdf import mupdf

if TYPE_CHECKING:
    from pathlib import Path

LINES = 45
BAR_MB, BAR_TIMES = 150.0, 3.0


def write_pdf(path: Path, pages: int) -> None:
    """A born-digital PDF with some 3,000 letters a page."""
    document = mupdf().open()
    for number in range(pages):
        page = document.new_page()
        lines = (f"Page {number}, line {line}: what the harbour master wrote that day." for line in range(LINES))
        page.insert_text((72, 72), "\n".join(lines), fontsize=10)
    document.save(path)


class Peak(threading.Thread):
    """The most memory a service took, sampled until stopped."""

    def __init__(self, one: Service) -> None:
        super().__init__(daemon=True)
        self._service = one
        self._stopped = threading.Event()
        self.mb = 0.0

    def run(self) -> None:
        """Sample."""
        while not self._stopped.wait(0.1):
            self.mb = max(self.mb, sum(self._service.memory_parts_mb().values()))

    def stop(self) -> float:
        """End; the peak in megabytes."""
        self._stopped.set()
        self.join()
        return self.mb


def drop(one: Service, source: Path, name: str) -> float:
    """Seconds from a file's arrival to its manifest."""
    target = one.root / "inbox" / name
    shutil.copyfile(source, target)
    began = time.monotonic()
    manifest = one.root / "outbox" / f"{name}.manifest.json"
    one.wait(manifest.exists, 600, name)
    return time.monotonic() - began


def measure(document: Path, small: Path, alone: int) -> tuple[float, list[float], float, float]:
    """Peak memory, times of the small file alone and beside, and the seconds of the document."""
    with service(ENGINE__BACKEND="textlayer", WATCH__SETTLE_S="0.5") as one:
        one.start()
        times = [drop(one, small, f"alone-{number}.pdf") for number in range(alone)]
        peak = Peak(one)
        peak.start()
        shutil.copyfile(document, one.root / "inbox" / "long.pdf")
        one.wait(lambda: any(event["file"] == "long.pdf" for event in one.events("job.claimed")), 60, "the claim")
        began = time.monotonic()
        time.sleep(0.3)
        beside = drop(one, small, "beside.pdf") if alone else 0.0
        running = not (one.root / "outbox" / "long.pdf.manifest.json").exists()
        one.wait((one.root / "outbox" / "long.pdf.manifest.json").exists, 1200, "the long document")
        took = time.monotonic() - began
        if alone and not running:
            print("note: the long document ended before the small one; raise --pages")
        return peak.stop(), times, beside, took


def main() -> int:
    """Both documents, each in a fresh service; 1 if anything is above its bar."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pages", type=int, default=2800)
    pages = parser.parse_args().pages
    with service() as scratch:
        short, long, small = (scratch.folder / name for name in ("short.pdf", "long.pdf", "small.pdf"))
        write_pdf(short, 200)
        write_pdf(long, pages)
        write_pdf(small, 1)
        low, _, _, _ = measure(short, small, 0)
        high, times, beside, took = measure(long, small, 3)
    usual = sorted(times)[len(times) // 2]
    print(f"memory  {high - low:+.0f} MB: {high:.0f} MB for {pages} pages, {low:.0f} MB for 200 (bar +{BAR_MB:.0f})")
    ratio = beside / usual
    print(f"small   {ratio:.2f} x: {beside:.2f} s beside the long document, {usual:.2f} s alone (bar {BAR_TIMES:.0f})")
    print(f"pace    {pages / took:.0f} pages/s")
    return int(high - low > BAR_MB or ratio > BAR_TIMES)


if __name__ == "__main__":
    sys.exit(main())
