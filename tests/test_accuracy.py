"""`bench/accuracy.py`: its pages are what they say, its folders are read and scored right, so are its readers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pymupdf
import pytest

from bench import accuracy, omnidocbench
from bench.accuracy_pages import FONTS, HEIGHT, WIDTH, Picture, ground_truth, picture, sheets, write_folder
from bench.accuracy_prose import SENTENCES
from bench.accuracy_readers import Read, ours, plain_text, say_problem, tesseract, tesseract_languages
from bench.omnidocbench import Truth, load_truth, parse_markdown, prediction, score_page
from deepseek_ocr.document import Document, Page
from tests.fakes import FakeEngine, fake_page

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

#: PyMuPDF brings them, so that the pages are the same everywhere.
BUILT_IN = [font for font in FONTS if "(" in font]


# Folders


def element(category: str, order: int | None = None, **content: Any) -> dict[str, Any]:
    """A block as OmniDocBench.json has it."""
    return {"category_type": category, "poly": [0.0] * 8, "ignore": False, "order": order} | content


def truth_of(tmp_path: Path, *elements: dict[str, Any], **extra: Any) -> Truth:
    """A page of these blocks, written and loaded."""
    page = {
        "layout_dets": list(elements),
        "page_info": {"image_path": "one.png", "page_attribute": {"language": "simplified_chinese"}},
        "extra": extra,
    }
    (tmp_path / "OmniDocBench.json").write_text(json.dumps([page]), encoding="utf-8")
    return load_truth(tmp_path)[0]


HTML = "<table><tr><td>a</td><td>b</td></tr></table>"


def test_score_of_a_page(tmp_path: Path) -> None:
    """All figures of a page with one of each, as computed by hand."""
    truth = truth_of(
        tmp_path,
        element("header", 0, text="Journal of Ferries"),
        element("title", 1, text="The Survey"),
        element("text_block", 2, text="Nobody asked for the figures."),
        element("equation_isolated", 3, latex="$$x + y = 1$$"),
        element("table", 4, html=HTML),
        element("text_block", 5, text="The ferry leaves at 10:30."),
        element("abandon", text="7"),
    )
    score = score_page(
        truth,
        "Journal of Ferries\n\n# The Survey\n\nThe ferry leaves at 10:31.\n\n\\[x + y = 2\\]\n\n"
        "| a | c |\n|---|---|\n\nNobody asked for the figures.\n",
    )
    # Keys: 9, 24 and 20 letters, one of them wrong; the header is not counted.
    assert score.text == pytest.approx(1 / 53)
    assert score.formula == pytest.approx(1 / 5)
    frame = '<html><body><table border="1" ><tr><td>a</td><td>b</td></tr></table></body></html>'
    assert score.table == pytest.approx(1 / len(frame))
    assert score.teds == pytest.approx(2 / 3)
    assert score.teds_s == 1
    # 1, 5, 2 instead of 1, 2, 5: two of three replaced.
    assert score.order == pytest.approx(2 / 3)
    assert score.language == "ZH"
    assert omnidocbench.mean([score], "overall") == pytest.approx((1 / 53 + 1 / 5 + 1 / len(frame) + 2 / 3) / 4)


def test_score_of_what_is_not_there(tmp_path: Path) -> None:
    """What the truth lacks has no figure; what was not read has the worst."""
    truth = truth_of(tmp_path, element("text_block", 1, text="The Survey"), element("table", 2, html=HTML))
    score = score_page(truth, "")
    assert (score.text, score.formula, score.table, score.order) == (1, None, 1, 1)
    assert (score.teds, score.teds_s) == (0, 0)


def test_truth_joins_and_leaves_out(tmp_path: Path) -> None:
    """Parts of a paragraph are one, in their order; what is to be ignored is; other relations mean nothing."""
    truth = truth_of(
        tmp_path,
        element("text_block", 3, text=" asked", anno_id=13),
        element("title", 1, text="Survey", anno_id=11),
        element("text_block", 2, text="Nobody", anno_id=12),
        element("text_block", 4, text=" again.", anno_id=14),
        element("text_block", 5, text="stamp", anno_id=15) | {"ignore": True},
        relation=[
            {"source_anno_id": 12, "target_anno_id": 13, "relation_type": "truncated"},
            {"source_anno_id": 13, "target_anno_id": 14, "relation_type": "truncated"},
            {"source_anno_id": 11, "target_anno_id": 12, "relation_type": "parent_son"},
            {"source_anno_id": 14, "target_anno_id": 15, "relation_type": "truncated"},
        ],
    )
    texts = [(one.category, one.text, one.order) for one in truth.of({"title", "text_block"})]
    assert texts == [("title", "Survey", 1), ("text_block", "Nobody asked again.", 2)]


def test_markdown_comes_apart() -> None:
    """Tables and displayed formulas leave the text, pictures and comments go, formulas in a line stay."""
    reading = parse_markdown(
        "<!-- page 1 -->\n\n![a](b.png)\n\nBy $x^2$ and \\(y\\).\n"
        f"{HTML}\nAfter it.\n\n$$a\n+ b$$\n\n| a \\| b | c |\n| --- | :-: |\n| 1 | 2 |\n\nEnd, at 5 \\$."
    )
    assert [" ".join(text.split()) for text in reading.texts] == [
        "By $x^2$ and \\(y\\).", "After it.", "End, at 5 \\$."
    ]  # fmt: skip
    assert reading.formulas == ("x^2", "y", "a\n+ b")
    rows = [[[cell.text for cell in row] for row in found.rows] for found in reading.tables]
    assert rows == [[["a", "b"]], [["a | b", "c"], ["1", "2"]]]


def test_lines_are_blocks_where_no_line_is_empty() -> None:
    """Markdown without empty lines is taken line by line."""
    assert parse_markdown("one\ntwo\n").texts == ("one", "two")


@pytest.fixture(scope="module")
def pages() -> list[Picture]:
    """Two generated pages."""
    return [picture(sheet, 7) for sheet in sheets(2, 7, BUILT_IN)]


def write_predictions(folder: Path, pages: Sequence[Picture]) -> None:
    """What an engine without fault writes: Markdown for all pages but the last, and DocJSON for that one."""
    folder.mkdir()
    for page in pages[:-1]:
        text = "\n\n".join(block.text for block in page.blocks)
        (folder / f"{page.name}.md").write_text(f"<!-- page 1 -->\n\n{text}\n", encoding="utf-8")
    last = pages[-1]
    blocks = [
        {"id": f"p1b{number}", "category": "text", "label": "text", "text": block.text}
        for number, block in enumerate(last.blocks)
    ]
    read = Page.model_validate(
        {"page_number": 1, "width": 1, "height": 1, "unit": "px", "blocks": blocks, "source": "cpu", "seconds": 0}
    )
    document = Document(
        source_name=last.name,
        source_type="image",
        engine="cpu",
        model="m",
        task="document",
        page_count=1,
        pages=(read,),
    )
    stem = last.name.rpartition(".")[0]
    (folder / f"{stem}.json").write_text(document.model_dump_json(), encoding="utf-8")


def test_folder_of_perfect_predictions(
    tmp_path: Path, pages: list[Picture], capsys: pytest.CaptureFixture[str]
) -> None:
    """Generated pages in OmniDocBench's format, read without fault: all distances are 0."""
    write_folder(tmp_path / "set", pages)
    write_predictions(tmp_path / "read", pages)
    assert accuracy.main(["folder", str(tmp_path / "set"), "--predictions", str(tmp_path / "read"), "--each"]) == 0
    out = capsys.readouterr().out
    assert "| all | 0.000 | 0.000 | - | - | 0.000 | - | - | 2 |" in out
    assert out.count("Score(") == 2


