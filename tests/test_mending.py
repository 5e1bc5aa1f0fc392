"""Artefacts of the model's text: those known are mended, and what looks like them is left alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek_ocr.mending import join_formulas, mend, mend_table, split_formulas

#: Text of the model -> text of the page.
MENDED = {
    "a hyphen": ("a high- resolution input", "a high-resolution input"),
    "names": ("DeepSeek- OCR and GOT- OCR2.0 and Hesse- Matrix", "DeepSeek-OCR and GOT-OCR2.0 and Hesse-Matrix"),
    "a date": ("2025- 02- 18", "2025-02-18"),
    "a range": ("(37- 104°F)", "(37-104°F)"),
    "an address": ("see http://github.com/deepseek- ai/Deep- Seek", "see http://github.com/deepseek-ai/Deep-Seek"),
    "a chain": ("an end- to- end run", "an end-to-end run"),
    "a word left out": ("pre- and post-war, Vor- und Nachteile", "pre- and post-war, Vor- und Nachteile"),
    "a word left out before a distance": ("short- to medium-term", "short- to medium-term"),
    "a chain around a short word": ("state- of- the- art, face- to-face", "state-of-the-art, face-to-face"),
    "a dash": ("he came - at last - home", "he came - at last - home"),
    "a dash before a capital": ("offers- Shortly", "offers- Shortly"),
    "a sign behind it": ("Partial- / Teilsumme", "Partial- / Teilsumme"),
    "in a formula": (r"\(a- b\) a- b", r"\(a- b\) a-b"),
    "entities, once": ("&lt;image&gt; &amp;lt; &nosuch; &#65;&copy", "<image> &lt; &nosuch; A&copy"),
    "centred": ("<center>Figure 1 </center>", "Figure 1"),
    "line breaks": ("a<br>b<br/>c", "a\nb\nc"),
    "raised figures": ("m<sup>2</sup> H<sub>2</sub>O", "m² H₂O"),
    "raised letters": ("x<sup>t-a</sup> a<sub>i</sub> b<sup></sup>", "x^(t-a) a_i b"),
    "raised, not closed": ("x<sup>2", "x2"),
    "bold": ("<b>a</b> <em>b</em>", "**a** *b*"),
    "other tags": ("<pre>x</pre>", "<pre>x</pre>"),
    "what is left of a table": ("end</td></tr></table> more", "end  more"),
    "items run together": ("- bring all the offers- Shortly after", "- bring all the offers\n- Shortly after"),
    "items run together behind a stop": ("- beat it all thoroughly, - Sift it", "- beat it all thoroughly,\n- Sift it"),
    "no items": ("Bring all the offers- Shortly after", "Bring all the offers- Shortly after"),
    "items run together behind a word": (
        "Caution:- Keep it dry.- Avoid heat.- Call us", "Caution:\n- Keep it dry.\n- Avoid heat.\n- Call us",
    ),
    "paragraphs of a law": ("§ 1.- The sea. 2.- The land. 3.- Air", "§ 1.- The sea. 2.- The land. 3.- Air"),
    "one dash behind a stop": ("Beat it.- Sift it", "Beat it.- Sift it"),
    "a formula in dollars": ("is $x_1$ or\n$$a = b$$", "is \\(x_1\\) or\n\\[a = b\\]"),
    "money": ("$5 to $6, US$_5 or $A", "$5 to $6, US$_5 or $A"),
    "code": ("a- b\n```c\nx- y &lt; <b>\n```\n`a- b` c- d", "a-b\n```c\nx- y &lt; <b>\n```\n`a- b` c-d"),
    "a fence that is not closed": ("```c\na- b", "```c\na-b"),
    "a formula in an item": (r"- all that is in \(a. - B\) here", r"- all that is in \(a. - B\) here"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), MENDED.values(), ids=MENDED)
def test_artefacts_are_mended(text: str, expected: str) -> None:
    """What the model is known to get wrong reads as on the page; the rest stays."""
    assert mend(text) == expected


def test_cells_are_mended_and_their_entities_kept() -> None:
    """A table's HTML stays HTML."""
    text = r"<table><td>220- 240V<br/>&lt;b&gt; m<sup>2</sup> \(a- b\)</td></table>"
    assert mend_table(text) == r"<table><td>220-240V &lt;b&gt; m² \(a- b\)</td></table>"


#: Text -> its pieces.
FORMULAS = {
    "both kinds": (r"a \(b\) c \[d\]", [("", "a "), ("(", "b"), ("", " c "), ("[", "d")]),
    "not closed": (r"a \(b", [("", r"a \(b")]),
    "not opened": (r"a\) b\]", [("", r"a\) b\]")]),
    "opened twice": (r"\(a \(b\)", [("", r"\(a "), ("(", "b")]),
    "one in another": (r"\[a \(b\) c\]", [("[", r"a \(b\) c")]),
    "half of one in another": (r"\[a \(b c\] d\)", [("[", r"a \(b c"), ("", r" d\)")]),
    "the outer one not closed": (r"\[a \(b\)", [("", r"\[a "), ("(", "b")]),
    "a line break with a measure": (r"\(a \\[2ex] b\)", [("(", r"a \\[2ex] b")]),
    "none": ("a", [("", "a")]),
    "nothing": ("", []),
}


@pytest.mark.parametrize(("text", "pieces"), FORMULAS.values(), ids=FORMULAS)
def test_formulas_are_told_apart(text: str, pieces: list[tuple[str, str]]) -> None:
    """A formula that is closed is one; all else is text as it was."""
    assert split_formulas(text) == pieces


@given(st.text(st.sampled_from("\\()[]ab \n"), max_size=40))
def test_nothing_is_lost_between_formulas(text: str) -> None:
    """The pieces make the text again."""
    assert join_formulas(split_formulas(text)) == text


@given(st.text(st.sampled_from("\\()[]<>/bsup&;lt#-. aB2\n$`^"), max_size=60))
def test_mending_never_raises(text: str) -> None:
    """Whatever stands there, a text comes out."""
    assert isinstance(mend(text), str)
