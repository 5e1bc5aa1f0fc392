"""The cpu engine with its real models and worker processes."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pymupdf
import pytest

from deepseek_ocr import recognition
from deepseek_ocr.completion import PageImage
from deepseek_ocr.engine import cpu
from deepseek_ocr.engine.cpu import CpuEngine
from deepseek_ocr.errors import EngineStartError, WorkerDied, WorkerTimeout
from deepseek_ocr.prompt import Options, Task
from deepseek_ocr.scripts import LETTERS
from deepseek_ocr.tables import parse_table

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from numpy.typing import NDArray

    Image = NDArray[np.uint8]

DETECTION, RECOGNITION = cpu._model_files(None)  # noqa: SLF001 - where the wheel has them
LEFT = "Every boat carried two observers who wrote down depth and position at night."
RIGHT = "Nobody expected that the old charts would turn out to be wrong by half a mile."


TABLE = [
    ["Harbour", "Depth", "Remarks"],
    ["North pier", "4.5", "dry in spring"],
    ["South pier", "13.25", "ferry"],
    ["Old quay", "2.0", "closed"],
]


def page(image: Image, *, ink: float = 0.1) -> PageImage:
    """A page image as the renderer gives it."""
    height, width = image.shape[:2]
    return PageImage(0, width, height, "px", image, ink)


def rendered(html: dict[tuple[float, float, float, float], str], *, dpi: int = 144) -> Image:
    """An A4 page with these texts in these places."""
    with pymupdf.open() as document:
        sheet = document.new_page(width=595, height=842)
        for place, text in html.items():
            sheet.insert_htmlbox(pymupdf.Rect(*place), text, css="p {font-size: 11pt; line-height: 1.3}")
        pixmap = sheet.get_pixmap(dpi=dpi)
        return np.frombuffer(pixmap.samples, np.uint8).reshape(pixmap.height, pixmap.width, 3).copy()


def two_columns() -> Image:
    """A heading over two columns of two paragraphs each."""
    return rendered(
        {
            (50, 40, 545, 80): "<h1>A Survey of Harbours</h1>",
            (50, 100, 285, 400): f"<p>Alpha. {LEFT * 2}</p><p>Beta. {LEFT}</p>",
            (310, 100, 545, 400): f"<p>Gamma. {RIGHT * 2}</p><p>Delta. {RIGHT}</p>",
        }
    )


def picture(text: str, *, width: int, height: int, at: tuple[int, int], scale: float = 1.0) -> Image:
    """A white picture with one line of text."""
    image = np.full((height, width, 3), 255, np.uint8)
    cv2.putText(image, text, at, cv2.FONT_HERSHEY_SIMPLEX, scale, (0, 0, 0), max(1, round(2 * scale)), cv2.LINE_AA)
    return image


def read(image: Image, budget_s: float = 60.0) -> recognition.Reading:
    """Read a page in this process."""
    return recognition.read_image(DETECTION, RECOGNITION, image, budget_s)


def cpu_s(pid: int) -> float:
    """CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def wait_until(predicate: Callable[[], bool], timeout_s: float = 20.0) -> None:
    """Poll until it is true."""
    async with asyncio.timeout(timeout_s):
        while not predicate():  # noqa: ASYNC110 - nothing in this process changes
            await asyncio.sleep(0.01)


@pytest.fixture
async def engine() -> AsyncIterator[CpuEngine]:
    """A started engine with one worker process."""
    engine = CpuEngine(workers=1)
    await engine.start()
    yield engine
    await engine.stop()


