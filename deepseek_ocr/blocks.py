"""What an engine gives for a page -> the blocks of the document model.  Pure, linear, never raises.

An engine gives regions, whose text is what stands on the page, or one raw text of the model, which is Markdown with
tags.  Here tables are told apart from what is around them, wherever their HTML was put, headings lose their marks,
artefacts are mended, and captions find their figures; so all that follows sees one kind of block.

Left to others: the tags (`grounding.py`), headings' levels (`headings.py`), whether the page is good (`quality.py`).
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from deepseek_ocr.boxes import place
from deepseek_ocr.captions import linked
from deepseek_ocr.document import Block, Flag, PageOddity, category_of
from deepseek_ocr.grounding import PLAIN_LABEL, parse
from deepseek_ocr.mending import FENCED, mend, mend_entities, mend_hyphens, mend_table, with_one_notation
from deepseek_ocr.prompt import Task
from deepseek_ocr.tables import find_tables, parse_table, pipes_to_html, to_html

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from deepseek_ocr.boxes import WrittenBox
    from deepseek_ocr.completion import Box, Completion, PageImage, Region
    from deepseek_ocr.document import Category
    from deepseek_ocr.raw_blocks import RawBlock

#: Answers to these name no labels: the text itself stands where the label does otherwise.
_TEXT_IN_REF: Final = frozenset({Task.IMAGE, Task.LOCATE})
#: Blocks between a table's tag and its HTML, at most: the tag of its caption as a rule.
_REACH: Final = 2
#: Characters of a heading's further lines above which they are no part of it.
_MAX_HEADING_REST: Final = 120

#: A heading amid a text.  One "#" is none: of 112 lines of text that begin with "#", all 82 with a single one are
#: comments in code.
_HEADING_LINE = re.compile(r"^[ \t]*+(#{2,6})[ \t]++(\S.{0,199})$", re.MULTILINE)
#: The same where an answer is all Markdown and has no labels.
_MARKDOWN_HEADING_LINE = re.compile(_HEADING_LINE.pattern.replace("2,6", "1,6"), re.MULTILINE)
_HEADING_MARK = re.compile(r"\A[ \t]*#{1,6}(?:[ \t]+|$)")
_FORMULA = re.compile(r"\\[(\[]")
#: What a formula on several lines begins with.
_DISPLAY = re.compile(r"\s*(?:\\\[|\$\$|\\begin\b)")


@dataclass(frozen=True, slots=True)
class _Piece:
    """A block before it has its id and its place in page units."""

    label: str
    category: Category
    text: str
    markup: bool
    box: Box | None
    written: tuple[WrittenBox, ...] = ()
    flags: frozenset[Flag] = frozenset()
    confidence: float | None = None


def blocks_of(image: PageImage, completion: Completion, task: Task) -> tuple[tuple[Block, ...], tuple[PageOddity, ...]]:
    """The blocks of a page in reading order, and what was odd in a raw text."""
    if completion.regions:
        return _numbered(image, [_from_region(region) for region in completion.regions]), ()
    grounding = parse(storable(completion.text), text_in_ref=task in _TEXT_IN_REF)
    pieces = [piece for block in grounding.blocks for piece in _from_raw(block, task)]
    pieces = [_mended(part) for piece in _tables_apart(pieces) for part in _headings_apart(piece)]
    oddities = tuple(PageOddity(kind=oddity.kind, text=oddity.text) for oddity in grounding.oddities)
    return _numbered(image, pieces), oddities


def _from_region(region: Region) -> _Piece:
    category = category_of(region.label)
    return _Piece(
        region.label, category, storable(region.text), markup=False, box=region.box, confidence=region.confidence
    )


def storable(text: str) -> str:
    """Without what neither JSON nor a text file can hold: broken fonts map letters to lone surrogates and NUL."""
    return text.encode("utf-8", "replace").decode().replace("\0", "")


# Raw text of the model


def _from_raw(block: RawBlock, task: Task) -> Iterator[_Piece]:
    """A block of the model as a piece; each place where a text was found as one of its own."""
    label, text = block.label, block.text
    if not text and category_of(label) == "text" and not PLAIN_LABEL.fullmatch(label):
        label, text = "", label  # "1 Introduction": what was asked names labels, what was answered does not
    piece = _Piece(
        label, category_of(label), text,
        # Text instead of a label is what stands on the page, letter by letter.
        markup=bool(label) or task not in _TEXT_IN_REF,
        box=_around(block.boxes), written=block.written,
        flags=_flags(clamped=block.clamped, degenerate=block.degenerate, recovered=block.recovered),
    )  # fmt: skip
    if piece.markup and (piece.category == "table" or not label):
        piece = replace(piece, text=_with_html_tables(text))
    if task is Task.LOCATE and len(block.boxes) > 1:
        for box, written in zip(block.boxes, block.written, strict=True):
            _, clamped, degenerate = place(written)
            flags = _flags(clamped=clamped, degenerate=degenerate, recovered=block.recovered)
            yield replace(piece, box=box, written=(written,), flags=flags)
    else:
        yield piece


def _flags(*, clamped: bool, degenerate: bool, recovered: bool) -> frozenset[Flag]:
    flags = {Flag.CLAMPED: clamped, Flag.DEGENERATE: degenerate, Flag.RECOVERED: recovered}
    return frozenset(flag for flag, is_set in flags.items() if is_set)


def _with_html_tables(text: str) -> str:
    """The text with its pipe tables as HTML, but for those in code."""
    parts = FENCED.split(text)
    parts[::2] = map(pipes_to_html, parts[::2])
    return "".join(parts)


def _around(boxes: Sequence[Box]) -> Box | None:
    """The smallest box around all; None if there is none."""
    if not boxes:
        return None
    lefts, tops, rights, bottoms = zip(*boxes, strict=True)
    return min(lefts), min(tops), max(rights), max(bottoms)


def _tables_apart(pieces: list[_Piece]) -> list[_Piece]:
    """Each table as a piece of its own, with the box of the tag it belongs to.

    The model writes the tag of a table, the tag and the text of its caption, and only then the HTML (DeepSeek-OCR
    issue 295): it goes to the nearest tag of a table that has none, and stands where that stood.
    """
    parts = [_split_tables(piece) for piece in pieces]
    for index, piece in enumerate(pieces):
        tables = [part for part in parts[index] if part.category == "table" and piece.category != "table"]
        for part in tables:
            near = sorted(range(index - _REACH, index + _REACH + 1), key=lambda other: (abs(index - other), other))
            home = next((other for other in near if _is_empty_table(parts, other)), None)
            if home is None:
                break
            parts[home] = [replace(pieces[home], text=part.text)]
            parts[index].remove(part)
            if not parts[index]:
                parts[index] = [replace(piece, text="")]
    return [part for some in parts for part in some]


def _is_empty_table(parts: list[list[_Piece]], index: int) -> bool:
    """Whether there is the tag of a table at a position that has got no text yet."""
    if not 0 <= index < len(parts):
        return False
    return len(parts[index]) == 1 and parts[index][0].category == "table" and not parts[index][0].text.strip()


def _split_tables(piece: _Piece) -> list[_Piece]:
    """A piece as its texts and tables, in order; itself if there is no table in it, or nothing else."""
    spans = find_tables(piece.text)
    if not spans:
        return [piece]
    parts, at = [], 0
    aside = replace(piece, category="text" if piece.category == "table" else piece.category)
    for start, end in spans:
        parts.append(replace(aside, text=piece.text[at:start]))
        parts.append(replace(piece, category="table", text=piece.text[start:end]))
        at = end
    parts.append(replace(aside, text=piece.text[at:]))
    parts = [part for part in parts if part.text.strip()]
    if len(parts) == 1 and piece.category == "table":
        return parts
    # The place of the piece is that of the table in it, or the table would have none.
    return [
        part if part.category == piece.category else replace(part, flags=part.flags | {Flag.RECOVERED})
        for part in parts
    ]


def _headings_apart(piece: _Piece) -> list[_Piece]:
    """The headings in a piece, without their marks, and what the model ran together with them."""
    if piece.category in {"text", "formula"} and piece.markup:
        return _headings_amid(piece)
    if piece.category != "heading":
        return [piece]
    first, *rest = piece.text.split("\n")
    parts = [replace(piece, text=_HEADING_MARK.sub("", first))]
    for number, line in enumerate(rest):
        if _HEADING_MARK.match(line):
            parts.append(replace(piece, text=_HEADING_MARK.sub("", line)))
            continue
        following = "\n".join(rest[number:])
        if len(following) > _MAX_HEADING_REST or _DISPLAY.match(following):
            parts.append(replace(piece, category="text", text=following))
            break
        parts[-1] = replace(parts[-1], text=f"{parts[-1].text}\n{line}")
    return [part for part in parts if part.text.strip()] or parts[:1]


def _headings_amid(piece: _Piece) -> list[_Piece]:
    """A text as it is, or the headings and the texts in it."""
    code = deque(found.span() for found in FENCED.finditer(piece.text))
    parts, at = [], 0
    for found in (_HEADING_LINE if piece.label else _MARKDOWN_HEADING_LINE).finditer(piece.text):
        while code and code[0][1] <= found.start():
            code.popleft()
        if code and code[0][0] < found.start():
            continue
        parts += [
            replace(piece, text=piece.text[at : found.start()]),
            replace(piece, category="heading", label=piece.label or found[1], text=found[2]),
        ]
        at = found.end()
    if not parts:
        return [piece]
    parts.append(replace(piece, text=piece.text[at:]))
    parts = [part for part in parts if part.text.strip()]
    if len(parts) == 1 or not piece.label:
        return parts
    return [replace(part, flags=part.flags | {Flag.RECOVERED}) for part in parts]


def _mended(piece: _Piece) -> _Piece:
    """The piece with its text as it is to be kept."""
    if not piece.markup:
        return replace(piece, text=mend_hyphens(mend_entities(piece.text)))
    if piece.category == "table" and "<table" in piece.text.lower():
        table = parse_table(mend_table(piece.text))
        flags = piece.flags if table.is_closed else piece.flags | {Flag.UNCLOSED}
        return replace(piece, text=to_html(table) if table.rows else "", flags=flags)
    if piece.category == "formula" and not _FORMULA.search(text := with_one_notation(piece.text)):
        return replace(piece, text=mend_entities(text).strip())
    text = mend(piece.text)
    return replace(piece, text=" ".join(text.split()) if piece.category == "heading" else text)


# Places


def _numbered(image: PageImage, pieces: list[_Piece]) -> tuple[Block, ...]:
    """The pieces with their ids and places, and captions linked."""
    return linked([_block(image, index, piece) for index, piece in enumerate(pieces, 1)])


def _block(image: PageImage, index: int, piece: _Piece) -> Block:
    box, flags = piece.box, piece.flags
    if box is None:
        flags |= {Flag.NO_BOX}
    elif any(not 0 <= side <= 1 for side in box):
        left, top, right, bottom = (min(max(side, 0.0), 1.0) for side in box)
        box, flags = (left, top, right, bottom), flags | {Flag.CLAMPED}
    return Block(
        id=f"p{image.page_index + 1}b{index}",
        category=piece.category,
        label=piece.label,
        text=piece.text,
        markup=piece.markup,
        box=box and _scaled(box, image.width, image.height, 2),
        relative_box=box and _scaled(box, 1, 1, 4),
        raw_boxes=piece.written,
        flags=tuple(sorted(flags)),
        confidence=None if piece.confidence is None else round(piece.confidence, 4),
    )


def _scaled(box: Box, width: float, height: float, digits: int) -> Box:
    left, top, right, bottom = box
    return (
        round(left * width, digits), round(top * height, digits),
        round(right * width, digits), round(bottom * height, digits),
    )  # fmt: skip
