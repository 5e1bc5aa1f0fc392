"""The text of a document -> its sentences, as a summary or a search would use them.  Pure; linear time; never raises.

Takes plain text or Markdown, from any engine: tables, formulas, code, page marks, contents, page numbers, addresses and
quotations (what a second look says of a figure is written as one) are left out, marks of emphasis and links are taken
off, lines are joined and words broken at a line end mended.  A heading without a full stop ends where its line does,
and so does a caption.  What a model repeats when it loops is kept once.

Left to others: which language it is, what the sentences are worth.  Residual risks: a running head between the halves
of a sentence splits it; "etc. The" stays one sentence; a heading in capitals that runs on as body text is one with it.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from deepseek_ocr.columns import is_cjk
from deepseek_ocr.rows import HYPHEN_PREFIXES, HYPHENS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: Characters that are looked at; the rest of a longer text is left out.  A book has 3,000 a page, so about 1,300 pages.
MAX_CHARS: Final = 4_000_000
#: Characters of a sentence; what has no end within them (a list, a table that lost its lines) is cut.
MAX_SENTENCE_CHARS: Final = 1000
#: Where something stood that has no words: a formula, an address.  Unicode's own character for that.
OBJECT: Final = "\ufffc"

#: Share of letters among what is neither space nor punctuation, below which a line is figures or noise, not language.
_MIN_LETTERS = 0.6
#: Words from which, and share of different ones below which, a sentence is a loop.  Prose of 100 words has over 0.5.
_LOOP_WORDS, _MIN_DISTINCT = 12, 0.3
#: Letters between the full stops of "z.B.", "e.g." at most, and digits of an ordinal.
_SHORT = 2
#: Characters before a full stop that are looked at for an abbreviation.
_LAST_WORD = 20
#: A line ends early, so something ends there, if it has less than this share of the paragraph's longest line.
_SHORT_LINE = 0.6
_MIN_LINE_CHARS = 40

#: Characters of scripts written without spaces, as `columns.is_cjk` has them: Han and kana.
CJK = re.compile(r"[\u3005-\u3007\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_WORD = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*")
_NO_LETTERS = re.compile(r"[\W\d_]+")
_PUNCTUATION = re.compile(r"[\s.,;:!?…'\"()“”„«»‘’–—。、！？「」『』（），：；-]+")  # noqa: RUF001 - as written
_BROKEN_WORD = re.compile(rf"[^\W\d_][{HYPHENS}][ \t]*\n")
_ENTITY = re.compile(r"&#?\w{1,10};")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2060\ufeff]")
_IMAGE = re.compile(r"!\[(?:[^\[\]\\\n]|\\.){0,2000}+\]\([^()\s]{0,1000}\)")
_LINK = re.compile(r"(?<!\\)\[([^\[\]\n]{1,300})\]\([^()\s]{1,1000}\)")
_TORN_TABLE = re.compile(r"<(?:table|t[drh])\b[^\n]*")
_TAG = re.compile(r"</?[a-zA-Z|][^<>\n]{0,300}>")
#: Pandoc's rule: no space inside the dollars, no digit after them, so that "$5 and $6" is money.
_DOLLARS = re.compile(r"(?<![\\$])\$(?=[^\s$])([^$\n]{0,300}[^\s$\\])\$(?![\d$])")
_EMPHASIS = re.compile(r"(?<![\w\\])[*_]{1,3}(?=\S)|(?<=[^\s\\])[*_]{1,3}(?!\w)|`{1,3}")
_ESCAPE = re.compile(r"\\([!-/:-@\[-`{-~])")
_ADDRESS = re.compile(
    r"(?:https?://|www\.)[^\s<>]{2,2000}[^\s<>.,;:!?)\]]|[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,5}", re.IGNORECASE
)
#: As `markdown.py` writes them.
_CAPTION = re.compile(r"\*[^*\s][^*]*\*")
_HEADING = re.compile(r"#{1,6}\s+")
_BULLET = re.compile(r"[-*+•◦▪‣·●○■□–—]\s+")  # noqa: RUF001 - what stands on paper
_NUMBERED = re.compile(r"\(?(?:\d{1,3}[.)]|[a-z]\))\s+")
_LEADERS = re.compile(r"\.{4,}|(?:\. ){4,}|…{2,}|·{4,}")
_TERMINAL = re.compile(r"[.!?…。！？][\"'”’»«)\]」』）]{0,4}$")  # noqa: RUF001 - as written
_BOUNDARY = re.compile(r"([.!?…]{1,9})[\"'”’»«)\]]{0,4} |[。！？]{1,9}[」』”）]{0,4} ?")  # noqa: RUF001 - as written
_OPENING = "\"'“„«»‘([¿¡–—-「『（"  # noqa: RUF001 - as written
#: Words after which a full stop ends no sentence, lower case; single letters and "z.B", "e.g" need no entry.
_ABBREVIATIONS = frozenset(
    "mr mrs ms dr prof st no nos vol vols fig figs eq eqs ch chap sec pp ed"  # noqa: SIM905 - read as a line
    " eds vs al cf inc ltd jr sr approx dept est nr bzw ca vgl abb tab bd hrsg evtl ggf inkl exkl str mio mrd sog geb"
    " gest jh mm mme mlle mgr env éd art sig dott avv ing pag cap sra srta dña ud uds núm pág exmo ul tzn tzw np dyr"
    " inż rys tys mln blz bijv dhr mw resp см им проф рис стр ул тыс млн гг".split()  # noqa: RUF001 - as written
)


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence or heading, on one line."""

    text: str
    heading: bool = False
    #: It has a beginning and an end and nothing is missing, so it can be quoted.
    complete: bool = False