async def test_columns_are_read_one_after_the_other(engine: CpuEngine) -> None:
    """A page in two columns under a heading comes in reading order, with labels, places and confidence."""
    completion = await engine.recognize(page(two_columns()), Options())
    assert completion.finish_reason == "stop"
    assert completion.seconds > 0
    title, *texts = completion.regions
    assert (title.label, title.text) == ("title", "A Survey of Harbours")
    assert [region.text.split(".")[0] for region in texts] == ["Alpha", "Beta", "Gamma", "Delta"]
    assert {region.label for region in texts} == {"text"}
    assert texts[0].text == f"Alpha. {LEFT * 2}"
    assert all(region.confidence is not None and region.confidence > 0.9 for region in completion.regions)
    assert texts[0].box[2] < 0.5 < texts[2].box[0]
    assert completion.text.startswith("A Survey of Harbours\n\nAlpha.")


def test_ruled_table_is_read_cell_by_cell() -> None:
    """Cells so close that their text is one line are read apart, on a page that lies askew."""
    with pymupdf.open() as document:
        sheet = document.new_page(width=595, height=842)
        sheet.insert_text((60, 80), "Depths of the harbour", fontname="hebo", fontsize=18)
        for row, words in enumerate(TABLE):
            for column, word in enumerate(words):
                right = pymupdf.get_text_length(word, fontsize=11) if column == 1 else 93
                sheet.insert_text((60 + 100 * column + 97 - right, 134 + 18 * row), word, fontsize=11)
        for edge in range(5):
            sheet.draw_line((60, 120 + 18 * edge), (360, 120 + 18 * edge), width=0.6)
        for edge in range(4):
            sheet.draw_line((60 + 100 * edge, 120), (60 + 100 * edge, 192), width=0.6)
        for row in range(6):
            sheet.insert_text((60, 230 + 16 * row), LEFT, fontsize=11)
        pixmap = sheet.get_pixmap(dpi=144)
    image = np.frombuffer(pixmap.samples, np.uint8).reshape(pixmap.height, pixmap.width, 3)
    turn = cv2.getRotationMatrix2D((595, 842), 0.7, 1)
    askew = np.asarray(cv2.warpAffine(image, turn, image.shape[1::-1], borderValue=(255, 255, 255)), np.uint8)
    title, table, *texts = read(askew).regions
    assert (title.label, title.text) == ("title", "Depths of the harbour")
    assert [[cell.text for cell in row] for row in parse_table(table.text).rows] == TABLE
    assert {region.label for region in texts} == {"text"}
    assert table.confidence is not None


def test_stems_of_large_letters_are_no_rules() -> None:
    """A title in two lines over small print: its stems stand above each other and do not cut the lines."""
    lines = "The Hill Title<br>The Hill Title"
    title = f"<div style='font: bold 24px sans-serif; line-height: 0.95; text-align: center'>{lines}</div>"
    body = f"<p style='font: 9px sans-serif'>{'small print of the usual height. ' * 60}</p>"
    reading = read(rendered({(60, 60, 540, 130): title, (60, 140, 540, 700): body}))
    words = " ".join(region.text for region in reading.regions[:2])
    assert words.startswith("The Hill Title The Hill Title"), words


@pytest.mark.parametrize("ground", ["light", "dark", "a light sheet on dark"])
def test_light_and_dark_grounds(ground: str) -> None:
    """What is between letters is no rule that cuts their lines, whether they are dark, light, or on a small sheet."""
    title = "<div style='font: bold 24px sans-serif; line-height: 0.95'>The keeper of<br>the harbour</div>"
    body = f"<p style='font: 12px sans-serif'>{'He counted every boat that came home. ' * 8}</p>"
    image = rendered({(60, 60, 540, 130): title, (60, 140, 540, 300): body})
    if ground == "dark":
        image = 255 - image
    elif ground != "light":
        sheet = image[80:620]
        image = np.zeros((3 * sheet.shape[0], *sheet.shape[1:]), np.uint8)
        image[sheet.shape[0] : 2 * sheet.shape[0]] = sheet
    said = "".join(region.text for region in read(image).regions).replace(" ", "")
    assert said == "Thekeeperoftheharbour" + "Hecountedeveryboatthatcamehome." * 8


