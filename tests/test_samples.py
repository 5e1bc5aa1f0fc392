"""Every sample document through both engines: a table of what must come of each.

The samples lie beside the repository (`../shared/samples`, OCRmyPDF's test resources among them); without them these
tests are skipped.  With the textlayer engine all of them go through the real service.  The cpu engine takes minutes
for all, so by default it reads those that are not marked heavy; `--all-samples` reads every one.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import wait_until
from tests.service import REPOSITORY, Service, command

FOLDER = REPOSITORY.parent / "shared" / "samples"
#: The customer's limit for one page.
MAX_PAGE_S = 60

pytestmark = [
    pytest.mark.skipif(not FOLDER.is_dir(), reason="there are no samples beside the repository (../shared/samples)"),
    pytest.mark.slow,
    pytest.mark.timeout(900),
]


@dataclass(frozen=True, slots=True)
class Row:
    """A sample and what must come of it."""

    name: str
    pages: int
    #: done, partial, or the slug of its failure, by engine; "a|b" = either, where the scan is at the engine's limit.
    textlayer: str
    cpu: str
    #: What the cpu engine must have read, apart from case and spaces.
    words: str = ""
    #: Takes the cpu engine long: not in the default choice.
    heavy: bool = False


SCAN, BORN_DIGITAL = "partial", "done"
LINN = "The LinnSequencer is a state-of-the-art composition and performance tool"
BAIONA = "Basusarri"
LENTILS = "De linzen wassen en in"
CROM = "is a perfectly cromulent word"
FORM = "hat follows is an image embedded as a Form XObject"
TABLE = [
    Row("ocrmypdf/2400dpi.pdf", 1, SCAN, "done", LENTILS),
    Row("ocrmypdf/3small.pdf", 3, SCAN, "done", CROM, heavy=True),
    Row("ocrmypdf/acroform.pdf", 1, SCAN, "done", CROM),
    Row("ocrmypdf/aspect.pdf", 1, SCAN, "done", "This should be a perfect circle"),
    Row("ocrmypdf/baiona.png", 1, SCAN, "done", BAIONA),
    Row("ocrmypdf/baiona_alpha.png", 1, SCAN, "done", BAIONA),
    Row("ocrmypdf/baiona_cmyk.jpg", 1, SCAN, "done", BAIONA),
    Row("ocrmypdf/baiona_color.jpg", 1, SCAN, "done", BAIONA),
    Row("ocrmypdf/baiona_colormapped.png", 1, SCAN, "done", BAIONA),
    Row("ocrmypdf/baiona_gray.png", 1, SCAN, "done", BAIONA),
    Row("ocrmypdf/blank.pdf", 1, "done", "done"),
    Row("ocrmypdf/c02-22.pdf", 1, SCAN, "done", "We scrouched down and laid still"),
    Row("ocrmypdf/cardinal.pdf", 4, SCAN, "partial|done", LINN, heavy=True),  # turned by 90, 180 and 270 degrees
    Row("ocrmypdf/ccitt.pdf", 1, SCAN, "done", LINN, heavy=True),
    Row("ocrmypdf/cmyk.pdf", 1, SCAN, "done", "Multicolor Black"),
    Row("ocrmypdf/crom.png", 1, SCAN, "done", CROM),
    Row("ocrmypdf/docinfo_latin1_key.pdf", 1, "done", "done"),
    Row("ocrmypdf/enormous.pdf", 1, SCAN, "done", "81 megapixels"),
    Row("ocrmypdf/epson.pdf", 1, SCAN, "done", "From Wikipedia, the free encyclopedia", heavy=True),
    Row("ocrmypdf/formxobject.pdf", 1, BORN_DIGITAL, "done", FORM),
    Row("ocrmypdf/francais.pdf", 1, SCAN, "done", "au juge blond qui fume sur son île intérieure"),
    Row("ocrmypdf/graph.pdf", 1, SCAN, "done|partial", "Richwales"),
    Row("ocrmypdf/graph_ocred.pdf", 1, BORN_DIGITAL, "done|partial", "Richwales"),
    Row("ocrmypdf/hugemono.pdf", 1, SCAN, "done", "This is a very big image with a tiny amount of text"),
    Row("ocrmypdf/invalid.pdf", 0, "corrupt", "corrupt"),
    Row("ocrmypdf/jbig2.pdf", 1, SCAN, "done", LINN, heavy=True),
    Row("ocrmypdf/jbig2_baddevicen.pdf", 1, SCAN, "done", LINN, heavy=True),
    Row("ocrmypdf/kcs.pdf", 1, SCAN, "done", "Kodak Capture Desktop Test"),
    Row("ocrmypdf/lichtenstein.pdf", 1, SCAN, "partial|done"),  # a photo without a word
    Row("ocrmypdf/link.pdf", 2, BORN_DIGITAL, "done", "Somewhere on page 2", heavy=True),
    Row("ocrmypdf/linn.pdf", 1, SCAN, "done", LINN, heavy=True),
    Row("ocrmypdf/linn.png", 1, SCAN, "done", LINN, heavy=True),
    Row("ocrmypdf/linn.txt", 0, "unsupported_type", "unsupported_type"),
    Row("ocrmypdf/livecycle.pdf", 1, "done", "done"),
    Row("ocrmypdf/masks.pdf", 1, SCAN, "done", "aus Wikipedia, der freien Enzyklopädie", heavy=True),
    Row("ocrmypdf/meta.pdf", 1, "done", "done"),
    Row("ocrmypdf/missing_docinfo.pdf", 1, BORN_DIGITAL, "done", "This file has no /DocumentInfo block"),
    Row("ocrmypdf/multipage.pdf", 6, SCAN, "done", "We scrouched down and laid still", heavy=True),
    Row("ocrmypdf/negzero.pdf", 1, BORN_DIGITAL, "done", FORM),
    Row("ocrmypdf/no_contents.pdf", 1, "done", "done"),
    Row("ocrmypdf/overlay.pdf", 1, BORN_DIGITAL, "done", "Payed 2017-Jan-22"),
    Row("ocrmypdf/palette.pdf", 1, SCAN, "done", BAIONA),
    Row("ocrmypdf/poster.pdf", 1, SCAN, "done", LINN, heavy=True),
    Row("ocrmypdf/README.rst", 0, "unsupported_type", "unsupported_type"),
    Row("ocrmypdf/rotated_skew.pdf", 1, SCAN, "done", LINN),
    Row("ocrmypdf/skew.pdf", 1, SCAN, "done", LINN, heavy=True),
    Row("ocrmypdf/tagged.pdf", 2, BORN_DIGITAL, "done", "Table caption"),
    Row("ocrmypdf/toc.pdf", 2, BORN_DIGITAL, "done", FORM),
    Row("ocrmypdf/trivial.pdf", 1, "done", "done"),
    Row("ocrmypdf/truetype_font_nomapping.pdf", 1, SCAN, "partial|done"),  # a line of dots
    Row("ocrmypdf/type3_font_nomapping.pdf", 1, SCAN, "partial|done"),  # two letters
    Row("ocrmypdf/typewriter.png", 1, SCAN, "done", LENTILS),
    Row("ocrmypdf/vector.pdf", 1, SCAN, "done", "This is text that should be used for OCR processing"),
    Row("deepseek/show1.jpg", 1, SCAN, "done", "八年级数学下册几何证明题练习"),
    Row("deepseek/show2.jpg", 1, SCAN, "done|partial", "Macro news and views", heavy=True),
    Row("deepseek/show3.jpg", 1, SCAN, "done", "Storybook Reading for Young Dual Language Learners", heavy=True),
    Row("deepseek/show4.jpg", 1, SCAN, "done", "ANDERTOONS.COM", heavy=True),
]
IDS = [row.name for row in TABLE]


def test_the_table_is_complete() -> None:
    """Every file among the samples has its row, so that a new one is not passed over."""
    found = {str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*") if path.is_file()}
    assert found == {row.name for row in TABLE}


# textlayer, through the service


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Service:
    """A service that all samples were dropped into, stopped again; nothing of them is lost."""
    folder = tmp_path_factory.mktemp("samples")
    with Service(folder) as service:
        for row in TABLE:
            service.root.drop(row.name, (FOLDER / row.name).read_bytes())
        service.start().ready()
        wait_until(lambda: sum(service.root.ended()) == len(TABLE), 240, service.tail)
        service.root.check()
        account = service.audit()
        assert account["seen"] == len(TABLE) == account["done"] + account["partial"] + account["failed"]
        assert service.stop() == 0
    return service


@pytest.mark.parametrize("row", TABLE, ids=IDS)
def test_the_text_layer_of_each(served: Service, row: Row) -> None:
    """Text is done, a scan is partial with its pages marked, what is no document fails with its slug."""
    error = served.root.failed / f"{row.name}.error.json"
    if error.exists():
        assert json.loads(error.read_bytes())["reason"] == row.textlayer
        return
    manifest = json.loads((served.root.outbox / f"{row.name}.manifest.json").read_bytes())
    assert (manifest["status"], manifest["pages"]) == (row.textlayer, row.pages)
    markdown = (served.root.outbox / f"{row.name}.md").read_text(encoding="utf-8")
    assert markdown.count("<!-- page ") == row.pages
    assert (row.textlayer == "done") == ("no text in the file" not in markdown)


# cpu, through the command


@pytest.fixture(scope="module")
def read(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the cpu engine made of them, by name."""
    names = [row.name for row in TABLE if request.config.getoption("all_samples") or not row.heavy]
    folder = tmp_path_factory.mktemp("read")
    config = folder / "config.toml"
    config.write_text('[engine]\nbackend = "cpu"\n[engine.cpu]\nworkers = 2\n', encoding="utf-8")

    def some(names: list[str], out: str) -> dict[str, Any]:
        result = command(
            "ocr", "--engine", "cpu", "--json", "--config", str(config), "-o", str(folder / out),
            *(str(FOLDER / name) for name in names), timeout_s=850,
        )  # fmt: skip
        assert result.returncode in {0, 1}, result.stderr  # 1: some of them cannot be read
        return {str(Path(one["path"]).relative_to(FOLDER)): one for one in json.loads(result.stdout)}

    accounts = some(names, "out")
    # Where other programs had the cores a dense page ran into the engine's limit: those once more, one by one.
    for name in names:
        if any(map(is_late, accounts[name]["problems"])):
            accounts |= some([name], f"again-{name}")
    for account in accounts.values():
        texts = [Path(output).read_text(encoding="utf-8") for output in account["outputs"]]
        account["markdown"], account["document"] = (texts[0], json.loads(texts[1])) if texts else ("", {"pages": []})
    shutil.rmtree(folder)
    return accounts


