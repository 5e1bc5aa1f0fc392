"""Whether a reading is a good page, and if not why."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from deepseek_ocr.attempt import page_from, reading_of
from deepseek_ocr.completion import Box, Completion, FinishReason, PageImage, Region
from deepseek_ocr.document import Flag
from deepseek_ocr.ink import INKED, TEXT
from deepseek_ocr.markdown import page_markdown
from deepseek_ocr.prompt import Options, Task
from deepseek_ocr.quality import LIMITS, Fault, Verdict, covered, mean_confidence
from tests.loop_samples import LOOPS, block

WHOLE = (0.0, 0.0, 1.0, 1.0)
WORDS = "The quay on the north side was closed for repair from March until the end of August."


def image(ink: float = 0.1, *, lines: Box | None = None, picture: bool = False) -> PageImage:
    """A page; what is within `lines` looks like text, all else is blank, or a picture."""
    grid = np.zeros((400, 300), np.uint8)
    if picture:
        grid[:] = INKED
    if lines:
        left, top, right, bottom = lines
        grid[int(top * 400) : int(bottom * 400) : 2, int(left * 300) : int(right * 300)] = TEXT
    return PageImage(0, 100, 100, "px", None, ink, ink_grid=grid if lines or picture else None)


def completion(*rated: tuple[str, float | None], finish_reason: FinishReason = "stop", box: Box = WHOLE) -> Completion:
    """Regions with their confidence."""
    regions = tuple(Region("text", text, box, confidence) for text, confidence in rated)
    return Completion("\n\n".join(text for text, _ in rated), finish_reason, 0.1, regions)


def raw(text: str, finish_reason: FinishReason = "stop") -> Completion:
    """What a model wrote."""
    return Completion(text, finish_reason, 0.1)


def verdict(page: PageImage, read: Completion, task: Task = Task.DOCUMENT) -> Verdict:
    """What is said of a reading."""
    options = Options(task, prompt="x" * (task is Task.CUSTOM), text="x" * (task is Task.LOCATE))
    return reading_of(page, read, options).verdict


#: Some 3,000 characters in which nothing comes twice.
PROSE = " ".join(f"{WORDS.split()[number * 7 % 17]} {number * 7919 % 10007:x}" for number in range(300))
PICTURE = "<|ref|>image<|/ref|><|det|>[[0, 0, 999, 999]]<|/det|>\n"
DENSE = "\n".join(f"{'ab' * 60} {chr(97 + number % 26) * 3}" for number in range(80))
#: Name -> the page, the completion, its fault and the words for it.
JUDGEMENTS: dict[str, tuple[PageImage, Completion, Fault | None, str]] = {
    "good": (image(), completion(("text", 0.98)), None, ""),
    "good, without a confidence": (image(), completion(("text", None)), None, ""),
    "blank, and nothing read": (image(0.0), completion(), None, ""),
    "inked, and nothing read": (image(), completion(), Fault.EMPTY, "nothing was read"),
    "inked, and only spaces read": (image(), completion((" \n", None)), Fault.EMPTY, "nothing was read"),
    "just good enough": (image(), completion(("text", LIMITS.confidence)), None, ""),
    "low confidence": (image(), completion(("text", 0.61)), Fault.UNSURE, "read with low confidence (0.61)"),
    "a long bad text beside a short good one": (
        image(), completion(("x" * 90, 0.5), ("good", 1.0)), Fault.UNSURE, "read with low confidence (0.52)",
    ),
    "a short bad text beside a long good one": (image(), completion(("x" * 90, 0.99), ("bad", 0.1)), None, ""),
    "cut off": (image(), raw("text", "length"), Fault.LENGTH, "cut off at the engine's limit"),
    "stopped as a loop": (image(), raw("text", "repetition"), Fault.LOOP, "repeated itself"),
    "broken off": (image(), completion(finish_reason="abort"), Fault.BROKEN, "broken off"),
    "failed": (image(0.0), completion(finish_reason="error"), Fault.BROKEN, "the engine failed"),
    "all lines read": (image(lines=(0.1, 0.1, 0.9, 0.9)), completion((PROSE, None)), None, ""),
    "half of the lines in no block": (
        image(lines=(0.1, 0.1, 0.9, 0.9)), completion((PROSE, None), box=(0.0, 0.0, 1.0, 0.45)),
        Fault.UNDER_READ, "of what looks like text was not read",
    ),
    "head and foot in no block": (
        image(lines=(0.1, 0.0, 0.9, 1.0)), completion((PROSE, None), box=(0.0, 0.06, 1.0, 0.94)), None, "",
    ),
    "a few words of a full page": (
        image(lines=(0.1, 0.1, 0.9, 0.9)), completion((WORDS, None)), Fault.UNDER_READ, "only 67 letters were read",
    ),
    "without boxes nobody knows what was not read": (image(lines=(0.1, 0.1, 0.9, 0.9)), raw(PROSE), None, ""),
    "one picture over a page of text": (
        image(lines=(0.1, 0.1, 0.9, 0.9)), raw(PICTURE), Fault.PICTURE, "the whole page was taken for one picture",
    ),
    "one picture that is one": (image(picture=True), raw(PICTURE), None, ""),
    "a picture with a few words in it": (
        image(picture=True, lines=(0.4, 0.4, 0.6, 0.6)), raw(PICTURE), None, "",
    ),
    "too dense": (image(), raw(DENSE), Fault.LOOP, "repeat"),
}  # fmt: skip


@pytest.mark.parametrize(("page", "read", "fault", "words"), JUDGEMENTS.values(), ids=JUDGEMENTS)
def test_judgements(page: PageImage, read: Completion, fault: Fault | None, words: str) -> None:
    """A good reading has no problem, any other has one sentence that says what it is."""
    found = verdict(page, read)
    assert (found.fault, found.problem is None) == (fault, fault is None)
    assert words in (found.problem or "")


@pytest.mark.parametrize("finish_reason", get_args(FinishReason))
def test_every_way_to_finish_is_judged(finish_reason: FinishReason) -> None:
    """Only `stop` is good; none is without words."""
    found = verdict(image(), completion(("text", 1.0), finish_reason=finish_reason))
    assert (found.problem is None) == (finish_reason == "stop")


@pytest.mark.parametrize(("loop", "kind"), LOOPS.values(), ids=LOOPS)
def test_loops_are_cut_and_said(loop: str, kind: str) -> None:
    """A loop of any shape is a fault, and of its text only what came before it and a round are kept."""
    head = block("Report of the harbour office. " + PROSE[:300], 20)
    reading = reading_of(image(), raw(head + loop), Options())
    assert reading.verdict.fault is Fault.LOOP
    assert len(reading.completion.text) < len(head) + 0.9 * len(loop), kind
    assert "Report of the harbour office" in reading.blocks[0].text
    assert Flag.LOOP_CUT in reading.blocks[-1].flags


def test_an_engine_that_reads_letter_by_letter_has_no_loops() -> None:
    """Sixty equal rows stand on the page if it says so."""
    rows = completion(*[("Name: ______ Yes No", 0.99)] * 60)
    assert verdict(image(), rows).problem is None


@pytest.mark.parametrize("task", [Task.DESCRIBE, Task.FIGURE, Task.LOCATE, Task.CUSTOM])
def test_answers_that_are_no_reading_need_not_cover_the_page(task: Task) -> None:
    """A short description of a page full of text is one; a loop is none."""
    page = image(lines=(0.1, 0.1, 0.9, 0.9))
    assert verdict(page, raw("a letter"), task).problem is None
    assert verdict(page, raw("a letter " * 500), task).fault is Fault.LOOP


def test_the_better_reading_has_the_higher_score() -> None:
    """More text is better, and so is text that its engine trusts; what repeats itself counts once."""
    page = image(lines=(0.1, 0.1, 0.9, 0.9))

    def score(read: Completion) -> float:
        return verdict(page, read).score

    assert score(completion((PROSE, 0.99))) > score(completion((PROSE, 0.6)))
    assert score(completion((PROSE, None))) > score(completion((PROSE[:900], None)))
    assert score(completion((PROSE, None))) > score(completion((PROSE, None), box=(0, 0, 1, 0.2)))
    assert score(completion((WORDS * 50, None))) < score(completion((PROSE, None)))
    assert score(raw("")) == 0
    good, bad = verdict(page, completion((WORDS * 20, None))), verdict(page, raw(PROSE, "length"))
    assert good.rank > bad.rank


def test_cells_near_a_box_are_covered() -> None:
    """With a little room around; boxes beyond the page, turned inside out or without size do no harm."""
    mask = covered((100, 100), [(0.2, 0.4, 0.5, 0.6)])
    assert mask.sum() == 32 * 22
    assert mask[39:61, 19:51].all()
    assert covered((10, 10), [(-5.0, -5.0, 9.0, 9.0)]).all()
    assert not covered((10, 10), []).any()
    odd = covered((100, 100), [(0.9, 0.9, 0.1, 0.1), (0.5, 0.5, 0.5, 0.5)])
    assert odd[50, 50]


CONFIDENCES: dict[str, tuple[Completion, float | None]] = {
    "none": (completion(), None),
    "unrated": (completion(("text", None)), None),
    "one": (completion(("text", 0.5)), 0.5),
    "by letters": (completion(("aaa", 1.0), ("b", 0.0)), 0.75),
    "unrated ones do not count": (completion(("aaa", None), ("b", 0.5)), 0.5),
    "without letters": (completion(("", 0.5)), None),
}


@pytest.mark.parametrize(("read", "expected"), CONFIDENCES.values(), ids=CONFIDENCES)
def test_confidence_is_the_mean_over_the_letters(read: Completion, expected: float | None) -> None:
    """A long region weighs more than a short one; what is not rated does not count."""
    assert mean_confidence(read) == expected


@pytest.mark.parametrize(("unread", "bad"), [(1, False), (2, True)], ids=["a tenth", "more than that"])
def test_much_unreadable_is_a_problem(unread: int, bad: bool) -> None:
    """More than a tenth of the blocks found but not read is a problem; in the Markdown they leave no trace."""
    regions = (*completion(*[("read", 0.99)] * (10 - unread)).regions, *[Region("unreadable", "", WHOLE, 0.0)] * unread)
    reading = Completion("read", "stop", 0.1, regions)
    problem = verdict(image(), reading).problem
    assert problem == (f"{unread} of 10 blocks could not be read; the script may be beyond the engine" if bad else None)
    markdown = page_markdown(page_from(image(), reading, source="cpu", problem=problem))
    assert markdown.split("\n\n")[1:] == ["read"] * (9 - unread) + ["read\n"]
