"""`ocr-daemon demo`: the whole journey on generated documents, with the real command as a child process."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from daemon import status
from daemon.durable import read_json
from daemon.samples import Sample, write_samples

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from rich.console import Console

#: Says that a folder is ours to delete when the demo runs again.
SENTINEL = ".ocr-daemon-demo"
START_TIMEOUT_S = 60.0
RUN_TIMEOUT_S = 240.0
STOP_TIMEOUT_S = 40.0
SHOWN_LINES = 14

CONFIG = """\
# Made by `ocr-daemon demo`; every key is explained in the config.toml of the project.
[service]
instance = "demo"
state_dir = "state"
[[inbox]]
name = "demo"
root = "root"
[engine]
backend = "cpu"
[watch]
settle_s = 1.0
[limits]
min_free_mb = 50
"""


class DemoError(Exception):
    """The demo did not go as it should; the message says what."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Where one document is in the end."""

    name: str
    expected: str
    #: done | partial | failed | missing, and the slug of a failure.
    found: str
    reason: str
    place: str

    @property
    def right(self) -> bool:
        """Whether it is where it belongs."""
        return self.found == self.expected


def run_demo(folder: Path, console: Console) -> bool:
    """Run it in a folder that is made anew; whether every document came out where it belongs."""
    root = _prepare(folder)
    samples = write_samples(folder / "documents")
    console.print(f"Demo root: [bold]{root}[/bold]  (inbox/ outbox/ done/ failed/)")
    daemon = _start(folder)
    try:
        _wait_ready(daemon, folder, console)
        _drop(samples, folder / "documents", root / "inbox")
        _follow(daemon, folder, root, samples, console)
    finally:
        code = _stop(daemon)
    outcomes = [_outcome(sample, folder / "documents", root) for sample in samples]
    console.print(_table(outcomes))
    _show(root / "outbox" / "two-columns.pdf.md", console)
    if code != 0:
        console.print(f"[red]The daemon ended with exit code {code}; see {folder / 'log.jsonl'}.[/red]")
    return code == 0 and all(outcome.right for outcome in outcomes)


def _prepare(folder: Path) -> Path:
    if folder.exists() and any(folder.iterdir()) and not (folder / SENTINEL).exists():
        raise DemoError(f"{folder} holds something that no demo made; give another --folder")
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "documents").mkdir(parents=True)
    (folder / SENTINEL).touch()
    (folder / "config.toml").write_text(CONFIG, encoding="utf-8")
    return folder / "root"


def _start(folder: Path) -> subprocess.Popen[bytes]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("OCR_DAEMON__")}
    with (folder / "log.jsonl").open("wb") as log:
        return subprocess.Popen(  # noqa: S603 - our own command
            [sys.executable, "-m", "daemon", "run", "--config", str(folder / "config.toml")],
            stdout=log, stderr=log, env=environment, start_new_session=True,
        )  # fmt: skip


def _wait_ready(daemon: subprocess.Popen[bytes], folder: Path, console: Console) -> None:
    with console.status("The daemon starts and its engine reads a warm-up page ..."):
        deadline = time.monotonic() + START_TIMEOUT_S
        while (read_json(folder / "state" / status.FILE_NAME) or {}).get("state") != "ready":
            if daemon.poll() is not None or time.monotonic() > deadline:
                raise DemoError(f"the daemon did not get ready; see {folder / 'log.jsonl'}")
            time.sleep(0.1)
    console.print("The daemon is ready.")


def _drop(samples: Iterable[Sample], documents: Path, inbox: Path) -> None:
    for sample in samples:
        target = inbox / sample.path.relative_to(documents)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(sample.path, target)


def _follow(daemon: subprocess.Popen[bytes], folder: Path, root: Path, samples: list[Sample], console: Console) -> None:
    """Show where everything is until nothing is left in the inbox or at work."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    deadline = time.monotonic() + RUN_TIMEOUT_S
    said = ""
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("documents", total=len(samples))
        while True:
            ended = sum(_outcome(sample, folder / "documents", root).found != "missing" for sample in samples)
            content = read_json(folder / "state" / status.FILE_NAME) or {}
            running = [one for one in content.get("running", []) if one["pages"]]
            pages = ", ".join(f"{one['path']} {one['pages_done']}/{one['pages']}" for one in running)
            progress.update(bar, completed=ended, description="documents" + (f" (reading {pages})" if pages else ""))
            if pages != said and not console.is_terminal:
                said = pages
                console.print(f"{ended} of {len(samples)} documents; reading: {pages or '-'}", soft_wrap=True)
            if ended == len(samples):
                progress.update(bar, description="documents")
                return
            if daemon.poll() is not None:
                raise DemoError(f"the daemon ended by itself; see {folder / 'log.jsonl'}")
            if time.monotonic() > deadline:
                raise DemoError(f"not finished after {RUN_TIMEOUT_S:.0f} s; see {folder / 'log.jsonl'}")
            time.sleep(0.2)


def _stop(daemon: subprocess.Popen[bytes]) -> int:
    if daemon.poll() is None:
        daemon.send_signal(signal.SIGTERM)
        try:
            daemon.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()
    return daemon.returncode


def _outcome(sample: Sample, documents: Path, root: Path) -> Outcome:
    name = str(sample.path.relative_to(documents))
    manifest = read_json(root / "outbox" / f"{name}.manifest.json")
    error = read_json(root / "failed" / f"{name}.error.json")
    if manifest and (root / "done" / name).exists() and (root / "outbox" / f"{name}.md").exists():
        return Outcome(name, sample.expected, manifest["status"], manifest["reason"], f"outbox/{name}.md")
    if error and (root / "failed" / name).exists():
        expected = sample.expected if error["reason"] == sample.reason else f"{sample.expected} ({sample.reason})"
        return Outcome(name, expected, "failed", error["reason"], f"failed/{name}.error.txt")
    return Outcome(name, sample.expected, "missing", "", "")


def _table(outcomes: list[Outcome]) -> Table:
    table = Table("document", "came out as", "look at", "", title="Where everything is", title_justify="left")
    for one in outcomes:
        found = f"{one.found}: {one.reason}" if one.reason else one.found
        table.add_row(
            one.name, found, one.place, "[green]ok[/green]" if one.right else f"[red]not {one.expected}[/red]"
        )
    return table


def _show(path: Path, console: Console) -> None:
    if path.exists():
        lines = path.read_text(encoding="utf-8").splitlines()
        console.print(f"\nThe first lines of [bold]{path}[/bold]:\n")
        for line in lines[:SHOWN_LINES]:
            console.print(f"    {line}", markup=False, highlight=False, soft_wrap=True)
