"""Accounts for every document: what the ledger says against what lies in the folders.

    seen = done + partial + failed + ignored + pending

Seen is the ledger and the inbox.  Outputs and originals that users took away after completion are collected, not
missing.  Everything that cannot be explained is a difference, also a share that cannot be read.  It reads only, and
works beside a running service; a document that moves while it is looked at is looked at again.
"""

from __future__ import annotations

import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daemon.durable import read_json
from daemon.folders import JOB_FILE
from daemon.ledger import FILE_NAME, Entry, connect, entries, known_root
from daemon.names import MANIFEST_SUFFIX
from daemon.outputs import display, last_lines
from daemon.roots import MARKER, Root
from daemon.scan import is_document_path, scan

if TYPE_CHECKING:
    import sqlite3

    from daemon.config import Settings

#: A difference that is still there after so many looks, so far apart, is one.
LOOKS = 3
LOOK_AGAIN_S = 0.5


@dataclass(slots=True)
class Balance:
    """The account of one inbox."""

    inbox: str
    root: str
    done: int = 0
    partial: int = 0
    failed: int = 0
    #: In the inbox and never a document: temporary names, links.
    ignored: int = 0
    #: In the inbox, or claimed and not finished.
    pending: int = 0
    #: Documents whose original or outputs users have taken away.
    collected: int = 0
    #: Documents and ignored names that the ledger and the inbox know of.
    seen: int = 0
    #: Why there is no account of this inbox; it is its only difference then.
    error: str = ""
    differences: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return asdict(self)


def audit(settings: Settings, *, look_again_s: float = LOOK_AGAIN_S) -> list[Balance]:
    """The account of every configured inbox; raises `OSError` or `sqlite3.Error` if the ledger cannot be read."""
    connection = connect(settings.service.state_dir / FILE_NAME, create=False)
    try:
        return [
            _audit_root(Root(inbox), connection, settings.service.instance_name, look_again_s)
            for inbox in settings.inbox
        ]
    finally:
        connection.close()


def _audit_root(root: Root, connection: sqlite3.Connection, instance: str, look_again_s: float) -> Balance:
    """One account; a share that cannot be read has none, and the others still have theirs."""
    try:
        return _settle(root, connection, instance, look_again_s)
    except OSError as error:
        words = f"{error.strerror or error}: {display(os.fsdecode(error.filename or root.path))}"
        return Balance(root.name, str(root.path), error=words, differences=[f"there is no account: {words}"])


def _settle(root: Root, connection: sqlite3.Connection, instance: str, look_again_s: float) -> Balance:
    balance = _look(root, connection, instance)
    for _ in range(LOOKS - 1):
        if not balance.differences:
            break
        time.sleep(look_again_s)
        again = _look(root, connection, instance)
        again.differences = [difference for difference in again.differences if difference in balance.differences]
        balance = again
    return balance


def _look(root: Root, connection: sqlite3.Connection, instance: str) -> Balance:
    balance = Balance(root.name, str(root.path))
    marker = read_json(root.marker)
    root_id = (marker or {}).get("root_id") or known_root(connection, root.path)
    if root_id is None:
        balance.differences.append(f"{root.path} has no {MARKER}: no service has worked here, or it is not mounted")
        return balance
    if (marker or {}).get("outbox") == os.fspath(root.outbox):
        os.lstat(root.outbox / MARKER)  # raises where a share of its own is not mounted
    # In the order a document moves, so that one on its way is seen twice rather than not at all.
    found = scan(root.inbox, {})
    open_folders = {path.name for path in root.work.iterdir() if path.is_dir()}
    ever = entries(connection, root_id)
    rows = {entry.job_id: entry for entry in ever if entry.retried_at is None}
    done, failed, outbox = _files(root.done), _files(root.failed), _files(root.outbox)

    # A name is free again when users have taken away all of its document, so several may have had it.
    endings: dict[str, set[str]] = {}
    for entry in rows.values():
        endings.setdefault(entry.name, set()).add(entry.status)
    # A reason may outlive its original for a moment, or a killed `retry`; and it may have the name of a document.
    reasons = {f"{entry.name}{suffix}" for entry in ever for suffix in (".error.json", ".error.txt")}
    no_reasons = failed - reasons
    for entry in rows.values():
        in_failed = failed if entry.status == "failed" else no_reasons
        _count(balance, entry, endings[entry.name], root, open_folders, done, in_failed, outbox)
    unknown_jobs = {name for name in open_folders - set(rows) if (root.work / name / JOB_FILE).exists()}
    balance.pending += len(found.new) + len(unknown_jobs)
    balance.ignored = found.ignored
    balance.seen = len(rows) + len(found.new) + found.ignored + len(unknown_jobs)
    explained = balance.done + balance.partial + balance.failed + balance.ignored + balance.pending
    if balance.seen != explained:
        balance.differences.append(f"seen {balance.seen}, explained {explained}")
    _unexplained(balance, rows, done, no_reasons, outbox, unknown_jobs)
    _check_lines(balance, rows, root.outbox / f"manifest-{instance}.jsonl")
    for name in _names(root.staging) - open_folders:
        balance.differences.append(f"staging holds {name}, which is no open job")
    return balance


