"""What lies in an inbox: names that are documents, what a look finds, and samples of whatever can lie there."""

from __future__ import annotations

import contextlib
import os
import socket
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from daemon.durable import TEMPORARY_PREFIX
from daemon.folders import take_sample
from daemon.scan import GONE, Inventory, Scan, is_document_path, sample_files, scan
from tests.permissions import closed

if TYPE_CHECKING:
    from pathlib import Path

# Names

DOCUMENTS = [
    "x.pdf", "X.PDF", "a/x.pdf", "a b/ü.tif", "no-extension", "x.done.pdf", "partial.pdf", "x.tmp.png", "done", "part",
    "a.part/x.pdf", "x~.pdf", "~a/x.pdf", "x.job", "job.toml.pdf", "tmp", "a/b/c/d.jpg", "thumbs.db.pdf",
    os.fsdecode(b"\xff.pdf"),
]  # fmt: skip
NO_DOCUMENTS = [
    ".x.pdf", ".nfs000000000000001", ".DS_Store", "._x.pdf", "x.pdf.part", "x.PDF.Part", "x.pdf.partial", "x.tmp",
    "x.TEMP", "x.crdownload", "x.download", "x.filepart", "x.writing", "x.swp", "x.lock", "x.lck", "x.pdf~",
    "~$x.docx", "~x.pdf", "~WRL0001.docx",
    "Thumbs.db", "thumbs.db", "desktop.ini", "x.pdf.done", "x.job.toml", ".hidden/x.pdf", "@eaDir/x.pdf",
    "a/#recycle/x.pdf", "lost+found/x", "__MACOSX/x.pdf", "System Volume Information/x", "$RECYCLE.BIN/x.pdf",
    ".ocr-daemon-tmp-probe-1",
]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "expected"), [*((path, True) for path in DOCUMENTS), *((path, False) for path in NO_DOCUMENTS)]
)
def test_names(tmp_path: Path, path: str, expected: bool) -> None:
    """Temporary names, dotfiles, markers and what systems leave behind are no documents, for events and scans."""
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).write_bytes(b"x")
    assert is_document_path(path) is expected
    assert scan(tmp_path, {}).new == ([path] if expected else [])
    (tmp_path / path).unlink()


# The scan


