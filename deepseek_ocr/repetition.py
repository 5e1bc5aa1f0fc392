"""How much a text repeats itself: what it says as tokens, how many of its n-grams are new, what it counts, its period.

Plain functions, linear in what they are given (`loops.py` gives them a few thousand characters); the figures from
which on a text is a loop are there too.
"""

from __future__ import annotations

import re
import zlib
from itertools import pairwise
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Tokens of an n-gram: five tell a sentence from a table's frame, and cover less than a line.
_GRAM: Final = 5
#: Numbers to a round of a counter at most (a real loop had ten), rounds that make one, and digits of its numbers: a
#: longer one is a serial number.
_LAGS: Final = 64
_ROUNDS: Final = 4
_DIGITS: Final = 9
#: Share of the tokens, and how many different ones, that make a text a table of numbers.
_NUMBERS: Final = 0.8
_DIFFERENT: Final = 20
#: How far the score may fall, in n-grams, before a loop's beginning is no longer looked for.
_FALL: Final = 80
_BOX = r"<\|det\|>[^<]{0,80}<\|/det\|>"
#: A block's label; "OCR this image" puts the text itself there, which mostly has a capital, a space or a sign.
_LABEL = r"<\|ref\|>[a-z_]{1,20}<\|/ref\|>"
_TABLE_TAG = r"</?(?:table|thead|tbody|tr|td|th|br)\b[^<>]{0,60}>"
#: What is read of a text, the frequent first: a word (in pieces, for one that never ends) or a number; skipped are
#: boxes, the model's tags and the frame of a table; another tag, a letter of a script without spaces, a run of one
#: sign (a leader, also a spaced one).
_TOKENS = re.compile(
    r"([A-Za-z\u00c0-\u024f\u0370-\u052f]{1,16}|\d+(?:[.,]\d+)*)"
    rf"|{_BOX}|{_LABEL}|<\|/?\w{{1,12}}\|>|{_TABLE_TAG}|\|"
    r"|(</?[a-zA-Z]{1,20}>|[^\W\d_])"
    r"|(?:([._])(?:[ ]?\3)*|([^\w\s])\4*)"
)
BOXES = re.compile(_BOX)
_FRAME = re.compile(_TABLE_TAG)
_MARKUP = re.compile(rf"{_BOX}|{_LABEL}|<[^<>]{{0,60}}>")
_WORDS = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]+")
_COUNTS = re.compile(r"\d{1,9}")
_OPENINGS = re.compile(r"[{(\[]|<[a-zA-Z]{1,20}>")
_CLOSINGS = re.compile(r"[})\]]|</[a-zA-Z]{1,20}>")


def compression_ratio(text: str, tail: int = 4096) -> float:
    """How many times smaller zlib makes the last `tail` characters; 0 if there are none.

    Pages have 2 to 7, mostly below 4.5, and loops 7 to 20 (bench/false_alarms.py).  Short texts compress little
    whatever they say, so compare only those over some 1,000 characters.
    """
    return compression(text[-tail:])


def distinct_line_ratio(text: str) -> float:
    """Different lines among the lines that are not blank, box and case aside, 0 to 1; 1 if there are none."""
    lines = plain_lines(text)
    return len(set(lines)) / len(lines) if lines else 1.0


def distinct_word_ratio(text: str) -> float:
    """Different words and numbers among all, markup and case aside, 0 to 1; 1 if there are none."""
    words = words_of(text)
    return len(set(words)) / len(words) if words else 1.0


def words_of(text: str) -> list[str]:
    """The words and numbers of a text in lower case, without markup."""
    return _WORDS.findall(_MARKUP.sub(" ", text).lower())


def content_share(table: str) -> float:
    """The characters of a table beside its frame and its boxes, as a share of it."""
    return len("".join(_FRAME.sub("", table).split())) / len(table)


def depth(text: str) -> int:
    """How many more brackets and tags are opened than closed."""
    return len(_OPENINGS.findall(text)) - len(_CLOSINGS.findall(text))


class Token(NamedTuple):
    """A token and where it stands in the tail; a tuple because there are many (a dataclass takes twice as long)."""

    text: str
    start: int
    end: int


def tokens_of(text: str, base: int = 0) -> list[Token]:
    """What a text says, without boxes, the model's tags and the frames of tables; case and a run's length aside."""
    found = []
    for match in _TOKENS.finditer(text):
        word = match[1] or match[2]
        if word or (word := match[3] or match[4]):
            found.append(Token(word.lower(), base + match.start(), base + match.end()))
    return found


