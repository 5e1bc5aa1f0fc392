"""Which files have stopped growing.  Pure: it takes samples and `now`, it opens nothing and knows no clock.

A file is settled when two samples that are `settle_s` apart or more, and all between them, are equal.  It is released
once and then forgotten; whoever claims it compares the sample again.  An empty file, or one that may not be read,
waits `max_settle_s` without change and is then released as hopeless.

Residual risk: a writer that pauses for longer than `settle_s` looks finished.  The comparison after the claim and
before publishing catches what it writes later; a `.done` marker avoids the question.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from daemon.job import Sample


#: A file that has been empty or unreadable for a minute is looked at again after a quarter of it.
PARKED_SHARE = 0.25


class Verdict(StrEnum):
    """What to do with a file that was just sampled."""

    WAIT = "wait"
    SETTLED = "settled"
    EMPTY = "empty"
    """Nothing was written into it for `max_settle_s`."""
    NO_PERMISSION = "no_permission"
    """It could not be opened for `max_settle_s`."""


@dataclass(slots=True)
class _Candidate:
    #: None while it may not be read.
    sample: Sample | None
    #: When it was first seen as it is now.
    since: float
    #: When to look again.
    due: float
    #: Its last sample was refused or empty: it is looked at ever more rarely.
    parked: bool = False
    #: It was looked at.
    sampled: bool = True


class Settler:
    """Follows a number of files; times are seconds of any steady clock."""

    def __init__(self, settle_s: float, max_settle_s: float) -> None:
        self.settle_s = settle_s
        self.max_settle_s = max_settle_s
        self._candidates: dict[str, _Candidate] = {}

    def __len__(self) -> int:
        """How many files are followed."""
        return len(self._candidates)

    def __contains__(self, path: object) -> bool:
        """Whether a file is followed."""
        return path in self._candidates

    @property
    def parked(self) -> int:
        """How many of them are empty or may not be read; they may wait long, and cost little meanwhile."""
        return sum(candidate.parked for candidate in self._candidates.values())

    def touch(self, path: str, now: float) -> None:
        """Something happened to a file, or it is new: look at it now."""
        candidate = self._candidates.get(path)
        if candidate is None:
            self._candidates[path] = _Candidate(None, now, now, sampled=False)
        else:
            candidate.due = now

    def due(self, now: float) -> list[str]:
        """The files to sample now."""
        return [path for path, candidate in self._candidates.items() if candidate.due <= now]

    def next_due(self) -> float | None:
        """When the next file wants to be sampled; None if none is followed."""
        return min((candidate.due for candidate in self._candidates.values()), default=None)

    def unreadable(self, now: float) -> list[str]:
        """Files that could not be opened at their last sample, for the status."""
        return [
            path
            for path, candidate in self._candidates.items()
            if candidate.sample is None and candidate.due > now and candidate.since < now
        ]

    def forget(self, path: str) -> None:
        """The file is gone, or somebody else's business."""
        self._candidates.pop(path, None)

    def observe(
        self, path: str, sample: Sample | None, now: float, seen_at: float | None = None, *, complete: bool = False
    ) -> Verdict:
        """Take in a sample (None: the file may not be read) and say what to do.

        It was taken between `now` and `seen_at`, which may be long on a share that stalls; None = at once.
        `complete`: a marker says that the writer has finished.
        """
        candidate = self._candidates.get(path)
        if candidate is None or not candidate.sampled or candidate.sample != sample:
            since = now if seen_at is None else seen_at
            candidate = _Candidate(sample, since, since)
            self._candidates[path] = candidate
        if self._is_hopeless(candidate, now):
            self.forget(path)
            return Verdict.NO_PERMISSION if sample is None else Verdict.EMPTY
        settled_at = candidate.since + self.settle_s
        if sample is not None and sample.size > 0 and (complete or now >= settled_at):
            self.forget(path)
            return Verdict.SETTLED
        candidate.parked = sample is None or sample.size == 0
        if now < settled_at:
            candidate.due = settled_at
        else:
            later = now + max(self.settle_s, (now - candidate.since) * PARKED_SHARE)
            candidate.due = min(later, candidate.since + self.max_settle_s)
        return Verdict.WAIT

    def _is_hopeless(self, candidate: _Candidate, now: float) -> bool:
        empty = candidate.sample is None or candidate.sample.size == 0
        return empty and now >= candidate.since + self.max_settle_s
