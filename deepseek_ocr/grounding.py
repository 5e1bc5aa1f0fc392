"""Raw text of the model -> blocks with boxes.  Pure, linear in the text, never raises; evaluates nothing.

The model writes `<|ref|>label<|/ref|><|det|>[[x1, y1, x2, y2]]<|/det|>` and then the block's text, and gets each part
of that wrong at times.  So every `<|ref|>` starts anew, what can be understood becomes a block, and whatever is not as
the grammar says is kept, as written, as an `Oddity`: each `<|ref|>` is in a block or an oddity, each letter in one text
or one oddity, or in a label.

Left to others: how boxes are written (`boxes.py`), what labels mean, captions and their figures (`document.py`),
whether the page is any good (`quality.py`).
Residual risks: words where a box should stand go to an oddity, also if they were page text; a short word in a
`<|ref|>` is a label, also if it was text; `name[[1, 2, 3, 4]]` as the first thing of a plain text is taken for a tag.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import chain, pairwise
from typing import TYPE_CHECKING, Final, NamedTuple

from deepseek_ocr.boxes import (
    BOXES,
    LOOSE_BOXES,
    MAX_BOXES_CHARS,
    MAX_JUNK_CHARS,
    is_nearly_numbers,
    place,
    read_boxes,
)

if TYPE_CHECKING:
    from deepseek_ocr.boxes import WrittenBox
    from deepseek_ocr.completion import Box

#: Start and end in the raw text, the end not included.
Span = tuple[int, int]

#: Letters of a label that nothing closes; the longest known has 14 (table_footnote).
_MAX_OPEN_LABEL_CHARS: Final = 40

_REF, _REF_END, _DET, _DET_END = "<|ref|>", "<|/ref|>", "<|det|>", "<|/det|>"
_END = "<｜end▁of▁sentence｜>"  # noqa: RUF001 - as published
_TAG = re.compile(r"<\|/?(?:ref|det)\|>|<\|grounding\|>|<｜(?:begin|end)▁of▁sentence｜>")  # noqa: RUF001 - as published
#: What some hosts put around the answer.
_WRAPPER = re.compile(r"\s*+<markdown>\s*+")
_WRAPPER_END = "</markdown>"

#: Something in brackets, or numbers behind one, where the box should stand.
_FRAGMENT = re.compile(rf"[ \t]*+\[++(?:[^\[\]\n<]{{0,{MAX_JUNK_CHARS}}}+\]++|[\d., -]*+)")
#: What of a box may stand before a `<|/det|>` that has no `<|det|>`.
_BOX_CHARACTERS = "[](),;0123456789.+- "
#: A label that was not closed: alone on its line, or with a tag or box behind it.
_OPEN_LABEL = re.compile(rf"[ \t]*+([A-Za-z_]{{1,{_MAX_OPEN_LABEL_CHARS}}}+)[ \t]*+(?=[\r\n<\[]|\Z)")
_PLAIN_LABEL = re.compile(r"[a-z]+(?:_[a-z]+)*")
#: A label and its box as they read where a host drops special tokens, and the same where the text is in its place.
_BARE = rf"[ \t]*+([A-Za-z_]{{1,{_MAX_OPEN_LABEL_CHARS}}}+)[ \t]*+({BOXES.pattern})"
_BARE_TEXT = rf"([^\n]*?)({BOXES.pattern})"
#: Whether `text_in_ref` -> the first of them, and any that begins a line.
_BARE_HEADS = {
    in_ref: (re.compile(head, re.ASCII), re.compile(f"^{head}", re.ASCII | re.MULTILINE))
    for in_ref, head in ((False, _BARE), (True, _BARE_TEXT))
}


class OddityKind(StrEnum):
    """What is not as the grammar says; the worst, where a tag has several."""

    REF_UNCLOSED = "ref_unclosed"
    """A label without its `<|/ref|>`."""
    REF_MISSING = "ref_missing"
    """A box without a label before it."""
    DET_MISSING = "det_missing"
    """A label without a box behind it."""
    DET_UNOPENED = "det_unopened"
    """No `<|det|>` before a box, or before its `<|/det|>`."""
    DET_UNCLOSED = "det_unclosed"
    """A box without its `<|/det|>`, often not finished either."""
    NOT_A_BOX = "not_a_box"
    """No four numbers between `<|det|>` and `<|/det|>`."""
    JUNK = "junk"
    """Something within a tag that does not belong there; the rest of it is good."""
    NOTATION = "notation"
    """Four numbers with commas or brackets missing, double or misplaced."""
    LONG_LABEL = "long_label"
    """A label that can be none, and is taken for text."""
    TAGS_LOST = "tags_lost"
    """A label and its box without the special tokens around them."""
    STRAY_TAG = "stray_tag"
    """A tag amid text, with what of a box stands before it."""
    WRAPPER = "wrapper"
    """What a host put around the answer."""


@dataclass(frozen=True, slots=True)
class Oddity:
    """A stretch of the raw text that is not as the grammar says."""

    kind: OddityKind
    span: Span
    #: The stretch as written, tags included.
    text: str


@dataclass(frozen=True, slots=True)
class RawBlock:
    """A piece of the page as the model put it, with its tag understood as far as that goes."""

    #: The model's own word, any; "" where there is none.
    label: str
    #: Without tags, and without space around it.
    text: str
    #: Fractions of the page, left <= right and top <= bottom.  One as a rule; none where it was not written or broken.
    boxes: tuple[Box, ...]
    #: The numbers behind each of `boxes`.
    written: tuple[WrittenBox, ...]
    #: Tag and text; in order and apart from those of all other blocks.
    span: Span
    #: Where the text stands; several where tags were cut out of it.
    text_spans: tuple[Span, ...]
    #: A number was below 0 or above 999, and is at the edge now.
    clamped: bool = False
    #: The tag was malformed; an oddity holds it.
    recovered: bool = False
    #: A box has no width or height, or was written with its sides exchanged.
    degenerate: bool = False


@dataclass(frozen=True, slots=True)
class Grounding:
    """All of a raw text: its blocks in the order they were written, and what was wrong with it, in order too."""

    blocks: tuple[RawBlock, ...]
    oddities: tuple[Oddity, ...]


def parse(text: str, *, text_in_ref: bool = False) -> Grounding:
    """The blocks in a raw text of the model.

    `text_in_ref` is for answers that name no labels but hold the text itself in `<|ref|>`: to "OCR this image" and to
    "Locate".  A tag that has a plain label and text behind it is read as usual even then.
    """
    return _Scanner(text, text_in_ref=text_in_ref).scan()


class _Tag(NamedTuple):
    """A special token; the last one, without a name, is the end of the text."""

    name: str
    start: int
    end: int


@dataclass(slots=True)
class _Head:
    """The tag of a block as far as it is read; as it is made, the place before the first tag."""

    start: int
    end: int
    label: Span = (0, 0)
    written: list[WrittenBox] = field(default_factory=list)
    #: Its worst oddity.
    kind: OddityKind | None = None


class _Scanner:
    """Goes once through the tags of a text: a head, the text behind it, the next head."""

    def __init__(self, text: str, *, text_in_ref: bool) -> None:
        self.text = text
        self.text_in_ref = text_in_ref
        self.blocks: list[RawBlock] = []
        self.oddities: list[Oddity] = []
        self.last = len(text.rstrip())

    def scan(self) -> Grounding:
        begin, end = self._unwrapped()
        tags = self.tags = [_Tag(tag[0], *tag.span()) for tag in _TAG.finditer(self.text, begin, end)]
        bare = {} if tags else self._bare_heads(begin, end)
        tags += [_Tag(_REF, head.start, head.end) for head in bare.values()]
        tags.append(_Tag("", end, end))
        index = self._read_text(_Head(begin, begin), 0)
        while tags[index].name:
            head = bare.get(tags[index].start)
            if head:
                index += 1
            else:
                head, index = self._read_head(index)
            index = self._read_text(head, index)
        self.oddities.sort(key=lambda oddity: oddity.span)
        return Grounding(tuple(self.blocks), tuple(self.oddities))

    def _unwrapped(self) -> Span:
        """The text without what a host put around it."""
        begin, end = 0, len(self.text)
        opened = _WRAPPER.match(self.text)
        if opened:
            begin = opened.end()
            self._note(OddityKind.WRAPPER, 0, begin)
            if self.text.endswith(_WRAPPER_END, begin, self.last):
                end = self.last - len(_WRAPPER_END)
                self._note(OddityKind.WRAPPER, end, self.last)
        return begin, end

    def _note(self, kind: OddityKind, start: int, end: int) -> None:
        self.oddities.append(Oddity(kind, (start, end), self.text[start:end]))

    def _bare_heads(self, begin: int, end: int) -> dict[int, _Head]:
        """Heads without special tokens, by their places; none unless the answer begins with one, as it does then.

        Elsewhere in a plain text the like may be what stands on the page.
        """
        pattern, line_pattern = _BARE_HEADS[self.text_in_ref]
        first = pattern.match(self.text, max(begin, len(self.text) - len(self.text.lstrip())), end)
        if not first:
            return {}
        heads = {}
        for found in chain([first], line_pattern.finditer(self.text, first.end(), end)):
            written, _ = read_boxes(found[2])
            heads[found.start()] = _Head(*found.span(), found.span(1), written, OddityKind.TAGS_LOST)
        return heads

    # Heads

    def _read_head(self, index: int) -> tuple[_Head, int]:
        """The head that begins with a `<|ref|>` or a lone `<|det|>`, and the index of the first tag behind it."""
        tag, after = self.tags[index : index + 2]
        head = _Head(tag.start, tag.end, (tag.end, tag.end))
        while tag.name == after.name == _REF and tag.end == after.start:  # said twice; one block can come of it
            head.kind = OddityKind.REF_UNCLOSED
            tag, after = self.tags[(index := index + 1) : index + 2]
        head.end = tag.end
        if tag.name == _DET:
            head.kind = OddityKind.REF_MISSING
            return self._read_box(head, index)
        if after.name == _REF_END:
            head.label, head.end = (tag.end, after.start), after.end
            return self._read_box(head, index + 2)
        head.kind = OddityKind.REF_UNCLOSED
        if after.name == _DET and (self.text_in_ref or self._is_short(tag.end, after.start)):
            head.label, head.end = (tag.end, after.start), after.start
            return self._read_box(head, index + 1)
        label = None if self.text_in_ref else _OPEN_LABEL.match(self.text, tag.end, after.start)
        if not label:
            return head, index + 1
        head.label, head.end = label.span(1), label.end(1)
        return self._read_box(head, index + 1)

    def _read_box(self, head: _Head, index: int) -> tuple[_Head, int]:
        """Read on from the end of the label, over what does not belong there, to the boxes and over them."""
        while True:
            tag = self.tags[index]
            if tag.name == _DET:
                if not self._skip_junk(head, tag.start):
                    break
                head.end = tag.end
                tag = self.tags[index := index + 1]
                if tag.name == _DET_END and self._take_closed(head, tag):
                    return head, index + 1
                again = tag.name in {_DET, _REF_END} and not LOOSE_BOXES.match(self.text, head.end, tag.start)
                if not again or not self._is_short(head.end, tag.start):
                    self._take_unclosed(head, tag.start)
                    return head, index
            elif tag.name == _REF_END and self._skip_junk(head, tag.start):
                head.kind = head.kind or OddityKind.JUNK
                head.end, index = tag.end, index + 1
            else:
                break
        if tag.name == _DET_END and self._take_closed(head, tag, opened=False):
            return head, index + 1
        found = LOOSE_BOXES.match(self.text, head.end, tag.start)
        if found:
            self._take(head, found[0], found.end(), OddityKind.DET_UNOPENED)
        head.kind = head.kind or OddityKind.DET_MISSING
        return head, index

    def _take_closed(self, head: _Head, tag: _Tag, *, opened: bool = True) -> bool:
        """Take what stands before a `<|/det|>` for boxes; False, and nothing done, if it is text."""
        if tag.start - head.end > MAX_BOXES_CHARS:
            return False
        inside = self.text[head.end : tag.start].strip()
        written, flaw = read_boxes(inside)
        if flaw and not is_nearly_numbers(inside):
            return False
        if not opened and inside and not written:
            return False
        kind = OddityKind.DET_UNOPENED if not opened else OddityKind(flaw) if flaw else None
        head.written, head.kind, head.end = written, head.kind or kind, tag.end
        return True

    def _take_unclosed(self, head: _Head, limit: int) -> None:
        """Take the boxes, or what is left of them, that nothing closes; what follows is text."""
        found = LOOSE_BOXES.match(self.text, head.end, limit)
        fragment = found or _FRAGMENT.match(self.text, head.end, limit)
        self._take(head, found[0] if found else "", fragment.end() if fragment else head.end, OddityKind.DET_UNCLOSED)

    @staticmethod
    def _take(head: _Head, boxes: str, end: int, kind: OddityKind) -> None:
        head.written, _ = read_boxes(boxes.strip())
        head.end, head.kind = end, head.kind or kind

    def _skip_junk(self, head: _Head, end: int) -> bool:
        """Whether what stands before a tag is so little that the tag still belongs to the head; notes it."""
        if not self._is_short(head.end, end):
            return False
        if not self._is_blank(head.end, end):
            head.kind = head.kind or OddityKind.JUNK
        return True

    def _is_short(self, start: int, end: int) -> bool:
        return end - start <= MAX_JUNK_CHARS and "\n" not in self.text[start:end]

    def _is_blank(self, start: int, end: int) -> bool:
        return start == end or self.text[start:end].isspace()

    # Texts

    def _read_text(self, head: _Head, index: int) -> int:
        """Read the text behind a head, and note both; returns the index of the tag that begins the next head."""
        at, pieces = head.end, []
        while (tag := self.tags[index]).name not in {_REF, _DET, ""}:
            start = tag.start
            if tag.name == _DET_END and self.text[start - 1 : start] == "]":
                start = at + len(self.text[at:start].rstrip(_BOX_CHARACTERS))
            pieces.append((at, start))
            at = tag.end
            if tag.name != _END or at < self.last:
                while self.tags[index + 1].start == at and self.tags[index + 1].name not in {_REF, _DET, _END, ""}:
                    at = self.tags[index := index + 1].end
                self._note(OddityKind.STRAY_TAG, start, at)
            index += 1
        end = self.tags[index].start
        pieces.append((at, end))
        self._add(head, self._stripped(pieces), end)
        return index

    def _stripped(self, pieces: list[Span]) -> tuple[Span, ...]:
        """The pieces that hold more than space, without the space at the two ends."""
        spans = [(start, end) for start, end in pieces if not self._is_blank(start, end)]
        if spans:
            start, end = spans[0]
            spans[0] = end - len(self.text[start:end].lstrip()), end
            start, end = spans[-1]
            spans[-1] = start, start + len(self.text[start:end].rstrip())
        return tuple(spans)

    def _add(self, head: _Head, spans: tuple[Span, ...], end: int) -> None:
        """Note a head with its text as a block, or two where both have text, and as an oddity if it is one."""
        in_ref = self._text_in_ref(head.label, has_text=bool(spans))
        if in_ref:
            kind = head.kind or (None if self.text_in_ref else OddityKind.LONG_LABEL)
            if kind:
                self._note(kind, head.label[1], head.end)
            self._add_block(head, "", in_ref, (head.start, head.end))
            if spans:
                self._add_block(_Head(head.end, head.end, kind=kind), "", spans, (head.end, end))
            return
        if head.kind:
            self._note(head.kind, head.start, head.end)
        if spans or head.written:
            self._add_block(head, self.text[slice(*head.label)].strip(), spans, (head.start, end))

    def _text_in_ref(self, ref: Span, *, has_text: bool) -> tuple[Span, ...]:
        """Where the text in a `<|ref|>` stands; nothing where it holds a label, or nothing."""
        if self.text_in_ref and not (has_text and _PLAIN_LABEL.fullmatch(self.text[slice(*ref)].strip())):
            return self._stripped([ref])
        return () if self._is_short(*ref) else self._stripped([ref])

    def _add_block(self, head: _Head, label: str, spans: tuple[Span, ...], span: Span) -> None:
        boxes, clamped, degenerate = zip(*map(place, head.written), strict=True) if head.written else ((), (), ())
        self.blocks.append(
            RawBlock(
                label=label,
                text=_joined([self.text[start:end] for start, end in spans]),
                boxes=boxes,
                written=tuple(head.written),
                span=span,
                text_spans=spans,
                clamped=any(clamped),
                recovered=head.kind is not None,
                degenerate=any(degenerate),
            )
        )


def _joined(pieces: list[str]) -> str:
    """One text; a space where a tag was cut out from between two letters, which else may become a tag themselves."""
    if len(pieces) == 1:
        return pieces[0]
    text = pieces[:1]
    for before, piece in pairwise(pieces):
        if not before[-1].isspace() and not piece[0].isspace():
            text.append(" ")
        text.append(piece)
    return "".join(text)
