"""Loops: where an answer stops reading the page and goes on repeating itself, while it streams and afterwards.

One bounded tail of the answer is looked at every `STRIDE` characters, at the same places however the text came in
pieces, so that a stream and its whole get the same verdict; zlib looks first, and only what it finds dense is read in
tokens.  A loop is a stretch with hardly any new n-gram, in which the boxes do not count and a counter counts as equal.
Left to others: aborting the request, cutting the text (`Loop.start`, `Loop.cut`) and what to try next (`quality.py`).
Residual risk: a page that is as uniform as a loop is taken for one (an answer sheet of over 60 numbered rows, a chart
of one drum pattern, six lines of it, a sheet of equal labels); a loop with ever new numbers and no rule in them, or a
period over 3,000 characters, is not seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from deepseek_ocr.repetition import (
    BOXES,
    began_at,
    chars_in,
    compression,
    content_share,
    count_at_end,
    counts_alone,
    depth,
    is_count,
    masked,
    mostly_numbers,
    novelty,
    period_of,
    plain_lines,
    tokens_at_end,
    tokens_of,
    words_of,
)

if TYPE_CHECKING:
    from deepseek_ocr.repetition import Token

Kind = Literal["period", "mutated", "counter", "boxes", "nesting", "run", "cells", "few words"]
"""What a loop repeats: a period exactly; a few pieces in changing order (alternating lines, a period that a guard
breaks each round); a count; one content in box after box; an opening that is never closed; one character; table cells
with nothing in them; a short answer of a handful of words (known only at its end)."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """All figures of the judgement; "pages" are the 427 good real outputs of bench/false_alarms.py."""

    #: Different n-grams among all, at most, in `WINDOW` characters: pages 0.23 and 0.24, both half degenerate (a
    #: formula that goes round and round, and stops), then 0.30 and more; a real loop of boxes 0.16, of spaces 0.02.
    novelty: float = 0.2
    #: The same in `NEAR` characters, for an early word: pages 0.27, loops with an exact period below 0.1.
    near_novelty: float = 0.12
    #: The same in `FAR` characters, for long periods that a guard breaks: no page is long enough to tell.
    far_novelty: float = 0.2
    #: Characters beside table tags, boxes and blanks that such a window must hold, as shares of it: blank cells are
    #: judged by themselves, and a year's calendar in a table has 0.2 at most.
    content: float = 0.4
    #: Compression of a window by zlib below which its tokens are not read: pages reach 7.2 (with blank cells; most stay
    #: below 4), real loops 8.8 and more.
    dense: float = 3.5
    #: The same of a `FAR` window, which holds a long piece some five times.
    far_dense: float = 5.0
    #: Rounds of a counter with one content, and the characters of content they hold at least; a printed answer sheet
    #: has some 50 rows, a list of participants 30, a calendar 31 days.
    rounds: int = 60
    round_chars: int = 600
    #: The same for long rounds: 30 rows of "Name: ___ First name: ___ Born: ___ Signature: ___" hold 1,300.
    long_rounds: int = 12
    long_round_chars: int = 1600
    #: Rounds of a bare counter: tables of the numbers from 1 to 100 are printed.
    bare_rounds: int = 120
    #: Exact copies of a long period: forms come in triplicate.
    copies: int = 4
    #: Lines in a row of which at most so many are different, each of so many characters; pages have 7 and more of 16.
    lines: int = 16
    different_lines: int = 3
    line_chars: int = 5
    #: Blank cells in one row: pages have up to 10, a month has 31.
    row_cells: int = 128
    #: Characters of table with next to no content: ragged rows, and regular ones (a blank form of 31 by 30 has 9,000).
    ragged_cells: int = 2560
    blank_cells: int = 11_000
    #: Content of such a table, as a share, and the share of its rows that have its most frequent width if it is a form.
    cell_content: float = 0.08
    regular: float = 0.6
    #: Blocks in a row with one content, however short: a form has some 20 lines with "Yes No".
    blocks: int = 32
    #: One character without end: a dotted line has some 150, ruled paper 30 lines of 80.
    run: int = 1000
    run_lines: int = 4000
    #: Different words among all of a short answer, and how many words it has: forms have 0.254 and more
    #: (a production suite, see the research), pages as short 0.31 and more.
    few_words: float = 0.2
    short_words: tuple[int, int] = (16, 64)


LIMITS: Final = Thresholds()
#: Characters between two looks, and of the windows; the largest is what a watch keeps.
STRIDE: Final = 256
#: Strides without a look at the tokens, at most.
LONGEST_REST: Final = 6
NEAR: Final = 600
WINDOW: Final = 1200
COUNTED: Final = 2400
FAR: Final = 4800
KEPT: Final = 12_288


@dataclass(frozen=True, slots=True)
class Loop:
    """A loop of an answer; offsets are characters of the whole answer."""

    kind: Kind
    #: Where the first round begins, as well as can be told: a few tokens off where the text before is alike.
    start: int
    #: Characters of one round; 0 where the rounds are not equally long.
    period: int
    #: Characters that had been read when it was noticed.
    noticed: int

    @property
    def cut(self) -> int:
        """Where to cut so that one round is kept, which may well stand on the page."""
        return min(self.start + self.period, self.noticed)


class LoopWatch:
    """Looks at an answer as it streams; keeps `KEPT` characters, time linear in the answer."""

    def __init__(self) -> None:
        #: The first loop found; nothing more is looked at after it.
        self.loop: Loop | None = None
        #: The last characters up to the last look, and where in the answer they begin.
        self._tail = ""
        self._offset = 0
        #: What came since then, shorter than a stride.
        self._waiting: list[str] = []
        self._waiting_chars = 0
        #: Looks in a row at which the tokens of a dense tail were innocent, and the answer's length before which they
        #: are not read again: a bounded delay, which keeps a long uniform text affordable.
        self._innocent = 0
        self._rest_until = 0

    def feed(self, piece: str) -> Loop | None:
        """Take the next piece; the loop if this piece shows one, once."""
        at = 0
        while at < len(piece) and self.loop is None:
            part = piece[at : at + STRIDE - self._waiting_chars]
            at += len(part)
            self._waiting.append(part)
            self._waiting_chars += len(part)
            if self._waiting_chars == STRIDE:
                self._look(at_end=False)
                if self.loop is not None:
                    return self.loop
        return None

    def finish(self) -> Loop | None:
        """The answer has ended: the loop found until now, or by a last look that also knows short answers."""
        if self.loop is None:
            self._look(at_end=True)
        return self.loop

    def _look(self, *, at_end: bool) -> None:
        """Judge the tail, and forget what is too old."""
        tail = self._tail + "".join(self._waiting)
        self._waiting, self._waiting_chars = [], 0
        if len(tail) > KEPT:
            self._offset += len(tail) - KEPT
            tail = tail[-KEPT:]
        self._tail = tail
        length = self._offset + len(tail)
        found = _cheap(tail)
        if found is None and (at_end or length >= self._rest_until):
            if compression(tail[-WINDOW:]) >= LIMITS.dense or counts_alone(tail):
                found = _by_tokens(tail)
                self._innocent += 1
                self._rest_until = length + min(self._innocent, LONGEST_REST) * STRIDE
            else:
                self._innocent = 0
        if found is None and (at_end or length % (4 * STRIDE) == 0):
            found = _cells(tail) or _same_blocks(tail) or _long_period(tail)
        if found is None and (at_end or length % (8 * STRIDE) == 0):
            found = _far(tail)
        if found is None and at_end and not self._offset:
            found = _few_words(tail)
        if found is not None:
            kind, start, period = found
            self.loop = Loop(kind, self._offset + start, period, length)


def find_loop(text: str) -> Loop | None:
    """The first loop of a finished answer, None if it has none; what a watch fed with it says at its end."""
    watch = LoopWatch()
    watch.feed(text)
    return watch.finish()


_BLANK_CELL = "<td></td>"
#: Rows of a table, and boxes of a loop, that are enough to judge by.
_SOME: Final = 4
#: Characters by which the beginning of blank cells is looked for.
_STEP: Final = 128
#: Openings over closings in a window that is nested ever deeper.
_DEEPER: Final = 16


_Found = tuple[Kind, int, int]
"""Kind, start in the tail, period."""


# ------------------------------------------------------------------------ cheap looks


def _cheap(tail: str) -> _Found | None:
    """What needs no tokens: one character, few different lines."""
    return _run(tail) or _few_lines(tail)


def _run(tail: str) -> _Found | None:
    """One character again and again, with line ends or spaces or without."""
    if not tail or tail[-LIMITS.run // 4 :].strip(tail[-1] + " \n"):
        return None
    rest = tail.rstrip(tail[-1] + " \n")
    length = len(tail) - len(rest)
    lined = not tail[-1].isspace() and tail.count("\n", len(rest)) > length // 200
    return ("run", len(rest), 1) if length >= (LIMITS.run_lines if lined else LIMITS.run) else None


def _cells(tail: str) -> _Found | None:
    """A row of blank cells without end, or a table with next to nothing in it, ragged or larger than any form."""
    row = tail.rfind("<tr", 0, len(tail) - len(_BLANK_CELL) * LIMITS.row_cells)
    last = tail.rfind("<tr")
    whole = tail[: tail.rfind("</td>") + len("</td>")]
    if row == last and whole.endswith(_BLANK_CELL * LIMITS.row_cells):
        return "cells", _blank_from(tail), len(_BLANK_CELL)
    # Half of what must be blank; no page of text gets past this line.
    if tail.count(_BLANK_CELL, -LIMITS.ragged_cells) * len(_BLANK_CELL) * 2 < LIMITS.ragged_cells:
        return None
    start = _blank_from(tail)
    blank = tail[start:]
    if len(blank) < LIMITS.ragged_cells or content_share(blank) > LIMITS.cell_content:
        return None
    widths = [part.count("<td") for part in blank.split("<tr")[1:-1]]
    usual = max(map(widths.count, set(widths)), default=0)
    if len(widths) >= _SOME and usual >= LIMITS.regular * len(widths) and len(blank) < LIMITS.blank_cells:
        return None
    return "cells", start, 0


def _blank_from(tail: str) -> int:
    """Where the table's last stretch with little content begins, looked for backwards in small steps."""
    start = len(tail)
    # A tag that a step cuts in two counts as content.
    while start > 0 and content_share(tail[max(0, start - _STEP) : start]) <= 3 * LIMITS.cell_content:
        start = max(0, start - _STEP)
    row = tail.find("<t", start)
    return row if row >= 0 else start


