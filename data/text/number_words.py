"""Number words of some languages with their values, and those that hyphens join to longer ones (twenty-four).

One is left out: in most languages it is the article as well, and in English it stands for things. So is French "neuf",
which is "new".
"""

from __future__ import annotations

import re

_LANGUAGES = {
    "en": "two three four five six seven eight nine ten eleven twelve",
    "de": "zwei drei vier fünf sechs sieben acht neun zehn elf zwölf",
    "fr": "deux trois quatre cinq six sept huit - dix onze douze",
    "es": "dos tres cuatro cinco seis siete ocho nueve diez once doce",
    "pl": (
        "dwa/dwie/dwóch trzy/trzech cztery/czterech pięć/pięciu sześć/sześciu siedem/siedmiu osiem/ośmiu "
        "dziewięć/dziewięciu dziesięć/dziesięciu jedenaście/jedenastu dwanaście/dwunastu"
    ),
}
NUMBER_WORDS: dict[str, dict[str, str]] = {
    language: {form: str(value) for value, forms in enumerate(row.split(), 2) for form in forms.split("/")}
    for language, row in _LANGUAGES.items()
}
"""Language -> word -> its value in digits, from two to twelve."""

_OTHER_PARTS = """
one un une neuf twenty thirty forty fifty sixty seventy eighty ninety hundred thousand
vingt vingts trente quarante cinquante soixante cent cents mille treize quatorze quinze seize
"""
HYPHENATED = frozenset(_OTHER_PARTS.split()) | NUMBER_WORDS["en"].keys() | NUMBER_WORDS["fr"].keys()
"""Words of numbers that are written with hyphens, English and French ones."""

_WORD = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*")


def word_values(text: str, language: str) -> frozenset[str]:
    """The values of a text's number words, in digits; of "three-hour" too, but not of "twenty-four"."""
    values = NUMBER_WORDS.get(language, {})
    firsts = (word.partition("-")[0] for word in _WORD.findall(text.lower()))
    return frozenset(values[word] for word in firsts if word in values)
