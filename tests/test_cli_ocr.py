"""`ocr-daemon ocr`: files are read now, and what becomes of each is said."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from glob import glob
from typing import TYPE_CHECKING

import pytest
from rich.progress import Progress

from daemon.assembly import Assembler
from daemon.oneshot import Order, Tools, read_all, read_file
from deepseek_ocr.errors import EngineDeadError
from deepseek_ocr.prompt import Options
from deepseek_ocr.reader import Reader
from tests.conftest import eventually, wait_until
from tests.documents import bars, jpeg, text_pdf
from tests.fakes import FakeEngine, run_here
from tests.finished_site import CONTENTS, ETC
from tests.service import LIMIT_S, REPOSITORY, command, environment

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


def ocr(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`ocr-daemon ocr` in a folder that has no configuration."""
    if ETC.exists():
        pytest.skip(f"there is a {ETC} on this machine")
    return command("ocr", "--engine", "textlayer", *arguments, cwd=folder)


@pytest.fixture
def papers(tmp_path: Path) -> Path:
    """A folder with documents and no configuration."""
    folder = tmp_path / "papers"
    folder.mkdir()
    for name, content in CONTENTS.items():
        if "/" not in name:
            (folder / name).write_bytes(content)
    return folder


def test_ocr_reads_files_now(papers: Path) -> None:
    """Markdown and JSON beside each other in the current folder, nothing else; a partial document is no failure."""
    before = set(papers.iterdir())
    result = ocr(papers, "letter.pdf", "scan.pdf")
    assert result.returncode == 0, result.stderr
    made = {path.name for path in set(papers.iterdir()) - before}
    assert made == {"letter.pdf.md", "letter.pdf.json", "scan.pdf.md", "scan.pdf.json"}
    assert "letter 2.1" in (papers / "letter.pdf.md").read_text(encoding="utf-8")
    assert json.loads((papers / "letter.pdf.json").read_bytes())["page_count"] == 2
    assert "letter.pdf: done" in result.stdout
    assert "scan.pdf: partial" in result.stdout
    assert "page 1: there is ink on the page but no text in the file" in result.stdout


def test_ocr_says_what_failed(papers: Path, tmp_path: Path) -> None:
    """One bad file does not stop the others; the exit code is 1, the JSON has slug and advice."""
    out = tmp_path / "made" / "for it"
    result = ocr(papers, "--json", "-o", str(out), "broken.pdf", "locked.pdf", "none.pdf", "letter.pdf")
    assert result.returncode == 1
    account = {one["path"]: one for one in json.loads(result.stdout)}
    assert [one["reason"] for one in account.values()] == ["corrupt", "encrypted", "unreadable_file", ""]
    assert "Remove the password" in account["locked.pdf"]["detail"]
    assert account["letter.pdf"]["outputs"] == [str(out / "letter.pdf.md"), str(out / "letter.pdf.json")]
    assert sorted(path.name for path in out.iterdir()) == ["letter.pdf.json", "letter.pdf.md"]


def test_ocr_reads_on_after_a_page_that_condemns_its_document(papers: Path) -> None:
    """A picture that was cut off once ended the command with a traceback, and the files after it were not read."""
    (papers / "cut.jpg").write_bytes(jpeg(bars((620, 877)))[:300])
    result = ocr(papers, "--json", "cut.jpg", "letter.pdf")
    assert (result.returncode, result.stderr) == (1, "")
    cut, letter = json.loads(result.stdout)
    assert (cut["status"], cut["reason"]) == ("failed", "corrupt")
    assert letter["status"] == "done"
    assert not list(papers.glob("ocr-daemon-*"))


def tools(reader: Reader) -> Tools:
    """With an assembler that starts no process."""
    return Tools(reader, Assembler(reader.picture, run_here))


async def test_an_engine_that_dies_ends_the_command(papers: Path) -> None:
    """It is no file's fault: it comes out by itself, not in a group, for exit code 69."""
    engine = FakeEngine()
    engine.answers[1] = [EngineDeadError("it died")]
    async with Reader(engine, workers=1) as reader:
        with pytest.raises(EngineDeadError):
            await read_file(tools(reader), papers / "letter.pdf", Order(papers, Options()), lambda *_: None)
    assert not list(papers.glob("*.md"))  # noqa: ASYNC240 - nothing else runs any more


async def test_an_output_that_cannot_be_written_is_the_result(papers: Path) -> None:
    """The file system of the output is named as what is at fault, and other files are read."""
    nowhere = papers / "nowhere"
    async with Reader(FakeEngine(), workers=1) as reader:
        order = Order(nowhere, Options())
        result = await read_file(tools(reader), papers / "letter.pdf", order, lambda *_: None)
    assert (result.status, result.reason) == ("failed", "unwritable_output")
    assert f"{nowhere}: No such file or directory" in result.detail


async def test_files_are_read_side_by_side(papers: Path) -> None:
    """One-page files fill the engine together, no more pages than it takes, and come back in the order of the call."""
    engine = FakeEngine(capacity=6)
    engine.gate.clear()
    files = tuple(papers / f"{number}.pdf" for number in range(30))
    for number, path in enumerate(files):
        path.write_bytes(text_pdf(1, words=f"number {number}"))
    async with Reader(engine, workers=1) as reader:
        with Progress(disable=True) as progress:
            reading = asyncio.create_task(read_all(tools(reader), files, Order(papers, Options()), progress))
            await eventually(lambda: len(engine.calls) == 6)
            engine.gate.set()
            results = await reading
    assert [result.path for result in results] == [str(path) for path in files]
    assert all(result.pages == 1 and result.outputs for result in results)


