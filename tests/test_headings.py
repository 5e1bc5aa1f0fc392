"""Levels of headings over a whole document."""

from __future__ import annotations

import pytest

from deepseek_ocr.document import Block, Page
from deepseek_ocr.headings import Numbering, levelled, numbering_of, survey


def page(*headings: tuple[str, str]) -> Page:
    """A page with these labels and texts."""
    blocks = tuple(
        Block(id=f"p1b{number}", category="heading", label=label, text=text)
        for number, (label, text) in enumerate(headings, 1)
    )
    return Page(page_number=1, width=1, height=1, unit="px", blocks=blocks, source="fake", seconds=0)


NUMBERINGS = {
    "1. Method": (Numbering.DECIMAL, "1"),
    "1 Method": (Numbering.DECIMAL, "1"),
    "2.1.3 Gauge": (Numbering.DECIMAL, "2.1.3"),
    "2.1. Gauge": (Numbering.DECIMAL, "2.1"),
    "**3. Bold**": (Numbering.DECIMAL, "3"),
    "§ 5 Sea": (Numbering.DECIMAL, "5"),
    "1、盐": (Numbering.DECIMAL, "1"),
    "2024 in short": (Numbering.NONE, ""),
    "3D views": (Numbering.DECIMAL, "3"),
    "Chapter 3": (Numbering.PART, ""),
    "Teil II": (Numbering.PART, ""),
    "Parting words": (Numbering.NONE, ""),
    "第二章 海": (Numbering.PART, ""),
    "IV. The sea": (Numbering.ROMAN, ""),
    "一、潮": (Numbering.ROMAN, ""),
    "I like": (Numbering.NONE, ""),
    "B. Notes": (Numbering.LETTER, ""),
    "a) Red": (Numbering.PARENTHESIS, ""),
    "(2) Red": (Numbering.PARENTHESIS, ""),
    "Abstract": (Numbering.NONE, ""),
    "": (Numbering.NONE, ""),
}


@pytest.mark.parametrize(("text", "expected"), NUMBERINGS.items(), ids=NUMBERINGS)
def test_numberings(text: str, expected: tuple[Numbering, str]) -> None:
    """How a heading is numbered, in the ways people number."""
    assert numbering_of(text) == expected


#: Headings in order -> their levels; "T " marks a title.
OUTLINES = {
    "a title and plain ones": (["T Log", "Tides", "Ships"], [1, 2, 2]),
    "a paper": (["T Log", "Abstract", "1. Method", "1.1 Gauge", "2 Results", "References"], [1, 2, 2, 3, 2, 2]),
    "numbers that begin anew": (["Arrival", "1. Signals", "2. Berths", "Departure", "1. Signals"], [2, 3, 3, 2, 3]),
    "chapters": (["Chapter 1", "1.1 Sea", "Asides", "Chapter 2", "2.1 Land"], [2, 4, 3, 2, 4]),
    "roman and letters": (["I. Sea", "A. Salt", "B. Foam", "II. Land"], [2, 3, 3, 2]),
    "an appendix": (["1 Sea", "2 Land", "A. Tables"], [2, 2, 2]),
    "parentheses": (["1. Sea", "a) Salt"], [2, 3]),
    "a number among the titles": (["T Log", "1. Sea", "T 2. Land", "3. Air", "T Annex"], [1, 2, 2, 2, 1]),
    "a number too deep for a title": (["T 3.4.3. Kernel study"], [4]),
    "too deep": (["1.1.1.1.1.1 Sea"], [6]),
}


@pytest.mark.parametrize(("texts", "levels"), OUTLINES.values(), ids=OUTLINES)
def test_levels(texts: list[str], levels: list[int]) -> None:
    """A title is on the first level; what is numbered stands by its number, wherever its page is."""
    headings = [("title", text[2:]) if text.startswith("T ") else ("sub_title", text) for text in texts]
    pages = [page(heading) for heading in headings]
    outline = survey(iter(pages))
    assert [levelled(one, outline).blocks[0].level for one in pages] == levels


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("title", 1),
        ("Title", 1),
        ("doc_title", 1),
        ("sub_title", 2),
        ("paragraph_title", 2),
        ("#", 1),
        ("##", 2),
        ("####", 4),
    ],
)
def test_titles_by_their_labels(label: str, expected: int) -> None:
    """Titles of a document are told from those of its parts, also by the words of other models."""
    one = page((label, "Tides"))
    assert levelled(one, survey([one])).blocks[0].level == expected


def test_a_page_without_headings_stays() -> None:
    """Nothing is copied for nothing."""
    empty = page()
    assert levelled(empty, survey([empty])) is empty
