"""Whether a completion is a good page, and if not why."""

from __future__ import annotations

from typing import get_args

import pytest

from deepseek_ocr.completion import Completion, FinishReason, PageImage, Region
from deepseek_ocr.markdown import page_markdown
from deepseek_ocr.quality import MIN_CONFIDENCE, mean_confidence, problem_with
from deepseek_ocr.reader import page_from

BOX = (0.0, 0.0, 1.0, 1.0)


def image(ink: float = 0.1) -> PageImage:
    """A page."""
    return PageImage(0, 100, 100, "px", None, ink)


def completion(*rated: tuple[str, float | None], finish_reason: FinishReason = "stop") -> Completion:
    """Regions with their confidence."""
    regions = tuple(Region("text", text, BOX, confidence) for text, confidence in rated)
    return Completion("\n\n".join(text for text, _ in rated), finish_reason, 0.1, regions)


#: Name -> the page's ink, the completion, and the words for what is wrong.
JUDGEMENTS: dict[str, tuple[float, Completion, str | None]] = {
    "good": (0.1, completion(("text", 0.98)), None),
    "good, without a confidence": (0.1, completion(("text", None)), None),
    "blank, and nothing read": (0.0, completion(), None),
    "inked, and nothing read": (0.1, completion(), "nothing was read"),
    "inked, and only spaces read": (0.1, completion((" \n", None)), "nothing was read"),
    "just good enough": (0.1, completion(("text", MIN_CONFIDENCE)), None),
    "low confidence": (0.1, completion(("text", 0.61)), "read with low confidence (0.61)"),
    "a long bad text beside a short good one": (
        0.1, completion(("x" * 90, 0.5), ("good", 1.0)), "read with low confidence (0.52)",
    ),
    "a short bad text beside a long good one": (0.1, completion(("x" * 90, 0.99), ("bad", 0.1)), None),
    "cut off": (0.1, completion(("text", None), finish_reason="length"), "cut off at the engine's limit"),
    "a loop": (0.1, completion(("text", None), finish_reason="repetition"), "repeated itself"),
    "broken off": (0.1, completion(finish_reason="abort"), "broken off"),
    "failed": (0.0, completion(finish_reason="error"), "the engine failed"),
}  # fmt: skip


@pytest.mark.parametrize(("ink", "read", "expected"), JUDGEMENTS.values(), ids=JUDGEMENTS)
def test_judgements(ink: float, read: Completion, expected: str | None) -> None:
    """A good reading has no problem, any other has one sentence that says what it is."""
    problem = problem_with(image(ink), read)
    assert (problem is None) == (expected is None)
    assert (expected or "") in (problem or "")


@pytest.mark.parametrize("finish_reason", get_args(FinishReason))
def test_every_way_to_finish_is_judged(finish_reason: FinishReason) -> None:
    """Only `stop` is good; none is without words."""
    problem = problem_with(image(), completion(("text", 1.0), finish_reason=finish_reason))
    assert (problem is None) == (finish_reason == "stop")


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
    regions = (*completion(*[("read", 0.99)] * (10 - unread)).regions, *[Region("unreadable", "", BOX, 0.0)] * unread)
    reading = Completion("read", "stop", 0.1, regions)
    problem = problem_with(image(), reading)
    assert problem == (f"{unread} of 10 blocks could not be read; the script may be beyond the engine" if bad else None)
    markdown = page_markdown(page_from(image(), reading, source="cpu", problem=problem))
    assert markdown.split("\n\n")[1:] == ["read"] * (9 - unread) + ["read\n"]
