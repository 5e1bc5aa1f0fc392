"""A real service for the benchmarks: the command as a child process on a root of its own, and what it costs."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PAGE_SIZE = os.sysconf("SC_PAGE_SIZE")
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


class Service:
    """`ocr-daemon run` on `folder/root`."""

    def __init__(self, folder: Path, settings: dict[str, Any], module: str = "daemon") -> None:
        self.folder = folder
        self._module = module
        self.root = folder / "root"
        #: Kept after the run where the environment names a folder for it.
        self.log_path = Path(os.environ.get("BENCH_LOG_DIR", folder)) / "log.jsonl"
        self._environment = {
            **os.environ,
            "OCR_DAEMON__SERVICE__INSTANCE": "bench",
            "OCR_DAEMON__SERVICE__STATE_DIR": str(folder / "state"),
            "OCR_DAEMON__INBOX": json.dumps([{"name": "bench", "root": str(self.root)}]),
            "OCR_DAEMON__LIMITS__MIN_FREE_MB": "0",
            **{f"OCR_DAEMON__{key}": str(value) for key, value in settings.items()},
        }
        (folder / "config.toml").touch()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of the daemon itself."""
        assert self.process is not None
        return self.process.pid

    def start(self) -> None:
        """Start it and wait until it is ready."""
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(  # noqa: S603 - our own command
                [sys.executable, "-m", self._module, "run", "--config", str(self.folder / "config.toml")],
                env=self._environment, stdout=log, stderr=log,
            )  # fmt: skip
        self.wait(lambda: self.events("service.ready"), 300, "the service is ready")

    def stop(self) -> None:
        """Stop it as systemd does."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(60)

    def wait(self, done: Callable[[], object], timeout_s: float, what: str) -> None:
        """Poll until something is true; raises `TimeoutError`."""
        deadline = time.monotonic() + timeout_s
        while not done():
            assert self.process is not None
            if self.process.poll() is not None:
                raise RuntimeError(f"the service ended: {self.log_path.read_text()[-2000:]}")
            if time.monotonic() > deadline:
                raise TimeoutError(what)
            time.sleep(0.05)

    def events(self, name: str) -> list[dict[str, Any]]:
        """Log events of one name, so far."""
        lines = self.log_path.read_bytes().splitlines()
        return [json.loads(line) for line in lines if f'"event": "{name}"'.encode() in line]

    def finished(self) -> int:
        """Documents that have ended."""
        with contextlib.suppress(FileNotFoundError):
            return (self.root / "outbox" / "manifest-bench.jsonl").read_bytes().count(b"\n")
        return 0

    def accounts(self) -> list[dict[str, Any]]:
        """The line of each document that has ended."""
        return [json.loads(line) for line in (self.root / "outbox" / "manifest-bench.jsonl").read_bytes().splitlines()]

    def pids(self) -> list[int]:
        """The daemon and its worker processes."""
        return family(self.pid)

    def memory_parts_mb(self) -> dict[str, float]:
        """Megabytes of the daemon, of vLLM's engine core with its children, of other processes and of the tile memory.

        Pages that processes share are counted once (PSS), wherever they lie.
        """
        parts = {"daemon": pss_mb(self.pid), "engine": 0.0, "workers": 0.0, "tiles": tiles_mb(self.pid)}
        engine: set[int] = set()
        for pid in self.pids()[1:]:
            with contextlib.suppress(OSError):  # ended since
                if b"EngineCore" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    engine.update(family(pid))
        for pid in self.pids()[1:]:
            parts["engine" if pid in engine else "workers"] += pss_mb(pid)
        return parts


def family(pid: int) -> list[int]:
    """A process, and all that descend from it."""
    found, waiting = [], [pid]
    while waiting:
        found.append(waiting.pop())
        # A process is the child of the thread that started it: the engine core of no main thread.
        for children in Path(f"/proc/{found[-1]}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                waiting += map(int, children.read_text().split())
    return found


def pss_mb(pid: int) -> float:
    """Proportional set size of a process in megabytes; 0 if it has ended."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024 / 1e6
    return 0.0


def tiles_mb(pid: int) -> float:
    """Memory of a process's tile memory, which nobody maps, in megabytes."""
    blocks = 0
    for file in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):  # closed since
            blocks += file.stat().st_blocks if "ocr-daemon-tiles" in str(file.readlink()) else 0
    return blocks * 512 / 1e6


def cpu_s(pid: int) -> float:
    """CPU time of a process so far, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK_S


def stolen_s() -> float:
    """Time that this machine wanted a processor and its host gave it to others, in seconds of one core so far."""
    return int(Path("/proc/stat").read_text().split(maxsplit=9)[8]) * TICK_S


@contextlib.contextmanager
def service(*, module: str = "daemon", **settings: Any) -> Iterator[Service]:
    """A service in a temporary folder; started by the caller, stopped and removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="ocr-daemon-bench-"))
    one = Service(folder, settings, module)
    try:
        yield one
    finally:
        one.stop()
        shutil.rmtree(folder, ignore_errors=True)
