"""The second pass: what becomes of the answers, whatever they are, and of a page as a whole."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek_ocr.completion import Completion, EngineInfo, Health
from deepseek_ocr.document import Block, Flag, Page
from deepseek_ocr.errors import EngineDeadError, PageError
from deepseek_ocr.figures import LONGEST_SIDE_PX, look_closer, looks, with_answers
from deepseek_ocr.markdown import page_markdown
from deepseek_ocr.prompt import READING_TASKS, Task
from deepseek_ocr.reader import Reader
from tests import documents
from tests.figure_pages import EVEN, block, html, page_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Literal

    from deepseek_ocr.completion import FinishReason, PageImage
    from deepseek_ocr.figures import Look
    from deepseek_ocr.prompt import Options
    from deepseek_ocr.view import View


def said(text: str, finish_reason: FinishReason = "stop") -> Completion:
    """An answer."""
    return Completion(text, finish_reason, 0.5, prompt_tokens=283, completion_tokens=42)


def answered(page: Page, **answers: Completion | str) -> Page:
    """The page with an answer to each of its looks, by task; the others say that nobody looked."""
    return with_answers(page, [(look, answers.get(look.options.task, "nobody looked")) for look in looks(page)])


def outcomes(page: Page) -> list[tuple[str, str]]:
    """What was tried, and what came of it."""
    assert page.provenance is not None
    return [(attempt.way, attempt.outcome) for attempt in page.provenance.attempts]


# Figures and charts

DESCRIPTION = "The picture shows a bar chart of the ships that call at the harbour in each month."
CHART = html("Month | Ships", "May | 12", "June | 15")
CHART_HTML = (
    "<table>\n<tr><td>Month</td><td>Ships</td></tr>\n<tr><td>May</td><td>12</td></tr>\n"
    "<tr><td>June</td><td>15</td></tr>\n</table>"
)
PIPES = "| Month | Ships \\| boats |\n|---|---|\n| May | 12 |"
PIPES_HTML = "<table>\n<tr><th>Month</th><th>Ships | boats</th></tr>\n<tr><td>May</td><td>12</td></tr>\n</table>"
SMILES = "C[C@H](N)C(=O)O/C=C\\C1=CC=C(C=C1)[N+](=O)[O-]"
GEOMETRY = "{'line_type': {'AB': 'solid', 'BC': 'dashed'}, 'points': {'A': (1, 2), 'B': [3, 4]}, 'circles': []}"
IMAGE_TAG = "<|ref|>image<|/ref|><|det|>[[0, 0, 999, 999]]<|/det|>"
END = "<｜end▁of▁sentence｜>"  # noqa: RUF001 - as published
#: Answer to "Parse the figure." -> the data, and the category (DeepSeek-OCR paper, 3.4.2 and figure 6).
PARSED: dict[str, tuple[str, str | None, str]] = {
    "an HTML table": (CHART, CHART_HTML, "chart"),
    "with the end token": (CHART + END, CHART_HTML, "chart"),
    "fenced": (f"```html\n{CHART}\n```", CHART_HTML, "chart"),
    "with a title": (f"Ships per month\n\n{CHART}", f"Ships per month\n{CHART_HTML}", "chart"),
    "two tables": (CHART + CHART, f"{CHART_HTML}\n{CHART_HTML}", "chart"),
    "not closed": (CHART.removesuffix("</tr></table>"), CHART_HTML, "chart"),
    "with tags": (f"<|ref|>chart<|/ref|><|det|>[[1, 2, 3, 4]]<|/det|>\n{CHART}", CHART_HTML, "chart"),
    "a pipe table": (f"Ships\n\n{PIPES}\n\nSource: port", f"Ships\n{PIPES_HTML}\nSource: port", "chart"),
    "one cell": (html("12"), "<table>\n<tr><td>12</td></tr>\n</table>", "figure"),
    "blank cells": (html("|", "|"), None, "figure"),
    "chemistry": (SMILES, SMILES, "figure"),
    "geometry": (GEOMETRY, GEOMETRY, "figure"),
    "code": ("__import__('os').system('rm -rf /')", "__import__('os').system('rm -rf /')", "figure"),
    "other words": ("An engraving of three gulls above a sea wall.",) * 2 + ("figure",),
    "words with artefacts": (
        "<center>Three well- fed gulls on walls</center>",
        "Three well-fed gulls on walls",
        "figure",
    ),
    "a notation with some": ("C1- C2<b>", "C1- C2<b>", "figure"),
    "the same words": ("A bar chart shows the ships of each month at the harbour.", None, "figure"),
    "what was read": ("Legend: tugs, ferries.", None, "figure"),
    "nothing": (" \n", None, "figure"),
    "a tag and nothing": (IMAGE_TAG, None, "figure"),
    "a loop": ("<table>" + "<tr><td>May</td><td>12</td></tr>" * 300, None, "figure"),
}


@pytest.mark.parametrize("case", PARSED)
def test_parsed_figure(case: str) -> None:
    """A table makes it a chart, another notation stays as it is, and what is known is not said twice."""
    text, data, category = PARSED[case]
    page = answered(page_of(block(text="Legend: tugs, ferries")), describe=said(DESCRIPTION), figure=said(text))
    assert (page.blocks[0].data, page.blocks[0].category) == (data, category)
    assert page.blocks[0].text == "Legend: tugs, ferries"
    assert bool(outcomes(page)[1][1]) == (data is None)


SENTENCES = "A lighthouse stands on a rock. The sea is calm. "
ROUND = "There is a gull on the wall, and " * 90
#: Answer to "Describe this image in detail." -> the description.
DESCRIBED: dict[str, tuple[Completion, str | None]] = {
    "a description": (said(f"{DESCRIPTION}\n"), DESCRIPTION),
    "with the model's tags": (said(f"{IMAGE_TAG}\n{DESCRIPTION}{END}"), DESCRIPTION),
    "with its artefacts": (said("<center>A well- known pier</center>"), "A well-known pier"),
    "a loop at its end": (said(SENTENCES + ROUND), SENTENCES.strip()),
    "a loop that was stopped": (said(SENTENCES + ROUND, "repetition"), SENTENCES.strip()),
    "nothing but a loop": (said("ships and " * 300), None),
    "cut off": (said(SENTENCES, "length"), None),
    "given up": (said(SENTENCES, "abort"), None),
    "stopped for another loop": (said(SENTENCES, "repetition"), None),
    "empty": (said(""), None),
    "only tags": (said(f"{IMAGE_TAG}{END}"), None),
}  # fmt: skip


@pytest.mark.parametrize("case", DESCRIBED)
def test_described_figure(case: str) -> None:
    """A description is tidied, one that goes round is cut before that, and of a degenerate answer nothing is taken."""
    answer, description = DESCRIBED[case]
    page = answered(page_of(block()), describe=answer)
    assert page.blocks[0].description == description
    (_, outcome), _ = outcomes(page)
    assert bool(outcome) == (description is None or "loop" in case)


def test_account_of_the_looks() -> None:
    """Every look is in the account of the page, with what it cost; one that failed says why."""
    page = answered(page_of(block()), describe=said(DESCRIPTION), figure="the page cannot be rendered: out of ink")
    assert page.provenance is not None
    described, parsed = page.provenance.attempts
    assert (described.way, described.outcome) == ("figure p1b1 described", "")
    assert (described.seconds, described.prompt_tokens, described.completion_tokens) == (0.5, 283, 42)
    assert (parsed.outcome, parsed.seconds) == ("the page cannot be rendered: out of ink", 0)


def test_a_page_without_provenance_is_taken() -> None:
    """Where nobody knows how the page was read, the answers are taken all the same."""
    page = page_of(block()).model_copy(update={"provenance": None})
    assert answered(page, describe=said(DESCRIPTION)).blocks[0].description == DESCRIPTION


# Tables

GOOD = html("Port | May | June", "Ostend | 12 | 15", "Bruges | 7 | 9")
LOST = html("Port | May", "Ostend | 12 | 15", "Bruges | 7")
TAGGED = "<|ref|>table<|/ref|><|det|>[[10, 10, 990, 990]]<|/det|>\n"
TEXT_BLOCK = "<|ref|>text<|/ref|><|det|>[[0, 0, 9, 9]]<|/det|>\nTides"
OPEN = GOOD.removesuffix("</table>")
LONG = html("a | b", *(f"row {number} | value" for number in range(9)))
#: The first reading, its flags, the second -> what is kept (1 or 2), the flags.
TABLES: dict[str, tuple[str, list[Flag], Completion | str, int, list[Flag]]] = {
    "closed over unclosed": (GOOD, [Flag.UNCLOSED], said(TAGGED + GOOD), 2, [Flag.RETRIED]),
    "even over ragged": (LOST, [], said(TAGGED + GOOD), 2, [Flag.RETRIED]),
    "something over nothing": ("", [], said(TAGGED + GOOD), 2, [Flag.RETRIED]),
    "without its tag": (LOST, [], said(GOOD), 2, [Flag.RETRIED]),
    "beside other blocks": (LOST, [], said(f"{TEXT_BLOCK}\n{TAGGED}{GOOD}"), 2, [Flag.RETRIED]),
    "no loop over a loop": (html("a | b", *["c | d"] * 400), [Flag.LOOP_CUT], said(GOOD), 2, [Flag.RETRIED]),
    "both unclosed, more of it": (LOST, [Flag.UNCLOSED], said(OPEN), 2, [Flag.RETRIED, Flag.UNCLOSED]),
    "as good as before": (GOOD, [Flag.UNCLOSED], said(OPEN), 1, [Flag.RETRIED, Flag.UNCLOSED]),
    "less than before": (LONG, [Flag.UNCLOSED], said(html("a | b", "1 | 2")), 1, [Flag.RETRIED, Flag.UNCLOSED]),
    "no table": (LOST, [], said("Port, May, June"), 1, [Flag.RETRIED]),
    "cut off": (LOST, [], said(GOOD, "length"), 1, [Flag.RETRIED]),
    "a loop": (LOST, [], said(html(*["Ostend | 12"] * 300)), 1, [Flag.RETRIED]),
    "nothing": (LOST, [], said(""), 1, [Flag.RETRIED]),
    "not looked at": (LOST, [], "the worker died", 1, []),
}  # fmt: skip


@pytest.mark.parametrize("case", TABLES)
def test_the_better_table_is_kept(case: str) -> None:
    """A table is replaced by a reading that has as much in it and is sounder; the account tells of the other."""
    first, flags, second, kept, expected = TABLES[case]
    before = block("table", first, flags=flags)
    page = answered(page_of(before), document=second)
    (after,) = page.blocks
    assert ("June" in after.text and after.text.startswith("<table>\n")) == (kept == 2)
    assert kept == 2 or after.text == first
    assert list(after.flags) == sorted(expected)
    assert (after.id, after.box) == (before.id, before.box)
    ((way, outcome),) = outcomes(page)
    assert way == "table p1b1 again from its crop"
    assert bool(outcome) == (kept == 1)


# All of a page at once


def asked(page: Page, answer: dict[tuple[Task, float], Completion | BaseException]) -> tuple[Page, int]:
    """The page after its looks were asked for, and how many were in flight at once; answers by task and left side."""
    waiting = most = 0

    async def ask(view: View, options: Options) -> Completion:
        nonlocal waiting, most
        waiting += 1
        most = max(most, waiting)
        await asyncio.sleep(0)
        waiting -= 1
        found = answer.get((options.task, round(view.box[0], 1)), said(""))
        if isinstance(found, BaseException):
            raise found
        return found

    return asyncio.run(look_closer(page, ask)), most


TWO = page_of(block(), block(box=(0.7, 0.2, 0.9, 0.4), number=2), block("table", LOST, number=3))


def test_looks_are_asked_for_at_once() -> None:
    """All looks of a page are in flight together, and each answer comes to its block; a page's fault costs one look."""
    page, most = asked(
        TWO,
        {
            (Task.DESCRIBE, 0.2): said("The first."),
            (Task.DESCRIBE, 0.7): PageError("the crop cannot be rendered"),
            (Task.FIGURE, 0.7): said(CHART),
            (Task.DOCUMENT, 0.2): said(GOOD),
        },
    )
    assert most == 5
    assert [one.description for one in page.blocks] == ["The first.", None, None]
    assert [one.category for one in page.blocks] == ["figure", "chart", "table"]
    assert "June" in page.blocks[2].text
    assert ("figure p1b2 described", "the crop cannot be rendered") in outcomes(page)