def _same_blocks(tail: str) -> _Found | None:
    """One short content in block after block, of which the boxes are most of the text."""
    blocks = tail.split("<|ref|>")[-LIMITS.blocks - 1 : -1]  # the last may not be whole
    if (
        len(blocks) < LIMITS.blocks
        or len({BOXES.sub("", block) for block in blocks}) > 1
        or not words_of("<|ref|>" + blocks[0])
    ):
        return None
    content = BOXES.sub("", blocks[0])
    start = len(tail)
    while (before := tail.rfind("<|ref|>", 0, start)) >= 0:
        if start < len(tail) and BOXES.sub("", tail[before + len("<|ref|>") : start]) != content:
            break
        start = before
    return "boxes", start, 0


def _few_lines(tail: str) -> _Found | None:
    """The same two or three short lines in any order."""
    window = tail[-WINDOW:]
    lines = window.split("\n")
    if len(lines) <= LIMITS.lines or BOXES.search(window):  # equal blocks are judged by themselves
        return None
    plain = plain_lines(window)[-LIMITS.lines - 1 : -1]  # the last may not be whole
    if (
        len(plain) < LIMITS.lines
        or len(set(plain)) > LIMITS.different_lines
        or min(map(len, plain)) < LIMITS.line_chars
    ):
        return None
    if not any(char.isalnum() for char in plain[-1]):  # rules and leaders, to write on
        return None
    return _described(tail, tokens_of(tail), WINDOW)


