"""The model's Markdown -> Markdown that is safe and read alike: what it means stays, what would mislead is text."""

from __future__ import annotations

import pytest
from markdown_it import MarkdownIt

from deepseek_ocr.markup import (
    cell_text,
    code_markdown,
    display,
    formula_markdown,
    is_prose,
    line_markdown,
    text_markdown,
)

#: Markdown of the model -> Markdown in the file.
TEXTS = {
    "emphasis": ("**Tides** and *ebbs* and `code`", "**Tides** and *ebbs* and `code`"),
    "stars that multiply": ("2150*2150*9 2*n**2 (a)*3 A*2, B*3", r"2150\*2150\*9 2\*n\*\*2 (a)\*3 A\*2, B\*3"),
    "emphasis within a word": ("die *Steigung*en, **1. Teil**", "die *Steigung*en, **1. Teil**"),
    "escapes": (r"\*no\* \<b> \\<b>", r"\*no\* \<b> \\\<b>"),
    "a formula in a line": (r"of \( 97\%\) days", r"of $97\%$ days"),
    "a formula on its own line": ("where\n\\[x = 1\\]\nand", "where\n\n$$x = 1$$\n\nand"),
    "formulas in a row": ("\\[a\\]\n\n\\[b\\]", "$$a$$\n\n$$b$$"),
    "formulas side by side": (r"\(a\)\(b\) \[c\]\[d\]", "$a$ $b$ $$c$$ $$d$$"),
    "a long formula in a line": ("a \\[x\n= 1\\] b", "a $$x = 1$$ b"),
    "an empty formula": (r"a \(\) b", "a  b"),
    "a formula that is not closed": (r"a \(b", r"a \(b"),
    "money": ("$5 to $6", r"\$5 to \$6"),
    "less than": ("a<b, a < b, <b>, </b>, <!-- x -->", r"a\<b, a < b, \<b>, \</b>, \<!-- x -->"),
    "an entity": ("&lt; R&D; AT&T", r"\&lt; R\&D; AT&T"),
    "a picture from elsewhere": ("![x](http://example.org)", r"!\[x](http://example.org)"),
    "links": ("[a](https://b) [a](javascript:b) [a](#b)", r"[a](https://b) [a]\(javascript:b) [a](#b)"),
    "a tilde": ("~5 ~~no~~ ~6", r"\~5 ~~no~~ \~6"),
    "a lone backtick": ("a ` b", r"a \` b"),
    "a heading": ("## Tides\ntext", "## Tides\ntext"),
    "bullets": ("• a\n* b\n– c", "- a\n- b\n- c"),  # noqa: RUF001 - as on paper
    "numbers": ("1. a\n2) b", "1. a\n2) b"),
    "lists in lists": ("- a\n    - b\n      - c\n- d", "- a\n  - b\n    - c\n- d"),
    "a paragraph of an item": ("- a\n\n  b\n\nc", "- a\n\n  b\n\nc"),
    "an indented paragraph": ("a\n\n      b", "a\n\nb"),
    "a rule": ("a\n---\nb", "a\n\n---\nb"),
    "what would underline": ("a\n===\nb\n-", "a\n\\===\nb\n\\-"),
    "a plus": ("+ 5 kg\n+49 30", "\\+ 5 kg\n+49 30"),
    "what would hide": ("[1]: http://a\n[^2]: b", "\\[1]: http://a\n\\[^2]: b"),
    "code": ("a\n```python\nx < <b>\n  \\(y\\)\n```\nb", "a\n\n```python\nx < <b>\n  \\(y\\)\n```\n\nb"),
    "a fence without an end": ("```\n<b>", "\\`\\`\\`\n\\<b>"),
    "the other fence": ("~~~\na", "\\~~~\na"),
    "a pipe table": ("x\n|a|b|\n|-|-|\n|\\(p\\)|2|3|\ny", "x\n\n| a | b |  |\n| - | - | --- |\n| $p$ | 2 | 3 |\n\ny"),
    "empty lines": ("\n\na\n\n\n\nb\n", "a\n\nb"),
    "nothing": (" \n", ""),
}


@pytest.mark.parametrize(("text", "expected"), TEXTS.values(), ids=TEXTS)
def test_texts(text: str, expected: str) -> None:
    """Markdown stays Markdown; HTML, pictures, scripts and accidents become text."""
    assert text_markdown(text) == expected


