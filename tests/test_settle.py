"""Which files have stopped growing: a table of histories, and any history at all."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.job import Sample
from daemon.settle import PARKED_SHARE, Settler, Verdict

SETTLE_S, MAX_SETTLE_S = 3.0, 60.0
SMALL, LARGE, EMPTY = Sample(10, 1, 7), Sample(20, 2, 7), Sample(0, 1, 7)
WAIT, SETTLED = Verdict.WAIT, Verdict.SETTLED

#: Name -> samples of one file as (time, sample, verdict); None = it may not be read.
HISTORIES: dict[str, list[tuple[float, Sample | None, Verdict]]] = {
    "quiet": [(0, SMALL, WAIT), (3, SMALL, SETTLED)],
    "quiet, looked at often": [(0, SMALL, WAIT), (1, SMALL, WAIT), (2.9, SMALL, WAIT), (3, SMALL, SETTLED)],
    "looked at late": [(0, SMALL, WAIT), (50, SMALL, SETTLED)],
    "grows, then quiet": [(0, SMALL, WAIT), (2, LARGE, WAIT), (4, LARGE, WAIT), (5, LARGE, SETTLED)],
    "grows between two late looks": [(0, SMALL, WAIT), (50, LARGE, WAIT), (53, LARGE, SETTLED)],
    "same size, other time": [(0, SMALL, WAIT), (3, Sample(10, 9, 7), WAIT), (6, Sample(10, 9, 7), SETTLED)],
    "replaced by another file": [(0, SMALL, WAIT), (3, Sample(10, 1, 8), WAIT), (6, Sample(10, 1, 8), SETTLED)],
    "back to an earlier state": [(0, SMALL, WAIT), (1, LARGE, WAIT), (3, SMALL, WAIT), (6, SMALL, SETTLED)],
    "empty": [(0, EMPTY, WAIT), (3, EMPTY, WAIT), (59, EMPTY, WAIT), (60, EMPTY, Verdict.EMPTY)],
    "empty, then written": [(0, EMPTY, WAIT), (59, SMALL, WAIT), (62, SMALL, SETTLED)],
    "emptied": [(0, SMALL, WAIT), (2, EMPTY, WAIT), (61, EMPTY, WAIT), (62, EMPTY, Verdict.EMPTY)],
    "not permitted": [(0, None, WAIT), (59, None, WAIT), (60, None, Verdict.NO_PERMISSION)],
    "permitted late": [(0, None, WAIT), (59, SMALL, WAIT), (61, SMALL, WAIT), (62, SMALL, SETTLED)],
    "forbidden meanwhile": [(0, SMALL, WAIT), (2, None, WAIT), (4, SMALL, WAIT), (7, SMALL, SETTLED)],
}


@pytest.mark.parametrize("history", HISTORIES.values(), ids=HISTORIES)
def test_histories(history: list[tuple[float, Sample | None, Verdict]]) -> None:
    """Each sample of a file gets the verdict of the table, and after a release it is forgotten."""
    settler = Settler(SETTLE_S, MAX_SETTLE_S)
    settler.touch("x", history[0][0])
    for now, sample, expected in history:
        assert "x" in settler
        assert settler.observe("x", sample, now) is expected
    assert "x" not in settler
    assert not len(settler)


def test_a_slow_look_counts_from_its_end_to_the_beginning_of_the_next() -> None:
    """Samples lie as far apart as is certain: a share that stalls makes no file look quiet for longer than it was."""
    settler = Settler(SETTLE_S, MAX_SETTLE_S)
    settler.touch("closed", 0)
    assert settler.observe("closed", None, 0, MAX_SETTLE_S + 1) is WAIT
    assert settler.observe("closed", None, MAX_SETTLE_S + 1, MAX_SETTLE_S + 2) is WAIT
    assert settler.observe("x", SMALL, 0, 10) is WAIT
    settler.touch("x", 11)
    assert settler.observe("x", SMALL, 11, 30) is WAIT
    assert settler.next_due() == 10 + SETTLE_S
    assert settler.observe("x", SMALL, 30, 31) is SETTLED


MARKED: dict[str, tuple[Sample | None, Verdict]] = {
    "written": (SMALL, SETTLED),
    "empty": (EMPTY, WAIT),
    "not permitted": (None, WAIT),
}


@pytest.mark.parametrize(("sample", "expected"), MARKED.values(), ids=MARKED)
def test_a_marker_releases_at_once(sample: Sample | None, expected: Verdict) -> None:
    """A `.done` marker releases a file at its first sample, if there is something in it."""
    settler = Settler(SETTLE_S, MAX_SETTLE_S)
    settler.touch("x", 0)
    assert settler.observe("x", sample, 0, complete=True) is expected


def test_a_file_is_due_when_it_could_have_settled() -> None:
    """After a sample the next look is when it can settle, not before; an event asks for one now."""
    settler = Settler(SETTLE_S, MAX_SETTLE_S)
    assert settler.next_due() is None
    settler.touch("x", 10)
    assert settler.due(10) == ["x"]
    settler.observe("x", SMALL, 10)
    assert (settler.due(12.9), settler.next_due()) == ([], 13)
    settler.touch("x", 11)
    assert settler.due(11) == ["x"]
    settler.observe("x", SMALL, 11)  # an event without a change does not start the clock anew
    assert settler.next_due() == 13


def test_an_empty_file_is_looked_at_ever_more_rarely() -> None:
    """Thousands of empty or unreadable files cost little, an event asks for a look at once, and the end is in time."""
    settler = Settler(SETTLE_S, 600)
    settler.touch("x", 0)
    assert settler.parked == 0
    looks = [0.0]
    while settler.observe("x", EMPTY, looks[-1]) is WAIT:
        assert settler.parked == 1
        looks.append(settler.next_due() or 0.0)
    assert (looks[1], looks[-1]) == (SETTLE_S, 600)
    assert len(looks) < 25
    settler.touch("y", 700)
    settler.observe("y", EMPTY, 700)
    settler.observe("y", EMPTY, 800)
    settler.touch("y", 801)
    assert settler.due(801) == ["y"]
    settler.observe("y", SMALL, 801)
    assert (settler.parked, settler.next_due()) == (0, 804)


def test_a_forgotten_file_is_not_due() -> None:
    """A file that is gone is not followed, and starts from the beginning if it comes back."""
    settler = Settler(SETTLE_S, MAX_SETTLE_S)
    settler.touch("x", 0)
    settler.observe("x", SMALL, 0)
    settler.forget("x")
    settler.forget("x")
    assert settler.due(99) == []
    settler.touch("x", 99)
    assert settler.observe("x", SMALL, 99) is WAIT


def test_a_shorter_settle_time_counts_from_now_on() -> None:
    """A reload changes the times of files that are followed already."""
    settler = Settler(60, MAX_SETTLE_S)
    settler.touch("x", 0)
    settler.observe("x", SMALL, 0)
    settler.settle_s = 1
    assert settler.observe("x", SMALL, 1) is SETTLED


def test_unreadable_names_what_could_not_be_opened() -> None:
    """The status names a file whose last sample was refused, not one that nobody has tried yet."""
    settler = Settler(SETTLE_S, MAX_SETTLE_S)
    for name, sample in (("closed", None), ("open", SMALL)):
        settler.touch(name, 0)
        settler.observe(name, sample, 0)
    settler.touch("new", 1)
    assert settler.unreadable(1) == ["closed"]


# Any order of events, writes and looks


@st.composite
def journeys(draw: st.DrawFn) -> list[tuple[str, Any]]:
    """Steps of a file's life as a daemon sees it: time passes, it is written to, an event comes, it is looked at."""
    return draw(
        st.lists(
            st.one_of(
                st.tuples(st.just("wait"), st.floats(0, 2 * SETTLE_S, allow_nan=False)),
                st.tuples(st.just("write"), st.sampled_from([EMPTY.size, 1, 5])),
                st.tuples(st.just("event"), st.none()),
                st.tuples(st.just("look"), st.none()),
                st.tuples(st.just("forbid"), st.booleans()),
            ),
            max_size=60,
        )
    )


