"""Raw text of the model -> blocks with boxes.  Pure, linear in the text, never raises; evaluates nothing.

The model writes `<|ref|>label<|/ref|><|det|>[[x1, y1, x2, y2]]<|/det|>` and then the block's text, and gets each part
of that wrong at times.  So every `<|ref|>` starts anew, what can be understood becomes a block, and whatever is not as
the grammar says is kept, as written, as an `Oddity`: each `<|ref|>` is in a block or an oddity, each letter in one text
or one oddity, or in a label.

Left to others: what a text is read as (`raw_blocks.py`), how boxes are written (`boxes.py`), what labels mean, captions
and their figures (`document.py`), whether the page is any good (`quality.py`).
Residual risks: words where a box should stand go to an oddity, also if they were page text; a short word in a
`<|ref|>` is a label, also if it was text; `name[[1, 2, 3, 4]]` as the first thing of a plain text is taken for a tag.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import accumulate, chain, islice, pairwise
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from deepseek_ocr.boxes import (
    BOXES,
    LOOSE_BOXES,
    MAX_BOXES_CHARS,
    MAX_JUNK_CHARS,
    is_nearly_numbers,
    place,
    read_boxes,
)
from deepseek_ocr.raw_blocks import Grounding, Oddity, OddityKind, RawBlock

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deepseek_ocr.boxes import WrittenBox
    from deepseek_ocr.raw_blocks import Span

#: Letters of a label that nothing closes; the longest known has 14 (table_footnote).
_MAX_OPEN_LABEL_CHARS: Final = 40
#: Heads (each box of one counts) and oddities of a text; what follows so many is not read.  A megabyte of well-formed
#: blocks has fewer, and no answer has as many tokens: 8192 is the most.
_MAX_HEADS: Final = 20_000
_MAX_ODDITIES: Final = 10_000

_REF, _REF_END, _DET, _DET_END = "<|ref|>", "<|/ref|>", "<|det|>", "<|/det|>"
_END = "<｜end▁of▁sentence｜>"  # noqa: RUF001 - as published
_TAG = re.compile(r"(<\|/?(?:ref|det)\|>|<\|grounding\|>|<｜(?:begin|end)▁of▁sentence｜>)")  # noqa: RUF001 - as published
#: A special token that is cut off with the text, and what is left of one at its end is no text of the page.
_TORN = re.compile(r"<(?:\|/?(?:r(?:ef?)?|d(?:et?)?|g[a-z]{0,8})?\|?|｜[a-z]*▁?[a-z▁]*｜?)\Z")  # noqa: RUF001 - as published
_MAX_TORN_CHARS: Final = 20
#: What begins a head, or ends the text.
_BEGINNINGS: Final = frozenset({_REF, _DET, ""})
#: What after a `<|det|>` without a box says that it was a false start.
_RESTARTS: Final = frozenset({_DET, _REF_END})
#: What does not join the tags right before it as one oddity.
_STOPS: Final = _BEGINNINGS | {_END}
#: What some hosts put before the answer, and what the model's own infer() prints there; and what they put behind it.
_WRAPPER = re.compile(r"\s*+(?:<markdown>|=++\nBASE:[^\n]*+\n(?:NO )?PATCHES[^\n]*+\n=++\n)\s*+")
_WRAPPER_END, _REPORT = "</markdown>", "\nimage size: "

#: Something in brackets, or numbers behind one, where the box should stand.
_FRAGMENT = re.compile(rf"[ \t]*+\[++(?:[^\[\]\n<]{{0,{MAX_JUNK_CHARS}}}+\]++|[\d., -]*+)")
#: What of a box may stand before a `<|/det|>` that has no `<|det|>`.
_BOX_CHARACTERS = "[](),;0123456789.+- "
#: A label that was not closed: alone on its line, or with a tag or box behind it.
_OPEN_LABEL = re.compile(rf"[ \t]*+([A-Za-z_]{{1,{_MAX_OPEN_LABEL_CHARS}}}+)[ \t]*+(?=[\r\n<\[]|\Z)")
#: A label as the model knows some; other words may be text of the page.
PLAIN_LABEL: Final = re.compile(r"[a-z]+(?:_[a-z]+)*")
#: A label and its box as they read where a host drops special tokens, and the same where the text is in its place.
_BARE = rf"[ \t]*+([A-Za-z_]{{1,{_MAX_OPEN_LABEL_CHARS}}}+)[ \t]*+({BOXES.pattern})"
_BARE_TEXT = rf"([^\n]*?)({BOXES.pattern})"
#: Whether `text_in_ref` -> the first of them, and any that begins a line.
_BARE_HEADS = {
    in_ref: (re.compile(head, re.ASCII), re.compile(f"^{head}", re.ASCII | re.MULTILINE))
    for in_ref, head in ((False, _BARE), (True, _BARE_TEXT))
}


def parse(text: str, *, text_in_ref: bool = False) -> Grounding:
    """The blocks in a raw text of the model.

    `text_in_ref` is for answers that name no labels but hold the text itself in `<|ref|>`: to "OCR this image" and to
    "Locate".  A tag that has a plain label and text behind it is read as usual even then.
    """
    return _Scanner(text, text_in_ref=text_in_ref).scan()


@dataclass(slots=True)
class _Head:
    """The tag of a block as far as it is read; as it is made, the place before the first tag."""

    start: int
    end: int
    label: Span = (0, 0)
    written: Sequence[WrittenBox] = ()
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
        #: Of each special token its name and place; the last one, without a name, is the end of the text.
        self.names: list[str] = []
        self.starts: list[int] = []
        self.ends: list[int] = []

    def scan(self) -> Grounding:
        begin, end = self._unwrapped()
        parts = _TAG.split(self.text[begin:end])
        places = [*accumulate(map(len, parts), initial=begin)]
        bare = self._bare_heads(begin, end) if len(parts) == 1 else {}
        self.names = [*parts[1::2], *(_REF for _ in bare), ""]
        self.starts = [*bare, *places[1::2]]
        self.ends = [*(head.end for head in bare.values()), *places[2::2], end]
        index, heads = self._read_text(_Head(begin, begin), 0), 0
        while self.names[index]:
            if heads >= _MAX_HEADS or len(self.oddities) >= _MAX_ODDITIES:
                self._note(OddityKind.ENDLESS, self.starts[index], end)
                break
            head = bare.get(self.starts[index])
            if head:
                index += 1
            else:
                head, index = self._read_head(index)
            index = self._read_text(head, index)
            heads += len(head.written) or 1
        self.oddities.sort(key=attrgetter("span"))
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
            elif (report := self.text.rfind(_REPORT, begin)) >= 0:
                rule = self.text[begin:report].rpartition("\n")[2]
                end = report - len(rule) * (not rule.strip("="))
            if end < self.last:
                self._note(OddityKind.WRAPPER, end, self.last)
        torn = _TORN.search(self.text, max(begin, end - _MAX_TORN_CHARS), end)
        if torn:
            self._note(OddityKind.STRAY_TAG, torn.start(), end)
            end = torn.start()
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
        for found in chain([first], islice(line_pattern.finditer(self.text, first.end(), end), _MAX_ODDITIES)):
            written, _ = read_boxes(found[2])
            start, stop = found.span()
            heads[start] = _Head(start, stop, found.span(1), written, OddityKind.TAGS_LOST)
        return heads

    # Heads

    def _read_head(self, index: int) -> tuple[_Head, int]:
        """The head that begins with a `<|ref|>` or a lone `<|det|>`, and the index of the first tag behind it."""
        names, starts = self.names, self.starts
        first, end, kind = starts[index], self.ends[index], None
        while (
            names[index] == names[index + 1] == _REF and end == starts[index + 1]
        ):  # said twice; one block comes of it
            kind = OddityKind.REF_UNCLOSED
            end = self.ends[index := index + 1]
        head = _Head(first, end, (end, end), kind=kind)
        if names[index] == _DET:
            head.kind = OddityKind.REF_MISSING
            return self._read_box(head, index)
        after, stop = names[index + 1], starts[index + 1]
        if after == _REF_END:
            head.label, head.end = (end, stop), self.ends[index + 1]
            return self._read_box(head, index + 2)
        head.kind = OddityKind.REF_UNCLOSED
        if after == _DET and (self.text_in_ref or self._is_short(end, stop)):
            head.label, head.end = (end, stop), stop
            return self._read_box(head, index + 1)
        label = None if self.text_in_ref else _OPEN_LABEL.match(self.text, end, stop)
        if not label:
            return head, index + 1
        head.label, head.end = label.span(1), label.end(1)
        return self._read_box(head, index + 1)

    def _read_box(self, head: _Head, index: int) -> tuple[_Head, int]:
        """Read on from the end of the label, over what does not belong there, to the boxes and over them."""
        while True:
            name, start = self.names[index], self.starts[index]
            if name == _DET:
                if not self._skip_junk(head, start):
                    break
                head.end = self.ends[index]
                index += 1
                name, start = self.names[index], self.starts[index]
                if name == _DET_END and self._take_closed(head, index):
                    return head, index + 1
                again = name in _RESTARTS and self._is_short(head.end, start)
                if not again or LOOSE_BOXES.match(self.text, head.end, start):
                    self._take_unclosed(head, start)
                    return head, index
            elif name == _REF_END and self._skip_junk(head, start):
                head.kind = head.kind or OddityKind.JUNK
                head.end, index = self.ends[index], index + 1
            else:
                break
        if name == _DET_END and self._take_closed(head, index, opened=False):
            return head, index + 1
        found = LOOSE_BOXES.match(self.text, head.end, min(start, head.end + MAX_BOXES_CHARS))
        if found:
            self._take(head, found[0], found.end(), OddityKind.DET_UNOPENED)
        head.kind = head.kind or OddityKind.DET_MISSING
        return head, index

    def _take_closed(self, head: _Head, index: int, *, opened: bool = True) -> bool:
        """Take what stands before a `<|/det|>` for boxes; False, and nothing done, if it is text."""
        start = self.starts[index]
        if start - head.end > MAX_BOXES_CHARS:
            return False
        inside = self.text[head.end : start].strip()
        written, flaw = read_boxes(inside)
        if flaw and not is_nearly_numbers(inside):
            return False
        if not opened and inside and not written:
            return False
        kind = OddityKind.DET_UNOPENED if not opened else OddityKind(flaw) if flaw else None
        head.written, head.kind, head.end = written, head.kind or kind, self.ends[index]
        return True

    def _take_unclosed(self, head: _Head, limit: int) -> None:
        """Take the boxes, or what is left of them, that nothing closes; what follows is text."""
        limit = min(limit, head.end + MAX_BOXES_CHARS)
        found = LOOSE_BOXES.match(self.text, head.end, limit)
        fragment = found or _FRAGMENT.match(self.text, head.end, limit)
        self._take(head, found[0] if found else "", fragment.end() if fragment else head.end, OddityKind.DET_UNCLOSED)

    @staticmethod
    def _take(head: _Head, boxes: str, end: int, kind: OddityKind) -> None:
        head.written = read_boxes(boxes.strip())[0] if boxes else ()
        head.end, head.kind = end, head.kind or kind

    def _skip_junk(self, head: _Head, end: int) -> bool:
        """Whether what stands before a tag is so little that the tag still belongs to the head; notes it."""
        if head.end == end:
            return True
        if not self._is_short(head.end, end):
            return False
        if not self.text[head.end : end].isspace():
            head.kind = head.kind or OddityKind.JUNK
        return True

    def _is_short(self, start: int, end: int) -> bool:
        return end - start <= MAX_JUNK_CHARS and "\n" not in self.text[start:end]

    # Texts

    def _read_text(self, head: _Head, index: int) -> int:
        """Read the text behind a head, and note both; returns the index of the tag that begins the next head."""
        at, names, starts = head.end, self.names, self.starts
        if names[index] in _BEGINNINGS:
            end = starts[index]
            self._add(head, self._trimmed(at, end), end)
            return index
        pieces: list[Span] = []
        while names[index] not in _BEGINNINGS and len(self.oddities) < _MAX_ODDITIES:
            start = starts[index]
            if names[index] == _DET_END and self.text[start - 1 : start] == "]":
                start = at + len(self.text[at:start].rstrip(_BOX_CHARACTERS))
            pieces.append((at, start))
            at = self.ends[index]
            if names[index] != _END or at < self.last:
                while starts[index + 1] == at and names[index + 1] not in _STOPS:
                    at = self.ends[index := index + 1]
                self._note(OddityKind.STRAY_TAG, start, at)
            index += 1
        end = starts[index]
        pieces.append((at, end))
        self._add(head, self._stripped(pieces), end)
        return index

    def _trimmed(self, start: int, end: int) -> tuple[Span, ...]:
        """One piece without the space at its ends; nothing where that is all."""
        piece = self.text[start:end]
        kept = piece.strip()
        if not kept:
            return ()
        if len(kept) < len(piece):
            start = end - len(piece.lstrip())
            end = start + len(kept)
        return ((start, end),)

    def _stripped(self, pieces: list[Span]) -> tuple[Span, ...]:
        """The pieces that hold more than space, without the space at the two ends."""
        spans = [span for span in pieces if self._trimmed(*span)]
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
        start, end = ref
        if start == end:
            return ()
        if self.text_in_ref and not (has_text and PLAIN_LABEL.fullmatch(self.text[start:end].strip())):
            return self._trimmed(start, end)
        return () if self._is_short(start, end) else self._trimmed(start, end)

    def _add_block(self, head: _Head, label: str, spans: tuple[Span, ...], span: Span) -> None:
        boxes, clamped, degenerate = zip(*map(place, head.written), strict=True) if head.written else ((), (), ())
        text = self.text[slice(*spans[0])] if len(spans) == 1 else _joined([self.text[slice(*part)] for part in spans])
        self.blocks.append(
            RawBlock(
                label,
                text,
                boxes,
                tuple(head.written),
                span,
                spans,
                clamped=True in clamped,
                recovered=head.kind is not None,
                degenerate=True in degenerate,
            )
        )


def _joined(pieces: list[str]) -> str:
    """One text; a space where a tag was cut out from between two letters, which else may become a tag themselves."""
    text = pieces[:1]
    for before, piece in pairwise(pieces):
        if not before[-1].isspace() and not piece[0].isspace():
            text.append(" ")
        text.append(piece)
    return "".join(text)
