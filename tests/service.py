"""The real command as a child process, with a real notify socket: `python -m daemon run`."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

from daemon.durable import TEMPORARY_PREFIX
from tests.conftest import wait_until
from tests.drop_root import DropRoot
from tests.fakes import FakeServiceManager

REPOSITORY = Path(__file__).parent.parent
#: The two cores of a small machine may be busy with something else: what takes 5 s alone may take this long.
LIMIT_S = 50.0
#: Root's right to read, write and list everything is taken away (capabilities(7)); the command is a part of Debian.
WITHOUT_OVERRIDE = ("setpriv", "--bounding-set=-dac_override,-dac_read_search") if os.geteuid() == 0 else ()

CONFIG = """\
[service]
instance = "test"
state_dir = "state"
grace_s = {grace_s}
log_level = "debug"
{inboxes}
[engine]
backend = "{backend}"
{engine}
[watch]
settle_s = {settle_s}
settle_network_s = {settle_s}
max_settle_s = {max_settle_s}
rescan_s = {rescan_s}
[limits]
min_free_mb = {min_free_mb}
{limits}
"""
INBOX = """\
[[inbox]]
name = "{name}"
root = "{root}"
keywords = {keywords}
"""


def environment(**variables: str) -> dict[str, str]:
    """The environment without settings of whoever runs the tests, and with these."""
    return {key: value for key, value in os.environ.items() if not key.startswith("OCR_DAEMON")} | variables


def can_drop_override() -> bool:
    """Whether a child can be started for which file permissions hold."""
    return not WITHOUT_OVERRIDE or shutil.which(WITHOUT_OVERRIDE[0]) is not None


def command(
    *arguments: str, cwd: Path = REPOSITORY, timeout_s: float = LIMIT_S, override: bool = True, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run `ocr-daemon` with these arguments to its end; without `override` file permissions hold for it."""
    return subprocess.run(
        [*(() if override else WITHOUT_OVERRIDE), sys.executable, "-m", "daemon", *arguments],
        cwd=cwd, env=environment(**{"PYTHONPATH": str(REPOSITORY)} | variables), capture_output=True, text=True,
        timeout=timeout_s, check=False,
    )  # fmt: skip