def test_a_dead_engine_is_told() -> None:
    """What concerns more than one look goes up, and no look is left behind."""
    with pytest.raises(EngineDeadError):
        asked(TWO, {(Task.FIGURE, 0.2): EngineDeadError("gone")})


def test_nothing_to_look_at() -> None:
    """A page of text is what it was, and nobody is asked."""
    page = page_of(block("text", "Hello"))
    assert asked(page, {}) == (page, 0)


# Any page, any answers

TEXTS = st.one_of(
    st.text(max_size=60),
    st.sampled_from([GOOD, LOST, CHART, PIPES, SMILES, GEOMETRY, DESCRIPTION, EVEN + "\nmore", "x\ud800\0y"]),
    st.lists(st.sampled_from(["<table>", "<tr>", "<td>", "|", "\n", "a", "</table>", "```", "<|ref|>"])).map("".join),
)  # fmt: skip
SIDES = st.tuples(st.floats(0, 0.9), st.floats(0, 0.9), st.floats(0, 0.5), st.floats(0, 0.5)).map(
    lambda box: (box[0], box[1], min(1.0, box[0] + box[2]), min(1.0, box[1] + box[3]))
)
BLOCKS = st.builds(
    block,
    st.sampled_from(["figure", "chart", "table", "text", "caption"]),
    TEXTS.map(lambda text: text.encode("utf-8", "replace").decode()),
    st.one_of(st.none(), SIDES),
    flags=st.lists(st.sampled_from(list(Flag)), max_size=3, unique=True),
)
ANSWERS = st.one_of(
    st.text(max_size=20), st.builds(said, TEXTS, st.sampled_from(["stop", "length", "repetition", "abort", "error"]))
)


