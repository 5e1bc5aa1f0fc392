"""Answers that loop in every shape seen, and innocent pages that look like one; all of them made here."""

from __future__ import annotations

import random

#: A page's beginning, before a loop.
HEAD = (
    "<|ref|>title<|/ref|><|det|>[[100, 40, 900, 80]]<|/det|>\n# Annual report of the harbour office \n\n"
    "<|ref|>text<|/ref|><|det|>[[100, 90, 900, 240]]<|/det|>\n"
    "In the year under report 412 ships called at the port, eleven fewer than in the year before. The quay on the "
    "north side was closed for repair from March until the end of August, and dredging took longer than planned. \n\n"
)
_SENTENCE = "The committee met twice and took note of the report of its chairman on the state of the harbour walls. "
_LIST = (
    "harbour quay vessel report winter bridge garden letter stone window market bread candle silver river copper "
    "engine doctor paper lesson thread saddle orchard ribbon mirror kettle barrel pepper cotton timber magnet"
)
_WORDS = _LIST.split()


def _choose(seed: int) -> random.Random:
    """The same choices each time."""
    return random.Random(seed)  # noqa: S311 - not a secret


def block(content: str, top: int, label: str = "text") -> str:
    """One block of an answer."""
    return f"<|ref|>{label}<|/ref|><|det|>[[120, {top}, 880, {top + 7}]]<|/det|>\n{content}  \n\n"


def _mutated(times: int) -> str:
    """A sentence repeated, in which one word gives way in each round, as a guard that bans one token would do."""
    choose, rounds = _choose(1), []
    for at in range(times):
        words = (_SENTENCE + _SENTENCE).split()
        words[choose.randrange(at % 30, 30)] = choose.choice(["the", "and"])
        rounds.append(" ".join(words))
    return " ".join(rounds)