def tree(folder: Path, *names: str) -> None:
    """Make files; a name that ends with a slash is a folder."""
    for name in names:
        path = folder / name
        if name.endswith("/"):
            path.mkdir(parents=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")


def known(*paths: str) -> dict[str, set[str]]:
    """An inventory."""
    folders: dict[str, set[str]] = {}
    for path in paths:
        folder, _, name = path.rpartition("/")
        folders.setdefault(folder, set()).add(name)
    return folders


#: Name -> what is there, what is known, and what the scan finds.
SCANS: dict[str, tuple[list[str], list[str], Scan]] = {
    "empty": ([], [], Scan([], [], 0, [])),
    "empty folders": (["a/b/"], [], Scan([], [], 0, [])),
    "new files by folder and name": (
        ["b.pdf", "a.pdf", "z/2", "z/1", "y/x/1"], [], Scan(["a.pdf", "b.pdf", "y/x/1", "z/1", "z/2"], [], 0, []),
    ),
    "known ones are not new": (["a", "b", "c/d"], ["a", "c/d"], Scan(["b"], [], 0, [])),
    "gone": (["a"], ["a", "b"], Scan([], ["b"], 0, [])),
    "gone with their folder": ([], ["a/b", "a/c/d"], Scan([], ["a/b", "a/c/d"], 0, [])),
    "a folder became a file": (["a"], ["a/b"], Scan(["a"], ["a/b"], 0, [])),
    "ignored ones are counted": (["a.part", ".b", "x/c.tmp", ".d/e", ".d/f"], [], Scan([], [], 4, [])),
    "our own temporary files are not": ([".ocr-daemon-tmp-probe-1"], [], Scan([], [], 0, [])),
    "markers of known documents": (
        ["a.done", "a", "b.done", "c/d", "c/d.done"], ["a", "c/d"], Scan([], [], 3, [], ["a", "c/d"]),
    ),
    "same names in several folders": (["a", "b/a", "c/a"], ["b/a"], Scan(["a", "c/a"], [], 0, [])),
}  # fmt: skip


@pytest.mark.parametrize(("there", "before", "expected"), SCANS.values(), ids=SCANS)
def test_scans(tmp_path: Path, there: list[str], before: list[str], expected: Scan) -> None:
    """A scan tells what is new and gone against what was known, and counts what it ignores."""
    tree(tmp_path, *there)
    found = scan(tmp_path, known(*before))
    assert replace(found, gone=sorted(found.gone)) == expected
    for path in tmp_path.glob(f"{TEMPORARY_PREFIX}*"):
        path.unlink()


def test_only_real_files_are_documents(tmp_path: Path) -> None:
    """Links to files and folders, pipes and sockets are ignored, and no link is followed."""
    tree(tmp_path, "inbox/", "outside/x.pdf")
    inbox = tmp_path / "inbox"
    (inbox / "link.pdf").symlink_to(tmp_path / "outside" / "x.pdf")
    (inbox / "folder").symlink_to(tmp_path / "outside")
    (inbox / "dangling").symlink_to("nowhere")
    os.mkfifo(inbox / "pipe.pdf")
    with unix_socket(inbox / "s"):
        assert scan(inbox, {}) == Scan([], [], 5, [])


def test_names_that_are_no_utf8_are_found(tmp_path: Path) -> None:
    """Any name a disk can hold comes out as one that opens the file."""
    name = os.fsdecode(b"caf\xe9/\xff\xfe.pdf")
    tree(tmp_path, name)
    assert scan(tmp_path, {}).new == [name]
    assert scan(tmp_path, known(name)) == Scan([], [], 0, [])


def test_a_folder_that_may_not_be_listed(tmp_path: Path) -> None:
    """A closed folder is named; what was known in it is not gone, and the others are scanned."""
    tree(tmp_path, "closed/a", "closed/b", "open/c")
    with closed(tmp_path / "closed"):
        assert scan(tmp_path, known("closed/a")) == Scan(["open/c"], [], 0, ["closed"])


def test_an_inbox_that_is_gone_is_a_fault(tmp_path: Path) -> None:
    """An inbox that cannot be listed raises: that its documents are gone would be a wrong answer."""
    with pytest.raises(FileNotFoundError):
        scan(tmp_path / "inbox", known("a"))


# Samples


@contextlib.contextmanager
def unix_socket(path: Path) -> Any:
    """A socket with a name; names of sockets are short, so it is bound from its folder."""
    with socket.socket(socket.AF_UNIX) as one:
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            one.bind(f"/proc/self/fd/{folder}/{path.name}")
        finally:
            os.close(folder)
        yield path


def test_samples_of_what_can_lie_in_an_inbox(tmp_path: Path) -> None:
    """A file has a sample and perhaps a marker; what is no file any more is gone; what cannot be opened waits."""
    tree(tmp_path, "file", "marked", "marked.done", "folder/", "closed")
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "pipe")
    names = ["file", "marked", "folder", "closed", "link", "pipe", "socket", "nothing", "file/below"]
    with unix_socket(tmp_path / "socket"), closed(tmp_path / "closed"):
        samples = dict(zip(names, sample_files(tmp_path, names), strict=True))
    assert samples == {
        "file": (take_sample(tmp_path / "file"), False),
        "marked": (take_sample(tmp_path / "marked"), True),
        "closed": (None, False),
        **dict.fromkeys(["folder", "link", "pipe", "socket", "nothing", "file/below"], (GONE, False)),
    }


MARKERS = {"newer": (1, True), "of the same time": (0, True), "older": (-1, False)}


@pytest.mark.parametrize(("age_ns", "counts"), MARKERS.values(), ids=MARKERS)
def test_a_marker_is_not_older_than_its_file(tmp_path: Path, age_ns: int, counts: bool) -> None:
    """A marker that an earlier file of the name left behind says nothing of the next one.

    It once released the next file of that name while it was written.
    """
    tree(tmp_path, "x.pdf", "x.pdf.done")
    then = 1_750_000_000_000_000_000
    os.utime(tmp_path / "x.pdf", ns=(then, then))
    os.utime(tmp_path / "x.pdf.done", ns=(then + age_ns, then + age_ns))
    assert sample_files(tmp_path, ["x.pdf"]) == [(take_sample(tmp_path / "x.pdf"), counts)]


def test_one_file_that_cannot_be_opened_is_no_fault_of_the_share(tmp_path: Path) -> None:
    """An error that only this file has makes it wait, whatever its number, and the others are sampled.

    Once any unknown number (EBUSY from an SMB server whose client holds the file for itself) paused the whole inbox.
    """
    tree(tmp_path, "file")
    too_long = "x" * 300
    assert sample_files(tmp_path, [too_long, "file"]) == [(None, False), (take_sample(tmp_path / "file"), False)]


# What is known


def test_an_inventory_keeps_no_empty_folders() -> None:
    """A folder is forgotten with its last file: years of dated folders would add up."""
    inventory = Inventory()
    for path in ("a/x", "a/y", "z"):
        inventory.add(path)
    inventory.discard("a/x")
    assert ("a/y" in inventory, "a/x" in inventory, len(inventory)) == (True, False, 2)
    for path in ("a/y", "a/y", "no/such"):
        inventory.discard(path)
    assert inventory.folders == {"": {"z"}}
