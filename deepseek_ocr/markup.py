r"""The model's Markdown -> Markdown that is safe, and that all its readers read alike.  Pure, linear.

Bold, lists, headings, rules, code, links and pipe tables stay; formulas become `$..$` and `$$..$$`.  What would be
HTML, a picture from elsewhere or a link to a script is shown as text, and so is a "$" that is none of a formula.

Left to others: HTML tables (`tables.py`), artefacts of the text (`mending.py`).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from deepseek_ocr.mending import split_formulas
from deepseek_ocr.tables import tidy_pipes

if TYPE_CHECKING:
    from collections.abc import Iterator

_FENCE = re.compile(r"[ \t]*(`{3,})([^`]*)")
#: Within a line: escapes and code as they are; what is not to be HTML, entity, formula, picture, link or code.
_INLINE = re.compile(
    r"(?P<keep>\\[!-/:-@\[-`{-~]|(?<!`)(?P<ticks>`+)(?!`)[^`\n]+(?<!`)(?P=ticks)(?!`))"
    r"|`+|<(?=[A-Za-z/!?])|&(?=#?\w+;)|\$|!\[|\]\((?!https?://|mailto:|#)|(?<!~)~(?!~)"
    # "2150*2150*1000 mm", "2*n", "x**2": a star beside a digit is no emphasis, where a word could go on with it.
    r"|(?<=[\w)])\*(?=\d)|(?<=\d)\*(?=[\w(])|(?<=[\w)])\*\*(?=\d)"
)
_UNSAFE_TAG = re.compile(r"<(?=[A-Za-z/!?])")
#: A sign that LaTeX, or what finds formulas in Markdown, would take for something else; behind an escape it is none.
_IN_FORMULA = re.compile(r"\\.|[$%]", re.DOTALL)
#: What a formula without delimiters has, and a remark beside one has not.
_LATEX = re.compile(r"[\\^_={}]")
_DELIMITER = re.compile(r"\\(?:([()\[\]])|.)", re.DOTALL)
#: That of a formula which breaks off, as at the end of an answer.
_LONE_DELIMITER = re.compile(r"\A\\[(\[]|\\[)\]]\Z")
#: What may begin a line of a formula that stands on several; others would begin a list, a heading, a rule ...
_FORMULA_LINE = re.compile(r"[\\&{}(\[A-Za-z]|\d(?!\d*[.)])")

_LIST_LINE = re.compile(r"([ \t]*)([-*•◦▪‣·●○■□–—]|\d{1,9}[.)])[ \t]+(?=\S)")  # noqa: RUF001 - as on paper
_RULE = re.compile(r"-{3,}|_{3,}|\*{3,}")
_UNDERLINE = re.compile(r"=+|-{1,2}")
#: Definitions of links and footnotes, which are not shown where they stand; "+" as a bullet; the other fence.
_HIDING = re.compile(r"\[[^\]\n]+\]:|\+(?=\s|$)|~~~")
_HASH = re.compile(r"^([ \t]*+(?:(?:[-*+>•]|\d{1,9}[.)])[ \t]++)*+)(#{1,6}+(?=\s|$))", re.MULTILINE)
_TAB_STOP: Final = 4
_ANY_TAG = re.compile(r"</?[A-Za-z][^<>]*>")
_PLAIN_WORD = re.compile(r"[\"'(“„‘]?[^\W\d_]{2,}(?:[-'’][^\W\d_]+)*[\"')”’.,;:!?]*")  # noqa: RUF001 - as people write
#: Words of a text at least; in Chinese, Japanese and Korean they are not told apart.
_MIN_WORDS, _FIRST_CJK = 3, "\u2e80"


def text_markdown(text: str, *, has_headings: bool = True) -> str:
    """A text of one or more paragraphs; where headings are told apart already, "#" is what stands on the page."""
    parts = []
    for is_code, chunk in _split_code(text):
        if is_code:
            parts.append(chunk)
        else:
            parts += _paragraphs(chunk if has_headings else _HASH.sub(r"\1\\\2", chunk))
    return "\n\n".join(part for part in parts if part)


def line_markdown(text: str) -> str:
    """A text on one line: a heading, a caption, a cell."""
    pieces = _apart(" ".join(text.split()))
    return "".join(_formula(piece) if kind else _INLINE.sub(_escaped, piece) for kind, piece in pieces)


def cell_text(text: str) -> str:
    """The text of a cell that stays HTML, where nothing is Markdown but formulas."""
    return "".join(_formula(piece, is_html=True) if kind else piece for kind, piece in _apart(text))


def formula_markdown(text: str) -> str:
    """A block that is one formula, with or without delimiters, or that holds some."""
    text = text.strip()
    if re.fullmatch(r"\$\$[^$]*\$\$|\$[^$]*\$", text):
        return display(text.strip("$"))
    pieces = split_formulas(text)
    formulas = [piece for kind, piece in pieces if kind]
    if len(formulas) == 1 and not any(piece.strip() for kind, piece in pieces if not kind):
        return display(formulas[0])
    if formulas or not _LATEX.search(text):
        return text_markdown(text)
    return display(_LONE_DELIMITER.sub("", text))


def display(formula: str) -> str:
    """A formula that stands by itself: on several lines where none of them can be taken for something else."""
    lines = [line.strip() for line in formula.splitlines() if line.strip()]
    body = _clean(formula)
    if not body:
        return ""
    if len(lines) > 1 and all(_FORMULA_LINE.match(line) for line in lines):
        # Line by line, or what is escaped at the end of one would be the next line's beginning.
        return "\n".join(["$$", *(_clean(line, is_last=False) for line in lines[:-1]), _clean(lines[-1]), "$$"])
    return f"$${body}$$"


def _apart(text: str) -> list[tuple[str, str]]:
    """The pieces of a text, with a space between two formulas: the dollars between them would be those of a display."""
    pieces: list[tuple[str, str]] = []
    for kind, piece in split_formulas(text):
        if kind and pieces and pieces[-1][0]:
            pieces.append(("", " "))
        pieces.append((kind, piece))
    return pieces


def _formula(piece: str, *, is_html: bool = False) -> str:
    body = _clean(piece, is_html=is_html)
    return f"${body}$" if body else ""


def _clean(formula: str, *, is_last: bool = True, is_html: bool = False) -> str:
    """A formula on one line, without what would end it early, or be HTML."""
    body = "".join(_delimited(kind, piece) for kind, piece in split_formulas(" ".join(formula.split()))).strip()
    if is_last and (len(body) - len(body.rstrip("\\"))) % 2:
        body = body[:-1].rstrip()  # half an escape, which would be that of the delimiter
    body = _IN_FORMULA.sub(lambda found: found[0] if found[0][0] == "\\" else f"\\{found[0]}", body)
    return body if is_html else _UNSAFE_TAG.sub("< ", body)


def _delimited(kind: str, piece: str) -> str:
    """A part of a formula: what has delimiters of its own loses them, as one alone is a bracket."""
    return piece if kind else _DELIMITER.sub(lambda found: found[1] or found[0], piece)


def _escaped(found: re.Match[str]) -> str:
    sign = found[0]
    if found["keep"]:
        return sign
    if sign[0] == "`":
        return "\\`" * len(sign)
    if sign[0] == "*":
        return "\\*" * len(sign)
    return f"{sign[:-1]}\\{sign[-1]}" if len(sign) > 1 else f"\\{sign}"


def is_prose(text: str) -> bool:
    """Whether a text is written in words, and not a notation whose signs and lines matter: SMILES, a dictionary."""
    if text.lstrip()[:1] in {"{", "["}:
        return False
    words = _ANY_TAG.sub(" ", text).split()
    plain = sum(bool(_PLAIN_WORD.fullmatch(word)) for word in words)
    return (plain >= _MIN_WORDS and 2 * plain > len(words)) or any(sign > _FIRST_CJK for sign in text)


def code_markdown(text: str) -> str:
    """A text on lines of its own in which no sign is markup."""
    ticks = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{ticks}\n{text}\n{ticks}"


# Blocks of code


def _split_code(text: str) -> Iterator[tuple[bool, str]]:
    """The text in pieces: code with its fences, which stays as it is, and the rest; a fence without an end is none."""
    lines = text.split("\n")
    closing = [
        number for number, line in enumerate(lines) if (found := _FENCE.fullmatch(line)) and not found[2].strip()
    ]
    at = number = following = 0
    while number < len(lines):
        found = _FENCE.fullmatch(lines[number])
        if found:
            while following < len(closing) and closing[following] <= number:
                following += 1
            if following == len(closing):
                break
            end = closing[following]
            yield False, "\n".join(lines[at:number])
            yield True, "\n".join(["```" + found[2].strip(), *lines[number + 1 : end], "```"])
            at = number = end + 1
        else:
            number += 1
    yield False, "\n".join(lines[at:])


# Paragraphs


def _paragraphs(text: str) -> list[str]:
    """The paragraphs of a text without code; formulas that stand on their own lines are some."""
    pieces = _apart(text)
    parts: list[str] = []
    line: list[str] = []
    is_alone = True
    for number, (kind, piece) in enumerate(pieces):
        if kind == "[" and is_alone and _begins_line(pieces, number + 1):
            parts += [_tidy("".join(line)), display(piece)]
            line = []
        elif kind == "[":
            line.append(f"$${body}$$" if (body := _clean(piece)) else "")
            is_alone = False
        elif kind:
            line.append(_formula(piece))
            is_alone = False
        else:
            line.append(_INLINE.sub(_escaped, piece))
            _, is_new, last = piece.rpartition("\n")
            is_alone = not last.strip() and (bool(is_new) or is_alone)
    return [*parts, _tidy("".join(line))]


def _begins_line(pieces: list[tuple[str, str]], number: int) -> bool:
    """Whether nothing is left on the line before the piece of that number."""
    if number == len(pieces):
        return True
    kind, piece = pieces[number]
    first, is_more, _ = piece.partition("\n")
    return not kind and not first.strip() and (bool(is_more) or number + 1 == len(pieces))


def _tidy(text: str) -> str:
    """Lines whose indentation means what it says, and of which none is taken for what it is not."""
    lines: list[str] = []
    #: Indentation of the lists that are open: as it was written, and that of the text of their items now.
    stack: list[tuple[int, int]] = []
    for raw in text.expandtabs(_TAB_STOP).splitlines():
        line, is_after_blank = raw.strip(), not lines or not lines[-1]
        indent = len(raw) - len(raw.lstrip())
        if not line:
            if not is_after_blank:
                lines.append("")
            continue
        item = _LIST_LINE.match(raw)
        if item and not _RULE.fullmatch(line.replace(" ", "")):
            while stack and stack[-1][0] >= indent:
                stack.pop()
            marker = item[2] if item[2][0].isdigit() else "-"
            at = stack[-1][1] if stack else 0
            stack.append((indent, at + len(marker) + 1))
            lines.append(" " * at + f"{marker} {_shown(raw[item.end() :].strip())}")
            continue
        if is_after_blank:
            while stack and stack[-1][0] >= indent:
                stack.pop()
        if _RULE.fullmatch(line) and not is_after_blank:
            lines.append("")
        elif _UNDERLINE.fullmatch(line):
            line = f"\\{line}"
        lines.append(" " * (stack[-1][1] if stack and is_after_blank else 0) + _shown(line))
    return "\n".join(tidy_pipes(lines)).strip()


def _shown(line: str) -> str:
    return f"\\{line}" if _HIDING.match(line) else line
