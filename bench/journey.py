"""What the journey costs: one-page born-digital PDFs through the service, against a loop that does the same by hand.

Bar: at least a third of the rate of the loop.  The loop is one process that calls the same reading and writing
functions one document after the other: claim, hash, extraction, checkpoint, outputs, publish, line, two commits,
source to done/, with every fsync.  Prints the ratio first, and the memory of the service on the way.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from bench.service import Service, service
from daemon.checkpoints import checkpointed_pages, checkpoints, write_checkpoint
from daemon.config import Inbox
from daemon.engines import engine_account
from daemon.folders import PUBLISHED, Folders, hash_file, take_sample
from daemon.ledger import FILE_NAME, connect
from daemon.outputs import (
    account,
    append_lines,
    finish_document,
    write_document,
    write_manifest,
)
from daemon.roots import Root, this_owner
from deepseek_ocr.attempt import page_from
from deepseek_ocr.completion import Completion
from deepseek_ocr.document import DocumentHead
from deepseek_ocr.engine import Choice
from deepseek_ocr.engine.textlayer import TextLayerEngine
from deepseek_ocr.keywords import document_tail
from deepseek_ocr.pages import Limits, inspect, load_page
from deepseek_ocr.pages_pdf import mupdf

BAR = 0.33


def write_documents(folder: Path, count: int) -> None:
    """One-page born-digital PDFs of some 2,000 letters each."""
    for number in range(count):
        document = mupdf().open()
        page = document.new_page()
        for line in range(40):
            page.insert_text((72, 72 + line * 16), f"Line {line} of {number}: the ferry leaves at half past {line}.")
        document.save(folder / f"{number:05}.pdf")


def serial(documents: Path, count: int, folder: Path) -> float:
    """Documents per second of the loop."""
    root = Root(Inbox(name="bench", root=folder))
    root.adopt(this_owner("bench"), known_id=None, now=time.time())
    for path in sorted(documents.iterdir())[:count]:
        shutil.copyfile(path, root.inbox / path.name)
    folders = Folders(root, "bench")
    ledger = connect(folder / FILE_NAME)
    engine = engine_account(Choice("textlayer", "bench"), TextLayerEngine())
    limits = Limits()
    started = time.perf_counter()
    for path in sorted(root.inbox.iterdir()):
        begun = time.monotonic()
        job = folders.claim(path.name, take_sample(path), time.time())
        source = folders.source(job)
        work = folders.job_folder(job)
        with ledger:
            ledger.execute("BEGIN")
            ledger.execute(
                "INSERT INTO jobs (job_id, root_id, inbox, path, name, size, claimed_at) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (job.job_id, "bench", "bench", job.path.encode(), job.name.encode(), job.sample.size, job.claimed_at),
            )
        take_sample(source)
        sha256 = hash_file(source)
        info = inspect(source, limits)
        list(checkpoints(work, sha256, info.page_count))
        image = load_page(source, 0, needs="nothing", limits=limits)
        text = "\n\n".join(region.text for region in image.text_layer)
        completion = Completion(text, "stop", 0.0, image.text_layer)
        write_checkpoint(work, sha256, page_from(image, completion, source="textlayer"))
        staging = folders.open_staging(job)
        head = DocumentHead(
            source_name=job.path, source_type=info.kind, engine=engine["name"], model=engine["model"], task="document",
            page_count=1,
        )  # fmt: skip
        summary = write_document(staging, job.name, head, partial(checkpointed_pages, work, sha256, 1))
        finish_document(staging, job.name, document_tail(staging / f"{job.name}.md"))
        outputs = [f"{job.name}.json", f"{job.name}.md"]
        accounted = account(
            job, summary=summary, engine=engine, sha256=sha256, source_type=info.kind, outputs=outputs,
            instance="bench", task="document", now=time.time(), seconds=time.monotonic() - begun,
        )  # fmt: skip
        take_sample(source)
        write_manifest(staging, job.name, accounted)
        folders.publish(job, outputs)
        folders.mark(job, PUBLISHED, accounted)
        append_lines(root.outbox / "manifest-bench.jsonl", [accounted])
        with ledger:
            ledger.execute("BEGIN")
            values = (time.time(), job.job_id)
            ledger.execute("UPDATE jobs SET status = 'done', finished_at = ? WHERE job_id = ?", values)
        folders.finish(job, PUBLISHED)
    rate = count / (time.perf_counter() - started)
    ledger.close()
    return rate


def has_finished(one: Service, count: int) -> bool:
    """Whether so many documents have ended."""
    return one.finished() >= count


def daemon(documents: Path, count: int) -> tuple[float, list[float]]:
    """Documents per second of the service, from the first claim to the last account, and its megabytes on the way."""
    with service(ENGINE__BACKEND="textlayer", WATCH__SETTLE_S="0.3") as one:
        (one.root / "inbox").mkdir(parents=True)
        for path in sorted(documents.iterdir())[:count]:
            shutil.copyfile(path, one.root / "inbox" / path.name)
        one.start()
        memory = []
        for part in (1, 2, 3, 4):
            wanted = part * count // 4
            one.wait(partial(has_finished, one, wanted), 600, f"{wanted} documents are done")
            memory.append(sum(one.memory_parts_mb().values()))
        accounts = one.accounts()
        assert all(line["status"] == "done" for line in accounts)
        took_s: float = max(line["finished_at"] for line in accounts) - min(line["claimed_at"] for line in accounts)
        return count / took_s, memory


def main() -> int:
    """Both, in turns; 1 if the service is below the bar."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="ocr-daemon-bench-"))
    try:
        documents = folder / "documents"
        documents.mkdir()
        write_documents(documents, arguments.documents)
        loops, services = [], []
        for number in range(arguments.rounds):
            root = folder / f"serial-{number}"
            root.mkdir()
            loops.append(serial(documents, arguments.documents, root))
            rate, memory = daemon(documents, arguments.documents)
            services.append(rate)
        ratio = max(services) / max(loops)
        print(f"ratio {ratio:.2f} (bar {BAR})")
        print(f"service {', '.join(f'{rate:.0f}' for rate in services)} documents/s")
        print(f"loop    {', '.join(f'{rate:.0f}' for rate in loops)} documents/s")
        print(f"memory  {', '.join(f'{part:.0f}' for part in memory)} MB after each quarter of the last round")
        return int(ratio < BAR)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
