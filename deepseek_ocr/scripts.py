"""Which scripts a recognizer can write, told from its dictionary.  Pure.

A script counts as readable when the dictionary has nearly all of its letters: a model that lacks some drops them
without a trace and is sure of the rest ("quc gia" for "quốc gia", confidence 0.98), so "some letters" is worth nothing.

Left to others: languages; whether the model reads what its dictionary lists well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection


def _span(first: int, last: int) -> str:
    return "".join(map(chr, range(first, last + 1)))


#: Name for people -> letters that stand for the script: its alphabet, or common letters where it has thousands.
LETTERS: dict[str, str] = {
    "Latin": _span(0x41, 0x5A) + _span(0x61, 0x7A) + "àâäáãåæçèéêëíîïñòóôöõøùúûüýœßăąćčďęěğıłńňőřśşšťůűźżž",
    "Vietnamese": "ăâđêôơưạảấầẩẫậắằẳẵặẹẻẽếềểễệỉịọỏốồổỗộớờởỡợụủứừửữựỳỵỷỹ",
    "Chinese": "的一是不了人我在有他这中大来上国個們時會說為這來國",
    "Japanese": _span(0x3042, 0x3093) + _span(0x30A2, 0x30F3),
    "Korean": "가나다라마바사아자차카타파하한국어의은는이을를에서",
    "Greek": "αβγδεζηθικλμνξοπρσςτυφχψωάέήίόύώ",
    "Cyrillic": _span(0x410, 0x44F) + "ё",
    "Arabic": _span(0x627, 0x63A) + _span(0x641, 0x64A),
    "Hebrew": _span(0x5D0, 0x5EA),
    "Devanagari": _span(0x915, 0x928) + _span(0x92A, 0x930) + "लवशषसह",
    "Bengali": _span(0x995, 0x9A8) + _span(0x9AA, 0x9B0) + "লশষসহ",
    "Tamil": "கஙசஜஞடணதநனபமயரறலளழவஷஸஹ",
    "Telugu": _span(0x0C15, 0x0C28) + _span(0x0C2A, 0x0C30),
    "Kannada": _span(0x0C95, 0x0CA8) + _span(0x0CAA, 0x0CB0),
    "Thai": _span(0xE01, 0xE2E),
    "Georgian": _span(0x10D0, 0x10F0),
    "Armenian": _span(0x561, 0x586),
}
#: Share of the letters that must be there; dictionaries leave out a rare letter now and then.
ENOUGH = 0.9


def scripts_of(dictionary: Collection[str]) -> tuple[str, ...]:
    """The scripts that can be written with the characters of a dictionary, in the order of `LETTERS`."""
    known = frozenset(dictionary)
    return tuple(
        name for name, letters in LETTERS.items() if sum(letter in known for letter in letters) >= ENOUGH * len(letters)
    )