@given(st.data(), st.lists(BLOCKS, max_size=6), st.tuples(*[st.floats(1, 5000)] * 2), st.sampled_from(["pt", "px"]))
def test_any_page_and_any_answers(
    data: st.DataObject, blocks: list[Block], size: tuple[float, float], unit: Literal["pt", "px"]
) -> None:
    """The page stays a valid one, and no text of the first pass is lost but a table's that was read better."""
    page = page_of(
        *(one.model_copy(update={"id": f"p1b{number}"}) for number, one in enumerate(blocks, 1)),
        width=size[0], height=size[1], unit=unit,
    )  # fmt: skip
    found: list[tuple[Look, Completion | str]] = [(look, data.draw(ANSWERS)) for look in looks(page)]
    for look, _ in found:
        look.view.within()
        assert 640 <= look.view.side_px <= LONGEST_SIDE_PX
    after = with_answers(page, found)
    assert Page.model_validate_json(after.model_dump_json()) == after
    assert [one.id for one in after.blocks] == [one.id for one in page.blocks]
    for old, new in zip(page.blocks, after.blocks, strict=True):
        assert new.text == old.text or (new.category == "table" and Flag.RETRIED in new.flags)
        assert (new.box, new.captions, new.label) == (old.box, old.captions, old.label)
    assert len(outcomes(after)) == len(found)
    assert all(outcome or way for way, outcome in outcomes(after))
    assert page_markdown(after)


