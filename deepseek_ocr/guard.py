"""The model's published guard against repetition: no n-gram of the answer may come twice within a window.

A pure restatement of vLLM's `NoRepeatNGramLogitsProcessor` (vllm/model_executor/models/deepseek_ocr.py, the same in
0.25.1 and 0.28.0), equal to it for every answer, size, window and exemption.
Left to others: acting on it while a page is read (`engine/vllm_guard.py`) and which ids `EXEMPT` have in a tokenizer.
Residual risk: it sees exact loops only, of a period up to window - n + 1 tokens (61 as published), and breaks one by
banning a single token, so a loop may go on in another shape; counters and growing boxes pass (`quality.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final

#: Tokens of an n-gram, and of the answer's end in which none may come twice (vLLM recipes, DeepSeek-OCR.md).
NGRAM_SIZE: Final = 30
WINDOW_SIZE: Final = 90
#: The tokens that are never banned, since a table may well have 30 empty cells (same source).
EXEMPT: Final = ("<td>", "</td>")
#: The window of a request that names none, in vLLM's processor; not what is published.
_DEFAULT_WINDOW_SIZE: Final = 100


@dataclass(frozen=True, slots=True)
class Guard:
    """A setting of the guard."""

    ngram_size: int
    window_size: int

    def __str__(self) -> str:
        """As people write it."""
        return f"{self.ngram_size}/{self.window_size}"


PUBLISHED: Final = Guard(NGRAM_SIZE, WINDOW_SIZE)
#: That of the official script for PDF (run_dpsk_ocr_pdf.py): acts ten tokens earlier, sees periods up to 31 tokens.
SHORT: Final = Guard(20, 50)
#: "Slight improvement" (DeepSeek-OCR-2 issue 28): sees periods up to 161 tokens.
WIDE: Final = Guard(40, 200)


@dataclass(frozen=True, slots=True)
class Rule:
    """What one request asks of the guard."""

    ngram_size: int
    window_size: int
    whitelist: frozenset[int]


def request_args(whitelist: Iterable[int], guard: Guard = PUBLISHED) -> dict[str, object]:
    """A setting as a request carries it: `SamplingParams.extra_args`, or `vllm_xargs` over HTTP."""
    return {
        "ngram_size": guard.ngram_size, "window_size": guard.window_size, "whitelist_token_ids": sorted(whitelist),
    }  # fmt: skip


def rule_in(extra_args: Mapping[str, object] | None) -> Rule | None:
    """The rule that a request asks for, None if for none; raises `ValueError` with vLLM's sentences.

    Two things differ from vLLM: empty arguments ask for nothing instead of being refused, and a whitelist of what
    cannot be a token is refused here, where there it would end the engine with all its pages.
    """
    asked = extra_args or {}
    ngram_size = asked.get("ngram_size")
    window_size = asked.get("window_size", _DEFAULT_WINDOW_SIZE)
    whitelist = asked.get("whitelist_token_ids")
    if ngram_size is None:
        return None
    if not isinstance(ngram_size, int) or ngram_size <= 0:
        raise ValueError(f"`ngram_size` has to be a strictly positive integer, got {ngram_size}.")
    if not isinstance(window_size, int) or window_size <= 0:
        raise ValueError(f"`window_size` has to be a strictly positive integer, got {window_size}.")
    problem = f"`whitelist_token_ids` has to be a sequence of integers, got {whitelist}."
    if whitelist is not None and not isinstance(whitelist, Iterable):
        raise ValueError(problem)
    try:
        return Rule(ngram_size, window_size, frozenset(whitelist or ()))
    except TypeError as error:  # a list in the list
        raise ValueError(problem) from error


def banned_tokens(
    output_ids: Sequence[int], ngram_size: int, window_size: int, whitelist: AbstractSet[int]
) -> set[int]:
    """The tokens that may not follow: each would end an n-gram that lies wholly within the last `window_size` tokens.

    Looks for the last token alone and compares n-grams only where it is found; this runs for each page at each step.
    """
    length = len(output_ids)
    if ngram_size == 1 or length < ngram_size:  # vLLM compares 1-grams with the whole answer, so it bans none
        return set()
    last = output_ids[-1]
    # Of the first n-gram in the window, the token before its end.
    at = max(0, length - window_size) + ngram_size - 2
    found = output_ids[at:-1].count(last)
    banned: set[int] = set()
    if not found:
        return banned
    prefix = output_ids[length - ngram_size + 1 :]
    for _ in range(found):
        at = output_ids.index(last, at) + 1
        token = output_ids[at]
        # The two cheap questions first: in a loop, or in a row of empty cells, they answer nearly always.
        if token not in banned and token not in whitelist and output_ids[at - ngram_size + 1 : at] == prefix:
            banned.add(token)
    return banned


def first_disagreement(
    output_ids: Sequence[int], ngram_size: int, window_size: int, whitelist: AbstractSet[int]
) -> int | None:
    """The index of the first token that was banned when it was chosen; None if the guard agrees with the whole answer.

    That nothing banned was chosen is half of what equality needs; that nothing else was banned, the tests show.
    The prompt has no part in it.  The time is linear in the answer.
    """
    if ngram_size == 1:  # as in `banned_tokens`
        return None
    latest: dict[tuple[int, ...], int] = {}
    for start in range(len(output_ids) - ngram_size + 1):
        end = start + ngram_size - 1
        ngram = tuple(output_ids[start : end + 1])
        if latest.get(ngram, -1) >= max(0, end - window_size) and output_ids[end] not in whitelist:
            return end
        latest[ngram] = start
    return None
