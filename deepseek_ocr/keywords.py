"""Keywords and an extractive summary of a document, from its text alone and in its own language.

Language-specific knowledge comes from libraries: py3langid says which language it is, stopwordsiso which words carry no
meaning, snowballstemmer which forms are one word.  The two measures are published ones that need no corpus and no
model: YAKE's for keywords (Campos et al., Information Sciences 509, 2020), here on stems and only for what comes more
than once (else it favours whatever stands in the first sentence), and SumBasic for the summary (Nenkova and
Vanderwende, MSR-TR-2005-101).  No word is invented: both are quotations from the text.

Left to others: what a document's text is, and where this runs: 1 to 3 s of processor time a megabyte, and 80 MB stay in
the process for the language model, so not on the event loop.  Residual risks: a document in two languages is taken for
one in its main language; Chinese and Japanese get a summary but no keywords, as their words are not set apart.
"""

from __future__ import annotations

import math
import re
import statistics
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Final

import snowballstemmer
import stopwordsiso
from py3langid.langid import LanguageIdentifier

from deepseek_ocr.document import DocumentTail
from deepseek_ocr.prose import CJK, OBJECT, Sentence, sentences, words

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

#: Words below which nothing is said: frequencies mean nothing yet.
MIN_WORDS: Final = 50
#: Words of the text for each keyword, so that a letter of 60 words is not taken apart into ten of them.
WORDS_PER_KEYWORD: Final = 12
#: Characters that keywords are taken from and, of those, the language; of more text, sentences spread evenly over it.
MAX_KEYWORD_CHARS: Final = 1_000_000
_LANGUAGE_CHARS: Final = 10_000
#: Probability below which the language is not known.  50 words of prose have over 0.99.
_MIN_PROBABILITY: Final = 0.5
#: Words a sentence of the summary may have: shorter ones say little, longer ones are lists.
_SUMMARY_WORDS: Final = range(7, 61)
#: Words of a keyword.
_MAX_TERM: Final = 3

#: Languages with keywords -> their stemmer; "" = none, beginnings of words stand for stems.  All have a list of stop
#: words of 100 and more.
STEMMERS: Final = {
    "bg": "",
    "ca": "catalan",
    "cs": "czech",
    "da": "danish",
    "de": "german",
    "en": "english",
    "es": "spanish",
    "fi": "finnish",
    "fr": "french",
    "hr": "",
    "hu": "hungarian",
    "it": "italian",
    "nl": "dutch",
    "no": "norwegian",
    "pl": "polish",
    "pt": "portuguese",
    "ro": "romanian",
    "ru": "russian",
    "sk": "",
    "sl": "",
    "sv": "swedish",
    "tr": "turkish",
}
#: Languages of a summary without keywords.
UNSPACED: Final = frozenset({"ja", "zh"})
_SAME_WORDS = {"nn": "no", "nb": "no"}
#: Letters of a word that is none of the grammar's; one less in capitals.
_MIN_LETTERS = 3
#: Letters that tell stems where there is no stemmer.
_STEM_LETTERS = 6
#: In the English list of stop words, which stems from web search, but what documents are about.
_NO_STOP_WORDS = frozenset(
    "area bill computer fire group groups index information interest"  # noqa: SIM905 - read as a line
    " interests invention member members mill network novel page pages problem problems research result results room"
    " rooms section state states system systems test text value website work works world".split()
)
#: What refers to a place in the document or announces what follows; in no list of stop words.
_POINTERS = frozenset("def bsp figure abbildung abb tabelle aufgabe".split())  # noqa: SIM905 - as above
#: Articles and prepositions that lose their vowel, which some lists lack ("l'eau", "dell'acqua").
_ELIDED = frozenset("all dall dell nell sull coll quell qu un jusqu lorsqu puisqu quoiqu don ll ve re".split())  # noqa: SIM905 - as above

_WORD = re.compile(r"[^\W\d_]{1,40}(?:-[^\W\d_]{1,40}){0,4}")
#: What may stand between two words of one keyword.
_GAPS = frozenset({" ", "'", "’"})  # noqa: RUF001 - as written


@dataclass(frozen=True, slots=True)
class Digest:
    """What a document is about; empty fields where that cannot be said honestly."""

    #: ISO 639-1; None = unknown, or too little text to tell.
    language: str | None = None
    #: The most telling first, as they stand in the text.
    keywords: tuple[str, ...] = ()
    #: Sentences as they stand in the text, in its order; line ends are spaces, words broken at them whole.
    summary: tuple[str, ...] = ()


