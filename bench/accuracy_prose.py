"""Prose for generated pages: sentences and headings of our own in five languages of the Latin script, with numbers.

Each sentence has slots, so that few of them make many; nothing here is taken from anybody's text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import random

NAMES: Final = (
    "Anna Lindqvist", "J. P. Moreau", "Dr. Weiß", "Inés Peña", "O’Hara & Sons", "Luca D’Amico", "M. Søndergaard",
    "Zoë van Dijk", "François Lefèvre", "Kowalczuk", "Jürgen Groß", "Marta Núñez", "B. K. Whitfield", "Chloé Dubois",
)  # fmt: skip
PLACES: Final = (
    "Aberdeen", "Zürich", "Málaga", "Köln", "Évora", "Livorno", "Besançon", "Göteborg", "Port-au-Prince", "Trieste",
    "Saint-Étienne", "Nürnberg", "A Coruña", "Stratford-upon-Avon",
)  # fmt: skip

#: Sentences with slots: {name}, {place}, {n} (a count), {share}, {year}, {sum}, {time}, {code}.
SENTENCES: Final[dict[str, tuple[str, ...]]] = {
    "eng": (
        "The survey of {place} began early in {year}, when the water was low and the light still good.",
        "According to {name}, {n} of the older charts had been copied by night, and copied wrongly.",
        "Nobody asked for the figures again; they had cost {sum}, travel and lodging included.",
        "“We measured twice,” said {name}, “and wrote down what we saw, not what we had hoped for.”",
        "A careful reader will notice that {share} of the entries carry no date (see table {n}, note b).",
        "The ferry leaves at {time} on weekdays; on Sundays it does not leave at all.",
        "Each sheet was numbered, folded and put away under reference {code}, where it stayed until {year}.",
        "It’s easy to blame the instruments, but well-kept ones rarely fail; people do.",
        "Between {place} and {place} the road follows the river for {n} kilometres, then climbs quickly.",
        "What was missing, however, was agreement: the committee met {n} times and voted only once.",
        "Rates of 1:250 or 3/8 inch were common then; today’s tolerance is ±0.05 mm.",
        "The harbour office keeps a second ledger, in which quantities, weights and names of vessels are entered.",
        "If the report is right, prices rose by {share} within a decade – and wages by half as much.",
        "Further questions should be sent to {name}, 14 Quay Street, {place}, or to office@harbour.example.",
    ),
    "deu": (
        "Die Vermessung von {place} begann im Frühjahr {year}, als das Wasser niedrig und das Licht noch gut war.",
        "Nach Angaben von {name} waren {n} der älteren Karten nachts abgezeichnet worden, und zwar falsch.",
        "„Wir haben zweimal gemessen“, sagte {name}, „und aufgeschrieben, was wir sahen.“",
        "Für die Straßenbeleuchtung wurden {sum} bewilligt; tatsächlich ausgegeben wurde weniger als die Hälfte.",
        "Bei {share} der Einträge fehlt das Datum (vgl. Tabelle {n}, Anmerkung b).",
        "Die Fähre fährt werktags um {time} Uhr ab, sonntags dagegen überhaupt nicht.",
        "Jedes Blatt wurde nummeriert, gefaltet und unter dem Aktenzeichen {code} abgelegt, wo es bis {year} blieb.",
        "Größere Abweichungen entstanden vor allem durch ungenaue Übertragung, seltener durch schlechtes Gerät.",
        "Zwischen {place} und {place} folgt die Landstraße {n} Kilometer weit dem Fluss, danach steigt sie steil an.",
        "Der Ausschuss tagte {n} Mal, beschloss aber nur ein einziges Mal etwas, nämlich die eigene Auflösung.",
        "Im Hafenamt liegt ein zweites Verzeichnis, das Mengen, Gewichte und Schiffsnamen enthält.",
        "Falls der Bericht stimmt, stiegen die Preise in zehn Jahren um {share}, die Löhne höchstens halb so stark.",
    ),
    "fra": (
        "Le relevé de {place} commença au début de {year}, quand l’eau était basse et la lumière encore bonne.",
        "Selon {name}, {n} des anciennes cartes avaient été recopiées la nuit, et mal recopiées.",
        "« Nous avons mesuré deux fois », dit {name}, « puis noté ce que nous avons vu. »",
        "Personne ne redemanda ces chiffres : ils avaient coûté {sum}, voyage et hébergement compris.",
        "Le lecteur attentif remarquera que {share} des entrées n’ont pas de date (voir tableau {n}, note b).",
        "Le bac part à {time} en semaine ; le dimanche, il reste à quai jusqu’à la tombée de la nuit.",
        "Chaque feuille fut numérotée, pliée et rangée sous la cote {code}, où elle demeura jusqu’en {year}.",
        "Il est aisé d’accuser les instruments, mais ceux qu’on entretient tombent rarement en panne.",
        "Entre {place} et {place}, la route longe la rivière sur {n} kilomètres, puis s’élève brusquement.",
        "L’accord faisait pourtant défaut : le comité se réunit {n} fois et ne vota qu’une seule fois.",
        "Le bureau du port tient un second registre où figurent les quantités, les poids et le nom des bâtiments.",
        "À en croire le rapport, les prix ont augmenté de {share} en dix ans, les salaires deux fois moins.",
    ),
    "spa": (
        "El levantamiento de {place} empezó a principios de {year}, cuando el agua estaba baja y había buena luz.",
        "Según {name}, {n} de las cartas más antiguas se habían copiado de noche, y con errores.",
        "«Medimos dos veces —dijo {name}— y anotamos lo que vimos, no lo que esperábamos».",
        "Nadie volvió a pedir las cifras; habían costado {sum}, incluidos el viaje y el alojamiento.",
        "¿Por qué falta la fecha en el {share} de los asientos? Véase el cuadro {n}, nota b.",
        "El transbordador sale a las {time} los días laborables; los domingos, en cambio, no sale.",
        "Cada hoja se numeró, se dobló y se guardó con la signatura {code}, donde permaneció hasta {year}.",
        "Es fácil culpar a los instrumentos, pero los bien cuidados rara vez fallan; ¡las personas, sí!",
        "Entre {place} y {place} el camino sigue el río durante {n} kilómetros y después sube deprisa.",
        "Faltaba, sin embargo, el acuerdo: la comisión se reunió {n} veces y votó una sola vez.",
        "La oficina del puerto lleva otro registro, con las cantidades, los pesos y los nombres de los buques.",
        "Si el informe no se equivoca, los precios subieron un {share} en diez años y los sueldos, la mitad.",
    ),
    "ita": (
        "Il rilievo di {place} cominciò all’inizio del {year}, quando l’acqua era bassa e la luce ancora buona.",
        "Secondo {name}, {n} delle carte più vecchie erano state ricopiate di notte, e ricopiate male.",
        "“Abbiamo misurato due volte”, disse {name}, “e annotato ciò che si vedeva.”",
        "Nessuno chiese più quelle cifre: erano costate {sum}, viaggio e alloggio compresi.",
        "Chi legge con attenzione noterà che il {share} delle voci è senza data (cfr. tabella {n}, nota b).",
        "Nei giorni feriali il traghetto parte alle {time}; la domenica, però, non parte affatto.",
        "Ogni foglio fu numerato, piegato e riposto con la segnatura {code}, dove rimase fino al {year}.",
        "È facile dare la colpa agli strumenti, ma quelli ben tenuti si guastano di rado.",
        "Tra {place} e {place} la strada segue il fiume per {n} chilometri, poi sale rapidamente.",
        "Mancava, tuttavia, l’accordo: il comitato si riunì {n} volte e votò soltanto una volta.",
        "L’ufficio del porto tiene un secondo registro, con quantità, pesi e nomi delle navi.",
        "Se la relazione è esatta, i prezzi sono cresciuti del {share} in dieci anni, i salari la metà.",
    ),
}
HEADINGS: Final[dict[str, tuple[str, ...]]] = {
    "eng": ("The Harbour Survey", "What the Ledgers Say", "Methods and Errors", "Prices and Wages", "Open Questions"),
    "deu": ("Die Hafenvermessung", "Was in den Büchern steht", "Verfahren und Fehler", "Preise und Löhne"),
    "fra": ("Le relevé du port", "Ce que disent les registres", "Méthodes et erreurs", "Prix et salaires"),
    "spa": ("El levantamiento del puerto", "Lo que dicen los libros", "Métodos y errores", "Precios y sueldos"),
    "ita": ("Il rilievo del porto", "Che cosa dicono i registri", "Metodi ed errori", "Prezzi e salari"),
}


def sentence(dice: random.Random, language: str) -> str:
    """A sentence with its slots filled."""
    template = dice.choice(SENTENCES[language])
    parts = template.split("{")
    text = parts[0]
    for part in parts[1:]:
        slot, _, rest = part.partition("}")
        text += _filled(dice, slot, language) + rest
    return text


def paragraph(dice: random.Random, language: str) -> str:
    """Two to five sentences."""
    return " ".join(sentence(dice, language) for _ in range(dice.randint(2, 5)))


def _filled(dice: random.Random, slot: str, language: str) -> str:
    english = language == "eng"
    point, comma = (".", ",") if english else (",", ".")
    share = f"{dice.randint(1, 99)}{point}{dice.randint(0, 9)}"
    amount = f"{dice.randint(1, 99)}{comma}{dice.randint(0, 999):03}{point}50"
    values = {
        "name": dice.choice(NAMES),
        "place": dice.choice(PLACES),
        "n": str(dice.randint(3, 480)),
        "year": str(dice.randint(1788, 2026)),
        "share": f"{share}%" if english else f"{share} %",
        "sum": f"£{amount}" if english else f"{amount} €",
        "time": f"{dice.randint(5, 22)}:{dice.choice(('05', '15', '30', '45'))}",
        "code": f"{dice.choice('BGKRX')}-{dice.randint(100, 9999)}/{dice.randint(10, 99)}",
    }
    return values[slot]
