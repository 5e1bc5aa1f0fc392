"""Known artefacts of the model's text -> the text a page has.  Pure, linear, never raises.

Mended are: HTML other than tables (`<center>`, `<br>`, `<sup>` ...), entities, the space behind a hyphen within a word,
list items run together, formulas in dollars.  What comes out is Markdown in which "<" and "&" are only what they look
like, and formulas have one notation.  Code stays.

Residual risk: a dash written as "word- Word" within a list item is taken for the beginning of the next one.
"""

from __future__ import annotations

import html
import re
from collections import deque
from itertools import pairwise
from typing import Final

#: A formula with its delimiters, a pair of `\\`, and any other escape; lone delimiters are found one by one.
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_CLOSING: Final = {"(": ")", "[": "]"}

#: Tags that say nothing worth keeping, and those that Markdown or plain letters say as well.
_INLINE_TAG = re.compile(
    r"</?(center|div|span|p|u|font|small|big)(?:\s[^<>]*)?>|<(br|hr)\s*/?>|<(/?)(b|strong|i|em)>", re.IGNORECASE
)
#: What is left of a table whose beginning or end is missing.
_TABLE_TAG = re.compile(r"(?:</?(?:table|thead|tbody|tr|td|th)(?:\s[^<>]*)?>)+", re.IGNORECASE)
_RAISED = re.compile(r"<(sup|sub)>([^<>]*)</\1>", re.IGNORECASE)
_LONE_RAISED = re.compile(r"</?(?:sup|sub)>", re.IGNORECASE)
_PLAIN, _SUPER, _SUB = "0123456789+-=()n", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿ", "₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎ₙ"
_LETTERS: Final = {"sup": str.maketrans(_PLAIN, _SUPER), "sub": str.maketrans(_PLAIN, _SUB)}
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")

#: Code between fences.
FENCED: Final = re.compile(r"(^[ \t]*+```[^`\n]*+\n(?:(?![ \t]*+```).*+\n)*+[ \t]*+```[ \t]*+$)", re.MULTILINE)
#: The same, or code in a line.
_CODE = re.compile(rf"({FENCED.pattern[1:-1]}|(?<!`)`[^`\n]++`(?!`))", re.MULTILINE)
#: Formulas as other models write them, and this one seldom, or what looks like one.
_DOLLARS = re.compile(r"(?<![\\$])(\$\$)([^$]++)\$\$(?!\$)|(?<![\\$\w])\$(?=\S)([^$\n]++)(?<=[^\s\\])\$(?![\w$])")
#: What a formula has, and what stands between two sums of money has not.
_LATEX = re.compile(r"[\\^_=]")

#: What stands behind a hyphen for a word left out: "pre- and post-", "Vor- und Nachteile".
_JOINING: Final = frozenset(
    {
        "and", "or", "nor", "but", "versus", "vs", "und", "oder", "bzw", "bis", "sowie", "noch",
        "beziehungsweise", "als", "wie", "resp", "et", "ou", "à", "y", "o", "e", "u", "i", "en", "of", "och", "og",
        "eller", "ja", "tai", "sekä", "и", "или", "a", "až", "nebo", "lub", "oraz", "și", "sau", "ve", "veya", "és",
        "vagy", "ili", "ali", "to", "through",
    }
)  # fmt: skip
#: The next item within one: "... financial offers- Shortly after, ..." (DeepSeek-OCR issue 200).
_GLUED = re.compile(r"(?<=[^\W\d_])(?<=[\w.;,:!?)])(?: ?)- (?=[A-ZÄÖÜÀ-ÞА-Я])|(?<=[.;,:!?)]) ?- (?=[A-ZÄÖÜÀ-ÞА-Я])")
#: Such items behind something else than one: "Caution:- Keep it dry.- Avoid heat." (raw output 0035).
_GLUED_ALONE = re.compile(r"(?<=[^\W\d_][.;:!?)])- (?=[A-ZÄÖÜÀ-ÞА-Я])")
_WORD_BEFORE = re.compile(r"([^\s-]+)\Z")
_ITEM = re.compile(r"\s*-[ \t]+\S")
#: An item has more words than that: "a Hesse- Matrix" is none.
_MIN_ITEM_WORDS = 3
#: Once, it may be a dash.
_MIN_GLUED_ALONE: Final = 2
#: Characters of a word, and of the end of an item, that are looked at.
_LONGEST_WORD, _MAX_LOOK = 60, 300


def split_formulas(text: str) -> list[tuple[str, str]]:
    r"""The text in pieces: ("", text), ("(", formula) for `\(..\)` and ("[", formula) for `\[..\]`; without delimiters.

    One that is not closed is text, as written; `\[..\]` may hold the other kind.
    """
    pieces: list[tuple[str, str]] = []
    at = 0
    opened: re.Match[str] | None = None
    #: An open `\[`, and what was found before it: all behind that is undone when it is closed.
    outer: re.Match[str] | None = None
    before = (0, 0)
    for found in _ESCAPE.finditer(text):
        match found[1]:
            case "(":
                opened = found
            case "[":
                outer, opened, before = found, None, (len(pieces), at)
            case ")" if opened:
                pieces += [("", text[at : opened.start()]), ("(", text[opened.end() : found.start()])]
                at, opened = found.end(), None
            case "]" if outer:
                del pieces[before[0] :]
                pieces += [("", text[before[1] : outer.start()]), ("[", text[outer.end() : found.start()])]
                at, opened, outer = found.end(), None, None
    pieces.append(("", text[at:]))
    return [(kind, piece) for kind, piece in pieces if kind or piece]