def test_script_without_guard_is_told_so(tmp_path: Path) -> None:
    """A program that starts the engine outside `if __name__ == "__main__":` learns that this is what is missing."""
    script = tmp_path / "script.py"
    script.write_text(
        "import asyncio\nfrom deepseek_ocr.engine.cpu import CpuEngine\nasyncio.run(CpuEngine(workers=1).start())\n",
        encoding="utf-8",
    )
    root = {"PYTHONPATH": str(Path(__file__).parent.parent)}
    run = subprocess.run([sys.executable, script], env=os.environ | root, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "EngineStartError: the cpu engine cannot start" in run.stderr
    assert '`if __name__ == "__main__":` around its start' in run.stderr


async def test_blank_page_runs_no_model() -> None:
    """A page without ink is answered at once, also by an engine whose processes were never started."""
    engine = CpuEngine(workers=1)
    completion = await engine.recognize(page(np.zeros((8, 8, 3), np.uint8), ink=0), Options(Task.FREE))
    assert (completion.text, completion.regions, completion.finish_reason) == ("", (), "stop")
    assert engine.pids() == []


async def test_killed_worker_costs_only_its_page(engine: CpuEngine) -> None:
    """A process killed over a page fails that page; the next one is read by a fresh process."""
    (pid,) = engine.pids()
    body = f"<p style='font: 9px sans-serif'>{'small print of the usual height. ' * 120}</p>"
    reading = asyncio.create_task(engine.recognize(page(rendered({(60, 140, 540, 800): body})), Options()))
    before = cpu_s(pid)
    await wait_until(lambda: cpu_s(pid) > before + 0.1)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(WorkerDied):
        await reading
    completion = await engine.recognize(page(picture("Next 42", width=300, height=80, at=(30, 50))), Options())
    assert completion.text == "Next 42"
    assert engine.pids() != [pid]
    assert engine.health().ok


async def test_page_over_its_time_is_given_up() -> None:
    """A page that takes longer than its limit fails as a timeout, not as a dead process."""
    engine = CpuEngine(workers=1, page_timeout_s=0.2)  # no process has the models in that time
    with pytest.raises(WorkerTimeout, match="no result after"):
        await engine.recognize(page(two_columns()), Options())
    await engine.stop()


def test_time_budget_cuts_a_page_off() -> None:
    """When the time is up, what was read so far comes back, marked as incomplete."""
    reading = read(two_columns(), budget_s=0.0)
    assert not reading.complete
    assert len(reading.regions) < 5


@pytest.mark.parametrize("size", [(1, 1), (3, 1), (20, 10), (2, 900), (3000, 2)], ids=str)
def test_tiny_pictures_are_no_error(size: tuple[int, int]) -> None:
    """Pictures too small for any letter are read as empty, whatever their shape."""
    image = np.full((size[1], size[0], 3), 255, np.uint8)
    image[0, 0] = 0
    assert read(image).complete


def test_small_picture_of_a_word_is_read() -> None:
    """A word cut out tightly, ten pixels high, is read (RapidOCR's own sizing finds nothing in it)."""
    with pymupdf.open() as document:
        sheet = document.new_page(width=pymupdf.get_text_length("Hello World", "helv", 8), height=9.6)
        sheet.insert_text((0, 8), "Hello World", fontsize=8, fontname="helv")
        pixmap = sheet.get_pixmap(dpi=72)
    image = np.frombuffer(pixmap.samples, np.uint8).reshape(pixmap.height, pixmap.width, 3).copy()
    assert image.shape == (10, 42, 3)
    (region,) = read(image).regions
    assert region.text == "Hello World"
    assert region.box[0] < 0.1
    assert region.box[2] > 0.9


def test_small_print_on_a_huge_page_is_read() -> None:
    """On 12000 x 9000 pixels both a large heading and print 1/200 of the page high are read, in bounded time."""
    image = np.full((9000, 12000, 3), 255, np.uint8)
    cv2.putText(image, "HEADING", (600, 1200), cv2.FONT_HERSHEY_SIMPLEX, 30, (0, 0, 0), 60, cv2.LINE_AA)
    for number in range(6):
        at = (1000 + 1500 * number, 3000 + 1000 * number)
        cv2.putText(image, f"small print {number}", at, cv2.FONT_HERSHEY_SIMPLEX, 1.5, (0, 0, 0), 4, cv2.LINE_AA)
    reading = read(image)
    assert reading.complete
    texts = [region.text for region in reading.regions]
    assert texts == ["HEADING", *(f"small print {number}" for number in range(6))]
    for number, region in enumerate(reading.regions[1:]):
        assert region.box[0] == pytest.approx((1000 + 1500 * number) / 12000, abs=0.005)


def test_very_long_line_is_read_in_pieces() -> None:
    """A line of 400 letters in a strip of 12000 x 60 pixels comes back whole."""
    words = " ".join(f"number{index:03}" for index in range(40))
    (region,) = read(picture(words, width=9000, height=60, at=(20, 40))).regions
    assert region.text.replace(" ", "") == words.replace(" ", "")


def test_coloured_text_on_coloured_paper_is_read() -> None:
    """Pale red on pale blue, which differ little in brightness, is read."""
    image = np.full((200, 700, 3), (120, 150, 255), np.uint8)
    cv2.putText(image, "Pale colours 7", (40, 110), cv2.FONT_HERSHEY_SIMPLEX, 1.5, (255, 120, 120), 3, cv2.LINE_AA)
    assert [region.text for region in read(image).regions] == ["Pale colours 7"]


def test_turned_page_keeps_its_order_and_places() -> None:
    """A page in two columns turned by two degrees, as on a scanner, keeps its order; boxes lie on the text."""
    image = two_columns()
    height, width = image.shape[:2]
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), -2, 1)
    turned = np.asarray(cv2.warpAffine(image, turn, (width, height), borderValue=(255, 255, 255)))
    regions = read(turned).regions
    assert [region.text.split(".")[0] for region in regions[1:]] == ["Alpha", "Beta", "Gamma", "Delta"]
    straight = read(image).regions
    for region, other in zip(regions, straight, strict=True):
        x, y = ((edge + far) / 2 for edge, far in zip(other.box[:2], other.box[2:], strict=True))
        expected = turn @ (x * width, y * height, 1)
        middle = ((region.box[0] + region.box[2]) / 2 * width, (region.box[1] + region.box[3]) / 2 * height)
        assert middle == pytest.approx(tuple(expected), abs=12)


