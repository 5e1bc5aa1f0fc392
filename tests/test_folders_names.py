"""The names that documents get: none that was used before, and none that an open job will use."""

from __future__ import annotations

import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from daemon.names import MAX_NAME_BYTES, OUTPUT_SUFFIXES
from tests.folders import NOW, carry, claim, drop, folders_at, listing

#: Name -> what lies in the root already, what is dropped, and the name that is chosen.
NAMES: dict[str, tuple[list[str], str, str]] = {
    "free": ([], "x.pdf", "x.pdf"),
    "an original of that name": (["done/x.pdf"], "x.pdf", "x~2.pdf"),
    "two of them": (["done/x.pdf", "done/x~2.pdf"], "x.pdf", "x~3.pdf"),
    "one was taken away": (["done/x~2.pdf"], "x.pdf", "x.pdf"),
    "a failed one": (["failed/x.pdf"], "x.pdf", "x~2.pdf"),
    "the reason of a failure": (["failed/x.pdf.error.txt"], "x.pdf", "x~2.pdf"),
    "only its Markdown is left": (["outbox/x.pdf.md"], "x.pdf", "x~2.pdf"),
    "only its pictures": (["outbox/x.pdf.images/1.png"], "x.pdf", "x~2.pdf"),
    "another subfolder": (["done/x.pdf"], "a/x.pdf", "a/x.pdf"),
    "in a subfolder": (["done/a/x.pdf"], "a/x.pdf", "a/x~2.pdf"),
    "no extension": (["done/x"], "x", "x~2"),
    "an output's name as a source": (["outbox/x.pdf.md", "done/x.pdf"], "x.pdf.md", "x.pdf.md"),
    "a reason's name as a source that fails": (["failed/x.pdf.error.txt"], "x.pdf.error.txt", "x.pdf.error~2.txt"),
    "a manifest's name as a source": (["outbox/x.manifest.json"], "x", "x~2"),
    "a subfolder where a file lies": (["outbox/a"], "a/x.pdf", "a~/x.pdf"),
    "a subfolder where an original lies": (["done/a/b", "failed/a/b~"], "a/b/x.pdf", "a/b~~/x.pdf"),
    "a subfolder where an output lies": (["outbox/x.pdf.md"], "x.pdf.md/y.pdf", "x.pdf.md~/y.pdf"),
    "a folder where the original would lie": (["done/x.pdf/y"], "x.pdf", "x~2.pdf"),
    "dots in the name": (["done/v1.2.final.pdf"], "v1.2.final.pdf", "v1.2.final~2.pdf"),
    "no UTF-8": ([os.fsdecode(b"done/\xe9.pdf")], os.fsdecode(b"\xe9.pdf"), os.fsdecode(b"\xe9~2.pdf")),
}


@pytest.mark.parametrize(("there", "dropped", "expected"), NAMES.values(), ids=NAMES)
def test_a_name_that_was_used_is_not_used_again(tmp_path: Path, there: list[str], dropped: str, expected: str) -> None:
    """The first name is chosen that no trace of an earlier document stands in the way of; nothing is overwritten."""
    folders = folders_at(tmp_path)
    for path in there:
        (folders.root.path / path).parent.mkdir(parents=True, exist_ok=True)
        (folders.root.path / path).write_bytes(b"theirs")
    before = {path: (folders.root.path / path).read_bytes() for path in there}
    job = claim(folders, dropped)
    assert job.name == expected
    carry(folders, job)
    assert (folders.root.done / expected).read_bytes() == b"content"
    assert (folders.root.outbox / f"{expected}.md").exists()
    assert {path: (folders.root.path / path).read_bytes() for path in there} == before


#: Documents that are open at the same time -> the names they get.
OPEN: dict[str, list[tuple[str, str]]] = {
    "the same name again": [("x.pdf", "x.pdf"), ("x.pdf", "x~2.pdf"), ("x.pdf", "x~3.pdf")],
    "a name that another one's number gives": [("x.pdf", "x.pdf"), ("x~2.pdf", "x~2.pdf"), ("x.pdf", "x~3.pdf")],
    "a reason's name": [("x.pdf", "x.pdf"), ("x.pdf.error.txt", "x.pdf.error~2.txt")],
    "a reason's name first": [("x.pdf.error.txt", "x.pdf.error.txt"), ("x.pdf", "x~2.pdf")],
    "an output's name": [("x", "x"), ("x.json", "x.json")],
    "an output that is another's export": [("x", "x"), ("x.docling", "x~2.docling")],
    "a subfolder of an output's name": [("x.pdf", "x.pdf"), ("x.pdf.md/y", "x.pdf.md~/y")],
    "a subfolder of an output's name first": [("x.pdf.md/y", "x.pdf.md/y"), ("x.pdf", "x~2.pdf")],
    "a subfolder of a source's name": [("a", "a"), ("b/a/y", "b/a/y"), ("b", "b~2")],
}


