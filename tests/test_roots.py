"""Whose a root is, and whether the share behind it is there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from daemon.config import Inbox
from daemon.durable import read_json
from daemon.roots import (
    MARKER,
    OWNER_STALE_S,
    Adoption,
    Owner,
    Root,
    RootAway,
    RootRefused,
    this_owner,
)
from tests.permissions import closed

if TYPE_CHECKING:
    from collections.abc import Callable

NOW = 1_000_000.0
OWN = this_owner("north")
ELSEWHERE = replace(OWN, instance="south", host="other", machine="5e1f", boot="b007", pid=1)


def root_at(path: Path, **settings: Any) -> Root:
    """The root of an inbox."""
    return Root(Inbox(root=path, **settings))


def adopt(root: Root, *, owner: Owner = OWN, known_id: str | None = None, now: float = NOW) -> Adoption:
    """Take a root over."""
    return root.adopt(owner, known_id=known_id, now=now)


def marked(path: Path, owner: Owner | None, heartbeat: float | None = NOW) -> Root:
    """A root that somebody has used before."""
    path.mkdir()
    content = {"root_id": "id-1", "owner": asdict(owner) if owner else None, "heartbeat": heartbeat}
    (path / MARKER).write_text(json.dumps(content), encoding="ascii")
    return root_at(path)


# Adoption


def test_a_new_root_gets_its_folders_and_its_marker(tmp_path: Path) -> None:
    """Every folder is there afterwards, and the marker names the owner, the heartbeat and a new id."""
    root = root_at(tmp_path / "root")
    adoption = adopt(root)
    assert all(folder.is_dir() for folder in root.folders)
    assert read_json(root.marker) == {"root_id": adoption.root_id, "owner": asdict(OWN), "heartbeat": NOW}
    assert not adoption.unclean
    assert sorted(path.name for path in root.path.rglob("*") if path.is_file()) == [MARKER]


def test_the_id_of_a_root_stays(tmp_path: Path) -> None:
    """A root keeps its id over stops and starts."""
    first = adopt(root_at(tmp_path / "root"))
    root = root_at(tmp_path / "root")
    assert adopt(root, known_id=first.root_id).root_id == first.root_id


def test_a_share_that_is_not_mounted_is_away(tmp_path: Path) -> None:
    """A root that the ledger knows but that has no marker is waited for, and nothing is created in it."""
    with pytest.raises(RootAway, match=r"probably not mounted .*--forget-root default"):
        adopt(root_at(tmp_path / "root"), known_id="id-1")
    assert not list(tmp_path.iterdir())


def test_the_folder_above_a_root_is_never_made(tmp_path: Path) -> None:
    """A root whose parent is missing is away: what should hold it may be a share."""
    with pytest.raises(RootAway, match="No such file"):
        adopt(root_at(tmp_path / "share" / "root"))
    assert not list(tmp_path.iterdir())


def test_an_outbox_elsewhere_is_made_the_first_time_only(tmp_path: Path) -> None:
    """An outbox on a share of its own that was used before and is missing is away, not made anew."""
    root = root_at(tmp_path / "root", outbox=tmp_path / "out")
    adopt(root)
    root.release()
    root.outbox.rename(tmp_path / "aside")
    with pytest.raises(RootAway, match=r"out is missing .*is the share mounted\?"):
        adopt(root)
    assert not root.outbox.exists()


#: What an outbox of its own can lose, by what is left of it.
OUTBOXES: dict[str, tuple[Callable[[Root], object], str]] = {
    "the outbox": (lambda root: root.outbox.rename(root.outbox.with_name("aside")), "out is missing"),
    "all in it, as when it is unmounted": (
        lambda root: root.outbox.rename(root.outbox.with_name("aside")).with_name("out").mkdir(),
        "out/.ocr-daemon.json is missing",
    ),
    "the marker": (lambda root: (root.outbox / MARKER).unlink(), "out/.ocr-daemon.json is missing"),
    "staging": (lambda root: root.staging.rmdir(), "out/.staging is missing"),
    "its place to another share": (
        lambda root: (root.outbox / MARKER).write_text('{"root_id": "other", "root": "/other"}', encoding="ascii"),
        "out is another outbox than before",
    ),
}


@pytest.mark.parametrize(("lose", "words"), OUTBOXES.values(), ids=OUTBOXES)
def test_an_outbox_elsewhere_that_goes_away_is_noticed(
    tmp_path: Path, lose: Callable[[Root], object], words: str
) -> None:
    """While it runs and at its start, a share that lost its outbox is away, and nothing is made in its mount point.

    Staging was once made anew in the empty mount point, and results went under the share.
    """
    root = root_at(tmp_path / "root", outbox=tmp_path / "out")
    adopt(root)
    root.verify()
    lose(root)
    left = sorted(tmp_path.rglob("*"))
    for look in (root.verify, lambda: adopt(root_at(root.path, outbox=root.outbox))):
        with pytest.raises(RootAway, match=words):
            look()
    assert sorted(tmp_path.rglob("*")) == left


def test_a_new_outbox_elsewhere_is_marked(tmp_path: Path) -> None:
    """An outbox that the configuration names for the first time is made and marked, and moving back is no loss."""
    settings: list[dict[str, Any]] = [{}, {"outbox": tmp_path / "a"}, {"outbox": tmp_path / "b"}, {}]
    ids = set()
    for one in (*settings, settings[1]):
        root = root_at(tmp_path / "root", **one)
        ids.add(adopt(root).root_id)
        root.verify()
        root.release()
    assert len(ids) == 1
    marker = {"root_id": root.root_id, "root": str(root.path)}
    assert [read_json(tmp_path / name / MARKER) for name in "ab"] == [marker, marker]
    assert not (tmp_path / "root" / "outbox" / MARKER).exists()


def test_an_adoption_that_was_killed_is_begun_again(tmp_path: Path) -> None:
    """An outbox that was marked before the root's own marker came is no stranger's; it gets the new id."""
    adopt(root_at(tmp_path / "root", outbox=tmp_path / "out"))
    (tmp_path / "root" / MARKER).unlink()
    root = root_at(tmp_path / "root", outbox=tmp_path / "out")
    adopt(root)
    root.verify()


def test_the_outbox_of_another_root_is_refused(tmp_path: Path) -> None:
    """Two roots never share an outbox: each would clear what the other stages."""
    adopt(root_at(tmp_path / "root", outbox=tmp_path / "out"))
    with pytest.raises(RootRefused, match=r"out is the outbox of .*root; give each root its own"):
        adopt(root_at(tmp_path / "other", outbox=tmp_path / "out"))


ALIVE = {
    "another host, fresh": (ELSEWHERE, 0.0),
    "another host, just fresh": (ELSEWHERE, OWNER_STALE_S - 1),
    "another host, its clock ahead of ours": (ELSEWHERE, 1 - OWNER_STALE_S),
    "this host, a living process, however old its heartbeat": (replace(OWN, instance="south"), 9 * OWNER_STALE_S),
    "another container of this host, fresh": (replace(OWN, pid_namespace="pid:[9]"), 0.0),
    "a clone of this machine with another name, fresh": (replace(OWN, host="other"), 0.0),
}
DEAD = {
    "another host, stale": (ELSEWHERE, OWNER_STALE_S),
    "another host, its clock far ahead of ours": (ELSEWHERE, -OWNER_STALE_S),
    "another host, no heartbeat": (ELSEWHERE, None),
    "this host before it was started anew": (replace(OWN, boot="b007"), 0.0),
    "this host, another process has its number": (replace(OWN, started="1"), 0.0),
    "this host, no process": (replace(OWN, pid=2**22 + 1), 0.0),
    "another container of this host, stale": (replace(OWN, pid_namespace="pid:[9]"), OWNER_STALE_S),
}


@pytest.mark.parametrize(("owner", "age_s"), ALIVE.values(), ids=ALIVE)
def test_a_living_owner_is_left_alone(tmp_path: Path, owner: Owner, age_s: float) -> None:
    """A root whose owner lives is refused, and nothing in it changes."""
    root = marked(tmp_path / "root", owner, NOW - age_s)
    before = root.marker.read_bytes()
    with pytest.raises(RootRefused, match=f"belongs to the daemon '{owner.instance}' on {owner.host}") as refused:
        adopt(root)
    # Only our own kernel knows when it is dead; of others we learn it from the heartbeat.
    assert ("or wait 60 s after it was killed" in str(refused.value)) == (age_s <= OWNER_STALE_S)
    assert root.marker.read_bytes() == before
    assert [path.name for path in root.path.iterdir()] == [MARKER]


@pytest.mark.parametrize(("owner", "age_s"), DEAD.values(), ids=DEAD)
def test_a_dead_owner_is_taken_over(tmp_path: Path, owner: Owner, age_s: float | None) -> None:
    """A root whose owner died is ours, and it is told that nobody took the name off."""
    root = marked(tmp_path / "root", owner, None if age_s is None else NOW - age_s)
    assert adopt(root) == Adoption("id-1", unclean=True)
    assert (read_json(root.marker) or {})["owner"] == asdict(OWN)


def test_an_owner_that_is_not_waited_for_is_dead(tmp_path: Path) -> None:
    """A process that has ended counts as dead although its parent has not asked for its end."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        stat = Path(f"/proc/{child.pid}/stat")
        owner = replace(OWN, pid=child.pid, started=stat.read_text(encoding="ascii").rpartition(")")[2].split()[19])
        root = marked(tmp_path / "root", owner)
        with pytest.raises(RootRefused):
            adopt(root)
        child.kill()
        assert child.stdout is not None
        child.stdout.read()  # returns when it has ended; waited for only afterwards
        assert os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert adopt(root).unclean


