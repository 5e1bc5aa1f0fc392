"""Sentences of a document, as Markdown or as a scan has them, without what is no prose."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepseek_ocr.prose import MAX_SENTENCE_CHARS, Sentence, sentences, words


def texts(document: str) -> list[str]:
    """What is found in a document."""
    return [sentence.text for sentence in sentences(document)]


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (
            "It rained. We left! Why? Nobody knew…  Then sun.",
            ["It rained.", "We left!", "Why?", "Nobody knew…", "Then sun."],
        ),
        ("He said “Go.” She went.", ["He said “Go.”", "She went."]),
        ("Mr. Brown met Dr. J. K. Lee on p. 12 of it.", ["Mr. Brown met Dr. J. K. Lee on p. 12 of it."]),
        ("Das gilt z. B. Montags, d.h. am 3. Mai.", ["Das gilt z. B. Montags, d.h. am 3. Mai."]),
        ("Il a vu M. Petit. Elle non.", ["Il a vu M. Petit.", "Elle non."]),
        ("Это было в 1861 г. в Москве. Потом ушли.", ["Это было в 1861 г. в Москве.", "Потом ушли."]),  # noqa: RUF001 - Russian
        ("Version 2.5 costs 3.50 euros. It works.", ["Version 2.5 costs 3.50 euros.", "It works."]),
        ("See www.example.org/a.b or a.b@example.org. That is all.", ["See \ufffc or \ufffc.", "That is all."]),
        ("山に登る。海で泳ぐ。「行こう。」と言った。", ["山に登る。", "海で泳ぐ。", "「行こう。」", "と言った。"]),
    ],
    ids=["marks", "quotes", "initials", "german", "french", "russian", "numbers", "address", "japanese"],
)
def test_sentences_end_where_they_end(document: str, expected: list[str]) -> None:
    """Not after abbreviations, initials, ordinals or within numbers."""
    assert texts(document) == expected


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ("The old light-\nhouse fell.", ["The old lighthouse fell."]),
        ("A well-\nknown man.", ["A well-known man."]),
        ("A blue-green sea, so blue-\ngreen it was.", ["A blue-green sea, so blue-green it was."]),
        ("Anna-\nMaria came.", ["Anna-Maria came."]),
        ("The light\u00ad\nhouse has a soft hy\u00adphen.", ["The lighthouse has a soft hyphen."]),
        ("It ended on the\n\n<!-- page 2 -->\n\n12\n\nnext page.", ["It ended on the next page."]),
        ("The first half of it light-\n\n<!-- page 2 -->\n\nhouse.", ["The first half of it lighthouse."]),
        (
            "Old Mills\nThe mill stood at the brook for more than two hundred years\nand then it fell.",
            ["Old Mills", "The mill stood at the brook for more than two hundred years and then it fell."],
        ),
        ("这是第一行\n还是这一句。", ["这是第一行还是这一句。"]),
        ("cafe\u0301 noir.", ["café noir."]),
    ],
    ids=["broken", "prefix", "compound", "name", "soft", "page", "page-hyphen", "heading", "chinese", "composed"],
)
def test_lines_become_sentences(document: str, expected: list[str]) -> None:
    """Words broken at a line end are whole, headings stay alone, page breaks within a sentence vanish."""
    assert texts(document) == expected


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ("# The *Title* #\n\nSome **bold** and `code` here.", ["The Title", "Some bold and code here."]),
        ("- One thing.\n- Another thing.\n1. A third.", ["One thing.", "Another thing.", "A third."]),
        ("A *wet*\n*Table 1 has salt*\nline.", ["A wet", "Table 1 has salt", "line."]),
        ("> A picture of a sea.\n\nA line.", ["A line."]),
        ("Before.\n\n| a | b |\n|---|---|\n| c | d |\n\nAfter.", ["Before.", "After."]),
        ("Before.<table><tr><td>cell</td></tr></table>After.", ["Before.", "After."]),
        ("Before.\n\n<table><tr><td>cut off", ["Before."]),
        ("Before.\n```\ncode = 1\n```\nAfter.", ["Before.", "After."]),
        ("![A caption \\[27\\] of it](x.images/1.png)\n\nA [link](http://example.org/a) here.", ["A link here."]),
        ("It costs $5 and $6 now.", ["It costs $5 and $6 now."]),
        (r"Rain &amp; snow \[12\] \(see below\) 5 \* 3 fell.", ["Rain & snow [12] (see below) 5 * 3 fell."]),
        ("Chapter one ........ 7\nChapter two . . . . . 9\nText.", ["Text."]),
        ("Text here.\n\n- 17 -\n\n17\n\n* * *", ["Text here."]),
        ("Water is H<sub>2</sub>O, they say.", ["Water is H2O, they say."]),
    ],
    ids=[
        "marks",
        "list",
        "caption",
        "quote",
        "pipes",
        "html",
        "torn",
        "code",
        "links",
        "money",
        "escapes",
        "contents",
        "numbers",
        "tags",
    ],
)
def test_marks_are_taken_off(document: str, expected: list[str]) -> None:
    """What is no prose is left out, what is written with marks stays as its words."""
    assert texts(document) == expected


@pytest.mark.parametrize(
    "document",
    [
        r"We see that \(x = 1\) holds here.",
        "We see that $x_1$ holds here.",
        r"We see that \[ \frac{1}{2} \] holds here.",
        "we come from the middle of it.",
        "This one has no end",
        "Das heißt, d.h.",
        "# This is a Heading.",
        "→ This follows.",
    ],
    ids=["inline", "dollars", "display", "beginning", "end", "abbreviation", "heading", "arrow"],
)
def test_what_is_not_whole_cannot_be_quoted(document: str) -> None:
    """A sentence that lacks its formula, beginning or end would mislead."""
    assert [sentence.complete for sentence in sentences(document)] == [False]


def test_repetitions_are_kept_once() -> None:
    """Loops and running heads, with or without a counter; the sentence itself stays."""
    assert texts("The same line 1.\n\nThe same line 2.\n\n" * 50 + "Another line.") == [
        "The same line 1.",
        "Another line.",
    ]
    assert texts("round and " * 500) == []
    assert texts("同じ" * 500) == []


def test_what_has_no_end_is_cut() -> None:
    """A list without full stops does not become one sentence of a megabyte."""
    found = sentences(" ".join(f"word{'abcdefghij'[n % 10]}{'klmnopqrst'[n // 10 % 10]}" for n in range(3000)))
    assert len(found) > 1
    assert all(len(sentence.text) <= MAX_SENTENCE_CHARS and not sentence.complete for sentence in found)


@pytest.mark.parametrize(("text", "count"), [("", 0), ("one two-three 4 five", 3), ("山に登る", 2), ("日本の a b", 3)])
def test_words_are_counted(text: str, count: int) -> None:
    """Two characters are about a word where words are not set apart."""
    assert words(text) == count


@settings(max_examples=200)
@given(st.one_of(st.text(), st.text("aA é.!-\n#|$*[]()<>`\\水。\u00ad\ud800&;1")))
def test_any_text_has_sentences(text: str) -> None:
    """Never raises; each is one line with words in it, none comes twice, and a heading is no sentence."""
    found = sentences(text)
    assert len({sentence.text for sentence in found}) == len(found)
    for sentence in found:
        assert sentence.text == " ".join(sentence.text.split(" ")).strip()
        assert not set(sentence.text) & set("\n\r\x00\ud800\u00ad")
        assert any(letter.isalpha() for letter in sentence.text)
        assert not (sentence.heading and sentence.complete)
    assert found == sentences(text)
    assert all(isinstance(sentence, Sentence) for sentence in found)
