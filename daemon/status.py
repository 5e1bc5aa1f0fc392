"""What the service says about itself: the status file, and the one line for the service manager.

`status.json` is for the command line and for programs; it is rewritten every two seconds, so its age tells whether
the service lives.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from daemon.durable import read_json
from daemon.outputs import display, iso

if TYPE_CHECKING:
    from pathlib import Path

    from daemon.share import Share
    from daemon.worker import Worker

FILE_NAME = "status.json"
#: How often it is rewritten, and from which age on the service counts as not running.
WRITE_S = 2.0
STALE_S = 10.0
#: Running jobs and waiting files named in it.
MAX_LISTED = 20


def pages_per_s(times: list[float], now: float) -> float:
    """Pages finished per second, over the last minute or the last hundred pages, whichever is shorter."""
    recent = [then for then in times if now - then <= 60]  # noqa: PLR2004 - the minute
    return round(len(recent) / max(now - recent[0], 1.0), 2) if recent else 0.0


def snapshot(
    *, head: dict[str, Any], state: str, pauses: dict[str, str], shares: list[Share], worker: Worker | None,
    totals: dict[str, dict[str, int]], reload_error: str, to_run_alone: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """The content of the status file."""
    now = time.time()
    running = [] if worker is None else sorted(worker.running.values(), key=lambda one: one.job.claimed_at)
    return {
        **head,
        "state": state,
        "written_at": now,
        "written": iso(now),
        "pauses": pauses,
        "reload_error": reload_error,
        "pages_per_s": 0.0 if worker is None else pages_per_s(worker.passes.page_times, time.monotonic()),
        "finished_since_start": {} if worker is None else worker.finished,
        "totals": dict(sum(map(Counter, totals.values()), Counter())),
        "jobs": len(running),
        "to_run_alone": to_run_alone,
        "running": [
            {
                "job_id": one.job.job_id, "inbox": one.job.inbox, "path": display(one.job.path),
                "pages": one.page_count, "pages_done": one.pages_done, "attempts": one.job.attempts,
            }
            for one in running[:MAX_LISTED]
        ],
        "inboxes": [inbox_snapshot(share, running, totals.get(share.root.root_id, {})) for share in shares],
    }  # fmt: skip


def inbox_snapshot(share: Share, running: list[Any], totals: dict[str, int]) -> dict[str, Any]:
    """One inbox in the status file."""
    watcher = share.watcher
    unreadable = dict.fromkeys(watcher.settler.unreadable(time.monotonic()), "may not be read")
    stuck = {path: reason for path, reason in share.stuck_files.items() if path in watcher.inventory}
    waiting = {**unreadable, **stuck}
    return {
        "name": share.name,
        "root": str(share.root.path),
        "filesystem": share.filesystem,
        "events": watcher.events_alive,
        "paused": share.reason,
        "waiting": len(watcher.inventory),
        "running_jobs": sum(1 for one in running if one.job.inbox == share.name),
        "totals": totals,
        "ignored": watcher.ignored,
        "not_readable": [
            {"path": display(path), "reason": reason} for path, reason in list(waiting.items())[:MAX_LISTED]
        ],
        "closed_folders": [display(path) for path in watcher.closed_folders[:MAX_LISTED]],
        "blocked": len(waiting) + len(watcher.closed_folders),
    }


def line(content: dict[str, Any]) -> str:
    """The status in one line, worst first."""
    parts = [content["state"]]
    parts += [f"PAUSED ({reason})" for reason in content["pauses"].values()]
    parts += [f"{one['name']} PAUSED ({one['paused']})" for one in content["inboxes"] if one["paused"]]
    engine = content.get("engine", {})
    if content["state"] == "ready" and not engine.get("ok", True) and "engine" not in content["pauses"]:
        parts.append(f"the engine is not well ({engine['detail']})")
    if content["reload_error"]:
        parts.append(f"the new configuration is refused: {content['reload_error']}")
    waiting = sum(one["waiting"] for one in content["inboxes"])
    blocked = sum(one["blocked"] for one in content["inboxes"])
    totals = content["totals"]
    parts.append(
        f"{content['jobs']} running, {waiting} waiting, {totals.get('open', 0)} open, {content['pages_per_s']} pages/s"
    )
    if content["to_run_alone"]:
        parts.append(f"after a crash {content['to_run_alone']} run alone, one by one, before anything new")
    if blocked:
        parts.append(f"{blocked} may not be read or moved")
    parts.append(_ended(totals))
    return "; ".join(parts)


def report(content: dict[str, Any]) -> list[str]:
    """The status in full, for people."""
    engine = content["engine"]
    # A status that an earlier version left has no detail.
    state = f"; {engine['detail']}" if engine.get("detail") else ""
    lines = [line(content), f"engine {engine['name']} ({engine['model']}): {engine['reason']}{state}"]
    for inbox in content["inboxes"]:
        state = f"PAUSED: {inbox['paused']}; " if inbox["paused"] else ""
        way = "events and scan" if inbox["events"] else "scan alone"
        lines.append(
            f"inbox {inbox['name']} ({inbox['root']}, {inbox['filesystem']}, {way}): {state}"
            f"{inbox['waiting']} waiting, {inbox['running_jobs']} running, {inbox['totals'].get('open', 0)} open, "
            f"{_ended(inbox['totals'])}"
        )
        lines += [f"  {one['path']}: {one['reason']}" for one in inbox["not_readable"]]
        lines += [f"  {folder}/: may not be listed" for folder in inbox["closed_folders"]]
    for job in content["running"]:
        lines.append(f"running {job['inbox']}/{job['path']}: {job['pages_done']} of {job['pages'] or '?'} pages")
    return lines


def _ended(totals: dict[str, int]) -> str:
    return ", ".join(f"{totals.get(word, 0)} {word}" for word in ("done", "partial", "failed"))


def read(state_dir: Path, now: float) -> tuple[dict[str, Any] | None, bool]:
    """The last status, and whether the service that wrote it runs; None if there never was one.

    Raises `PermissionError` for a user who may not enter the state folder.
    """
    content = read_json(state_dir / FILE_NAME)
    if content is None:
        return None, False
    fresh = abs(now - float(content.get("written_at", 0))) < STALE_S
    return content, fresh and content.get("state") != "stopped"
