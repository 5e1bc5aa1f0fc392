"""Writes and renames that mean what they say."""

from __future__ import annotations

import errno
import gc
import json
import os
from pathlib import Path, PosixPath
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.durable import (
    TEMPORARY_PREFIX,
    exists,
    make_folders,
    move,
    move_over,
    probe,
    read_json,
    refuse_links,
    remove_tree,
    sync_folder,
    to_json,
    write_atomic,
    write_file,
)
from tests.permissions import closed

if TYPE_CHECKING:
    from collections.abc import Callable

DEV_FULL = Path("/dev/full")
#: Names as Python keeps them, bytes that are no UTF-8 among them.
NAMES = st.binary().map(os.fsdecode)


class LostAnswer(PosixPath):
    """A path on a server whose answer is lost: the rename happens and reports an error."""

    def rename(self, target: str | os.PathLike[str]) -> LostAnswer:
        """Rename, then fail."""
        super().rename(target)
        raise OSError(errno.EIO, "the server's answer was lost")

    replace = rename


class Refused(PosixPath):
    """A path on a server that refuses: nothing is renamed."""

    def rename(self, target: str | os.PathLike[str]) -> Refused:
        """Fail."""
        raise OSError(errno.EIO, "refused", os.fspath(target))

    replace = rename


class Vanished(PosixPath):
    """A path on a server that loses the file and reports an error: what is under the new name is somebody else's."""

    def rename(self, target: str | os.PathLike[str]) -> Vanished:
        """Put another file there, drop this one, fail."""
        Path(target).write_bytes(b"somebody else's")
        self.unlink()
        raise OSError(errno.EIO, "lost")

    replace = rename


# Writing


def test_write_file_replaces_the_content(tmp_path: Path) -> None:
    """The file holds what was written and nothing of what was longer before."""
    path = tmp_path / "x"
    path.write_bytes(b"long old content")
    write_file(path, b"new")
    assert path.read_bytes() == b"new"


def test_a_write_that_fails_raises() -> None:
    """A full disk is told when it is written to."""
    with pytest.raises(OSError, match="No space left"):
        write_file(DEV_FULL, b"x")


def test_the_first_error_of_fsync_is_final() -> None:
    """An fsync that fails is an error and not tried again: a second one may succeed although data is gone."""
    with pytest.raises(OSError, match="Invalid argument") as failure:
        write_file(Path("/dev/null"), b"x")  # takes every write, and cannot be synced
    assert failure.value.errno == errno.EINVAL
    write_file(Path("/dev/null"), b"x", sync=False)


@pytest.mark.parametrize("sync", [True, False], ids=["synced", "not synced"])
def test_write_atomic_leaves_one_file(tmp_path: Path, sync: bool) -> None:
    """The new content has replaced the old and no temporary file is left."""
    path = tmp_path / "x"
    path.write_bytes(b"old")
    write_atomic(path, b"new", sync=sync)
    assert [entry.name for entry in tmp_path.iterdir()] == ["x"]
    assert path.read_bytes() == b"new"


def test_write_atomic_keeps_the_old_content_if_it_fails(tmp_path: Path) -> None:
    """Content that cannot be written leaves the old as it was; a link that somebody put there is not followed."""
    path, victim = tmp_path / "x", tmp_path / "victim"
    path.write_bytes(b"old")
    victim.write_bytes(b"not ours")
    link = tmp_path / f"{TEMPORARY_PREFIX}x"
    link.symlink_to(victim)
    with pytest.raises(OSError, match="symbolic links"):
        write_atomic(path, b"new")
    assert (path.read_bytes(), victim.read_bytes()) == (b"old", b"not ours")
    link.unlink()


def test_remove_tree_of_a_link(tmp_path: Path) -> None:
    """A link in place of a folder of ours goes, what it leads to stays."""
    victim, link = tmp_path / "victim", tmp_path / "link"
    victim.mkdir()
    (victim / "thesis.pdf").write_bytes(b"not ours")
    link.symlink_to(victim)
    remove_tree(link)
    assert (victim / "thesis.pdf").exists()
    assert not link.is_symlink()


def test_write_atomic_takes_long_names(tmp_path: Path) -> None:
    """A name of the greatest length has room for the temporary one."""
    path = tmp_path / ("x" * 255)
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"


NO_JSON = {
    "missing": None,
    "empty": b"",
    "torn": b'{"a": 1',
    "a list": b"[1]",
    "a word": b'"a"',
    "no UTF-8": b'{"a": "\xff"}',
    "zeros": bytes(64),
    "nested too deep": b"[" * 100_000,
}


