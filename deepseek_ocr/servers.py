"""Which of several servers gets the next request: the least loaded of those that are well.

Pure: time comes in, nothing is sent.  What counts as a failure, and whether to try again, is for the caller.
Residual risk: only our own requests are counted; what others ask of the same servers is not seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Seconds that a server is avoided after its first failure; they double with each one after that.
AVOID_S: Final = 5.0
#: The most they become: a server that is back is found again within this time.
MAX_AVOID_S: Final = 300.0


@dataclass(slots=True)
class Server:
    """One server, as our own requests know it."""

    url: str
    #: Requests of ours that it has not answered yet.
    in_flight: int = 0
    #: When it was last chosen, counted in choices: among equals the one that waited longest is next.
    chosen: int = 0
    #: Failures since its last answer; requests that failed together count once.
    failures: int = 0
    failed_at: float = float("-inf")
    #: Until then others are preferred.
    avoided_until: float = float("-inf")
    #: What was wrong last, in words; empty since its last answer.
    problem: str = ""

    def is_well(self, now: float) -> bool:
        """Whether it may be chosen freely; after a failure one request at a time finds out."""
        return self.failures == 0 or (now >= self.avoided_until and self.in_flight == 0)


class Servers:
    """All of them."""

    def __init__(self, urls: Sequence[str]) -> None:
        self.all = tuple(Server(url) for url in urls)
        self._choices = 0

    def take(self, now: float) -> Server:
        """The next server, with one more request in flight: a well one where there is one, else any."""
        candidates = [server for server in self.all if server.is_well(now)] or self.all
        server = min(candidates, key=lambda candidate: (candidate.in_flight, candidate.chosen))
        self._choices += 1
        server.chosen = self._choices
        server.in_flight += 1
        return server

    def any_well(self, now: float) -> bool:
        """Whether the next `take` gives one that is well."""
        return any(server.is_well(now) for server in self.all)

    def answered(self, server: Server) -> None:
        """It works, whatever was before."""
        server.failures, server.problem = 0, ""
        server.avoided_until = float("-inf")

    def failed(self, server: Server, problem: str, *, began: float, now: float, avoid_s: float = 0.0) -> None:
        """Avoid it for a while, for `avoid_s` at least; a request that began before its last failure adds none."""
        if began > server.failed_at or not server.failures:
            server.failures += 1
            server.failed_at = now
        wait_s = min(AVOID_S * 2.0 ** min(server.failures - 1, 16), MAX_AVOID_S)
        server.avoided_until = max(server.avoided_until, server.failed_at + max(wait_s, avoid_s))
        server.problem = problem
