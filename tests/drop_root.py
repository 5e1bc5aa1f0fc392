"""The folders of one inbox as the people who use it see them: what was dropped, and where it is now."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(slots=True)
class DropRoot:
    """The folders of one inbox, as the people who use it see them; nothing is made before it is needed."""

    path: Path
    #: SHA-256 -> path in the inbox, of every document that was dropped and not taken away again.
    dropped: dict[str, str] = field(default_factory=dict)

    @property
    def inbox(self) -> Path:
        """Where documents are dropped."""
        return self.path / "inbox"

    @property
    def work(self) -> Path:
        """Where open jobs are."""
        return self.path / "work"

    @property
    def outbox(self) -> Path:
        """Where results come out."""
        return self.path / "outbox"

    @property
    def done(self) -> Path:
        """Where originals lie that were read."""
        return self.path / "done"

    @property
    def failed(self) -> Path:
        """Where originals lie that were not."""
        return self.path / "failed"

    def drop(self, name: str, content: bytes) -> Path:
        """Put a document into the inbox in one step, as a careful program does; remembers it."""
        path = self.inbox / name
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.part")
        temporary.write_bytes(content)
        self.dropped[digest(content)] = name
        return temporary.rename(path)

    def forget(self, content: bytes) -> None:
        """A document that was taken away or written over on purpose."""
        del self.dropped[digest(content)]

    def places(self) -> dict[str, list[str]]:
        """SHA-256 -> the paths, relative to the root, where that content lies as a source."""
        found = defaultdict(list)
        for base in (self.inbox, self.work, self.done, self.failed):
            for path in _sources(base, in_work=base == self.work):
                with contextlib.suppress(FileNotFoundError):
                    found[digest(path.read_bytes())].append(str(path.relative_to(self.path)))
        return found

    def ended(self) -> tuple[int, int]:
        """How many originals lie in done/ and in failed/."""
        done, failed = (sum(1 for _ in _sources(base, in_work=False)) for base in (self.done, self.failed))
        return done, failed

    def check(self) -> None:
        """Every document that was dropped lies in exactly one place."""
        places = self.places()
        wrong = {name: places.get(key, []) for key, name in self.dropped.items() if len(places.get(key, [])) != 1}
        assert not wrong, f"not in exactly one place: {wrong}"


def digest(content: bytes) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(content).hexdigest()


def _sources(base: Path, *, in_work: bool) -> Iterator[Path]:
    """The sources below a folder.

    A running service clears the folder of a job after its source lies in done/, and what goes away during the look is
    passed over: by `os.walk`, unlike `Path.rglob`, which raises.
    """
    for at, _, names in os.walk(base):
        for name in names:
            path = Path(at, name)
            if in_work:
                is_source = name.startswith("source.")
            else:
                is_source = not name.endswith((".error.json", ".error.txt")) and os.access(path, os.R_OK)
            if is_source and path.is_file():
                yield path