@pytest.mark.parametrize("content", NO_JSON.values(), ids=NO_JSON)
def test_read_json_takes_only_whole_objects(tmp_path: Path, content: bytes | None) -> None:
    """A file that is missing, torn or something else is None."""
    path = tmp_path / "x.json"
    if content is not None:
        path.write_bytes(content)
    assert read_json(path) is None


def test_read_json_of_a_path_below_a_file_is_none(tmp_path: Path) -> None:
    """Where a file stands in place of the folder there is no such file either."""
    (tmp_path / "x").write_bytes(b"")
    assert read_json(tmp_path / "x" / "y.json") is None


def test_read_json_tells_a_disk_that_fails(tmp_path: Path) -> None:
    """An error of the disk is none of a missing file: it raises."""
    path = tmp_path / "x.json"
    path.write_bytes(b"{}")
    with closed(path), pytest.raises(PermissionError):
        read_json(path)


def test_names_that_are_no_utf8_survive_json(tmp_path: Path) -> None:
    """A name with any byte in it comes back from a JSON file as it was."""
    name = os.fsdecode(b"caf\xe9 \xff.pdf")
    path = tmp_path / "x.json"
    path.write_bytes(to_json({"name": name}))
    content = read_json(path)
    assert content is not None
    assert os.fsencode(content["name"]) == b"caf\xe9 \xff.pdf"
    json.loads(path.read_bytes().decode("ascii"))


def json_of(text: st.SearchStrategy[str]) -> st.SearchStrategy[dict[str, Any]]:
    """What a file holds, with such text in it."""
    leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | text
    some = st.recursive(leaves, lambda part: st.lists(part) | st.dictionaries(text, part), max_leaves=20)
    return st.dictionaries(text, some)


def indents(written: str) -> list[int]:
    """Spaces before each line."""
    return [len(line) - len(line.lstrip(" ")) for line in written.split("\n")]


@given(json_of(st.text()) | json_of(NAMES))
def test_json_looks_like_pythons(content: dict[str, Any]) -> None:
    """What is written reads as what Python's own module writes, in the same order, lines and indents."""
    written = to_json(content).decode("ascii")
    assert repr(json.loads(written)) == repr(content)
    assert indents(written) == indents(json.dumps(content, indent=1) + "\n")


def test_json_leaves_the_garbage_collector_nothing() -> None:
    """The collector stops the event loop for as long as it has to look through what was left in cycles."""
    gc.collect()
    gc.disable()
    try:
        for _ in range(10):
            to_json({"outputs": ["a.md", "a.json"], "source": {"size": 1}})
        assert gc.collect() < 33  # what one call of Python's own way leaves
    finally:
        gc.enable()


# Renaming


@pytest.mark.parametrize("rename", [move, move_over], ids=["move", "move_over"])
def test_a_rename_that_happened_has_succeeded(tmp_path: Path, rename: Callable[[Path, Path], None]) -> None:
    """An error is none if the old name is gone and the new one has our inode."""
    source, target = LostAnswer(tmp_path / "old"), tmp_path / "new"
    source.write_bytes(b"ours")
    rename(source, target)
    assert (source.exists(), target.read_bytes()) == (False, b"ours")


@pytest.mark.parametrize("rename", [move, move_over], ids=["move", "move_over"])
@pytest.mark.parametrize("kind", [Refused, Vanished], ids=["refused", "somebody else's under the new name"])
def test_a_rename_that_did_not_happen_raises(
    tmp_path: Path, kind: type[PosixPath], rename: Callable[[Path, Path], None]
) -> None:
    """The error counts if the file is still there, or if what is under the new name is not ours."""
    source = kind(tmp_path / "old")
    source.write_bytes(b"ours")
    with pytest.raises(OSError, match=r"refused|lost"):
        rename(source, tmp_path / "new")


TAKEN: dict[str, Callable[[Path], object]] = {
    "a file": lambda path: path.write_bytes(b"theirs"),
    "an empty folder": lambda path: path.mkdir(),
    "a link to nowhere": lambda path: path.symlink_to("nowhere"),
}


@pytest.mark.parametrize("make", TAKEN.values(), ids=TAKEN)
def test_move_never_overwrites(tmp_path: Path, make: Callable[[Path], object]) -> None:
    """Whatever has the new name keeps it, and the source stays where it is."""
    source, target = tmp_path / "old", tmp_path / "new"
    source.write_bytes(b"ours")
    make(target)
    before = os.lstat(target)
    with pytest.raises(FileExistsError):
        move(source, target)
    assert source.read_bytes() == b"ours"
    assert os.lstat(target) == before