def test_pages_without_prediction_count(
    tmp_path: Path, pages: list[Picture], capsys: pytest.CaptureFixture[str]
) -> None:
    """A page nobody read is worth 1, is named, and the command says so with its exit code."""
    write_folder(tmp_path / "set", pages)
    write_predictions(tmp_path / "read", pages)
    (tmp_path / "read" / f"{pages[0].name}.md").unlink()
    assert accuracy.main(["folder", str(tmp_path / "set"), "--predictions", str(tmp_path / "read")]) == 1
    out = capsys.readouterr().out
    assert "| all | 0.500 | 0.500 | - | - | 0.500 | - | - | 2 |" in out
    assert f"1 of 2 pages have no prediction and count as empty: {pages[0].name}" in out


def test_prediction_is_found_by_either_name(tmp_path: Path) -> None:
    """`x.md` as OmniDocBench wants it, `x.png.md` as the daemon writes it."""
    (tmp_path / "x.png.md").write_text("daemon", encoding="utf-8")
    assert prediction(tmp_path, "some/x.png") == "daemon"
    (tmp_path / "x.md").write_text("stem", encoding="utf-8")
    assert prediction(tmp_path, "some/x.png") == "stem"
    assert prediction(tmp_path, "y.png") is None


async def test_engine_reads_a_folder(tmp_path: Path, pages: list[Picture]) -> None:
    """Without predictions each picture goes through the reader and an engine."""
    write_folder(tmp_path, pages)
    texts = await accuracy.read_folder(tmp_path, load_truth(tmp_path), FakeEngine())
    assert len(texts) == 2
    # The engine says less than such a page holds, which the page mark tells.
    assert all(text.startswith("<!-- page 1: only ") for text in texts)