def sentences(text: str) -> list[Sentence]:
    """The sentences of a document in their order, each kept once; figures alone do not make two differ."""
    found: list[Sentence] = []
    seen: set[str] = set()
    for paragraph, heading in _paragraphs(_plain(text[:MAX_CHARS])):
        for piece, whole in _pieces(paragraph):
            key = _NO_LETTERS.sub("", piece.casefold())
            if key in seen or not _is_language(piece, len(key)):
                continue
            seen.add(key)
            found.append(Sentence(piece, heading, whole and not heading and _is_complete(piece)))
    return found


def words(text: str) -> int:
    """How many words a text has; two characters count as one where words are not set apart."""
    apart, characters = CJK.subn(" ", text)
    return sum(1 for _ in _WORD.finditer(apart)) + characters // 2


def _plain(text: str) -> str:
    """The text without what is no prose; line ends stay."""
    text = _ENTITY.sub(lambda match: html.unescape(match[0]), text.replace("\r\n", "\n").replace("\r", "\n"))
    # Lone surrogates come from broken text layers; no encoder takes them.
    text = unicodedata.normalize("NFC", text.encode("utf-8", "replace").decode("utf-8"))
    text = _CONTROL.sub(" ", text.replace("\f", "\n\n"))
    text = _without(text, "<!--", "-->", "\n\n")
    text = _without(text, "<table", "</table>", "\n\n")
    text = _without("\n" + text, "\n```", "\n```", "\n\n")
    for opening, closing in (("$$", "$$"), (r"\[", r"\]"), (r"\(", r"\)")):
        text = _without(text, opening, closing, OBJECT, _is_formula)
    text = _DOLLARS.sub(OBJECT, text)
    text = _TORN_TABLE.sub("\n", text)
    return _ADDRESS.sub(OBJECT, _TAG.sub("", _LINK.sub(r"\1", _IMAGE.sub("", text))))


def _without(text: str, opening: str, closing: str, by: str, wanted: Callable[[str], bool] = bool) -> str:
    """The text with each span between two marks, these included, replaced if its content is `wanted`."""
    parts = []
    position = end = 0
    start = text.find(opening)
    while start >= 0:
        inside = start + len(opening)
        if end < inside:  # else the one found before still stands: each is looked for once, so this is linear
            end = text.find(closing, inside)
        if end < 0:
            break
        if wanted(text[inside : min(end, inside + MAX_SENTENCE_CHARS)]):
            parts += [text[position:start], by]
            inside = position = end + len(closing)
        start = text.find(opening, inside)
    return "".join([*parts, text[position:]])


def _is_formula(content: str) -> bool:
    r"""Whether this is mathematics: `\[12\]` and `\(see below\)` are brackets that Markdown had to escape."""
    return len(content) < MAX_SENTENCE_CHARS and (
        any(letter in content for letter in "\\^_={}") or len(content.strip()) == 1
    )


def _paragraphs(text: str) -> Iterator[tuple[str, bool]]:
    """The paragraphs, each on one line, and whether it is a heading; one that a page break divided is whole again."""
    known = Counter(word.lower() for word in _WORD.findall(text)) if _BROKEN_WORD.search(text) else Counter[str]()
    parts: list[str] = []
    for lines, heading in _blocks(text):
        if parts and (heading or _TERMINAL.search(parts[-1]) or not lines[0][0].islower()):
            yield "".join(parts), False
            parts = []
        if heading:
            yield lines[0], True
            continue
        for line in lines:
            _append(parts, line, known)
    if parts:
        yield "".join(parts), False


def _blocks(text: str) -> Iterator[tuple[list[str], bool]]:
    """Lines that belong together, marks taken off, and whether they are a heading or caption; never an empty line."""
    lines: list[str] = []
    for raw in text.split("\n"):
        line = raw.strip()
        if not line or line.startswith(">"):
            yield from _divided(lines)
            lines = []
            continue
        caption = _CAPTION.fullmatch(line)
        heading = _HEADING.match(line)
        marker = _BULLET.match(line)
        if not marker and (not lines or _TERMINAL.search(lines[-1])):  # else it is a number in a sentence
            marker = _NUMBERED.match(line)
        table = (line.startswith("|") and line.count("|") > 1) or _LEADERS.search(line)
        if heading or caption or marker or table:
            yield from _divided(lines)
            lines = []
        if heading or caption:
            title = _bare(line[heading.end() :].rstrip("# ") if heading else line)
            if title:
                yield [title], True
        elif not table:
            line = _bare(line[marker.end() :] if marker else line)
            if any(letter.isalpha() for letter in line):  # else a page number or a rule
                lines.append(line)
    yield from _divided(lines)


