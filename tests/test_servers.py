"""Which server gets the next request."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek_ocr.servers import AVOID_S, MAX_AVOID_S, Server, Servers


def urls(servers: Servers, count: int, now: float = 0.0) -> str:
    """The next choices; all stay in flight."""
    return "".join(servers.take(now).url for _ in range(count))


def test_equals_take_turns() -> None:
    """Servers with as much in flight are chosen in turn."""
    assert urls(Servers("abc"), 7) == "abcabca"


def test_the_least_loaded_is_next() -> None:
    """A server that answers faster gets more, whosever turn it is."""
    servers = Servers("abc")
    urls(servers, 6)
    servers.all[1].in_flight = 0
    assert urls(servers, 3) == "bba"


def test_a_failed_server_is_avoided_while_another_is_well() -> None:
    """After a failure the other one gets everything; when the time is over, one request finds out."""
    servers = Servers("ab")
    bad = servers.take(0)
    bad.in_flight -= 1
    servers.failed(bad, "connection refused", began=0, now=1)
    assert urls(servers, 3, now=1 + AVOID_S - 0.1) == "bbb"
    assert urls(servers, 3, now=1 + AVOID_S) == "abb", "one request only until it has answered"
    servers.answered(bad)
    assert urls(servers, 2, now=1 + AVOID_S) == "aa"


def test_when_none_is_well_any_is_taken() -> None:
    """A request always gets a server: whether to wait is for the caller."""
    servers = Servers("ab")
    for server in servers.all:
        servers.failed(server, "gone", began=0, now=0)
    assert not servers.any_well(1)
    assert urls(servers, 4, now=1) == "abab"


@pytest.mark.parametrize(
    ("failures", "avoid_s", "expected_s"),
    [
        pytest.param([(0, 1)], 0, AVOID_S, id="once"),
        pytest.param([(0, 1), (2, 3)], 0, 2 * AVOID_S, id="again"),
        pytest.param([(0, 1), (0.5, 3)], 0, AVOID_S - 2, id="a-request-from-before-adds-none"),
        pytest.param([(number, number) for number in range(1, 60)], 0, MAX_AVOID_S, id="the-most"),
        pytest.param([(0, 1)], 40, 40, id="as-the-server-asks"),
    ],
)
def test_how_long_a_server_is_avoided(failures: list[tuple[float, float]], avoid_s: float, expected_s: float) -> None:
    """The time doubles with each failure that is a new one, up to a limit, and is never less than asked for."""
    servers = Servers("ab")
    for began, now in failures:
        servers.failed(servers.all[0], "gone", began=began, now=now, avoid_s=avoid_s)
    assert servers.all[0].avoided_until - failures[-1][1] == expected_s


@given(st.lists(st.tuples(st.sampled_from(["take", "answered", "failed"]), st.floats(0, 100)), max_size=60))
def test_a_sick_server_is_never_taken_before_a_well_one(steps: list[tuple[str, float]]) -> None:
    """Whatever happened, the choice is well if any is, and no well one has less in flight."""
    servers, now = Servers("abc"), 0.0
    taken: list[tuple[Server, float]] = []
    for step, seconds in steps:
        now += seconds
        if step == "take" or not taken:
            well = [server for server in servers.all if server.is_well(now)]
            least = min((server.in_flight for server in well), default=None)
            server = servers.take(now)
            taken.append((server, now))
            assert least is None or (server in well and server.in_flight - 1 == least)
            continue
        server, began = taken.pop(0)
        server.in_flight -= 1
        if step == "answered":
            servers.answered(server)
            assert server.is_well(now)
        else:
            servers.failed(server, "gone", began=began, now=now)
            assert server.failures
    assert all(server.in_flight >= 0 for server in servers.all)