def test_a_clean_stop_takes_the_name_off(tmp_path: Path) -> None:
    """After `release` the next start, even from another host, knows that nothing was interrupted."""
    root = root_at(tmp_path / "root")
    first = adopt(root)
    root.release()
    assert adopt(root_at(root.path), owner=ELSEWHERE) == Adoption(first.root_id, unclean=False)


@pytest.mark.parametrize("owner", ["south", ["south"], {"instance": "south"}], ids=["word", "list", "half"])
def test_an_owner_that_makes_no_sense_is_none(tmp_path: Path, owner: object) -> None:
    """A marker whose owner is not one of ours is adopted with its id."""
    root = marked(tmp_path / "root", None)
    root.marker.write_text(json.dumps({"root_id": "id-1", "owner": owner, "heartbeat": NOW}), encoding="ascii")
    assert adopt(root).root_id == "id-1"


@pytest.mark.parametrize("name", ["inbox", "work", "done", "failed", "outbox"])
@pytest.mark.parametrize("kind", ["link", "file"])
def test_a_link_in_a_folders_place_is_refused(tmp_path: Path, name: str, kind: str) -> None:
    """A folder that is a link (somebody else's folder) or a file is refused in words, and nothing is left in it."""
    root = root_at(tmp_path / "root")
    root.path.mkdir()
    (tmp_path / "elsewhere").mkdir()
    if kind == "link":
        (root.path / name).symlink_to(tmp_path / "elsewhere")
    else:
        (root.path / name).write_bytes(b"")
    with pytest.raises(RootRefused, match=f"{name} must be a real folder"):
        adopt(root)
    assert not list((tmp_path / "elsewhere").iterdir())
    assert not root.marker.exists()