# ------------------------------------------------------------------------ looks at the tokens


def _by_tokens(tail: str) -> _Found | None:
    """Hardly a new n-gram in the last characters, or none but for a count."""
    tokens = tokens_at_end(tail, WINDOW)
    for size, most in ((NEAR, LIMITS.near_novelty), (WINDOW, LIMITS.novelty)):
        inside = [token for token in tokens if token.start >= len(tail) - size]
        words = [token.text for token in inside]
        if chars_in(inside) >= LIMITS.content * size and novelty(words) <= most and not mostly_numbers(words):
            return _described(tail, tokens_of(tail), size)
    return _counter(tail) if sum(is_count(token.text) for token in tokens) >= LIMITS.long_rounds // 2 else None


def _counter(tail: str) -> _Found | None:
    """A count with the same content in each round, or a bare one that goes on for long."""
    tokens = tokens_at_end(tail, COUNTED)
    counted = count_at_end(tokens)
    if counted is None:
        return None
    first, rounds = counted
    inside = masked(tokens, first)[first:]
    if novelty([token.text for token in inside]) > LIMITS.novelty:
        return None  # a numbered list
    chars = chars_in(inside)
    least = LIMITS.bare_rounds if chars < LIMITS.round_chars else LIMITS.rounds
    if rounds < (LIMITS.long_rounds if chars >= LIMITS.long_round_chars else least):
        return None
    whole = tokens_of(tail)
    counted = count_at_end(whole)
    first = counted[0] if counted else 0
    size = len(tail) - inside[0].start
    _, start, _ = _described(tail, masked(whole, first), size)
    return "counter", start, 0