class Service:
    """The daemon on a folder of its own: `config.toml`, `state/`, `root/`."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        self.config = folder / "config.toml"
        self.root = DropRoot(folder / "root")
        self.state_dir = folder / "state"
        self.log_path = folder / "log.jsonl"
        self.manager = FakeServiceManager(folder / "notify")
        #: Further roots, by inbox name.
        self.roots: dict[str, DropRoot] = {"default": self.root}
        self.settings = {
            "grace_s": 10, "backend": "textlayer", "settle_s": 0.1, "max_settle_s": 600, "rescan_s": 0.5,
            "min_free_mb": 0, "engine": "", "limits": "", "inboxes": None,
            # They take a process that needs a second to start: a tenth of the time of all these tests.
            "keywords": "false",
        } | settings  # fmt: skip
        self.process: subprocess.Popen[bytes] | None = None
        #: It was killed, perhaps in the middle of a write, and not started since.
        self._cut_off = False
        self._ready_before = 0
        self.write_config()

    def __enter__(self) -> Self:
        """Nothing runs yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing runs any more, and what a kill may leave for the next start to remove is gone."""
        self.kill_group()
        self.manager.__exit__()
        if self._cut_off:
            for path in self.folder.rglob(f"{TEMPORARY_PREFIX}*"):
                path.unlink()

    def write_config(self, **settings: Any) -> None:
        """Write config.toml with these settings changed."""
        self.settings |= settings
        inboxes = self.settings["inboxes"] or "".join(
            INBOX.format(name=name, root=root.path, keywords=self.settings["keywords"])
            for name, root in self.roots.items()
        )
        self.config.write_text(CONFIG.format(**self.settings | {"inboxes": inboxes}), encoding="utf-8")

    # -- its life

    def start(self, *, override: bool = True, **variables: str) -> Self:
        """Start it, and do not wait; without `override` file permissions hold for it, also where it runs as root."""
        assert self.process is None
        self._cut_off = False
        self._ready_before = self.manager.count("READY=1")
        before = () if override else WITHOUT_OVERRIDE
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [*before, sys.executable, "-m", "daemon", "run", "--config", self.config],
                cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                env=environment(**{"NOTIFY_SOCKET": str(self.manager.path)} | variables),
            )  # fmt: skip
        return self

    def ready(self, timeout_s: float = LIMIT_S) -> Self:
        """Wait until it has told the service manager so."""
        wait_until(lambda: self.is_ready or not self.alive, timeout_s, self.tail)
        assert self.alive, self.tail()
        return self

    @property
    def is_ready(self) -> bool:
        """Whether it has said READY since it was started."""
        return self.manager.count("READY=1") > self._ready_before

    @property
    def pid(self) -> int:
        """Of the main process."""
        assert self.process is not None
        return self.process.pid

    @property
    def alive(self) -> bool:
        """Whether the main process runs."""
        return self.process is not None and self.process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the main process alone, as `KillMode=mixed` does."""
        os.kill(self.pid, number)

    def wait(self, timeout_s: float = LIMIT_S) -> int:
        """Wait for its end; the exit code."""
        assert self.process is not None
        wait_until(lambda: not self.alive, timeout_s, self.tail)
        code = self.process.returncode
        self.process = None
        return code

    def stop(self) -> int:
        """SIGTERM and wait; the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """SIGKILL to the main process alone."""
        self._cut_off = True
        self.signal(signal.SIGKILL)
        self.wait()

    def kill_group(self) -> None:
        """SIGKILL to it and all its worker processes."""
        if self.process is not None:
            self._cut_off = True
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def workers(self) -> list[int]:
        """Process ids of the worker processes that run now."""
        pids: list[str] = []
        for file in Path(f"/proc/{self.pid}/task").glob("*/children"):
            with contextlib.suppress(OSError):  # the thread has ended since
                pids += file.read_text().split()
        return [int(pid) for pid in pids if b"resource_tracker" not in _command_line(pid)]

    # -- what it says

    @property
    def status(self) -> dict[str, Any]:
        """Its status file; empty while there is none."""
        try:
            content: dict[str, Any] = json.loads((self.state_dir / "status.json").read_bytes())
        except (FileNotFoundError, ValueError):
            return {}
        return content

    def events(self, name: str = "") -> list[dict[str, Any]]:
        """Log events so far, or those of a name."""
        found = []
        for line in self.log_path.read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                event = json.loads(line)
                if not name or event.get("event") == name:
                    found.append(event)
        return found

    def finished(self, name: str) -> dict[str, Any]:
        """Wait for the log event that ends the job of a document, by its path in the inbox."""

        def event() -> dict[str, Any] | None:
            ends = self.events("job.done") + self.events("job.failed")
            return next((one for one in ends if one["file"] == name), None)

        wait_until(event, LIMIT_S, self.tail)
        return event() or {}

    def tail(self, lines: int = 15) -> str:
        """The end of its log, for messages of failed tests."""
        return "\n".join(self.log_path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])

    # -- what it does

    def output(self, name: str, root: DropRoot | None = None) -> str:
        """Wait until a document has come out whole and its original lies in done/; its Markdown."""
        root = root or self.root
        wait_until((root.done / name).exists, LIMIT_S, self.tail)
        assert (root.outbox / f"{name}.manifest.json").exists()
        return (root.outbox / f"{name}.md").read_text(encoding="utf-8")

    def failure(self, name: str, root: DropRoot | None = None) -> dict[str, Any]:
        """Wait until a document lies in failed/; its error.json."""
        root = root or self.root
        wait_until((root.failed / name).exists, LIMIT_S, self.tail)
        content: dict[str, Any] = json.loads((root.failed / f"{name}.error.json").read_bytes())
        assert (root.failed / f"{name}.error.txt").read_text(encoding="utf-8")
        return content

    def audit(self) -> dict[str, Any]:
        """The account of the default inbox; there must be no difference."""
        result = command("audit", "--json", "--config", str(self.config))
        assert result.returncode == 0, result.stdout + result.stderr
        balance: dict[str, Any] = json.loads(result.stdout)["inboxes"][0]
        return balance


def _command_line(pid: str) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""