def test_unknown_script_is_reported_as_unreadable() -> None:
    """Cyrillic, which the model does not know, is not passed over in silence: its lines are there, without text."""
    regions = read(rendered({(50, 50, 545, 200): "<p>Россия является крупнейшим государством мира</p>"})).regions
    assert [(region.label, region.text, region.confidence) for region in regions] == [("unreadable", "", 0.0)]


def test_scripts_are_those_of_the_model() -> None:
    """What the engine says it reads is what the dictionary inside the wheel's model covers."""
    assert recognition.warm_up(DETECTION, RECOGNITION) == cpu.SCRIPTS == CpuEngine(workers=1).info.scripts
    missing = {"Vietnamese", "Korean", "Greek", "Cyrillic", "Arabic", "Hebrew", "Devanagari", "Thai"}
    assert missing <= LETTERS.keys() - set(cpu.SCRIPTS)


def test_info_names_models_exactly(tmp_path: Path) -> None:
    """Another model is another name, also under the same file name."""
    own = tmp_path / "own.onnx"
    own.write_bytes(b"weights")
    known = hashlib.sha256(b"weights").hexdigest()[:12]
    info = CpuEngine(workers=3, rec_model=own).info
    assert info.model.endswith(f" own@{known}")
    assert re.fullmatch(r"rapidocr-3\.10\.\d+ layout-\d+ PP-OCRv6_det_small PP-OCRv6_rec_small", CpuEngine().info.model)
    assert (info.name, info.needs, info.capacity) == ("cpu", "pixels", 4)


