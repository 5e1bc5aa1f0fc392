"""Which name a document goes by, so that nothing of one is ever in the way of another.

A name is free if no file that it would give an output, an original or a reason is there, and no open job will write
one.  It is chosen once, at the claim.
"""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from daemon.durable import exists

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from daemon.roots import Root

MANIFEST_SUFFIX = ".manifest.json"
#: The folder of a document's pictures.
IMAGES_SUFFIX = ".images"
#: What publish may write beside a name; `docling` and `content_list` are exports.
OUTPUT_SUFFIXES = (".md", ".json", IMAGES_SUFFIX, ".docling.json", ".content_list.json", ".layout.pdf", MANIFEST_SUFFIX)
#: What a failure writes beside its original.
REASON_SUFFIXES = (".error.json", ".error.txt")
#: What most file systems allow.
LONGEST_NAME_BYTES = 255
#: The longest suffix must fit behind a name, and a ~number before its extension.
MAX_NAME_BYTES = LONGEST_NAME_BYTES - max(len(suffix) for suffix in (*OUTPUT_SUFFIXES, *REASON_SUFFIXES)) - 6


@dataclass(frozen=True, slots=True)
class _Reserved:
    """What an open job will write."""

    files: frozenset[Path]
    #: The subfolders that these need.
    folders: frozenset[Path]


class Names:
    """The names of one root; calls may come from several threads."""

    def __init__(self, root: Root) -> None:
        self._root = root
        self._lock = threading.Lock()
        #: What each open job will write, so that two of them never choose the same.
        self._reserved: dict[str, _Reserved] = {}
        #: By how many of them each is reserved: to look at a thousand open ones took 0.85 ms a claim.
        self._files: Counter[Path] = Counter()
        self._folders: Counter[Path] = Counter()

    def choose(self, job_id: str, path: str) -> str:
        """Reserve `path` itself, or one of `x~2.pdf`, `x~3.pdf`, ... that no earlier document has used."""
        wanted = PurePosixPath(path)
        stem, extension = _shortened(wanted)
        with self._lock:
            parent = self._free_parent(wanted.parent)

            def numbered(number: int) -> PurePosixPath:
                return parent / (f"{stem}{extension}" if number == 1 else f"{stem}~{number}{extension}")

            # In ever longer steps to a free number, then back by halves to one that follows a used one: scanners call
            # every file the same, and looking at all of 5,000 earlier ones took 0.6 s.
            used, free = 0, 1
            while not self._is_free(numbered(free)):
                used, free = free, 2 * free
            while free - used > 1:
                middle = (used + free) // 2
                if self._is_free(numbered(middle)):
                    free = middle
                else:
                    used = middle
            self._reserve(job_id, numbered(free))
            return os.fspath(numbered(free))

    def reserve(self, job_id: str, name: str) -> None:
        """A job that was claimed earlier goes by this name."""
        with self._lock:
            self._reserve(job_id, PurePosixPath(name))

    def release(self, job_id: str) -> None:
        """The job will write nothing more."""
        with self._lock:
            self._release(job_id)

    def _reserve(self, job_id: str, name: PurePosixPath) -> None:
        self._release(job_id)
        reserved = self._reserved[job_id] = self._what_it_writes(name)
        self._files.update(reserved.files)
        self._folders.update(reserved.folders)

    def _release(self, job_id: str) -> None:
        reserved = self._reserved.pop(job_id, None)
        if reserved is not None:
            for counts, paths in ((self._files, reserved.files), (self._folders, reserved.folders)):
                counts.subtract(paths)
                for path in paths:
                    if not counts[path]:
                        del counts[path]

    def _is_free(self, name: PurePosixPath) -> bool:
        files = self._what_it_writes(name).files
        return not any(file in self._files or file in self._folders or exists(file) for file in files)

    def _free_parent(self, parent: PurePosixPath) -> PurePosixPath:
        """The same subfolder, with `~` behind a part whose name is that of a file where folders are needed."""
        free = PurePosixPath()
        for part in parent.parts:
            candidate = free / part
            while any(base / candidate in self._files or _is_no_folder(base / candidate) for base in self._bases):
                candidate = candidate.with_name(candidate.name + "~")
            free = candidate
        return free

    @property
    def _bases(self) -> tuple[Path, ...]:
        return self._root.outbox, self._root.done, self._root.failed

    def _what_it_writes(self, name: PurePosixPath) -> _Reserved:
        parents = [parent for parent in name.parents if parent.parts]
        return _Reserved(
            frozenset(self._traces(name)), frozenset(base / parent for base in self._bases for parent in parents)
        )

    def _traces(self, name: PurePosixPath) -> Iterator[Path]:
        for suffix in OUTPUT_SUFFIXES:
            yield self._root.outbox / f"{name}{suffix}"
        for suffix in ("", *REASON_SUFFIXES):
            yield self._root.failed / f"{name}{suffix}"
        yield self._root.done / name


def _is_no_folder(path: Path) -> bool:
    try:
        return not stat.S_ISDIR(os.lstat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def _shortened(path: PurePosixPath) -> tuple[str, str]:
    """Stem and extension such that every output's name fits; a cut stem carries a hash, so that it stays unique."""
    stem, extension = path.stem, path.suffix
    if len(os.fsencode(path.name)) <= MAX_NAME_BYTES:
        return stem, extension
    digest = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:8]
    extension = extension if len(os.fsencode(extension)) <= 16 else ""  # noqa: PLR2004 - no real one is longer
    room = MAX_NAME_BYTES - len(os.fsencode(extension)) - len(digest) - 1
    cut = os.fsencode(stem)[:room].decode("utf-8", "ignore")
    return f"{cut}~{digest}", extension
