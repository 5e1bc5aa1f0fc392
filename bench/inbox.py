"""A full inbox: 100,000 files in a tree, with the intake paused.

Bars: the first scan under 5 s, the daemon's own memory under 300 MB, an idle rescan under 0.6 s of CPU.  Beside each
stands what a bare `os.scandir` walk of the same tree takes, which no scan can beat.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from bench.service import cpu_s, pss_mb, service

FOLDERS = 100
RESCAN_S = 4.0
RESCANS = 5
BAR_SCAN_S, BAR_MB, BAR_IDLE_S = 5.0, 300.0, 0.6


def fill(inbox: Path, count: int) -> None:
    """So many small files over a hundred folders."""
    for folder in range(FOLDERS):
        (inbox / f"folder-{folder:03}").mkdir(parents=True)
        for number in range(count // FOLDERS):
            (inbox / f"folder-{folder:03}" / f"scan-{number:06}.pdf").write_bytes(b"%PDF-1.4\n")


def walk(folder: Path) -> int:
    """Names below a folder, by bare scandir."""
    names = 0
    for entry in os.scandir(folder):
        names += walk(Path(entry.path)) if entry.is_dir(follow_symlinks=False) else 1
    return names


def main() -> int:
    """Fill, start, look; 1 if anything is above its bar."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=100_000)
    count = parser.parse_args().files
    # More free space than any disk has: the intake pauses, and nothing is claimed.
    with service(
        ENGINE__BACKEND="textlayer", LIMITS__MIN_FREE_MB=10**12, WATCH__RESCAN_S=RESCAN_S, SERVICE__LOG_LEVEL="debug"
    ) as one:
        fill(one.root / "inbox", count)
        began = time.process_time()
        walked = walk(one.root / "inbox")
        bare_s = time.process_time() - began
        assert walked == count
        one.start()
        one.wait(lambda: one.events("watcher.rescanned"), 120, "the first scan")
        first = one.events("watcher.rescanned")[0]
        assert first["known"] == count, first
        time.sleep(2 * RESCAN_S)  # let it settle
        before = cpu_s(one.pid)
        time.sleep(RESCAN_S * RESCANS)
        idle_s = (cpu_s(one.pid) - before) / RESCANS
        memory = pss_mb(one.pid)
    print(
        f"idle rescan  {idle_s:.2f} s of CPU (bar {BAR_IDLE_S}), {idle_s / bare_s:.1f} x a bare walk ({bare_s:.2f} s)"
    )
    print(f"first scan   {first['scan_s']:.2f} s (bar {BAR_SCAN_S:.0f})")
    print(f"memory       {memory:.0f} MB of the daemon itself (bar {BAR_MB:.0f})")
    return int(idle_s > BAR_IDLE_S or first["scan_s"] > BAR_SCAN_S or memory > BAR_MB)


if __name__ == "__main__":
    sys.exit(main())