def test_move_over_replaces(tmp_path: Path) -> None:
    """Our own earlier try is replaced."""
    source, target = tmp_path / "old", tmp_path / "new"
    source.write_bytes(b"second")
    target.write_bytes(b"first")
    move_over(source, target)
    assert (source.exists(), target.read_bytes()) == (False, b"second")


@pytest.mark.parametrize("rename", [move, move_over], ids=["move", "move_over"])
def test_a_source_that_is_gone_is_told(tmp_path: Path, rename: Callable[[Path, Path], None]) -> None:
    """Nothing to rename is FileNotFoundError, also where the new name exists."""
    (tmp_path / "new").write_bytes(b"theirs")
    with pytest.raises(FileNotFoundError):
        rename(tmp_path / "old", tmp_path / "new")
    assert (tmp_path / "new").read_bytes() == b"theirs"


# Names


def test_exists_counts_names_not_targets(tmp_path: Path) -> None:
    """A dangling link is a name; a path below a file is none."""
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "file").write_bytes(b"")
    assert exists(tmp_path / "link")
    assert not exists(tmp_path / "nothing")
    assert not exists(tmp_path / "file" / "below")


def test_exists_raises_where_it_cannot_tell(tmp_path: Path) -> None:
    """In a folder that may not be searched a name is neither there nor not there."""
    (tmp_path / "closed").mkdir()
    with closed(tmp_path / "closed") as folder, pytest.raises(PermissionError):
        exists(folder / "x")


def test_make_folders_makes_what_is_missing(tmp_path: Path) -> None:
    """Missing folders are made, and again is no error."""
    for _ in range(2):
        assert make_folders(tmp_path, Path("a/b/c")) == tmp_path / "a" / "b" / "c"
    assert (tmp_path / "a" / "b" / "c").is_dir()
    assert make_folders(tmp_path, Path()) == tmp_path


def test_make_folders_never_makes_the_base(tmp_path: Path) -> None:
    """A base that is missing is an unmounted share: nothing is created in its place."""
    with pytest.raises(FileNotFoundError):
        make_folders(tmp_path / "share", Path("a"))
    assert not (tmp_path / "share").exists()


IN_THE_WAY: dict[str, Callable[[Path], object]] = {
    "a file": lambda path: path.write_bytes(b"theirs"),
    "a link to a folder": lambda path: path.symlink_to(path.parent),
}


@pytest.mark.parametrize("make", IN_THE_WAY.values(), ids=IN_THE_WAY)
def test_make_folders_takes_only_real_folders(tmp_path: Path, make: Callable[[Path], object]) -> None:
    """A file or a link in a folder's place is an error: nothing is written through it."""
    make(tmp_path / "a")
    with pytest.raises(FileExistsError):
        make_folders(tmp_path, Path("a/b"))


def test_remove_tree_follows_no_link(tmp_path: Path) -> None:
    """All of a folder goes, and nothing that its links lead to; what is gone already is no error."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_bytes(b"")
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "x").write_bytes(b"")
    (folder / "link").symlink_to(outside)
    for _ in range(2):
        remove_tree(folder)
    assert not folder.exists()
    assert (outside / "kept").exists()


def test_remove_tree_takes_names_that_are_no_utf8(tmp_path: Path) -> None:
    """Any name goes."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / os.fsdecode(b"\xff")).write_bytes(b"")
    remove_tree(folder)
    assert not folder.exists()


def test_probe_leaves_nothing(tmp_path: Path) -> None:
    """A folder that is fit to work in looks afterwards as before."""
    probe(tmp_path)
    assert not list(tmp_path.iterdir())


def test_probe_tells_what_is_wrong(tmp_path: Path) -> None:
    """A folder that is gone, or may not be written, fails the probe."""
    with pytest.raises(FileNotFoundError):
        probe(tmp_path / "gone")
    (tmp_path / "closed").mkdir()
    with closed(tmp_path / "closed") as folder, pytest.raises(PermissionError):
        probe(folder)


def test_sync_folder_takes_only_folders(tmp_path: Path) -> None:
    """A file is no folder to sync, a missing one neither."""
    sync_folder(tmp_path)
    (tmp_path / "x").write_bytes(b"")
    with pytest.raises(NotADirectoryError):
        sync_folder(tmp_path / "x")
    with pytest.raises(FileNotFoundError):
        sync_folder(tmp_path / "y")


def test_refuse_links(tmp_path: Path) -> None:
    """A folder on the way to a file must be a real one, or the file may be anybody's."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    refuse_links(tmp_path, Path("real/x.pdf"))
    with pytest.raises(NotADirectoryError, match="a link is no folder"):
        refuse_links(tmp_path, Path("link/x.pdf"))