def test_a_name_too_long_for_its_outputs_is_that_files_result(papers: Path) -> None:
    """The others come out, and all have their account."""
    name = f"{'n' * 246}.pdf"
    (papers / name).write_bytes(text_pdf(1, words="long"))
    result = ocr(papers, "--json", name, "letter.pdf")
    assert result.returncode == 1, result.stderr
    long, letter = json.loads(result.stdout)
    assert (long["status"], long["reason"]) == ("failed", "unwritable_output")
    assert "File name too long" in long["detail"]
    assert letter["status"] == "done"


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_sigterm_leaves_nothing_half_made(papers: Path) -> None:
    """Temporary folders go, as with Ctrl-C; what was finished stays."""
    (papers / "long.pdf").write_bytes(text_pdf(3000, lines=30))
    with subprocess.Popen(
        [sys.executable, "-m", "daemon", "ocr", "--engine", "textlayer", "letter.pdf", "long.pdf"],
        cwd=papers, env=environment(PYTHONPATH=str(REPOSITORY)), stderr=subprocess.PIPE, text=True,
    ) as reading:  # fmt: skip
        wait_until((papers / "letter.pdf.md").exists, LIMIT_S)
        wait_until(lambda: glob(f"{papers}/ocr-daemon-*/pages/*"), LIMIT_S)  # noqa: PTH207 - Path's raises where one goes
        reading.terminate()
        _, said = reading.communicate(timeout=LIMIT_S)
    assert reading.returncode == 143, said
    assert "stopped; the files that were finished are written" in said
    assert not list(papers.glob("ocr-daemon-*"))
    assert not (papers / "long.pdf.md").exists()


def test_ocr_of_two_files_of_one_name(papers: Path) -> None:
    """The second would take the outputs of the first, with --overwrite in silence: it fails and says so."""
    (papers / "mail").mkdir()
    (papers / "mail" / "letter.pdf").write_bytes(CONTENTS["mail/letter.pdf"])
    result = ocr(papers, "--json", "--overwrite", "letter.pdf", "mail/letter.pdf")
    assert result.returncode == 1
    first, second = json.loads(result.stdout)
    assert (first["status"], second["status"], second["reason"]) == ("done", "failed", "output_exists")
    assert "another folder" in second["detail"]
    assert "letter 2.1" in (papers / "letter.pdf.md").read_text(encoding="utf-8")


def test_ocr_overwrites_only_if_told(papers: Path) -> None:
    """What is there stays, unless --overwrite says otherwise."""
    target = papers / "letter.pdf.md"
    target.write_text("mine", encoding="utf-8")
    refused = ocr(papers, "--json", "letter.pdf")
    assert refused.returncode == 1
    assert json.loads(refused.stdout)[0]["reason"] == "output_exists"
    assert target.read_text(encoding="utf-8") == "mine"
    assert not (papers / "letter.pdf.json").exists()
    assert ocr(papers, "--overwrite", "letter.pdf").returncode == 0
    assert "letter 1.1" in target.read_text(encoding="utf-8")


def test_ocr_with_exports(papers: Path) -> None:
    """They lie beside the text; an engine that reads text cannot look at figures again, and is told so."""
    name = os.fsdecode(b"caf\xe9.pdf")
    (papers / "letter.pdf").rename(papers / name)
    result = ocr(papers, "--json", "--export", "layout", "--export", "docling", name)
    (account,) = json.loads(result.stdout)
    assert (account["status"], account["missing"]) == ("done", [])
    assert account["outputs"] == [f"{name}{end}" for end in (".md", ".json", ".docling.json", ".layout.pdf")]
    refused = ocr(papers, "--second-pass", "scan.pdf")
    assert refused.returncode == 78
    assert "cannot describe a figure: leave --second-pass out" in refused.stderr


def test_ocr_with_a_wrong_variable(papers: Path) -> None:
    """Without a configuration too it is 78 and a sentence; once it was a traceback."""
    if ETC.exists():
        pytest.skip(f"there is a {ETC} on this machine")
    result = command("ocr", "letter.pdf", cwd=papers, OCR_DAEMON__LIMITS__MAX_PAGES="many")
    assert result.returncode == 78
    assert result.stderr.startswith("Error: OCR_DAEMON__LIMITS__MAX_PAGES in the environment: limits.max_pages: ")


def test_ocr_without_its_engine(papers: Path) -> None:
    """An engine that is not installed is 69."""
    result = ocr(papers, "--engine", "vllm", "letter.pdf")
    assert result.returncode == 69
    assert "vLLM is not installed; install vLLM from the checkout, with `make install" in result.stderr


def test_ocr_obeys_the_limits_of_a_configuration(papers: Path) -> None:
    """A configuration in the folder holds here too."""
    (papers / "config.toml").write_text("[limits]\nmax_pages = 1\n", encoding="utf-8")
    result = ocr(papers, "--json", "letter.pdf")
    assert result.returncode == 1
    assert json.loads(result.stdout)[0]["reason"] == "too_many_pages"