# Generated pages


def test_conditions_are_dealt_evenly() -> None:
    """Over 30 pages each value is on as many pages as any other, and a seed gives the same pages again."""
    chosen = sheets(30, 3, BUILT_IN)
    assert chosen == sheets(30, 3, BUILT_IN) != sheets(30, 4, BUILT_IN)
    for name, times in (("font", 10), ("size", 5), ("columns", 15), ("language", 6), ("condition", 5)):
        values = [getattr(sheet, name) for sheet in chosen]
        assert {values.count(value) for value in values} == {times}


def test_page_is_what_it_says(pages: list[Picture]) -> None:
    """The same picture each time, all blocks on the paper, in order down the columns, the page number last."""
    for page in pages:
        assert picture(page.sheet, 7) == page
        assert [block.category for block in page.blocks][:: len(page.blocks) - 1] == ["title", "page_number"]
        assert len(page.text.split()) > 100
        for left, top, right, bottom in (block.box for block in page.blocks):
            assert 0 < left < right < WIDTH
            assert 0 < top < bottom < HEIGHT
    boxes = [poly for one in ground_truth(pages) for block in one["layout_dets"] for poly in block["poly"]]
    assert min(boxes) > 0


def test_every_font_has_every_letter() -> None:
    """No letter of the prose is a box on paper, so that what is not read is not the paper's fault."""
    letters = {letter for sentences in SENTENCES.values() for letter in "".join(sentences)} | set("ßøñüóÉÍ£€")
    fonts = [pymupdf.Font(name) for font in BUILT_IN for name in FONTS[font]]
    assert not {letter for letter in letters for font in fonts if not font.has_glyph(ord(letter))}


def test_figures_of_the_generated_set(pages: list[Picture]) -> None:
    """Ours comes first with its ratio to each, and every condition has its row."""
    perfect = [Read(page.text, 1.0) for page in pages]
    half = [Read(" ".join(page.text.split()[::2]), 1.0) for page in pages]
    text = accuracy.tables(pages, {accuracy.OURS: half, accuracy.RAPIDOCR: [Read("", 1.0)] * 2})
    assert text.startswith("word error rate 0.5")
    assert "x plain RapidOCR's 1.0000 (bar: the lowest), 2 pages" in text.splitlines()[0]
    assert f"| {pages[0].sheet.font} |" in text
    assert "| cpu engine | 0.0000 | 0.0000 |" in accuracy.tables(pages, {accuracy.OURS: perfect})


# Readers


def test_text_of_a_page() -> None:
    """Blocks one after the other; of a table the cells row by row, without tags."""
    page = fake_page(1, "one\ntwo")
    blocks = (page.blocks[0], page.blocks[0].model_copy(update={"category": "table", "text": HTML}))
    assert plain_text(page.model_copy(update={"blocks": blocks})) == "one\ntwo\na b"


async def test_our_reader_takes_files(tmp_path: Path, pages: list[Picture]) -> None:
    """A picture file goes through the public reader."""
    write_folder(tmp_path, pages[:1])
    (read,) = await ours([tmp_path / "images" / pages[0].name], FakeEngine())
    assert read.text
    assert read.seconds > 0


def test_page_that_was_cut_off_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a time limit cut off is no figure of accuracy, and is said."""
    say_problem(tmp_path / "a.png", fake_page(1, "one"))
    say_problem(tmp_path / "b.png", fake_page(1, "one", problem="cut off"))
    assert capsys.readouterr().out == "b.png was not read as it should: cut off\n"


def test_tesseract_is_not_needed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where there is none, none of its languages is there."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not tesseract_languages()


@pytest.mark.skipif(not tesseract_languages(), reason="no tesseract with a language of the pages")
def test_tesseract_reads(tmp_path: Path) -> None:
    """The command reads a line of a picture."""
    with pymupdf.open() as document:
        page = document.new_page(width=200, height=60)
        page.insert_text((20, 40), "The ferry leaves", fontsize=16)
        page.get_pixmap(dpi=150).save(tmp_path / "one.png")
    (read,) = tesseract([tmp_path / "one.png"], tesseract_languages().partition("+")[0])
    assert read.text.split() == ["The", "ferry", "leaves"]
