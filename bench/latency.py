"""From the close of the writer to the claim, on a local disk.

Bar: median within settle_s + 0.5 s.  Files are written in pieces over half a second, as a copy over a network is.  The
baseline is the bare loop that anybody would write: it looks at every file with open and fstat ten times a second and
takes what has not changed for settle_s.  One writer writes each file twice, for the service and for the loop.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from typing import TYPE_CHECKING

from bench.service import service

if TYPE_CHECKING:
    from pathlib import Path

SETTLE_S = 1.0
POLL_S = 0.1
BAR_S = 0.5


class Loop(threading.Thread):
    """The bare loop, on a folder of its own; nothing is claimed."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self._folder = folder
        self._stopped = threading.Event()
        #: Name -> when it would have been taken.
        self.taken_at: dict[str, float] = {}

    def run(self) -> None:
        """Look, until stopped."""
        seen: dict[str, tuple[tuple[int, int, int], float]] = {}
        while not self._stopped.wait(POLL_S):
            for name in {path.name for path in self._folder.iterdir()} - self.taken_at.keys():
                with (self._folder / name).open("rb") as file:
                    status = os.fstat(file.fileno())
                now = time.time()
                sample = (status.st_size, status.st_mtime_ns, status.st_ino)
                if name not in seen or seen[name][0] != sample:
                    seen[name] = (sample, now)
                elif now - seen[name][1] >= SETTLE_S:
                    self.taken_at[name] = now

    def stop(self) -> None:
        """End."""
        self._stopped.set()
        self.join()


def write(paths: tuple[Path, Path]) -> float:
    """Write a file at both places, piece by piece; when it was closed."""
    with paths[0].open("wb") as one, paths[1].open("wb") as other:
        for _ in range(5):
            time.sleep(0.1)
            for file in (one, other):
                file.write(b"x" * 1000)
                file.flush()
    return time.time()


def show(name: str, delays: list[float]) -> float:
    """Print what is beyond settle_s; the median of it."""
    beyond = sorted(delay - SETTLE_S for delay in delays)
    median = beyond[len(beyond) // 2]
    print(f"{name}  median {median:+.3f} s beyond settle_s, worst {beyond[-1]:+.3f} s, {len(beyond)} files")
    return median


def main() -> int:
    """One file after the other; 1 if it is above the bar."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=20)
    count = parser.parse_args().files
    with service(ENGINE__BACKEND="textlayer", WATCH__SETTLE_S=SETTLE_S) as one:
        one.start()
        beside = one.folder / "loop"
        beside.mkdir()
        loop = Loop(beside)
        loop.start()
        names = [f"{number}.pdf" for number in range(count)]
        closed = {name: write((one.root / "inbox" / name, beside / name)) for name in names}
        one.wait(lambda: one.finished() == count, 60, "all files have ended")
        one.wait(lambda: len(loop.taken_at) == count, 60, "the loop has taken all files")
        loop.stop()
        claimed_at = {line["name"]: line["claimed_at"] for line in one.accounts()}
    median = show(f"service (bar +{BAR_S})", [claimed_at[name] - closed[name] for name in names])
    show("bare loop     ", [loop.taken_at[name] - closed[name] for name in names])
    return int(median > BAR_S)


if __name__ == "__main__":
    sys.exit(main())