def _shrinking(times: int) -> str:
    """Blocks of tags, one fewer closed in each."""
    return "".join(block("<pre> " * 8 + "</pre>" * max(1, 8 - at // 4), 100 + 7 * at) for at in range(times))


def _ragged(rows: int) -> str:
    """Rows of blank cells of any width, badly closed."""
    choose = _choose(2)
    return "<table>" + "".join(
        "<tr>" + "<td></td>" * choose.randrange(1, 14) + choose.choice(["</tr>", "</tr></tr>", "<td></tr>"])
        for _ in range(rows)
    )


#: Name -> the loop's text and the kind it is told to be.
LOOPS: dict[str, tuple[str, str]] = {
    "a sentence": (_SENTENCE * 40, "period"),
    "two characters": ("8/" * 2000, "period"),
    "one letter": ("a" * 4000, "period"),
    "one letter, spaced": ("o " * 2000, "period"),
    "exclamation marks": ("!" * 4000, "run"),
    "line ends": ("\n" * 6000, "run"),
    "one word": ("very " * 800, "period"),
    "a Chinese phrase": ("上海世博会展览中心" * 300, "period"),
    "a paragraph, longer than the guard sees": (
        "".join(f"{a.title()} and {b} were {c}ed. " for a, b, c in zip(_WORDS, _WORDS[7:], _WORDS[3:], strict=False))
        * 9,
        "period",
    ),
    "a formula's spaces": (r"\qquad " * 700, "period"),
    "two lines in turn": ("Harbour office\nHarbour master\n" * 100, "period"),
    "two lines without a period": (
        "".join(_choose(3).choices(["Harbour office\n", "Harbour offices\n"], k=200)),
        "mutated",
    ),
    "spaces of two widths": (" ".join(_choose(4).choices([r"\quad", r"\qquad"], k=700)), "mutated"),
    "a sentence that a guard breaks": (_mutated(60), "mutated"),
    "a counter between ones": (" ".join(f"{'1 ' * 9}{at}" for at in range(1, 366)), "counter"),
    "an index in thousands": (" ".join(f"b_{{{1000 * at}}}" for at in range(1, 400)), "counter"),
    "a bare count": (" ".join(str(at) for at in range(1, 900)), "counter"),
    "fractions by odd numbers": (
        "".join(rf"\frac{{1}}{{{2 * at + 1}}} \int f \quad g = " for at in range(300)),
        "counter",
    ),
    "a counter of long rounds": (
        "".join(f"Item {at} of the list was noted by the clerk and was put with the others. " for at in range(90)),
        "counter",
    ),
    "one content in boxes down the page": ("".join(block(_SENTENCE, 100 + 7 * at) for at in range(60)), "boxes"),
    "short content in boxes": ("".join(block("Harbour office", 100 + 7 * at) for at in range(110)), "boxes"),
    "tags that shrink in boxes": (_shrinking(40), "boxes"),
    "fractions in fractions": (r"\[ 1 + \frac{1}{1 + " * 200, "nesting"),
    "groups in groups": ("".join("x_{" + "i_{" * min(at, 30) for at in range(120)), "nesting"),
    "elements in elements": ("<div><span>" * 300, "nesting"),
    "blank cells in one row": ("<table><tr>" + "<td></td>" * 500, "cells"),
    "blank cells in ragged rows": (_ragged(200), "cells"),
    "blank cells in rows without end": ("<table>" + ("<tr>" + "<td></td>" * 8 + "</tr>") * 400, "cells"),
}


def _prose(seed: int, words: int) -> str:
    """Words in any order."""
    return " ".join(_choose(seed).choices(_WORDS, k=words))


def _row(cells: list[str]) -> str:
    """A row of a table."""
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _table(rows: list[list[str]]) -> str:
    """A table."""
    return "<table>" + "".join(_row(cells) for cells in rows) + "</table>"


def _numbers(seed: int, rows: int, columns: int, digits: int) -> list[list[str]]:
    """Cells with numbers."""
    choose = _choose(seed)
    return [[str(choose.randrange(10**digits)) for _ in range(columns)] for _ in range(rows)]


def _dump(data: bytes) -> str:
    """Sixteen bytes a line, with their address."""
    return "\n".join(f"{at:08x}  {data[at : at + 16].hex(' ')}" for at in range(0, len(data), 16))


#: Of these, the characters of loop after which it is noticed where they are more than `SOON`: four long copies, and
#: what a form of many equal lines or blank cells may hold.
LATE = {
    "short content in boxes": 3072,
    "a paragraph, longer than the guard sees": 4096,
    "blank cells in ragged rows": 3072,
    "blank cells in rows without end": 12_288,
}
SOON = 2500


#: Name -> a page as it may well be.
INNOCENT: dict[str, str] = {
    "a blank form": _table([["Name", *[""] * 30]] + [[""] * 31 for _ in range(30)]),
    "a list of names to be ticked": _table(
        [[f"{a} {b}", *[""] * 31] for a, b in zip(_WORDS, _WORDS[5:], strict=False)]
    ),
    "a wide table with one filled column": _table([["", _prose(at, 6), *[""] * 9] for at in range(25)]),
    "dashes for nothing": _table([[_prose(at, 2), *["-"] * 12] for at in range(30)]),
    "zeros": _table([[_prose(at, 2), *["0.00"] * 6] for at in range(40)]),
    "a price list": "\n".join(f"{_prose(at, 2)} EUR {at * 7 % 100}.{at * 13 % 100:02d}" for at in range(60)),
    "equal prices": "\n".join(f"{_prose(at, 3)} 4.50 EUR incl. VAT" for at in range(60)),
    "contents with dots": "\n".join(f"{at}.{at % 4} {_prose(at, 3)} {'.' * 60} {at * 3}" for at in range(1, 50)),
    "contents with spaced dots": "\n".join(f"{at} {_prose(at, 3)} {'. ' * 30}{at * 3}" for at in range(1, 50)),
    "lines to write on": ("_" * 80 + "\n") * 28,
    "dots to write on": ("." * 90 + "\n\n") * 28,
    "fields to fill in": "\n".join(f"{word.title()}: {'_' * 40}" for word in _WORDS),
    "numbered lines to fill in": "\n".join(f"{at}. Name: {'_' * 20} Born: {'_' * 10}" for at in range(1, 31)),
    "an answer sheet": "\n".join(f"{at}. A B C D" for at in range(1, 51)),
    "a numbered list": "\n".join(f"{at}. {_prose(at, 7)}" for at in range(1, 80)),
    "the numbers to a hundred": _table([[str(10 * row + at) for at in range(1, 11)] for row in range(10)]),
    "a calendar": "\n".join(f"{_WORDS[at].title()}\n" + " ".join(map(str, range(1, 32))) for at in range(12)),
    "a calendar in a table": "".join(
        _table([[_WORDS[month]], *[[str(week * 7 + day) for day in range(1, 8)] for week in range(4)]])
        for month in range(12)
    ),
    "a hexadecimal dump": _dump(_choose(5).randbytes(1000)),
    "a dump of zeros": _dump(bytes(700)),
    "a multiplication table": _table([[str(a * b) for b in range(1, 21)] for a in range(1, 21)]),
    "multiplications": "\n".join(f"{a} x {b} = {a * b}" for a in range(1, 13) for b in range(1, 13)),
    "a table of numbers": _table(_numbers(6, 40, 9, 4)),
    "a table of marks": _table([[_prose(at, 2), *cells] for at, cells in enumerate(_numbers(7, 30, 8, 1))]),
    "a table with pipes": "\n".join("| " + " | ".join(cells) + " |" for cells in _numbers(8, 40, 7, 3)),
    "a truth table": _table([[*f"{at:05b}", str(at % 3 % 2)] for at in range(32)]),
    "chords": ("| C | G | Am | F |\n" * 4 + _prose(9, 20) + "\n") * 3,
    "tablature": "\n".join(
        f"{'eBGDAE'[line % 6]}|" + "".join(_choose(line).choices(["--0-", "----", "-3--", "---2", "1---"], k=14))
        for line in range(36)
    ),
    "a song with a refrain": "".join(
        _prose(at, 40) + "\nRow, row the boat, gently down the stream\nMerrily, merrily, merrily, merrily\n"
        for at in range(6)
    ),
    "Chinese without spaces": "".join(_choose(10).choices([chr(at) for at in range(0x4E00, 0x5200)], k=1500)),
    "Chinese of few characters": "".join(
        _choose(11).choices("天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏", k=1500)
    ),
    "lines of a form": "\n".join(block(f"{word.title()}: yes no", 30 * at) for at, word in enumerate(_WORDS)),
    "pictures of a catalogue": "".join(block("", 10 * at, "image") for at in range(60)),
    "equal labels": "".join(block("Yes No", 30 * at) for at in range(20)),
    "three copies of a form": (HEAD + _prose(12, 60)) * 3,
    "a matrix": r"\[ \begin{pmatrix} "
    + r" \\ ".join(" & ".join(row) for row in _numbers(13, 12, 12, 1))
    + r" \end{pmatrix} \]",
    "a page of formulas": "\n".join(
        rf"\[ \int_{{{at}}}^{{{at * 3}}} {_WORDS[at % 30][0]}^{{{at % 7}}} \, dx = \frac{{{at * at}}}{{{at + 5}}} \]"
        for at in range(60)
    ),
    "nothing": "",
    "a word": "Harbour",
    "yes to all": "\n".join(["Yes"] * 15),
}