async def test_missing_model_says_what_to_do(tmp_path: Path) -> None:
    """A recognition model that does not exist ends the start with its path and the setting to correct."""
    engine = CpuEngine(workers=1, rec_model=tmp_path / "korean.onnx")
    with pytest.raises(EngineStartError, match=r"korean\.onnx does not exist: correct engine\.cpu\.rec_model"):
        await engine.start()
    assert not engine.health().ok


async def test_broken_model_says_which(tmp_path: Path) -> None:
    """A file that is no model ends the start, not the first page."""
    own = tmp_path / "own.onnx"
    own.write_bytes(b"no model")
    engine = CpuEngine(workers=1, rec_model=own)
    with pytest.raises(EngineStartError, match=r"own\.onnx cannot be loaded"):
        await engine.start()
    await engine.stop()


async def test_model_without_dictionary_says_what_to_do(tmp_path: Path) -> None:
    """A model without its dictionary ends the start with the file to write; nothing is downloaded in its place."""
    own = tmp_path / "own.onnx"
    # The key of the dictionary in the model's metadata (protobuf: field, length, name), under another name.
    own.write_bytes(RECOGNITION.read_bytes().replace(b"\n\x09character\x12", b"\n\x09elsewhere\x12"))
    engine = CpuEngine(workers=1, rec_model=own)
    with pytest.raises(EngineStartError, match=r"no dictionary inside and .*own\.txt does not exist: put one letter"):
        await engine.start()
    own.with_suffix(".txt").write_text("0\n1\n2\n", encoding="utf-8")
    with pytest.raises(EngineStartError, match=r"own\.onnx"):
        await engine.start()
    await engine.stop()


async def test_own_model_is_used(tmp_path: Path) -> None:
    """Another recognition model is loaded and its own dictionary tells the scripts."""
    own = tmp_path / "own.onnx"
    shutil.copyfile(RECOGNITION, own)
    engine = CpuEngine(workers=1, rec_model=own)
    before = engine.info
    await engine.start()
    assert (before.scripts, engine.info.scripts) == (("those of own.onnx",), cpu.SCRIPTS)
    assert engine.info == replace(before, scripts=cpu.SCRIPTS)
    await engine.stop()


@pytest.mark.parametrize(
    ("limits", "workers"),
    [
        ({}, 2),
        ({"": "max 100000"}, 2),
        ({"a/b": "100000 100000"}, 1),
        ({"a": "150000 100000", "a/b": "max 100000"}, 1),
        ({"a/b": "50000 100000"}, 1),
        ({"a/b": "900000 100000"}, 2),
    ],
    ids=["no cgroup", "no limit", "own quota", "quota above", "half a core", "more than there are"],
)
def test_workers_follow_the_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limits: dict[str, str], workers: int
) -> None:
    """As many workers as cores, unless a cgroup gives less."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    (tmp_path / "cgroup").write_text("1:cpu:/x\n0::/a/b\n")
    root = tmp_path / "fs"
    (root / "a" / "b").mkdir(parents=True)
    for folder, text in limits.items():
        (root / folder / "cpu.max").write_text(text)
    assert cpu.usable_workers(tmp_path / "cgroup", root) == workers
    assert cpu.usable_workers(tmp_path / "none", root) == 2


def test_workers_follow_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container with little memory gets fewer workers than cores, and at least one."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    (tmp_path / "cgroup").write_text("0::/\n")
    (tmp_path / "memory.max").write_text("2500000000\n")
    assert cpu.usable_workers(tmp_path / "cgroup", tmp_path) == 2
    (tmp_path / "memory.max").write_text("100000000\n")
    assert cpu.usable_workers(tmp_path / "cgroup", tmp_path) == 1