def test_no_heading_where_they_are_told_apart() -> None:
    """A comment in code that the model read as text is no heading above all others."""
    text = "# Plot:\n- ## x\n#5\n```\n# y\n```"
    assert text_markdown(text, has_headings=False) == "\\# Plot:\n- \\## x\n#5\n\n```\n# y\n```"


@pytest.mark.parametrize("name", TEXTS)
def test_lines(name: str) -> None:
    """On one line there is one line, whatever the text."""
    line = line_markdown(TEXTS[name][0])
    assert "\n" not in line
    assert line == line.strip()


#: A block that is a formula -> Markdown.
FORMULAS = {
    "display": (r"\[ a = 1 \]", "$$a = 1$$"),
    "inline delimiters": (r"\(a\)", "$$a$$"),
    "dollars of its own": ("$$a = 1$$", "$$a = 1$$"),
    "none": (r"\frac{1}{2}", r"$$\frac{1}{2}$$"),
    "none, no LaTeX": ("see above", "see above"),
    "one that breaks off": (r"\[x^2 +", "$$x^2 +$$"),
    "the end of one": (r"+ x^2\]", "$$+ x^2$$"),
    "a remark": (r"AB: \(u\) \(v\)", "AB: $u$ $v$"),
    "two": ("\\[a\\]\n\n\\[b\\]", "$$a$$\n\n$$b$$"),
    "lines": ("\\[\n\\begin{align*}\na &= 1 \\\\\n&= 2\n\\end{align*}\n\\]",
              "$$\n\\begin{align*}\na &= 1 \\\\\n&= 2\n\\end{align*}\n$$"),
    "lines like a list": ("\\[\na\n- 1\n\\]", "$$a - 1$$"),
    "an empty line": ("\\[\na\n\nb\n\\]", "$$\na\nb\n$$"),
    "per cent and dollars": (r"\[5% of $6\]", r"$$5\% of \$6$$"),
    "like HTML": (r"\[<p, q> a<b\]", "$$< p, q> a< b$$"),
    "half an escape": ("\\[a\\ \\]", "$$a$$"),
    "a formula in its text": (r"\[\text{of \(n\)} \(x)\]", r"$$\text{of n} (x)$$"),
    "empty": (r"\[\]", ""),
}  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), FORMULAS.values(), ids=FORMULAS)
def test_formulas(text: str, expected: str) -> None:
    """A formula stands in dollars, where nothing in it ends it early or begins something else."""
    assert formula_markdown(text) == expected


def test_a_formula_has_no_empty_line() -> None:
    """One would end it."""
    assert "\n\n" not in display("a\n\n\nb")


def test_cells_that_stay_html() -> None:
    """Only formulas are Markdown there."""
    assert cell_text(r"*a* \(x < y\) $5") == "*a* $x < y$ $5"


PROSE = {
    "a sentence": ("The mole was built in 1902.", True),
    "quoted": ("The words \u201cstand clear\u201d, in red.", True),
    "between tags": ("<center>Three gulls here</center>", True),
    "Chinese": ("\u8fd9\u662f\u4e00\u5f20\u56fe\u7247\u3002", True),
    "SMILES": ("CC(C)CC1=CC=C(C=C1)C(C)C(=O)O", False),
    "short SMILES": ("CCO", False),
    "a dictionary": ("{'the': 'words', 'are': 'many', 'in': 'it'}", False),
    "a dictionary in Chinese": ("{'\u6807\u9898': '\u56fe'}", False),
    "a formula": ("y = a x + b", False),
    "numbers": ("May 12, June 15, July 17", False),
    "nothing": ("", False),
}


@pytest.mark.parametrize(("text", "expected"), PROSE.values(), ids=PROSE)
def test_prose_is_told_from_notation(text: str, expected: bool) -> None:
    """Words are prose; what is written in signs is not, whose lines and letters would be lost as Markdown."""
    assert is_prose(text) is expected


@pytest.mark.parametrize("text", ["x", "a\n\nb", "```\nx\n```", "`````", "<b> <!-- page 2 -->", "# 5"])
def test_code_is_shown_as_it_is(text: str) -> None:
    """A parser gives back the letters of a notation, whatever they are."""
    (token,) = MarkdownIt("commonmark").parse(code_markdown(text))
    assert (token.type, token.content) == ("fence", f"{text}\n")