def _bare(line: str) -> str:
    """A line without emphasis, escapes and surplus space."""
    return " ".join(_ESCAPE.sub(r"\1", _EMPHASIS.sub("", line)).split())


def _divided(lines: list[str]) -> Iterator[tuple[list[str], bool]]:
    """Lines without an empty one between them, parted after a short one that ends nothing: a heading on paper."""
    longest = max(map(len, lines), default=0)
    start = 0
    for index, line in enumerate(lines[:-1], 1):
        ends_early = longest >= _MIN_LINE_CHARS and len(line) < longest * _SHORT_LINE
        runs_on = line[-1] in f"{HYPHENS},;:" or _TERMINAL.search(line) or not (lines[index][0].isupper())
        if ends_early and not runs_on:
            yield lines[start:index], False
            start = index
    if lines[start:]:
        yield lines[start:], False


def _append(parts: list[str], line: str, known: Counter[str]) -> None:
    """Add a line to the parts of a paragraph; a word broken between them becomes whole, as `layout` does it."""
    before = parts[-1] if parts else ""
    if len(before) > 1 and before[-1] in HYPHENS and before[-2].isalpha() and line[0].isalpha():
        first, second = _WORD.findall(before[-100:-1])[-1].lower(), _WORD.match(line)
        whole, compound = (known[first + mark + (second[0].lower() if second else "")] for mark in ("", "-"))
        keep = compound > whole or (compound == whole and first in HYPHEN_PREFIXES) or line[0].isupper()
        if not keep or before[-1] == "\u00ad":
            parts[-1] = before[:-1]
    elif before and not is_cjk(before[-1]) and not is_cjk(line[0]):
        parts.append(" ")
    parts.append(line)


def _pieces(paragraph: str) -> Iterator[tuple[str, bool]]:
    """The sentences of a paragraph; False with those that had to be cut."""
    paragraph = paragraph.replace("\u00ad", "")
    start = 0
    for match in _BOUNDARY.finditer(paragraph):
        if match[1] and not _ends_sentence(paragraph, match):
            continue
        yield from _cut(paragraph[start : match.end()].strip())
        start = match.end()
    yield from _cut(paragraph[start:].strip())


def _ends_sentence(text: str, match: re.Match[str]) -> bool:
    """Whether a full stop ends a sentence: not in abbreviations, initials and ordinals, nor before a small letter."""
    following = text[match.end() : match.end() + 4].lstrip(_OPENING)[:1]
    if not following or following.islower():
        return False
    if match[1] != ".":
        return True
    return not _is_abbreviated(text[max(match.start() - _LAST_WORD, 0) : match.start()])


def _is_abbreviated(text: str) -> bool:
    """Whether a full stop after this text belongs to its last word."""
    word = text[-_LAST_WORD:].rpartition(" ")[2].lstrip(_OPENING)
    if (len(word) == 1 and word != OBJECT) or (word.isdecimal() and len(word) <= _SHORT):  # initials, ordinals
        return True
    dotted = "." in word and all(len(part) <= _SHORT for part in word.split("."))
    return dotted or word.casefold() in _ABBREVIATIONS


def _cut(piece: str) -> Iterator[tuple[str, bool]]:
    """A piece, or several of `MAX_SENTENCE_CHARS` at most."""
    if len(piece) <= MAX_SENTENCE_CHARS:
        if piece:
            yield piece, True
        return
    start = 0
    while len(piece) - start > _MIN_LINE_CHARS:  # a rest of a few words could be that of a loop
        end = start + MAX_SENTENCE_CHARS
        space = piece.rfind(" ", start, end) if end < len(piece) else -1
        end = space if space > start else end
        if part := piece[start:end].strip():
            yield part, False
        start = end


def _is_language(piece: str, letters: int) -> bool:
    """Whether this is words, and not figures, noise or a loop."""
    if not letters or letters < _MIN_LETTERS * len(_PUNCTUATION.sub("", piece)):
        return False
    found = piece.casefold().split()
    if len(found) < _LOOP_WORDS and CJK.search(piece):
        found = list(piece)[: _LOOP_WORDS * 3]  # a thousand characters may well be a hundred different ones
    return len(found) < _LOOP_WORDS or len(set(found)) >= _MIN_DISTINCT * len(found)


def _is_complete(piece: str) -> bool:
    """Whether a piece reads as a whole sentence."""
    first = piece.lstrip(_OPENING)[:1]
    begins = first.isalnum() and not first.islower()
    return begins and bool(_TERMINAL.search(piece)) and OBJECT not in piece and not _is_cut_short(piece)


def _is_cut_short(piece: str) -> bool:
    """Whether its last full stop is that of an abbreviation: "..., d.h." before a formula."""
    return piece.endswith(".") and _is_abbreviated(piece[:-1])
