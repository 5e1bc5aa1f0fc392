"""Looks whether the service could start: configuration, folders, engine.  Changes nothing that stays.

Each finding is ok, a warning (it works, but) or an error (it does not start, or loses its promise).
"""

from __future__ import annotations

import asyncio
import os
import stat
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from daemon import status as status_file
from daemon.durable import TEMPORARY_PREFIX, exists, probe, read_json, write_file
from daemon.engines import Refused, build_engine, page_limits, warm_up
from daemon.faults import free_mb
from daemon.ledger import FILE_NAME, connect, forget_root, known_root
from daemon.roots import Root, described, filesystem_type, is_network, lives, owner_in, this_owner
from deepseek_ocr.engine import choose
from deepseek_ocr.errors import EngineError
from deepseek_ocr.reader import Reader

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from daemon.config import Settings

#: Beside one of these, which takes what a card has, another finds no room.
ENGINES_OF_A_CARD = frozenset({"vllm", "transformers"})
#: A server's clock that differs by more makes times in manifests and `keep_done_days` misleading.
MAX_CLOCK_SKEW_S = 5.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    level: Literal["ok", "warning", "error"]
    topic: str
    message: str
    #: What an error means for the start: 69 the engine, 78 anything else.
    exit_code: int = 0


def check(settings: Settings, *, engine: bool = True) -> list[Finding]:
    """All findings; `engine` False leaves the engine out."""
    findings = [*_state_dir(settings)]
    for inbox in settings.inbox:
        findings += _folders(Root(inbox), settings)
    findings += _same_folders(settings)
    if engine:
        in_use = _engine_in_use(settings)
        findings += [in_use] if in_use else asyncio.run(_engine(settings))
    if settings.http.enabled:
        findings.append(Finding("warning", "http", "this version does not serve HTTP yet; [http] has no effect"))
    return findings


def forget(settings: Settings, name: str) -> bool:
    """Let the next start set up an inbox's root anew; False if there is no such inbox.

    Raises `OSError` or `sqlite3.Error` if there is no ledger to forget it.
    """
    for inbox in settings.inbox:
        if inbox.name == name:
            connection = connect(settings.service.state_dir / FILE_NAME, create=False)
            forget_root(connection, inbox.root)
            connection.close()
            return True
    return False


def _state_dir(settings: Settings) -> Iterator[Finding]:
    folder = settings.service.state_dir
    kind = filesystem_type(folder)
    if is_network(kind):
        yield _wrong("state", f"{folder} is on a network file system ({kind}); SQLite needs a local disk")
    # A folder inside one that is closed to us counts as missing: what can be seen of the way is then closed.
    existing = next(path for path in (folder, *folder.parents) if os.path.exists(path))  # noqa: PTH110 - never raises
    if (trouble := _no_room(existing)) is not None:
        yield _wrong("state", trouble)
    else:
        yield Finding("ok", "state", f"{folder} ({kind}, {free_mb(existing):.0f} MB free)")


def _no_room(folder: Path) -> str | None:
    """What keeps the first start from making folders in this one."""
    if not folder.is_dir():
        return f"{folder} is not a folder"
    return None if os.access(folder, os.W_OK | os.X_OK) else f"{folder} may not be written by this user"


def _folders(root: Root, settings: Settings) -> Iterator[Finding]:
    topic = f"inbox {root.name}"
    try:
        yield from _root(root, settings, topic)
    except OSError as error:
        yield _wrong(topic, f"{error.filename or root.path}: {error.strerror or error}")


def _root(root: Root, settings: Settings, topic: str) -> Iterator[Finding]:
    kind = filesystem_type(root.path)
    if not exists(root.path):
        if _known(settings, root.path):
            yield Finding(
                "warning", topic, f"{root.path} is missing although it was used before: is the share mounted?"
            )
        elif not exists(root.path.parent):
            yield Finding("warning", topic, f"{root.path.parent} does not exist: is the share mounted?")
        elif (trouble := _no_room(root.path.parent)) is not None:
            yield _wrong(topic, trouble)
        else:
            yield Finding("ok", topic, f"{root.path} does not exist yet; the first start makes it")
        return
    if read_json(root.marker) is None and _known(settings, root.path):
        yield Finding(
            "warning", topic,
            f"{root.path} has lost its {root.marker.name}: is the share mounted? If it was set up anew on purpose, "
            f"use --forget-root {root.name}",
        )  # fmt: skip
        return
    yield from _owner(root, settings, topic)
    missing = [folder for folder in root.folders if not exists(folder)]
    if missing:
        yield Finding("ok", topic, f"the first start makes {', '.join(folder.name for folder in missing)}")
        probe(root.path)
    for folder in set(root.folders) - set(missing):
        if not stat.S_ISDIR(os.lstat(folder).st_mode):
            yield _wrong(topic, f"{folder} must be a real folder, not a link or a file")
            return
        probe(folder)
    if not missing:
        yield from _borders(root, topic)
    yield from _clock(root, topic)
    free = free_mb(root.path)
    if free < settings.limits.min_free_mb:
        yield Finding("warning", topic, f"only {free:.0f} MB are free; nothing is taken below limits.min_free_mb")
    way = "by scan alone, as events do not cross the network" if is_network(kind) else "by events and scan"
    yield Finding("ok", topic, f"{root.path} ({kind}, {free:.0f} MB free), files are found {way}")