@pytest.mark.parametrize("row", TABLE, ids=IDS)
def test_what_the_cpu_engine_reads(read: dict[str, Any], row: Row) -> None:
    """Scans and born-digital pages alike are read, within a minute each; what cannot be read is said."""
    if row.name not in read:
        pytest.skip("takes long; --all-samples reads it too")
    account = read[row.name]
    assert (account["reason"] or account["status"]) in row.cpu.split("|"), account
    assert account["pages"] == row.pages == len(account["document"]["pages"])
    assert (account["status"] == "partial") == bool(account["problems"])
    assert squeezed(row.words) in squeezed(account["markdown"])
    for page in account["document"]["pages"]:
        assert page["seconds"] < MAX_PAGE_S
        for block in page["blocks"]:
            left, top, right, bottom = block["box"]
            assert 0 <= left <= right <= page["width"]
            assert 0 <= top <= bottom <= page["height"]


def is_late(problem: dict[str, Any]) -> bool:
    """Whether the engine's time limit is why a page was not read to its end (`quality.py`, `processes.py`)."""
    return "cut off at the engine's limit" in problem["problem"] or "no result after" in problem["problem"]


def squeezed(text: str) -> str:
    """Without case, spaces and Markdown's escapes."""
    return "".join(text.casefold().split()).replace("\\", "")
