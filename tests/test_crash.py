"""The promise under SIGKILL: nothing is lost, nothing is half-written, every file is accounted for.

Each round kills the real service at a moment of its own, then the next one starts on what is left.  The moments and
the documents come from pytest's seed, which the head of every run names (`--randomly-seed=...`).
"""

from __future__ import annotations

import json
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from daemon import samples
from daemon.durable import TEMPORARY_PREFIX
from tests.conftest import wait_until
from tests.documents import text_pdf
from tests.drop_root import digest
from tests.service import Service

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: Kills that hit the same page of the same document again and again must not use its attempts up: here that is chance.
LIMITS = "max_attempts = 100"
#: Names that come again and again, so that free ones have to be found while others are on their way.
NAMES = ("report.pdf", "scan 1.pdf", "mail/attachment.pdf", "mail/2024/été.pdf", "no extension", "UPPER.PDF")
#: Seconds from READY within which most kills fall: what the documents of a round take.
BUSY_S = 1.2
#: One kill of so many falls into the start, before READY.
START_KILLS = 5


@dataclass(frozen=True, slots=True)
class Dropped:
    """A document and what must come of it."""

    pages: int
    #: Stands on every page; no other document has it.
    mark: str
    #: The slug of its failure; empty = it can be read.
    reason: str = ""


class Dropper:
    """Drops documents, each of another content, and remembers them by their hash."""

    def __init__(self, service: Service, rng: random.Random) -> None:
        self._root = service.root
        self._rng = rng
        self._encrypted = samples.encrypted_pdf()
        self._corrupt = samples.corrupt_pdf()
        self.dropped: dict[str, Dropped] = {}

    def drop(self, count: int) -> None:
        """So many documents, of one to five pages; one in five cannot be read."""
        for _ in range(count):
            mark = f"document{len(self.dropped):05}"
            comment = f"\n% {mark}\n".encode()
            match self._rng.randrange(10):
                case 0:
                    content, document = self._encrypted + comment, Dropped(0, mark, "encrypted")
                case 1:
                    content, document = self._corrupt + comment, Dropped(0, mark, "corrupt")
                case _:
                    pages = self._rng.randint(1, 5)
                    content, document = text_pdf(pages, lines=3, words=mark), Dropped(pages, mark)
            name = self._rng.choice(NAMES)
            if (self._root.inbox / name).exists():
                name = f"{mark}.pdf"
            self._root.drop(name, content)
            self.dropped[digest(content)] = document


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """A service on the engine that needs no time."""
    with Service(tmp_path, settle_s=0.1, rescan_s=0.5, limits=LIMITS, keywords="true") as service:
        yield service


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_nothing_is_lost_when_the_service_is_killed(service: Service, request: pytest.FixtureRequest) -> None:
    """Killed at any moment, again and again, every document ends exactly once in done/ or failed/, and completely."""
    rng = random.Random(request.config.getoption("randomly_seed"))  # noqa: S311 - moments, not secrets
    dropper = Dropper(service, rng)
    for _ in range(request.config.getoption("rounds")):
        dropper.drop(rng.randint(0, 12))
        service.start()
        if rng.randrange(START_KILLS):
            service.ready()
            moment = time.monotonic() + rng.uniform(0, BUSY_S)
        else:
            moment = time.monotonic() + rng.uniform(0, 2.5)
        dropper.drop(rng.randint(0, 4))
        wait_until(lambda moment=moment: time.monotonic() >= moment)  # type: ignore[misc]
        if rng.randrange(2):
            service.kill_group()
        else:
            service.kill()

    service.start().ready()
    wait_until(
        lambda: service.root.ended() == (wanted(dropper, ""), wanted(dropper, "encrypted", "corrupt")),
        60 + len(dropper.dropped) / 4,
        service.tail,
    )
    wait_until(lambda: not any(service.root.work.iterdir()), 10, "work/ is not empty")
    dropper.drop(1)
    wait_until(lambda: sum(service.root.ended()) == len(dropper.dropped), 15, "the next file is not served")
    assert service.stop() == 0
    check_everything(service, dropper)
    rounds, failed = request.config.getoption("rounds"), wanted(dropper, "encrypted", "corrupt")
    # The figure that `make test-crash` publishes.
    documents = f"{len(dropper.dropped)} documents, {failed} of them unreadable"
    print(f"{rounds} kills, {documents}: none lost, none doubled, none half-written")  # noqa: T201


def wanted(dropper: Dropper, *reasons: str) -> int:
    """How many documents end for one of these reasons."""
    return sum(document.reason in reasons for document in dropper.dropped.values())


def check_everything(service: Service, dropper: Dropper) -> None:
    """Every document is where it belongs with all that belongs to it, and the account says the same."""
    root = service.root
    lines = manifest_lines(root.outbox / "manifest-test.jsonl")
    places = root.places()
    assert places.keys() == dropper.dropped.keys()
    for key, document in dropper.dropped.items():
        assert len(places[key]) == 1, f"{document} lies in {places[key]}"
        folder, _, name = places[key][0].partition("/")
        if document.reason:
            assert folder == "failed", f"{document} lies in {places[key]}"
            account = json.loads((root.failed / f"{name}.error.json").read_bytes())
            assert account["reason"] == document.reason
            assert (root.failed / f"{name}.error.txt").read_text(encoding="utf-8").count("\n") == 2
        else:
            assert folder == "done", f"{document} lies in {places[key]}"
            account = check_output(root.outbox, name, key, document)
        assert lines.pop(account["job_id"]) == account
    assert not lines, "lines of documents that nobody dropped"
    assert not list(root.work.iterdir())
    assert not list((root.outbox / ".staging").iterdir())
    assert not list(service.folder.rglob(f"{TEMPORARY_PREFIX}*"))
    balance = service.audit()
    assert balance["seen"] == len(dropper.dropped) == balance["done"] + balance["failed"]
    assert (balance["partial"], balance["pending"], balance["collected"], balance["ignored"]) == (0, 0, 0, 0)


def check_output(outbox: Path, name: str, key: str, document: Dropped) -> dict[str, Any]:
    """Markdown, JSON and manifest of a document are there and whole; the manifest."""
    manifest: dict[str, Any] = json.loads((outbox / f"{name}.manifest.json").read_bytes())
    assert manifest["status"] == "done"
    assert manifest["source"]["sha256"] == key
    assert [outbox / name, *map((outbox / name).with_name, manifest["outputs"])][1:] == [
        outbox / f"{name}.json",
        outbox / f"{name}.md",
    ]
    markdown = (outbox / f"{name}.md").read_text(encoding="utf-8")
    content = json.loads((outbox / f"{name}.json").read_bytes())
    assert content["page_count"] == len(content["pages"]) == manifest["pages"] == document.pages
    for number, page in enumerate(content["pages"], 1):
        assert page["page_number"] == number
        assert f"<!-- page {number} -->" in markdown
        assert f"{document.mark} {number}.1" in markdown
        assert f"{document.mark} {number}.3" in " ".join(block["text"] for block in page["blocks"])
    return manifest


def manifest_lines(path: Path) -> dict[str, dict[str, Any]]:
    """The last line of each job; every line must parse."""
    lines = map(json.loads, path.read_text(encoding="ascii").splitlines())
    return {line["job_id"]: line for line in lines}
