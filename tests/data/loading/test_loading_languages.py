"""The language of documents: told from real sentences, none where the text does not tell, and a filter on it."""

import json
from pathlib import Path

import pytest

from data.loading import LoadOptions, corpus_report, load_corpus
from data.loading.languages import LOOK_AT, language_of
from data.nouns import MemoryCache
from raft_errors import BadInput

SENTENCES = {
    "en": "All human beings are born free and equal in dignity and rights.",
    "de": "Alle Menschen sind frei und gleich an Würde und Rechten geboren.",
    "fr": "Tous les êtres humains naissent libres et égaux en dignité et en droits.",
    "es": "Todos los seres humanos nacen libres e iguales en dignidad y derechos.",
    "it": "Tutti gli esseri umani nascono liberi ed eguali in dignità e diritti.",
    "nl": "Alle mensen worden vrij en gelijk in waardigheid en rechten geboren.",
    "pl": "Wszyscy ludzie rodzą się wolni i równi pod względem swej godności i swych praw.",
    "ru": "Все люди рождаются свободными и равными в своем достоинстве и правах.",
    "ja": "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。",
    "zh": "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，并应以兄弟关系的精神相对待。",
    "ar": "يولد جميع الناس أحرارًا متساوين في الكرامة والحقوق.",
}


@pytest.mark.parametrize("language", SENTENCES)
def test_a_sentence_tells_its_language(language: str):
    assert language_of(SENTENCES[language]) == language


@pytest.mark.parametrize(
    "text",
    ["", "Hello", "Chapter 1", "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13", "def main(x, y): return foo(x) + baz(y)"],
)
def test_what_is_short_or_no_language_does_not_tell(text: str):
    assert language_of(text) is None


def test_only_the_beginning_of_a_text_is_looked_at():
    english = (SENTENCES["en"] + " ") * (LOOK_AT // len(SENTENCES["en"]) + 1)
    assert language_of(english + SENTENCES["de"] * 1000) == "en"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for language in ("en", "de", "fr"):
        (tmp_path / f"{language}.txt").write_text(SENTENCES[language])
    (tmp_path / "short.txt").write_text("Words.")
    rows = [{"text": SENTENCES["de"] + " Ja."}, {"text": SENTENCES["en"] + " Yes."}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def test_documents_carry_their_language_and_the_report_counts_them(folder: Path):
    corpus = load_corpus([str(folder)])
    assert {d.source: d.metadata["language"] for d in corpus.documents} == {
        "de.txt": "de", "en.txt": "en", "fr.txt": "fr", "rows.jsonl#1": "de", "rows.jsonl#2": "en", "short.txt": None,
    }  # fmt: skip
    assert corpus_report(corpus)["by_language"] == {"de": 2, "en": 2, "fr": 1, "unknown": 1}


def test_other_languages_are_quarantined_where_languages_are_named(folder: Path):
    corpus = load_corpus([str(folder)], options=LoadOptions(languages=("en", "fr")))
    assert [d.source for d in corpus.documents] == ["en.txt", "fr.txt", "rows.jsonl#2", "short.txt"]
    assert [(q.source, q.reason) for q in corpus.quarantined] == [("de.txt", "language"), ("rows.jsonl#1", "language")]
    assert "'de'" in corpus.quarantined[0].detail
    counts = corpus.counts
    assert counts["found"] == 6 == counts["loaded"] + counts["quarantined"] + counts["duplicates"]


def test_naming_languages_reads_no_file_anew(folder: Path):
    cache = MemoryCache()
    load_corpus([str(folder)], cache=cache)
    narrowed = load_corpus([str(folder)], options=LoadOptions(languages=("en",)), cache=cache)
    assert narrowed.cached == narrowed.counts["files"] == 5
    assert narrowed.counts["quarantined"] == 3


@pytest.mark.parametrize("code", ["english", "xx", "EN"])
def test_a_language_that_is_never_told_is_bad_input(folder: Path, code: str):
    with pytest.raises(BadInput, match="not told apart"):
        load_corpus([str(folder)], options=LoadOptions(languages=(code,)))


def test_the_language_reference_inside_python_is_english():
    assert list(corpus_report(load_corpus(["pydoc:topics"]))["by_language"]) == ["en"]


@pytest.mark.shared_data
def test_short_texts_in_35_encodings_tell_their_language(shared_data: Path):
    folder = shared_data / "messy_docs" / "encodings_made"
    codes = {"arabic": "ar", "bulgarian": "bg", "chinese": "zh", "czech": "cs", "french": "fr", "german": "de",
             "greek": "el", "hebrew": "he", "hungarian": "hu", "icelandic": "is", "japanese": "ja", "korean": "ko",
             "latvian": "lv", "lithuanian": "lt", "polish": "pl", "portuguese": "pt", "russian": "ru", "spanish": "es",
             "thai": "th", "turkish": "tr", "ukrainian": "uk", "vietnamese": "vi"}  # fmt: skip
    rows = [json.loads(line) for line in (folder / "TRUTH.jsonl").read_text("utf-8").splitlines()]
    rows = [row for row in rows if not row["file"].startswith("broken__")]
    wrong = [row["file"] for row in rows if language_of(row["text"]) != codes[row["file"].split("__")[0].split("-")[0]]]
    assert wrong == []
