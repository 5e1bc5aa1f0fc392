"""What lies in an inbox: which names are documents, what has come and gone since the last look, and samples of files.

Everything here blocks; callers run it in threads.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from daemon.durable import TEMPORARY_PREFIX, refuse_links
from daemon.faults import ENVIRONMENT
from daemon.folders import take_sample

if TYPE_CHECKING:
    from collections.abc import Mapping

    from daemon.job import Sample

#: `x.pdf.done` beside `x.pdf` says that its writer has finished; newer than the file, or it is an earlier one's.
MARKER_SUFFIX = ".done"
#: Never documents: names that writers use while they write, and what systems leave behind.  Dotfiles are covered by
#: the first alternative, `.nfsXXXX` (deleted while open) among them; `*.done` and `*.job.toml` are about documents.
IGNORED_FILES = re.compile(
    r"^[.~]|~$|^(thumbs\.db|desktop\.ini)$"
    r"|\.(part|partial|tmp|temp|crdownload|download|filepart|writing|swp|lck|lock|done|job\.toml)$",
    re.IGNORECASE,
)
IGNORED_FOLDERS = re.compile(
    r"^\.|^(@eadir|#recycle|lost\+found|__macosx|system volume information|\$recycle\.bin)$", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Scan:
    """What a look through an inbox found, against what was known."""

    #: Paths relative to the inbox, by folder and name.
    new: list[str]
    gone: list[str]
    #: Names that are no documents: temporary files, links, pipes.
    ignored: int
    #: Folders that may not be listed.
    closed_folders: list[str]
    #: Known documents beside which a `.done` marker lies.
    marked: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Inventory:
    """The names in an inbox, by folder: the ones known to the watcher."""

    folders: dict[str, set[str]] = field(default_factory=dict)

    def __len__(self) -> int:
        """How many names are known."""
        return sum(map(len, self.folders.values()))

    def __contains__(self, path: object) -> bool:
        """Whether a path is known."""
        folder, name = os.path.split(str(path))
        return name in self.folders.get(folder, ())

    def add(self, path: str) -> None:
        """Know a path."""
        folder, name = os.path.split(path)
        self.folders.setdefault(folder, set()).add(name)

    def discard(self, path: str) -> None:
        """Know it no more."""
        folder, name = os.path.split(path)
        names = self.folders.get(folder, set())
        names.discard(name)
        if not names:
            self.folders.pop(folder, None)


class Gone:
    """Says that a path is no document any more."""


GONE = Gone()


def is_document_path(path: str) -> bool:
    """Whether a path relative to the inbox may name a document, judged by its names alone."""
    *folders, name = path.split("/")
    return not IGNORED_FILES.search(name) and not any(IGNORED_FOLDERS.search(folder) for folder in folders)


def scan(inbox: Path, known: Mapping[str, set[str]]) -> Scan:
    """List all folders of an inbox once; known names cost no more than their place in the listing.

    `known` may change meanwhile, so each folder's names are copied before it is listed: only what was known then and
    is not listed is gone.  A path that is claimed in that time may be reported as new, and is found gone when it is
    sampled.
    """
    new: list[str] = []
    gone: list[str] = []
    ignored = 0
    closed: list[str] = []
    marked: list[str] = []
    not_listed = set(known)
    folders = [""]
    while folders:
        folder = folders.pop()
        not_listed.discard(folder)
        names = frozenset(known.get(folder, ()))
        seen: set[str] = set()
        found: list[str] = []
        subfolders: list[str] = []
        prefix = folder + "/" if folder else ""
        try:
            with os.scandir(inbox / folder) as entries:
                for entry in entries:
                    name = entry.name
                    if name in names:
                        seen.add(name)
                    elif entry.is_dir(follow_symlinks=False):
                        if IGNORED_FOLDERS.search(name):
                            ignored += 1
                        else:
                            subfolders.append(name)
                    elif not IGNORED_FILES.search(name) and entry.is_file(follow_symlinks=False):
                        found.append(name)
                    elif not name.startswith(TEMPORARY_PREFIX):
                        ignored += 1
                        if name.endswith(MARKER_SUFFIX) and name.removesuffix(MARKER_SUFFIX) in names:
                            marked.append(prefix + name.removesuffix(MARKER_SUFFIX))
        except OSError:
            if not folder:
                raise
            if os.path.lexists(inbox / folder):
                closed.append(folder)
                seen = set(names)
        new += [prefix + name for name in sorted(found)]
        gone += [prefix + name for name in names - seen]
        folders += [prefix + name for name in sorted(subfolders, reverse=True)]
    gone += [f"{folder}/{name}" for folder in not_listed for name in frozenset(known.get(folder, ()))]
    return Scan(new, gone, ignored, closed, marked)


def sample_files(inbox: Path, paths: list[str]) -> list[tuple[Sample | Gone | None, bool]]:
    """For each path its sample (None: it cannot be opened) and whether a `.done` marker says that it is complete."""
    return [_sample_file(inbox, path) for path in paths]


def _sample_file(inbox: Path, relative: str) -> tuple[Sample | Gone | None, bool]:
    path = inbox / relative
    try:
        refuse_links(inbox, Path(relative))
        sample = take_sample(path)
    except PermissionError:
        return None, False
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return GONE, False
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.ENXIO}:  # it has become a link, or is a socket
            return GONE, False
        if error.errno in ENVIRONMENT:
            raise
        return None, False  # its own fault: a bad sector, or a writer on SMB that shares it with nobody
    return sample, _is_marked(path, sample)


def _is_marked(path: Path, sample: Sample) -> bool:
    """Whether there is a marker of this file, and not one that an earlier file of the name left behind."""
    try:
        marker = os.lstat(f"{os.fspath(path)}{MARKER_SUFFIX}")
    except OSError:  # also a name that has no room for the suffix
        return False
    return stat.S_ISREG(marker.st_mode) and marker.st_mtime_ns >= sample.mtime_ns
