"""Keywords and summaries are quotations from the text, in its language, and nothing where nothing can be said."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

import pytest
import stopwordsiso
from hypothesis import given, settings
from hypothesis import strategies as st

from deepseek_ocr.document import DocumentTail
from deepseek_ocr.keywords import MIN_WORDS, STEMMERS, UNSPACED, Digest, Vocabulary, digest, document_tail
from tests.growth import check_linear

if TYPE_CHECKING:
    from pathlib import Path

# Written for these tests.  Each text is about one thing, which is named in several forms.
ENGLISH = (
    "The lighthouse on the northern cliff was built in three summers. Its keeper climbed the stairs every evening to "
    "light the oil lamp. Ships could see the lighthouse from twenty miles away, and the keeper wrote the name of each "
    "ship into a book. When fog came, the fog bell rang all night. Later an electric lamp replaced the oil lamp, and "
    "the last keeper left the lighthouse. Today the tower is a museum where visitors may read the books of the keeper "
    "and hear the fog bell."
)
GERMAN = (
    "Die Wassermühle am Bach gehörte seit langer Zeit der Familie des Müllers. Das große Mühlrad drehte sich Tag und "
    "Nacht, solange der Bach genug Wasser führte. Die Bauern brachten ihr Getreide zur Wassermühle und nahmen am Abend "
    "das Mehl mit nach Hause. Im Winter fror das Mühlrad ein, und der Müller besserte die Mahlsteine aus. Heute mahlt "
    "die Wassermühle wieder, denn ein Verein hat Mühlrad und Mahlsteine erneuert. Besucher kaufen dort Mehl aus "
    "heimischem Getreide."
)
FRENCH = (
    "Le boulanger du village prépare son pain avant le lever du soleil. La farine vient d'un moulin voisin et le "
    "levain est nourri chaque soir. Le four à bois chauffe pendant deux heures, puis le boulanger y place les pains "
    "ronds. Les habitants attendent devant la porte, car le pain chaud sent très bon. Quand le four refroidit, le "
    "boulanger cuit encore des brioches. Sans levain et sans four à bois, dit-il, le pain perd tout son goût."
)
SPANISH = (
    "El viejo tranvía cruza la ciudad desde la estación hasta el puerto. El conductor saluda a los pasajeros que suben "
    "cada mañana con sus cestas de pescado. En la cuesta más larga el tranvía avanza despacio y los pasajeros miran "
    "los balcones. Los talleres reparan las ruedas y los frenos del tranvía durante la noche. La ciudad quiso cerrar "
    "la línea, pero los vecinos defendieron su tranvía. Ahora los pasajeros llegan también de otros países."
)
ITALIAN = (
    "Il vigneto sulla collina produce uva rossa da molte generazioni. La vendemmia comincia in settembre, quando l'uva "
    "è dolce e le notti diventano fresche. Tutta la famiglia lavora nel vigneto e porta le cassette in cantina. In "
    "cantina il vino riposa in botti di rovere per due inverni. Dopo una grandine forte la vendemmia fu scarsa, ma il "
    "vino riuscì ottimo. Il contadino assaggia il vino dalle botti e decide quando imbottigliarlo."
)
PORTUGUESE = (
    "O pescador sai com o seu barco antes do nascer do sol. As redes foram remendadas na véspera pela família do "
    "pescador. No mar alto o barco encontra cardumes de sardinha, e as redes enchem-se depressa. De volta ao porto, a "
    "sardinha é vendida no mercado aos restaurantes da vila. Quando o mar está bravo, o barco fica no porto e o "
    "pescador pinta o casco. Os filhos aprendem com ele a remendar as redes e a ler as nuvens."
)
DUTCH = (
    "De dijk beschermt het dorp al eeuwen tegen het water van de rivier. Elke herfst loopt de dijkwachter over de dijk "
    "en zoekt naar scheuren in de grasmat. Bij hoog water leggen de bewoners zandzakken op de dijk en draaien de "
    "gemalen dag en nacht. Na de grote overstroming werd de dijk twee meter hoger gemaakt. De rivier kreeg meer ruimte "
    "en de gemalen kregen nieuwe pompen. Sindsdien slapen de bewoners rustig als de rivier stijgt."
)
POLISH = (
    "Pszczelarz opiekuje się ulami na skraju starego lasu. Wiosną pszczoły wylatują z uli i zbierają nektar z kwiatów "
    "lipy. Pszczelarz sprawdza ramki i wymienia wosk, aby pszczoły miały dość miejsca. Latem miód lipowy spływa z "
    "wirówki do dużych beczek. Jesienią pszczelarz karmi pszczoły syropem i ociepla ule słomą. Miód lipowy z tej "
    "pasieki sprzedaje się na targu w miasteczku, a dzieci uczą się, jak żyją pszczoły."
)
RUSSIAN = (
    "Старый паровоз стоит на запасном пути маленькой станции. Машинист приходит к паровозу каждое утро и проверяет "
    "котёл. Когда котёл нагрет, паровоз везёт вагоны с углём через лес к заводу. Зимой снег засыпает рельсы, и "  # noqa: RUF001 - Russian
    "рабочие чистят путь лопатами. Машинист знает каждый поворот и даёт гудок перед мостом. Теперь паровоз водит "
    "туристов, а "  # noqa: RUF001 - Russian
    "машинист рассказывает детям, как работает котёл."
)
CZECH = (
    "Sklář v horské vesnici fouká sklo stejně jako jeho dědeček. Pec hoří ve dne v noci, protože roztavené sklo nesmí "
    "vychladnout. Sklář nabere sklo na píšťalu a točí jí, dokud nevznikne váza. Barevné vázy potom chladnou v další "
    "peci několik hodin. Turisté obdivují skláře při práci a kupují vázy na památku. Mladý učeň se učí, jak pec "
    "vyčistit a jak sklo brousit."
)
SWEDISH = (
    "Sågverket vid älven byggdes av två bröder från dalen. Timret flöt längs älven varje vår och samlades vid "
    "sågverket. Arbetarna sorterade timret efter längd innan sågen delade stockarna i plankor. Plankorna torkade i "
    "stora staplar hela sommaren. När järnvägen kom kunde sågverket sända plankor till hamnen på en enda dag. I dag "
    "är sågverket nedlagt, men den gamla sågen går ännu när skolbarn kommer på besök."
)
CHINESE = (
    "老茶馆位于古镇的河边,已经开了一百多年。每天清晨,掌柜先烧一大壶开水,然后打开临河的木窗。老人们坐在茶馆里喝茶,谈论天气和庄稼。"
    "茶叶来自附近的山坡,春天由村民亲手采摘。下午有人在茶馆说书,孩子们围在门口听故事。现在许多游客也来老茶馆喝茶,看河上的小船慢慢经过。"
)
JAPANESE = (
    "海辺の町には古い灯台があります。灯台守は毎晩階段を上って明かりをつけました。霧の深い夜には鐘を鳴らして船に危険を知らせました。"
    "漁師たちは灯台の光を頼りに港へ帰りました。今では灯台は機械で動き、灯台守の家は小さな博物館になりました。"
    "子どもたちは博物館で古い鐘の音を聞くことができます。町の人びとは今も灯台を大切に守っています。"
)

TEXTS = {
    "en": (ENGLISH, {"lighthouse", "keeper", "oil lamp", "fog bell"}),
    "de": (GERMAN, {"Wassermühle", "Mühlrad", "Getreide", "Mehl"}),
    "fr": (FRENCH, {"boulanger", "pain", "levain", "four à bois"}),
    "es": (SPANISH, {"tranvía", "pasajeros", "ciudad"}),
    "it": (ITALIAN, {"vigneto", "vendemmia", "cantina", "vino"}),
    "pt": (PORTUGUESE, {"pescador", "barco", "redes", "sardinha"}),
    "nl": (DUTCH, {"dijk", "gemalen", "bewoners", "rivier"}),
    "pl": (POLISH, {"pszczelarz", "pszczoły", "miód lipowy"}),
    "ru": (RUSSIAN, {"паровоз", "машинист", "котёл"}),
    "cs": (CZECH, {"sklář", "sklo", "vázy"}),
    "sv": (SWEDISH, {"sågverket", "älven", "timret", "plankor"}),
}
#: Letters, marks and words of several languages, so that what is drawn is now and then a text.
PIECES = st.sampled_from([*ENGLISH.split(), *GERMAN.split(), *RUSSIAN.split(), "\n", "\n\n", "|", "# ", "$x$", "don't"])
ANY_TEXT = st.one_of(
    st.text(), st.lists(PIECES, max_size=300).map(" ".join), st.text("aA.!-\n#|$*[]()<>`水\u00ad\ud800")
)


def flat(text: str) -> str:
    """Without line ends and case."""
    return " ".join(text.split()).casefold()


@pytest.mark.parametrize("language", TEXTS)
def test_keywords_name_what_a_text_is_about(language: str) -> None:
    """In its own language, each form once, as it stands in the text."""
    text, expected = TEXTS[language]
    found = digest(text)
    assert found.language == language
    assert {word.casefold() for word in expected} <= {word.casefold() for word in found.keywords}
    assert all(word in text for word in found.keywords)
    assert language in STEMMERS


@pytest.mark.parametrize(
    "text", [*(text for text, _ in TEXTS.values()), CHINESE, JAPANESE], ids=[*TEXTS, *sorted(UNSPACED, reverse=True)]
)
def test_a_summary_is_sentences_of_the_text_in_its_order(text: str) -> None:
    """Whole ones, to the letter."""
    summary = digest(text).summary
    places = [text.index(sentence) for sentence in summary]
    assert len(summary) == 3
    assert places == sorted(places)
    for sentence, place in zip(summary, places, strict=True):
        assert sentence[-1] in ".。"
        assert place == 0 or text[:place].rstrip()[-1] in ".。"


@pytest.mark.parametrize("language", STEMMERS)
def test_every_language_has_what_it_needs(language: str) -> None:
    """A stemmer of that name, and a list of stop words worth the name."""
    assert len(stopwordsiso.stopwords(language)) >= 100
    assert Vocabulary(language).terms("Ocrdaemon 42 a")


@pytest.mark.parametrize(("text", "language"), [(CHINESE, "zh"), (JAPANESE, "ja")], ids=["zh", "ja"])
def test_no_keywords_where_words_are_not_set_apart(text: str, language: str) -> None:
    """Cutting them out takes a dictionary; a wrong cut would be worse than none."""
    found = digest(text)
    assert (found.language, found.keywords) == (language, ())


def test_limits_are_kept() -> None:
    """As many as asked for at most, and none on request."""
    found = digest(ENGLISH, max_keywords=2, max_sentences=1)
    assert (len(found.keywords), len(found.summary)) == (2, 1)
    assert digest(ENGLISH, max_keywords=0, max_sentences=0) == Digest("en")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   \n\n\t",
        " ".join(ENGLISH.split()[: MIN_WORDS - 1]),
        "12 345,67 89 " * 500,
        "\n".join(f"{n} | {n * 7 % 13} | {n * n}" for n in range(500)),
        "|---|---|\n" * 200,
        "the same words again and again " * 300,
        "This is the only sentence of this page. " * 300,
        "".join(f"Item {n} follows. " for n in range(400)),
        "bcdf ghjkl mnpq rstvw xzbc " * 3,
        "~~~ ### ___ ... *** " * 300,
        "\ud800\udfff\x00\ufeff" * 500,
    ],
    ids=[
        "empty",
        "space",
        "short",
        "digits",
        "figures",
        "rules",
        "loop",
        "sentence",
        "counter",
        "noise",
        "marks",
        "raw",
    ],
)
def test_nothing_is_said_about_nothing(text: str) -> None:
    """Too little, figures, loops and noise give an empty digest, not keywords."""
    assert digest(text) == Digest()


def test_a_loop_beside_the_text_does_not_count() -> None:
    """Regression in kind: what a model repeats a thousand times is not what the document is about."""
    looped = ENGLISH + "\n\n" + "Copyright of the printing press. " * 1000 + "\n\n" + "draft version " * 1000
    assert digest(looped).summary == digest(ENGLISH).summary
    assert not {"copyright", "draft", "printing press"} & {word.casefold() for word in digest(looped).keywords[:5]}


def test_a_language_without_stop_words_is_only_named() -> None:
    """Keywords without them would be "and" and "the"."""
    georgian = "ძველი ხიდი მდინარეზე ასი წლის წინ ააშენეს და დღესაც დგას ქალაქის ცენტრში. " * 2
    words = [f"{word}{ending}" for word in georgian.split() for ending in ("ა", "ს", "ით")]
    found = digest(" ".join(words))
    assert found == Digest("ka")


def test_markdown_is_read_as_text() -> None:
    """Marks, tables, formulas and page marks neither count nor show."""
    marked = ENGLISH.replace("lighthouse", "**lighthouse**").replace("fog bell", "[fog bell](x.md)")
    document = (
        f"<!-- page 1 -->\n\n# The tower\n\n{marked}\n\n| zebra | zebra |\n|---|---|\n| zebra | 1 |\n\n$$zebra=1$$\n"
    )
    found = digest(document)
    assert found.summary == digest(ENGLISH).summary
    assert {"lighthouse", "fog bell"} <= set(found.keywords)
    assert "zebra" not in found.keywords


def test_what_is_said_about_pictures_and_addresses_does_not_show() -> None:
    """Words of a second look and addresses are neither keywords nor quoted, and captions are not quoted."""
    picture = (
        "*Figure 1: A lighthouse keeper climbs the stairs of the lighthouse.*\n\n> The zebra is a zebra of zebras."
    )
    addresses = "The keeper of the lighthouse writes to zebra@example.org and reads https://zebra.example.org/zebra."
    found = digest(f"{picture}\n\n{ENGLISH}\n\n{addresses}\n")
    assert found.summary == digest(ENGLISH).summary
    assert not any("zebra" in keyword for keyword in found.keywords)


@pytest.mark.parametrize(("text", "space"), [(ENGLISH, " "), (CHINESE, "")], ids=["english", "chinese"])
def test_the_end_of_a_document_is_that_of_its_file(text: str, space: str, tmp_path: Path) -> None:
    """Its sentences stand in one text, with spaces where the language has some."""
    (tmp_path / "x.md").write_text(f"<!-- page 1 -->\n\n{text}\n", encoding="utf-8")
    found = digest(text)
    tail = document_tail(tmp_path / "x.md")
    assert tail == DocumentTail(summary=space.join(found.summary), keywords=found.keywords, language=found.language)
    assert tail.summary


def test_german_keywords_are_nouns() -> None:
    """Where nouns are written with capitals, verbs and adjectives are told from them."""
    text = "Wir berechnen die lineare Funktion. Sie berechnen, wie erhalten, lineare Stellen der Funktion. "
    text += " ".join(f"Dann berechnen wir im Fall {word} die lineare Funktion." for word in GERMAN.split()[:20])
    assert all(keyword.split()[-1][0].isupper() for keyword in digest(text).keywords)
    assert "Funktion" in " ".join(digest(text).keywords)


def test_scans_give_what_clean_text_gives() -> None:
    """Lines of 60 letters, some with a word broken at their end, are the same text."""
    scanned = textwrap.fill(GERMAN, 60)
    for whole, broken in (
        ("große Mühlrad", "große Mühl-\nrad"),
        ("Getreide zur", "Ge-\ntreide zur"),
        ("kaufen", "kau\u00ad\nfen"),
    ):
        assert whole in scanned
        scanned = scanned.replace(whole, broken)
    assert digest(scanned) == digest(GERMAN)


@settings(max_examples=150)
@given(ANY_TEXT, st.integers(0, 12), st.integers(0, 4))
def test_whatever_comes_in(text: str, max_keywords: int, max_sentences: int) -> None:
    """Never raises, never more than asked for, never a word that is not there, always the same."""
    found = digest(text, max_keywords=max_keywords, max_sentences=max_sentences)
    assert len(found.keywords) <= max_keywords
    assert len(found.summary) <= max_sentences
    assert all(flat(word) in flat(text) for word in found.keywords)
    assert digest(text, max_keywords=max_keywords, max_sentences=max_sentences) == found


def test_every_process_says_the_same() -> None:
    """Nothing hangs on the order of sets, which differs between processes."""
    script = f"from deepseek_ocr.keywords import digest; print(digest({ENGLISH!r}))"
    said = {
        subprocess.run(
            [sys.executable, "-c", script], env={"PYTHONHASHSEED": seed}, check=True, capture_output=True, text=True
        ).stdout
        for seed in ("1", "2")
    }
    assert said == {f"{digest(ENGLISH)}\n"}


@pytest.mark.parametrize(
    "unit",
    [
        None,
        "!",
        "$a",
        "<!-- ",
        "\\[",
        '."',
        "![",
        "[a](",
        "&#99",
        "ab-\n",
        "水\n",
        "a-",
        "- a\n",
        "\n",
        "The cat sat. ",
    ],
    ids=repr,
)
def test_work_grows_with_the_text_and_no_faster(unit: str | None) -> None:
    """A book, and what would make a careless pattern quadratic; seen for the longest: 0.1 to 1 s."""
    syllables = ["ba", "ke", "li", "mo", "nu", "ra", "se", "ti"]
    words = [a + b + c for a in syllables for b in syllables for c in syllables]
    vocabulary = ENGLISH.split()
    book = " ".join(
        f"{vocabulary[n % 83]} {words[n * n % 512]}{'.' if n % 11 == 0 else ''} The {words[n % 509]}"
        for n in range(60_000)
    )
    short, long, longest = (
        book[:size] if unit is None else unit * (size // len(unit)) for size in (20_000, 80_000, 300_000)
    )
    check_linear(digest, short, long)
    digest(longest)
