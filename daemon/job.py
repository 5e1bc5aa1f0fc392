"""The life of a job: its states, the one table of allowed steps, and when it may be tried again.  No I/O, no clock.

A job is born when its file is claimed; settling before that belongs to `settle`.  Where it is (`State`) and why it
ended (`reason`) are different things.  Shutdown is no state: an interrupted job takes the same path as a crash.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal

#: The words that people and programs see at the end of a job.
Status = Literal["done", "partial", "failed"]


class State(StrEnum):
    """Where a job is."""

    QUEUED = "queued"
    """Claimed: the source lies in work/<job id>/ and waits for its turn."""
    RUNNING = "running"
    """The source lies in work/<job id>/, checkpoints appear in its pages/."""
    DONE = "done"
    """The output is durable and the source lies in done/; also where some pages could not be read (partial)."""
    FAILED = "failed"
    """The source lies in failed/ with the reason beside it."""


TERMINAL = frozenset({State.DONE, State.FAILED})

#: RUNNING -> QUEUED is the retry, and what an environment fault does without counting an attempt.
TRANSITIONS: dict[State, frozenset[State]] = {
    State.QUEUED: frozenset({State.RUNNING, State.FAILED}),
    State.RUNNING: frozenset({State.QUEUED, State.DONE, State.FAILED}),
    State.DONE: frozenset(),
    State.FAILED: frozenset(),
}


@dataclass(frozen=True, slots=True)
class Step:
    """One change of state and what caused it."""

    state: State
    cause: str


@dataclass(frozen=True, slots=True)
class Sample:
    """What tells whether a file has changed."""

    size: int
    mtime_ns: int
    inode: int


@dataclass(frozen=True, slots=True)
class Job:
    """One claimed document.  Paths are relative, with bytes that are no UTF-8 as surrogates (PEP 383)."""

    job_id: str
    inbox: str
    #: Where the source was, relative to inbox/.
    path: str
    #: The name it goes by from now on, relative to outbox/, done/ and failed/; differs from `path` if that was taken.
    name: str
    #: The source as it was when it was claimed.
    sample: Sample
    #: Unix time, seconds.
    claimed_at: float
    #: Runs that ended the process, or failed for a reason nobody foresaw.
    attempts: int = 0
    #: A run is on its way that counts as an attempt unless a checkpoint or a clean stop takes it back.
    solo: bool = False
    state: State = State.QUEUED
    history: tuple[Step, ...] = ()


class InvalidTransition(Exception):
    """A step that the table does not allow; carries the way the job came."""

    def __init__(self, job: Job, to: State, cause: str) -> None:
        way = " -> ".join(f"{step.state} ({step.cause})" for step in job.history)
        super().__init__(f"job {job.job_id} cannot go from {job.state} to {to} ({cause}); it came: {way or 'new'}")
        self.history = job.history


def advance(job: Job, to: State, cause: str) -> Job:
    """The job in its next state, with the step in its history; raises `InvalidTransition`."""
    if to not in TRANSITIONS[job.state]:
        raise InvalidTransition(job, to, cause)
    return replace(job, state=to, history=(*job.history, Step(to, cause)))


def exhausted(job: Job, max_attempts: int) -> bool:
    """Whether it has used up its attempts and must fail; a solo run on its way, charged in advance, does not count."""
    return job.attempts - job.solo >= max_attempts


def uncharged(job: Job) -> Job:
    """The job without the charge of a solo run, once that run has come to an end without ending the process."""
    return replace(job, attempts=job.attempts - job.solo, solo=False)