def _long_period(tail: str) -> _Found | None:
    """Some exact copies of a long piece, the boxes aside."""
    plain = BOXES.sub("", tail)
    key = plain[-48:]
    at = plain.rfind(key, 0, len(plain) - 1)
    period = len(plain) - len(key) - at
    span = period * LIMITS.copies
    if at < 0 or span > len(plain) or span < WINDOW or not _has_word(plain[-period:]):
        return None
    if plain[-span + period :] != plain[-span:-period]:
        return None
    return _described(tail, tokens_of(tail), min(2 * period, len(tail)))


def _has_word(text: str) -> bool:
    """Whether a text says anything beside the frame of a table and signs."""
    return any(token.text.isalnum() for token in tokens_of(text))


def _far(tail: str) -> _Found | None:
    """A long period that is broken each round."""
    window = tail[-FAR:]
    if len(window) < FAR or compression(window) < LIMITS.far_dense:
        return None
    tokens = tokens_of(window)
    if chars_in(tokens) < LIMITS.content * FAR or novelty([token.text for token in tokens]) > LIMITS.far_novelty:
        return None
    return _described(tail, tokens_of(tail), FAR)


def _few_words(text: str) -> _Found | None:
    """A short answer of a handful of words."""
    if len(BOXES.findall(text)) >= _SOME:
        return None
    words = words_of(text)
    least, most = LIMITS.short_words
    if not least <= len(words) <= most or len(set(words)) > LIMITS.few_words * len(words):
        return None
    return "few words", 0, 0


# ------------------------------------------------------------------------ of a loop that is there


def _described(tail: str, tokens: list[Token], size: int) -> _Found:
    """Kind, start and period of the loop in which the last `size` characters lie."""
    inside = [token for token in tokens if token.start >= len(tail) - size]
    start = began_at([token.text for token in tokens], [token.text for token in inside])
    began = tokens[start].start
    # The tags and the box of the first round belong to it.
    block = tail.rfind("<|ref|>", tokens[start - 1].end if start else 0, began)
    began = block if block >= 0 else began
    looped = tokens[start:]
    period = period_of([token.text for token in looped])
    text = tail[began:]
    if len(BOXES.findall(text)) >= _SOME:
        kind: Kind = "boxes"
    elif depth(text) >= _DEEPER:
        kind = "nesting"
    else:
        kind = "period" if period else "mutated"
    return kind, began, looped[period].start - looped[0].start if period else 0
