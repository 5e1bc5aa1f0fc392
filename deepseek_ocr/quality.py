"""Is this completion a good page?  One sentence if not, which goes into the output and makes the document partial."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deepseek_ocr.completion import Completion, PageImage

#: Mean confidence over the letters below which a page cannot be trusted.
MIN_CONFIDENCE = 0.75
#: Share of the blocks above which those found but not read are more than a logo or a scribble.
MAX_UNREADABLE = 0.1

_CUT = {
    "length": "the text was cut off at the engine's limit",
    "repetition": "the engine repeated itself and was stopped",
    "abort": "the recognition was broken off",
    "error": "the engine failed on this page",
}


def problem_with(image: PageImage, completion: Completion) -> str | None:
    """Why a completion is not a good reading of a page; None if it is one."""
    if completion.finish_reason != "stop":
        return _CUT[completion.finish_reason]
    if image.ink > 0 and not completion.text.strip():
        return "nothing was read although the page is not blank (a picture, or writing the engine does not know)"
    blocks, unreadable = len(completion.regions), sum(region.label == "unreadable" for region in completion.regions)
    if unreadable > MAX_UNREADABLE * blocks:
        return f"{unreadable} of {blocks} blocks could not be read; the script may be beyond the engine"
    confidence = mean_confidence(completion)
    if confidence is not None and confidence < MIN_CONFIDENCE:
        return f"read with low confidence ({confidence:.2f}); the script or the scan may be beyond the engine"
    return None


def mean_confidence(completion: Completion) -> float | None:
    """The mean over the letters, 0 to 1; None where the engine gives none."""
    rated = [(region.confidence, len(region.text)) for region in completion.regions if region.confidence is not None]
    letters = sum(count for _, count in rated)
    return sum(confidence * count for confidence, count in rated) / letters if letters else None