# Through the reader


ORACLE = EngineInfo("oracle", "oracle-1", frozenset(Task), needs="pixels", capacity=3)


@dataclass
class Oracle:
    """An engine that knows figures: its answers by task, and what it was shown."""

    answers: dict[Task, str]
    info: EngineInfo = ORACLE
    shown: list[tuple[Task, int, float]] = field(default_factory=list)
    in_flight: int = 0
    most: int = 0

    async def start(self) -> None:
        """Nothing to do."""

    async def stop(self) -> None:
        """Nothing to do."""

    def health(self) -> Health:
        """Always well."""
        return Health(ok=True, detail="")

    async def recognize(
        self, page: PageImage, options: Options, on_text: Callable[[str], None] | None = None
    ) -> Completion:
        """The answer to that question."""
        del on_text
        assert page.pixels is not None
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        await asyncio.sleep(0)
        self.in_flight -= 1
        self.shown.append((options.task, max(page.pixels.shape), float(page.pixels.mean())))
        return said(self.answers[options.task])


async def test_reader_looks_closer(tmp_path: Path) -> None:
    """Each look gets its part of the page, few at once; an engine that knows no figures leaves the page as it is."""
    grey = b" .5 g 119 505 238 169 re f  0 g 130 520 20 20 re f"
    path = documents.write(tmp_path, documents.content_pdf([documents.text_content(["Ships"]) + grey]), "x.pdf")
    page = page_of(block(), block("table", LOST, number=2), block(number=3, box=(0.7, 0.6, 0.9, 0.8)))
    oracle = Oracle({Task.DESCRIBE: DESCRIPTION, Task.FIGURE: CHART, Task.DOCUMENT: GOOD})
    async with Reader(oracle, workers=1) as reader:
        after = await reader.look_closer(path, page)
        oracle.info = replace(oracle.info, tasks=READING_TASKS)
        assert await reader.look_closer(path, page) is page
    assert [(one.category, one.description) for one in after.blocks] == [
        ("chart", DESCRIPTION), ("table", None), ("figure", None),
    ]  # fmt: skip
    assert "June" in after.blocks[1].text
    assert sorted(task for task, *_ in oracle.shown) == [Task.DESCRIBE, Task.DOCUMENT, Task.FIGURE]
    assert all(side == 640 and 120 < level < 180 for _, side, level in oracle.shown)
    assert oracle.most <= 3
    # The third block is blank paper: no model is asked about that.
    assert [outcome for way, outcome in outcomes(after) if "p1b3" in way] == ["the answer is empty"] * 2