def test_a_root_that_may_not_be_written_is_refused(tmp_path: Path) -> None:
    """No permission is nothing that waiting mends."""
    root = root_at(tmp_path / "root")
    adopt(root)
    root.release()
    with closed(root.work), pytest.raises(RootRefused, match=r"no permission at .*work"):
        adopt(root)
    assert not list(root.inbox.iterdir())


_OTHER_FILE_SYSTEM = """
import subprocess, sys
from pathlib import Path
from daemon.config import Inbox
from daemon.roots import Root, RootRefused, this_owner
root = Root(Inbox(root=Path(sys.argv[1])))
root.path.mkdir()
root.done.mkdir()
subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(root.done)], check=True)
try:
    root.adopt(this_owner("north"), known_id=None, now=0.0)
except RootRefused as refused:
    print(refused)
print(sorted(path.name for path in root.path.rglob("*") if path.is_file()))
"""


def test_folders_on_two_file_systems_are_refused(tmp_path: Path) -> None:
    """A done/ on another file system than inbox/ is refused, since a document moves by a rename; no trial is left."""
    unshare = ["unshare", "--user", "--map-root-user", "--mount"]
    if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no mount namespaces here")
    shown = subprocess.run(
        [*unshare, sys.executable, "-c", _OTHER_FILE_SYSTEM, str(tmp_path / "root")],
        capture_output=True, text=True, check=True, cwd=Path(__file__).parent.parent,
    ).stdout  # fmt: skip
    assert "done is on another file system than" in shown
    assert shown.endswith("[]\n")


