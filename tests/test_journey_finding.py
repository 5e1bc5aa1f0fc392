"""Files that are dropped are found, by events or by the scan, and taken once they are whole."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from daemon.config import Watch
from tests.conftest import eventually
from tests.drop_root import DropRoot
from tests.fakes import fake_document
from tests.journey import Journey, manifest, markdown, out, rows

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

#: watchdog sets the watch of a folder that is made in a new folder twice, and says so in its thread.
pytestmark = pytest.mark.filterwarnings("ignore:Callback with id:RuntimeWarning")
#: Nothing is found by a scan after the first.
EVENTS_ONLY_S = 3600.0


@pytest.mark.parametrize(
    "arrive",
    [
        lambda root: root.drop("a.pdf", fake_document(words="news")),
        lambda root: root.drop("x/y/a.pdf", fake_document(words="news")),
    ],
    ids=["in the inbox", "in new subfolders"],
)
async def test_events_alone_find_a_file(root: DropRoot, tmp_path: Path, arrive: Callable[[DropRoot], Path]) -> None:
    """A file that is dropped is found long before the next scan."""
    watch = Watch(settle_s=0.05, rescan_s=EVENTS_ONLY_S)
    async with Journey(tmp_path, root, watch=watch) as journey:
        await eventually(lambda: journey.intake.shares[0].watcher.settler.next_due() is None)
        name = str(arrive(root).relative_to(root.inbox))
        await eventually(lambda: out(root, name))
    assert markdown(root, name) == "<!-- page 1 -->\n\nnews 1\n"


async def test_a_folder_that_is_moved_in_is_found(root: DropRoot, tmp_path: Path) -> None:
    """Files in a folder that comes whole raise no event of their own; they are found all the same."""
    async with Journey(tmp_path, root, watch=Watch(settle_s=0.05, rescan_s=EVENTS_ONLY_S)):
        outside = DropRoot(tmp_path / "outside")
        for number in range(3):
            content = fake_document(words=f"letter {number}")
            outside.drop(f"letters/deep/{number}.pdf", content)
            root.drop("elsewhere.part", content).unlink()
        (outside.inbox / "letters").rename(root.inbox / "letters")
        await eventually(lambda: all(out(root, f"letters/deep/{number}.pdf") for number in range(3)))


async def test_the_scan_alone_finds_a_file(root: DropRoot, tmp_path: Path) -> None:
    """Where no event comes, as on a network file system, the scan is enough."""
    async with Journey(tmp_path, root) as journey:
        journey.intake.shares[0].watcher.stop_events()
        root.drop("x/a.pdf", fake_document())
        await eventually(lambda: out(root, "x/a.pdf"))


async def test_a_slow_writer_is_waited_for(root: DropRoot, tmp_path: Path) -> None:
    """A file is taken when it has been quiet for settle_s, and then it is whole."""
    content = fake_document(2, "slowly written")
    async with Journey(tmp_path, root, watch=Watch(settle_s=0.4, rescan_s=0.1)) as journey:
        path = root.drop("slow.pdf", b"")
        root.forget(b"")
        with path.open("wb", buffering=0) as file:
            for byte in content:
                assert path.exists(), "it was taken while it was written"
                file.write(bytes([byte]))
                due = time.monotonic() + 0.02
                await eventually(lambda due=due: time.monotonic() > due)  # type: ignore[misc]
        root.dropped.update(dict.fromkeys(root.places(), "slow.pdf"))
        await eventually(lambda: out(root, "slow.pdf"))
        assert journey.reader.inspected == ["slowly written"]
    assert manifest(root, "slow.pdf")["pages"] == 2


async def test_temporary_names_are_never_documents(root: DropRoot, tmp_path: Path) -> None:
    """Names that writers use while they write stay untouched, until they get their real one."""
    names = [".hidden.pdf", "a.pdf.part", "b.pdf.tmp", "~$c.docx", "Thumbs.db", "d.pdf.crdownload", "e.done"]
    async with Journey(tmp_path, root) as journey:
        for name in names:
            root.drop("x", fake_document(words=name)).rename(root.inbox / name)
        root.drop("real.pdf", fake_document(words="real"))
        await eventually(lambda: out(root, "real.pdf"))
        watcher = journey.intake.shares[0].watcher
        await eventually(lambda: watcher.ignored == len(names))
        (root.inbox / "a.pdf.part").rename(root.inbox / "a.pdf")
        await eventually(lambda: out(root, "a.pdf"))
    assert sorted(path.name for path in root.inbox.iterdir()) == sorted(set(names) - {"a.pdf.part"})


async def test_a_file_that_is_taken_back_in_time_is_forgotten(root: DropRoot, tmp_path: Path) -> None:
    """Who deletes a file before it has settled has not dropped it."""
    async with Journey(tmp_path, root, watch=Watch(settle_s=1, rescan_s=0.1)) as journey:
        content = fake_document(words="a mistake")
        path = root.drop("oops.pdf", content)
        watcher = journey.intake.shares[0].watcher
        await eventually(lambda: "oops.pdf" in watcher.settler)
        path.unlink()
        root.forget(content)
        await eventually(lambda: "oops.pdf" not in watcher.settler and "oops.pdf" not in watcher.inventory)
    assert rows(tmp_path) == {}