@given(journeys())
@settings(max_examples=300)
def test_a_changing_file_is_never_released_and_a_quiet_one_exactly_once(steps: list[tuple[str, Any]]) -> None:
    """Whatever the order of writes, events and looks: a release means `settle_s` of looks without change."""
    settler = Settler(SETTLE_S, MAX_SETTLE_S)
    now, version, size, forbidden = 100.0, 0, 1, False
    #: When the present content was first seen, as the file's own state.
    seen: tuple[Sample | None, float] | None = None
    settler.touch("x", now)
    released: list[int] = []
    for kind, value in steps:
        if kind == "wait":
            now += value
        elif kind == "write":
            version, size = version + 1, value
        elif kind == "forbid":
            forbidden = value
        elif kind == "event" and "x" in settler:
            settler.touch("x", now)
            assert "x" in settler.due(now)
        elif kind == "look" and "x" in settler:
            sample = None if forbidden else Sample(size, version, 7)
            if seen is None or seen[0] != sample:
                seen = (sample, now)
            verdict = settler.observe("x", sample, now)
            if verdict is SETTLED:
                assert sample is not None
                assert sample.size > 0
                assert now >= seen[1] + SETTLE_S
                released.append(version)
            elif verdict is WAIT:
                due = settler.next_due()
                assert due is not None
                assert now < due <= now + max(SETTLE_S, (now - 100) * PARKED_SHARE)
                assert sample is None or sample.size == 0 or now < seen[1] + SETTLE_S
    assert len(released) <= 1

    # From now on nobody writes: looked at whenever it is due, it is released within the time, and only once.
    forbidden, size, start = False, 5, now
    if "x" in settler:
        settler.touch("x", now)
    for _ in range(8):
        if "x" not in settler:
            break
        now = max(now, settler.next_due() or now)
        if settler.observe("x", Sample(size, version + 1, 7), now) is SETTLED:
            released.append(version + 1)
    assert now <= start + 3 * SETTLE_S
    assert len(released) == 1 or (not released and "x" not in settler)  # released as hopeless before
    assert settler.due(now + 1e6) == []