# While it runs


def test_the_heartbeat_is_renewed(tmp_path: Path) -> None:
    """Others read from the marker when its owner was last alive."""
    root = root_at(tmp_path / "root")
    adopt(root)
    root.beat(OWN, NOW + 15)
    assert (read_json(root.marker) or {})["heartbeat"] == NOW + 15


@pytest.mark.parametrize("then", [Root.verify, Root.release], ids=["it works here", "it has stopped again"])
def test_a_root_that_another_daemon_took_is_away(tmp_path: Path, then: Callable[[Root], object]) -> None:
    """Who was taken for dead (a clock was off, its host hung) stops working here and leaves the other's name alone.

    It once put its own name back with the next heartbeat, and both worked on.
    """
    root = root_at(tmp_path / "root")
    adopt(root)
    other = root_at(tmp_path / "root")
    marker = read_json(root.marker) or {}
    root.marker.write_text(json.dumps({**marker, "owner": None}), encoding="ascii")
    adopt(other, owner=ELSEWHERE)
    then(other)
    before = root.marker.read_bytes()
    for act in (root.verify, lambda: root.beat(OWN, NOW + 15)):
        with pytest.raises(RootAway, match=r"root was taken over by (the daemon 'south' on other|a daemon that has)"):
            act()
    root.release()
    assert root.marker.read_bytes() == before


def test_folders_that_users_deleted_come_back(tmp_path: Path) -> None:
    """A tidy user who deletes an empty folder does no harm."""
    root = root_at(tmp_path / "root")
    adopt(root)
    root.failed.rmdir()
    root.verify()
    assert root.failed.is_dir()


GONE: dict[str, Callable[[Root], object]] = {
    "the marker": lambda root: root.marker.unlink(),
    "another share with its marker": lambda root: root.marker.write_text('{"root_id": "other"}', encoding="ascii"),
    "the whole root": lambda root: root.path.rename(root.path.with_name("gone")),
}


@pytest.mark.parametrize("remove", GONE.values(), ids=GONE)
def test_a_share_that_goes_away_is_noticed(tmp_path: Path, remove: Callable[[Root], object]) -> None:
    """A root that has lost its marker is away; neither the check nor a stop creates anything."""
    root = root_at(tmp_path / "root")
    adopt(root)
    root.failed.rmdir()
    remove(root)
    left = sorted(tmp_path.rglob("*"))
    with pytest.raises(RootAway, match=r"lost its .* probably not mounted"):
        root.verify()
    root.release()
    assert sorted(tmp_path.rglob("*")) == left
