"""The states of a job: the table of steps, legal or not, and the history that goes with them."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from itertools import product

import pytest

from daemon.job import TERMINAL, TRANSITIONS, InvalidTransition, Job, Sample, State, Step, advance, exhausted, uncharged

JOB = Job("20260101T000000-0000000000", "default", "a/x.pdf", "a/x.pdf", Sample(3, 1, 2), claimed_at=5.0)

#: Written out once more, so that a change of the table is a change of two places.
LEGAL = {
    (State.QUEUED, State.RUNNING),
    (State.QUEUED, State.FAILED),
    (State.RUNNING, State.QUEUED),
    (State.RUNNING, State.DONE),
    (State.RUNNING, State.FAILED),
}
PAIRS = list(product(State, State))


@pytest.mark.parametrize(("state", "to"), PAIRS, ids=[f"{state}-{to}" for state, to in PAIRS])
def test_every_pair_of_states(state: State, to: State) -> None:
    """A step of the table leads to the next state with its cause; any other raises and says how the job came."""
    job = replace(JOB, state=state, history=(Step(state, "before"),))
    if (state, to) in LEGAL:
        assert advance(job, to, "now") == replace(job, state=to, history=(Step(state, "before"), Step(to, "now")))
    else:
        with pytest.raises(
            InvalidTransition, match=rf"from {state} to {to} \(now\); it came: {state} \(before\)"
        ) as no:
            advance(job, to, "now")
        assert no.value.history == job.history


def test_terminal_states_are_those_without_a_way_out() -> None:
    """TERMINAL and the table agree."""
    assert {state for state in State if not TRANSITIONS[state]} == TERMINAL


def test_a_new_job_has_no_history() -> None:
    """The message of a refused step says so of a job that has not moved."""
    with pytest.raises(InvalidTransition, match="it came: new"):
        advance(JOB, State.DONE, "too early")


def test_a_step_leaves_the_job_before_it_as_it_was() -> None:
    """Jobs are frozen: the next state is another job."""
    running = advance(JOB, State.RUNNING, "its turn")
    assert (JOB.state, running.state) == (State.QUEUED, State.RUNNING)
    with pytest.raises(FrozenInstanceError):
        running.state = State.DONE  # type: ignore[misc]


@pytest.mark.parametrize(
    ("attempts", "expected"), [(0, False), (2, False), (3, True), (4, True)], ids=["new", "one left", "last", "beyond"]
)
def test_attempts_are_used_up_at_the_limit(attempts: int, expected: bool) -> None:
    """Three attempts are allowed if the limit is three."""
    assert exhausted(replace(JOB, attempts=attempts), 3) is expected


def test_a_solo_run_that_ended_is_not_charged() -> None:
    """What was charged in advance is taken back; what earlier runs cost stays."""
    job = replace(JOB, attempts=2, solo=True)
    assert (uncharged(job).attempts, uncharged(job).solo) == (1, False)
    assert uncharged(replace(JOB, attempts=2)).attempts == 2
