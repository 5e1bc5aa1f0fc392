"""One inbox's share: how often it is looked at while it is away."""

from __future__ import annotations

from typing import TYPE_CHECKING

from daemon.config import Inbox, Limits, Watch
from daemon.roots import this_owner
from daemon.share import BACKOFF_S, Share

if TYPE_CHECKING:
    from pathlib import Path


async def test_a_share_that_stays_away_is_looked_at_ever_less_often(tmp_path: Path) -> None:
    """The waits grow to the last of them, begin anew only after a time of that length that was well, and then do."""
    now, waits = 0.0, []

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds
        waits.append(seconds)

    share = Share(
        Inbox(name="scans", root=tmp_path / "away"), Watch(), Limits(), owner=this_owner("north"),
        on_found=lambda: None, clock=lambda: now, sleep=sleep,
    )  # fmt: skip

    async def goes_away_after(well_s: float, looks: int) -> list[float]:
        nonlocal now
        share.resume()
        now += well_s
        share.pause("it does not answer")
        del waits[:]
        for _ in range(looks):
            await share.heal()
        assert share.paused
        return waits

    longest = BACKOFF_S[-1]
    assert await goes_away_after(longest + 1, len(BACKOFF_S) + 2) == [*BACKOFF_S, longest, longest]
    assert await goes_away_after(1, 1) == [longest]
    assert await goes_away_after(longest + 1, 2) == [*BACKOFF_S[:2]]
    share.threads.close()
