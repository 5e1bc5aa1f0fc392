"""Gives failed originals back to the inbox, where they are found like any new file.

Works beside a running service.  The order is safe: the original first, then the ledger, then the reason beside it; a
crash between them leaves the document found, and at worst counted twice (as failed, its original collected).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from daemon.durable import exists, make_folders, move, read_json
from daemon.ledger import FILE_NAME, Entry, connect, entries, mark_retried
from daemon.outputs import display
from daemon.roots import Root

if TYPE_CHECKING:
    from pathlib import Path

    from daemon.config import Settings


@dataclass(frozen=True, slots=True)
class Retried:
    """What became of a request."""

    #: (name in failed/, path in the inbox) of each document.
    given_back: list[tuple[str, str]]
    #: Names that were asked for and that no failed original has.
    unmatched: list[str]
    #: Inboxes whose share is not there, with the reason: what failed in them was not looked at.
    skipped: dict[str, str]


def retry(settings: Settings, *, names: tuple[str, ...], everything: bool, reason: str | None) -> Retried:
    """Give back what is asked for.  A name is the path in failed/, or its last part, or the job's id."""
    given_back: list[tuple[str, str]] = []
    unmatched = dict.fromkeys(names)
    skipped: dict[str, str] = {}
    connection = connect(settings.service.state_dir / FILE_NAME, create=False)
    try:
        for inbox in settings.inbox:
            root = Root(inbox)
            root_id = _root_id(root, skipped)
            if root_id is None:
                continue
            # The newest first: where a name was used again, the file that has it now is the newest document's.
            newer: set[str] = set()
            for entry in reversed(entries(connection, root_id, "failed")):
                by_name = entry.name not in newer
                newer.add(entry.name)
                source = _original(root, entry, by_name=by_name)
                named = _words(entry) & set(names)
                wanted = everything or reason == entry.reason or named
                if entry.retried_at is not None or not wanted or source is None:
                    continue
                target = _free_path(root, entry)
                make_folders(root.inbox, target.parent.relative_to(root.inbox))
                move(source, target)
                mark_retried(connection, entry.job_id, time.time())
                for suffix in (".error.json", ".error.txt") if by_name else ():  # else they are the newer one's
                    (root.failed / f"{entry.name}{suffix}").unlink(missing_ok=True)
                given_back.append((display(entry.name), display(str(target.relative_to(root.inbox)))))
                for name in named:
                    unmatched.pop(name, None)
    finally:
        connection.close()
    return Retried(given_back, list(unmatched), skipped)


def _root_id(root: Root, skipped: dict[str, str]) -> str | None:
    """The id of a root; None, with the reason in `skipped`, where it is not there."""
    try:
        marker = read_json(root.marker)
    except OSError as error:
        skipped[root.name] = f"{root.path}: {error.strerror or error}"
        return None
    if marker is None:
        skipped[root.name] = f"{root.path} has no {root.marker.name}: it is not mounted, or was never used"
        return None
    return str(marker.get("root_id"))


def failed_names(settings: Settings) -> list[str]:
    """Every name in failed/ that `retry` takes."""
    return [
        str(path.relative_to(Root(inbox).failed)).removesuffix(".error.json")
        for inbox in settings.inbox
        for path in Root(inbox).failed.rglob("*.error.json")
    ]


def _original(root: Root, entry: Entry, *, by_name: bool) -> Path | None:
    """Where a failed original lies: under its job's id if somebody else's file had the name (`Folders.finish`).

    `by_name`: no newer document has had the name since.
    """
    place = root.failed / entry.name
    by_job = [place.with_name(entry.job_id + suffix) for suffix in (place.suffix.lower(), ".bin")]
    return next(filter(exists, (*by_job, *[place] * by_name)), None)


def _words(entry: Entry) -> set[str]:
    """What a person may call it."""
    return {entry.job_id, entry.name, display(entry.name), PurePosixPath(entry.name).name, display(entry.path)}


def _free_path(root: Root, entry: Entry) -> Path:
    """Where it was dropped, or beside it if a new file has that name."""
    wanted = root.inbox / entry.path
    number = 2
    path = wanted
    while exists(path):
        path = wanted.with_name(f"{wanted.stem}~{number}{wanted.suffix}")
        number += 1
    return path