def _owner(root: Root, settings: Settings, topic: str) -> Iterator[Finding]:
    """Who works here: nobody else may when the service starts."""
    marker = read_json(root.marker) or {}
    owner = owner_in(marker)
    if owner is None or not lives(owner, marker, this_owner(settings.service.instance_name), time.time()):
        return
    try:
        last, running = status_file.read(settings.service.state_dir, time.time())
    except OSError:  # told under its own topic
        last, running = None, False
    if last and running and (last["instance"], last["pid"]) == (owner.instance, owner.pid):
        yield Finding("ok", topic, f"{root.path} is in use by the running service")
    else:
        yield _wrong(
            topic,
            f"{root.path} belongs to the daemon {described(owner)}, which is alive; "
            f"stop it first, or give each its own root",
        )


def _borders(root: Root, topic: str) -> Iterator[Finding]:
    """The claim is a rename: try it."""
    name = f"{TEMPORARY_PREFIX}check-{os.getpid()}"
    here = root.inbox / name
    write_file(here, b"check\n", sync=False)
    try:
        for folder in (root.work, root.done, root.failed):
            try:
                here = here.rename(folder / name)
            except OSError as error:
                yield _wrong(topic, f"a file cannot be renamed from {here.parent} to {folder}: {error.strerror}")
                return
    finally:
        here.unlink(missing_ok=True)


def _clock(root: Root, topic: str) -> Iterator[Finding]:
    path = root.path / f"{TEMPORARY_PREFIX}clock-{os.getpid()}"
    write_file(path, b"clock\n", sync=False)
    try:
        skew_s = os.lstat(path).st_mtime - time.time()
    finally:
        path.unlink(missing_ok=True)
    if abs(skew_s) > MAX_CLOCK_SKEW_S:
        yield Finding("warning", topic, f"the file server's clock differs by {skew_s:+.0f} s from this machine's")


def _same_folders(settings: Settings) -> Iterator[Finding]:
    """Two paths may lead to one folder through links or mounts; their text does not tell."""
    seen: dict[tuple[int, int], str] = {}
    for inbox in settings.inbox:
        for path in Root(inbox).folders[:5]:
            if os.path.isdir(path):  # noqa: PTH112 - never raises: a folder that is closed to us is found above
                status = path.stat()
                other = seen.setdefault((status.st_dev, status.st_ino), str(path))
                if other != str(path):
                    yield _wrong("folders", f"{path} and {other} are the same folder")


def _engine_in_use(settings: Settings) -> Finding | None:
    """What the running service says of an engine that no second one finds room beside; None to start one here."""
    name = choose(settings.engine.backend).name
    try:
        last, running = status_file.read(settings.service.state_dir, time.time())
    except OSError:  # told under its own topic
        return None
    engine = last["engine"] if last and running else {}
    if name not in ENGINES_OF_A_CARD or engine.get("name") != name:
        return None
    return Finding(
        "ok" if engine["ok"] else "warning", "engine",
        f"{name} ({engine['model']}) is in use by the running service, so no second one was started; it says: "
        f"{engine['detail']}",
    )  # fmt: skip


async def _engine(settings: Settings) -> list[Finding]:
    try:
        started = time.monotonic()
        choice, engine = await asyncio.to_thread(build_engine, settings)
        async with Reader(engine, limits=page_limits(settings)) as reader:
            await warm_up(reader)
    except Refused as error:
        return [_wrong("engine", str(error))]
    except EngineError as error:
        return [Finding("error", "engine", str(error), 69)]
    info = engine.info
    took_s = time.monotonic() - started
    findings = [
        Finding("ok", "engine", f"{choice.name} ({info.model}) starts and reads, in {took_s:.1f} s; {choice.reason}")
    ]
    if info.scripts:
        findings.append(Finding("ok", "engine", f"it reads these scripts and no others: {', '.join(info.scripts)}"))
    return findings


def _known(settings: Settings, path: Path) -> bool:
    try:
        connection = connect(settings.service.state_dir / FILE_NAME, create=False)
    except OSError:
        return False
    try:
        return known_root(connection, path) is not None
    finally:
        connection.close()


def _wrong(topic: str, message: str) -> Finding:
    return Finding("error", topic, message, 78)