def _count(
    balance: Balance,
    entry: Entry,
    endings: set[str],
    root: Root,
    open_folders: set[str],
    done: set[str],
    failed: set[str],
    outbox: set[str],
) -> None:
    name = display(entry.name)
    match entry.status:
        case "open":
            if entry.job_id in open_folders:
                balance.pending += 1
            else:
                balance.differences.append(f"{name}: open in the ledger, but {root.work / entry.job_id} is gone")
        case "done" | "partial":
            balance.done += entry.status == "done"
            balance.partial += entry.status == "partial"
            moving = entry.job_id in open_folders
            balance.collected += not moving and (entry.name not in done or f"{entry.name}.md" not in outbox)
            if entry.name in failed and "failed" not in endings:
                balance.differences.append(f"{name}: {entry.status} in the ledger, but the original lies in failed/")
        case "failed":
            balance.failed += 1
            balance.collected += entry.job_id not in open_folders and entry.name not in failed
            if entry.name in done and endings.isdisjoint({"done", "partial"}):
                balance.differences.append(f"{name}: failed in the ledger, but the original lies in done/")
        case other:
            balance.differences.append(f"{name}: unknown status {other!r} in the ledger")


def _unexplained(
    balance: Balance, rows: dict[str, Entry], done: set[str], failed: set[str], outbox: set[str], unknown: set[str]
) -> None:
    """Files that no document accounts for."""
    names = {entry.name for entry in rows.values()}
    jobs = set(rows) | unknown
    balance.differences += [
        f"done/{display(path)}: no document of the ledger" for path in done - names if not _by_job(path, jobs)
    ]
    balance.differences += [
        f"failed/{display(path)}: no document of the ledger" for path in failed - names if not _by_job(path, jobs)
    ]
    balance.differences += [
        f"outbox/{display(path)}: a manifest of no document in the ledger"
        for path in outbox
        if path.endswith(MANIFEST_SUFFIX) and path.removesuffix(MANIFEST_SUFFIX) not in names
    ]


def _check_lines(balance: Balance, rows: dict[str, Entry], path: Path) -> None:
    """Every finished document has its line, as long as users leave the file where it is."""
    try:
        lines = last_lines(path)
    except FileNotFoundError:
        return
    first = min((line.finished_at for line in lines.values()), default=float("inf"))
    for entry in rows.values():
        line = lines.get(entry.job_id)
        if line is not None and entry.status not in {"open", line.status}:
            balance.differences.append(
                f"{display(entry.name)}: {entry.status} in the ledger, {line.status} in {path.name}"
            )
        elif line is None and entry.finished_at is not None and entry.finished_at > first:
            balance.differences.append(f"{display(entry.name)}: {entry.status} in the ledger, no line in {path.name}")


def _files(folder: Path) -> set[str]:
    """Relative paths of all files, without what could never be a document (ours and temporary, `.DS_Store`)."""
    found = set()
    for current, folders, names in os.walk(folder, onerror=_complain):
        folders[:] = [name for name in folders if name != ".staging"]
        inside = os.path.relpath(current, folder)
        prefix = "" if inside == "." else inside + "/"
        found |= {prefix + name for name in names if is_document_path(prefix + name)}
    return found


def _complain(error: OSError) -> None:
    """A folder that cannot be listed is no empty one; one that was just removed is."""
    if not isinstance(error, FileNotFoundError):
        raise error


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if is_document_path(path.name)} if folder.is_dir() else set()


def _by_job(path: str, jobs: set[str]) -> bool:
    """Whether a file is named after a job: what `finish` does where the chosen name was taken by somebody else."""
    return Path(path).stem in jobs