def digest(text: str, *, max_keywords: int = 10, max_sentences: int = 3) -> Digest:
    """Language, keywords and summary of a document's text, plain or Markdown; never raises, same text same answer."""
    found = sentences(text)
    count = sum(words(sentence.text) for sentence in found)
    language = _language(found) if count >= MIN_WORDS else None
    if language in UNSPACED:
        return Digest(language, (), _summary(found, _pairs, max_sentences))
    code = _SAME_WORDS.get(language or "", language or "")
    if code not in STEMMERS:
        return Digest(language)
    vocabulary = Vocabulary(code)
    keywords = _keywords(_spread(found, MAX_KEYWORD_CHARS), vocabulary, min(max_keywords, count // WORDS_PER_KEYWORD))
    return Digest(language, keywords, _summary(found, vocabulary.terms, max_sentences))


def document_tail(markdown: Path) -> DocumentTail:
    """The digest of a Markdown file, as it stands at the end of a document."""
    found = digest(markdown.read_text(encoding="utf-8"))
    space = "" if found.language in UNSPACED else " "
    return DocumentTail(summary=space.join(found.summary) or None, keywords=found.keywords, language=found.language)


class Vocabulary:
    """The words of one language: which carry no meaning, and which are forms of one."""

    def __init__(self, language: str) -> None:
        self._stop_words = stopwordsiso.stopwords(language) - (_NO_STOP_WORDS if language == "en" else frozenset())
        #: German writes its nouns with capitals, so verbs and adjectives can be told from what a text is about.
        self.has_capital_nouns = language == "de"
        name = STEMMERS[language]
        self._stemmer = snowballstemmer.stemmer(name) if name else None
        self._stems: dict[str, str] = {}

    def stem(self, word: str) -> str:
        """What the forms of a word have in common, or nothing for a word that carries no meaning."""
        stem = self._stems.get(word)
        if stem is None:
            stem = self._stems[word] = self._stem(word)
        return stem

    def _stem(self, word: str) -> str:
        lower = word.lower()
        short = len(word) < _MIN_LETTERS - word.isupper()  # "EU" is a word
        if short or lower in _ELIDED or lower in _POINTERS or lower in self._stop_words:
            return ""
        return str(self._stemmer.stemWord(lower)) if self._stemmer else lower[:_STEM_LETTERS]

    def terms(self, text: str) -> list[str]:
        """The stems of the words that carry meaning."""
        return [stem for match in _WORD.finditer(text) if (stem := self.stem(match[0]))]


def _pairs(text: str) -> list[str]:
    """Pairs of neighbouring characters, which stand for words where these are not set apart."""
    return [text[i : i + 2] for i in range(len(text) - 1) if CJK.match(text, i) and CJK.match(text, i + 1)]


@cache
def _identifier() -> LanguageIdentifier:
    """The language model of py3langid: 0.5 s to load, 80 MB."""
    identifier = LanguageIdentifier.from_model_file("data/model.npz.xz", norm_probs=True)
    # Those with a code of two letters (ISO 639-1), and "zxx" for what is no language.
    identifier.set_languages([label for label in identifier.labels if not label[2:] or label == "zxx"])
    return identifier


def _language(found: list[Sentence]) -> str | None:
    sample = " ".join(sentence.text for sentence in _spread(found, _LANGUAGE_CHARS))
    label, probability = _identifier().classify(sample.replace(OBJECT, " "))
    return label if probability >= _MIN_PROBABILITY and label != "zxx" else None


def _spread(found: list[Sentence], limit: int) -> list[Sentence]:
    """Sentences of about `limit` characters together, evenly over the text."""
    total = sum(len(sentence.text) for sentence in found)
    if total <= limit:
        return found
    kept, read, taken = [], 0, 0
    for sentence in found:
        if taken * total <= read * limit:
            kept.append(sentence)
            taken += len(sentence.text)
        read += len(sentence.text)
    return kept


@dataclass(slots=True)
class _Word:
    """What YAKE counts of a word."""

    count: int = 0
    capitalized: int = 0
    acronym: int = 0
    places: list[int] = field(default_factory=list)  # numbers of the sentences, each once
    before: Counter[str] = field(default_factory=Counter)
    after: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class _Term:
    """A candidate: one to three words that stand together."""

    count: int = 0
    forms: Counter[str] = field(default_factory=Counter)


#: A word where it stands: stem ("" = a stop word), start, end.
_Token = tuple[str, int, int]


def _runs(text: str, stem: Callable[[str], str]) -> Iterator[list[_Token]]:
    """The words of a sentence, parted where anything but a space or apostrophe stands between them."""
    run: list[_Token] = []
    end = 0
    for match in _WORD.finditer(text):
        if run and text[end : match.start()] not in _GAPS:
            yield run
            run = []
        run.append((stem(match[0]), match.start(), match.end()))
        end = match.end()
    if run:
        yield run


def _keywords(found: Sequence[Sentence], vocabulary: Vocabulary, most: int) -> tuple[str, ...]:
    """The terms with the lowest score that come more than once; none within another, or about the same words."""
    known: defaultdict[str, _Word] = defaultdict(_Word)
    terms: defaultdict[tuple[str, ...], _Term] = defaultdict(_Term)
    for number, sentence in enumerate(found):
        for run in _runs(sentence.text, vocabulary.stem):
            _count(run, number, sentence.text, known, terms)
    if not known or most <= 0:
        return ()
    weights = _weights(known, len(found))
    scored = sorted(
        (_score(stems, term.count, weights, known), stems)
        for stems, term in terms.items()
        if term.count > 1 and len(set(stems)) == len(stems)
    )
    carriers = _carriers([stems for _, stems in scored], terms, known)
    chosen: list[set[str]] = []
    keywords: list[str] = []
    for _, stems in scored:
        term = carriers.get(stems[0], stems) if len(stems) == 1 else stems
        content = set(term) - {""}
        form = _form(terms[term].forms)
        if vocabulary.has_capital_nouns and not form.rpartition(" ")[2][:1].isupper():
            continue
        if not any(content <= other or content >= other for other in chosen):
            chosen.append(content)
            keywords.append(form)
            if len(keywords) == most:
                break
    return tuple(keywords)


def _form(forms: Counter[str]) -> str:
    """The usual form of a term, without the capital letter it may only have from the beginnings of sentences."""
    usual = forms.most_common(1)[0][0]
    small = usual[0].lower() + usual[1:]
    return small if forms[small] * 3 >= forms[usual] else usual


def _carriers(
    longer: Iterable[tuple[str, ...]], terms: dict[tuple[str, ...], _Term], known: dict[str, _Word]
) -> dict[str, tuple[str, ...]]:
    """For words that mostly come in one longer term, that term: "heat pump" says more than "pump"."""
    carriers: dict[str, tuple[str, ...]] = {}
    for stems in longer:
        count = terms[stems].count
        for stem in stems:
            often = len(stems) > 1 < count and stem and count * 2 >= known[stem].count
            if often and (stem not in carriers or count > terms[carriers[stem]].count):
                carriers[stem] = stems
    return carriers


def _count(
    run: list[_Token],
    number: int,
    text: str,
    known: defaultdict[str, _Word],
    terms: defaultdict[tuple[str, ...], _Term],
) -> None:
    """Enter the words of a run, and the terms that end at each of them."""
    for index, (stem, start, end) in enumerate(run):
        if not stem:
            continue
        word = known[stem]
        word.count += 1
        surface = text[start:end]
        word.acronym += surface.isupper() and len(surface) > 1
        word.capitalized += start > 0 and surface[0].isupper() and not surface[1:].isupper()
        if not word.places or word.places[-1] != number:
            word.places.append(number)
        if index and run[index - 1][0]:
            word.before[run[index - 1][0]] += 1
            known[run[index - 1][0]].after[stem] += 1
        for first in range(max(index - _MAX_TERM + 1, 0), index + 1):
            if run[first][0]:
                term = terms[tuple(token[0] for token in run[first : index + 1])]
                term.count += 1
                term.forms[text[run[first][1] : end]] += 1


def _weights(known: dict[str, _Word], sentence_count: int) -> dict[str, float]:
    """YAKE's measure of each word, the lower the more telling (section 3.2 of the paper)."""
    counts = [word.count for word in known.values()]
    usual = statistics.fmean(counts) + statistics.pstdev(counts)
    most = max(counts)
    weights = {}
    for stem, word in known.items():
        case = max(word.capitalized, word.acronym) / (1 + math.log(word.count))
        position = math.log(math.log(3 + statistics.median(word.places)))
        different = sum(len(side) / side.total() for side in (word.before, word.after) if side)
        related = 1 + different * word.count / most
        spread = len(word.places) / sentence_count
        weights[stem] = position * related / (case + (word.count / usual + spread) / related)
    return weights


def _score(stems: tuple[str, ...], count: int, weights: dict[str, float], known: dict[str, _Word]) -> float:
    """YAKE's measure of a term, the lower the more telling; a stop word within counts as a weak link."""
    product, total = 1.0, 0.0
    for stem in stems:
        if stem:
            product *= weights[stem]
            total += weights[stem]
    if "" in stems:
        link = count / known[stems[0]].count * count / known[stems[-1]].count
        product *= 2 - link
        total -= 1 - link
    return product / (count * max(1 + total, 0.1))


def _summary(found: list[Sentence], terms_of: Callable[[str], list[str]], most: int) -> tuple[str, ...]:
    """SumBasic: the sentence with the likeliest words, again and again, words once used counting little."""
    counts: Counter[str] = Counter()
    candidates: list[tuple[int, str, list[str]]] = []
    for sentence in found:
        terms = terms_of(sentence.text)
        counts.update(terms)
        if sentence.complete and words(sentence.text) in _SUMMARY_WORDS and terms:
            candidates.append((len(candidates), sentence.text, list(dict.fromkeys(terms))))
    total = counts.total()
    chances = {term: count / total for term, count in counts.items()}
    chosen: list[tuple[int, str, list[str]]] = []
    while candidates and len(chosen) < most:
        best = max(candidates, key=lambda one: (_worth(one[2], chances), -one[0]))
        candidates.remove(best)
        chosen.append(best)
        for term in best[2]:
            chances[term] **= 2
    return tuple(text for _, text, _ in sorted(chosen))


def _worth(terms: Iterable[str], chances: dict[str, float]) -> float:
    values = [chances[term] for term in terms]
    return sum(values) / max(len(values), _SUMMARY_WORDS.start)