@pytest.mark.parametrize("documents", OPEN.values(), ids=OPEN)
@pytest.mark.parametrize("recovered", [False, True], ids=["in one run", "after a stop"])
def test_open_jobs_never_share_a_name(tmp_path: Path, documents: list[tuple[str, str]], recovered: bool) -> None:
    """Nothing that one open job will write is in the way of another, also when a stop came between their claims."""
    folders = folders_at(tmp_path)
    jobs = []
    for number, (path, name) in enumerate(documents):
        job = claim(folders, path, f"{number}".encode())
        assert job.name == name
        for parent in list(Path(path).parents)[:-1]:
            (folders.root.inbox / parent).rmdir()
        jobs.append(job)
        if recovered:
            folders = folders_at(tmp_path)
            assert {one.job for one in folders.recover()} == set(jobs)
    for job in jobs:
        carry(folders, job)
    assert {path: (folders.root.done / path).read_bytes() for path in listing(folders.root.done)} == {
        name: f"{number}".encode() for number, (_, name) in enumerate(documents)
    }


def test_a_finished_job_frees_what_it_had_reserved(tmp_path: Path) -> None:
    """Once users have taken everything away the name is free again."""
    folders = folders_at(tmp_path)
    carry(folders, claim(folders, "x.pdf"))
    for path in (*folders.root.outbox.glob("x*"), folders.root.done / "x.pdf"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert claim(folders, "x.pdf").name == "x.pdf"


def test_claims_in_many_threads_choose_different_names(tmp_path: Path) -> None:
    """Claims and ends of jobs in several threads at once neither fail nor choose names that are in each other's way."""
    folders = folders_at(tmp_path)
    # `1.docling` would write 1.docling.json, which is also an export of `1`.
    names = [f"{number}{end}" for number in range(60) for end in ("", ".docling", ".pdf")]
    samples = {name: drop(folders, name) for name in names}
    chosen: dict[str, str] = {}

    def one(name: str) -> None:
        job = folders.claim(name, samples[name], NOW)
        chosen[name] = job.name
        # Where the first of a pair had ended, the other's name would be free.
        if name.endswith(".pdf"):
            carry(folders, job)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(one, names))
    finally:
        sys.setswitchinterval(interval)
    clashes = [number for number in range(60) if {f"{number}", f"{number}.docling"} <= set(chosen.values())]
    assert not clashes
    assert len(set(chosen.values())) == len(names)


LONG = {
    "at the limit": "a" * (MAX_NAME_BYTES - 4) + ".pdf",
    "just over": "a" * (MAX_NAME_BYTES - 3) + ".pdf",
    "as long as can be": "a" * 251 + ".pdf",
    "letters of several bytes": "ä" * 125 + ".pdf",
    "no UTF-8": os.fsdecode(b"\xff" * 251 + b".pdf"),
    "an extension without end": "a." + "b" * 250,
    "no extension": "a" * 255,
}


@pytest.mark.parametrize("name", LONG.values(), ids=LONG)
def test_long_names_get_room_for_every_output(tmp_path: Path, name: str) -> None:
    """A name is cut so that the longest suffix and a number fit behind it, and two long names stay two."""
    folders = folders_at(tmp_path)
    jobs = [claim(folders, f"{number}/{name}") for number in (1, 1)]
    for job in jobs:
        chosen = Path(job.name).name
        assert max(len(os.fsencode(f"{chosen}{suffix}")) for suffix in OUTPUT_SUFFIXES) <= 255
        assert (chosen == name) == (len(os.fsencode(name)) <= MAX_NAME_BYTES and job is jobs[0])
        carry(folders, job)
    assert len(listing(folders.root.done)) == 2


def test_long_names_that_begin_the_same_stay_apart(tmp_path: Path) -> None:
    """What is cut off tells two documents apart still."""
    folders = folders_at(tmp_path)
    one, other = (claim(folders, "a" * 240 + end + ".pdf").name for end in ("1", "2"))
    assert one != other
    assert "~2" not in one + other