def tokens_at_end(tail: str, size: int) -> list[Token]:
    """The tokens of the last characters, placed in the tail."""
    base = max(0, len(tail) - size)
    return tokens_of(tail[base:], base)


def _grams(words: Sequence[str]) -> list[tuple[str, ...]]:
    """All n-grams in order."""
    return list(zip(*(words[at:] for at in range(_GRAM)), strict=False))


def novelty(words: Sequence[str]) -> float:
    """Different n-grams among all; 1 if there are too few to tell."""
    grams = _grams(words)
    return len(set(grams)) / len(grams) if len(grams) >= 2 * _GRAM else 1.0


def compression(text: str) -> float:
    """How many times smaller zlib makes a text."""
    raw = text.encode("utf-8", "replace")
    return len(raw) / len(zlib.compress(raw)) if raw else 0.0


def plain_lines(text: str) -> list[str]:
    """The lines without markup, spaces and case; blank ones left out."""
    lines = ("".join(line.split()).lower() for line in _MARKUP.sub("", text).split("\n"))
    return [line for line in lines if line]


def count_at_end(tokens: list[Token]) -> tuple[int, int] | None:
    """From which token on the numbers count, and how many rounds; None if they do not, or only stay the same.

    They count if each is as far from the one at its place in the round before as that one from the round before it.
    """
    numbers = [(at, int(token.text)) for at, token in enumerate(tokens) if is_count(token.text)]
    values = [value for _, value in numbers[:-1]]  # the last may not be whole
    best: tuple[int, int] | None = None
    for lag in range(1, min(_LAGS, len(values) // 4) + 1):
        at = len(values) - 1
        while at >= 2 * lag and values[at] - values[at - lag] == values[at - lag] - values[at - 2 * lag]:
            at -= 1
        first = at + 1 - 2 * lag
        rounds = (len(values) - first) // lag
        moves = any(values[-1 - place] != values[-1 - place - lag] for place in range(lag))
        if rounds >= _ROUNDS and moves and (best is None or numbers[first][0] < best[0]):
            best = numbers[first][0], rounds
    return best


def is_count(word: str) -> bool:
    """Whether a token is a whole number, and none so long that it is a hash or a serial number."""
    return word.isascii() and word.isdigit() and len(word) <= _DIGITS


def masked(tokens: list[Token], first: int) -> list[Token]:
    """The tokens with the numbers made equal from one token on."""
    return [
        Token("#", token.start, token.end) if at >= first and is_count(token.text) else token
        for at, token in enumerate(tokens)
    ]


def counts_alone(tail: str) -> bool:
    """Whether a text ends in a bare count, which zlib does not find dense."""
    values = [int(number) for number in _COUNTS.findall(tail[-160:])[1:-1]]  # the first and last may not be whole
    return len(values) >= 2 * _ROUNDS and len({b - a for a, b in pairwise(values[-2 * _ROUNDS :])} - {0}) == 1


def mostly_numbers(words: Sequence[str]) -> bool:
    """Whether a text is little but numbers, and many different ones: a calendar, not a stuck counter."""
    numbers = [word for word in words if word[0].isdigit()]
    return len(numbers) >= _NUMBERS * len(words) and len(set(numbers)) >= _DIFFERENT


def chars_in(tokens: list[Token]) -> int:
    """Characters that tokens hold, a run of one sign for one."""
    return sum(len(token.text) for token in tokens)


def began_at(words: Sequence[str], inside: Sequence[str]) -> int:
    """The index of the token with which the loop begins whose last words are `inside`.

    It is the best-scoring stretch up to the end: an n-gram that comes twice inside counts for it, any other twice
    against.
    """
    counts: dict[tuple[str, ...], int] = {}
    for gram in _grams(inside):
        counts[gram] = counts.get(gram, 0) + 1
    score = best = 0
    start = len(words) - len(inside)
    grams = _grams(words)
    for at in range(len(grams) - 1, -1, -1):
        score += 1 if counts.get(grams[at], 0) > 1 else -2
        if score >= best:
            best, start = score, at
        elif score < best - _FALL:
            break
    return min(start, len(words) - 1)


def period_of(words: Sequence[str]) -> int:
    """Tokens of a round, if the end repeats exactly for at least three rounds; else 0."""
    # The last token may not be whole.
    words = words[:-1]
    for period in range(1, len(words) // 3 + 1):
        span = max(3 * period, len(words) * 3 // 4)
        if words[-1] == words[-1 - period] and words[-span + period :] == words[-span:-period]:
            return period
    return 0