def join_formulas(pieces: list[tuple[str, str]]) -> str:
    """The text again, as `split_formulas` got it."""
    return "".join(f"\\{kind}{piece}\\{_CLOSING[kind]}" if kind else piece for kind, piece in pieces)


def mend(text: str) -> str:
    """A text of the model without its artefacts; formulas keep all but their entities, code all but its place."""
    parts = _CODE.split(text)
    parts[::2] = (_mend_text(part) for part in parts[::2])
    return "".join(parts).strip()


def _mend_text(text: str) -> str:
    pieces = split_formulas(with_one_notation(raised(text)))
    mended = [(kind, mend_entities(piece) if kind else _mend_words(piece)) for kind, piece in pieces]
    return split_items(join_formulas(mended))


def with_one_notation(text: str) -> str:
    r"""The text with formulas in dollars as `\(..\)` and `\[..\]`; what is money stays."""
    if "$" not in text:
        return text
    pieces = split_formulas(text)
    return join_formulas([(kind, piece if kind else _DOLLARS.sub(_undollared, piece)) for kind, piece in pieces])


def _undollared(found: re.Match[str]) -> str:
    formula = found[2] or found[3]
    if not _LATEX.search(formula):
        return found[0]
    return f"\\[{formula}\\]" if found[1] else f"\\({formula}\\)"


def mend_table(text: str) -> str:
    """A table's HTML without the artefacts in its cells; entities stay."""
    text = with_one_notation(_INLINE_TAG.sub(" ", raised(text)))
    return join_formulas([(kind, piece if kind else mend_hyphens(piece)) for kind, piece in split_formulas(text)])


def _mend_words(text: str) -> str:
    return mend_hyphens(mend_entities(_INLINE_TAG.sub(_as_markdown, _TABLE_TAG.sub(" ", text))))


def _as_markdown(tag: re.Match[str]) -> str:
    if tag[4]:
        return "**" if tag[4].lower() in {"b", "strong"} else "*"
    return "\n" if tag[2] else ""


def raised(text: str) -> str:
    """`<sup>` and `<sub>` as letters that stand there, or as ^(..) and _(..)."""

    def letters(found: re.Match[str]) -> str:
        name, inside = found[1].lower(), found[2].strip()
        if inside and all(letter in _PLAIN for letter in inside):
            return inside.translate(_LETTERS[name])
        if not inside:
            return ""
        mark = "^" if name == "sup" else "_"
        return mark + (inside if len(inside) == 1 else f"({inside})")

    if "<" not in text:
        return text
    return _LONE_RAISED.sub("", _RAISED.sub(letters, text))


def mend_entities(text: str) -> str:
    """The text with its entities resolved, once."""
    return _ENTITY.sub(lambda found: html.unescape(found[0]), text)


def mend_hyphens(text: str) -> str:
    """Hyphens without the space behind them, where they stand within a word or a number."""
    if "- " not in text:
        return text
    parts = text.split("- ")
    mended = [parts[0]]
    for number, (before, after) in enumerate(pairwise(parts), 2):
        # "state- of- the- art" is one word, "pre- or post-war" is not: what follows a short word tells.
        following = after[:_LONGEST_WORD] + "-" * (number < len(parts) and len(after) < _LONGEST_WORD)
        mended += ["-" if _is_one_word(before[-_LONGEST_WORD:], following) else "- ", after]
    return "".join(mended)


def _is_one_word(before: str, after: str) -> bool:
    """Whether what stands around "- " is one word: the hyphen behind a letter or digit, another right after it."""
    if not before[-1:].isalnum() or not after[:1].isalnum():
        return False
    left = re.search(r"\S+\Z", before)
    right = re.match(r"\w+-?", after)
    if not left or not right or right[0].lower() in _JOINING:
        return False
    if any(mark in left[0] for mark in ("/", "@", "www.")):
        return True
    # "offers- Shortly" may be two items, "Hesse- Matrix" and "GOT- OCR" are none.
    return not right[0][0].isupper() or not left[0].lstrip("(\"'„“»«").islower()


def split_items(text: str) -> str:
    """A list of which items were run together, one item on each line; other texts stay."""
    lines = []
    for line in text.split("\n"):
        if _ITEM.match(line):
            lines += _split_line(line)
        elif len(items := _GLUED_ALONE.split(line)) > _MIN_GLUED_ALONE:
            lines += [items[0], *(f"- {item}" for item in items[1:])]
        else:
            lines.append(line)
    return "\n".join(lines)


def _split_line(line: str) -> list[str]:
    """The items in one line that begins with one."""
    items, at, formulas = [], 0, deque(_formula_spans(line))
    indent = line[: len(line) - len(line.lstrip())]
    for found in _GLUED.finditer(line):
        while formulas and formulas[0][1] <= found.start():
            formulas.popleft()
        if formulas and formulas[0][0] < found.start():
            continue
        end = line[max(at, found.start() - _MAX_LOOK) : found.start()]
        word = _WORD_BEFORE.search(end[-_LONGEST_WORD:])
        is_end = word is not None and (word[1][0].islower() or word[1][-1] in ".;,:!?)")
        if is_end and len(end.split()) > _MIN_ITEM_WORDS:
            items.append(line[at : found.start()].rstrip())
            at = found.end() - 2
    rest = line[at:]
    return [items[0], *(indent + item for item in items[1:]), indent + rest] if items else [line]


def _formula_spans(line: str) -> list[tuple[int, int]]:
    spans, at = [], 0
    for kind, piece in split_formulas(line):
        end = at + len(piece) + (4 if kind else 0)
        if kind:
            spans.append((at, end))
        at = end
    return spans
