"""Redaction, near-duplicates and the report."""

import json
from pathlib import Path

import pytest

from data.loading import LoadOptions, corpus_report, load_corpus
from data.loading.near_duplicates import find_near_duplicates
from data.loading.redaction import PATTERNS, redact
from raft_errors import BadInput

ALL = tuple(PATTERNS)
SENTENCES = [f"Sentence number {n} tells of river {n * 7} and of the town that stands there." for n in range(40)]


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("Write to ann.lee+x@mail.example.org.", "Write to [email]."),
        ("Card 4111 1111 1111 1111 expires", "Card [card] expires"),
        ("Not a card: 4111 1111 1111 1112", "Not a card: 4111 1111 1111 1112"),
        ("IBAN DE89 3704 0044 0532 0130 00, thanks", "IBAN [iban], thanks"),
        ("IBAN DE88 3704 0044 0532 0130 00", "IBAN DE88 3704 0044 0532 0130 00"),
        ("Call +49 (0)30 1234-5678 today", "Call [phone] today"),
        ("Call (555) 123-4567.", "Call [phone]."),
        ("Founded 1901-05-04, pages 100-200, 3.14159265358979", "Founded 1901-05-04, pages 100-200, 3.14159265358979"),
        ("key=AKIAABCDEFGHIJKLMNOP;", "key=[secret];"),
        ("-----BEGIN PRIVATE KEY-----\nabc\n-----END PRIVATE KEY-----", "[secret]"),
    ],
)
def test_personal_data_and_secrets_are_replaced_by_their_kind(text, clean):
    assert redact(text, ALL, ())[0] == clean


def test_only_the_kinds_asked_for_are_redacted_and_counted():
    text = "a@b.org, c@d.org, PROJECT-77, +49 30 12345678"
    assert redact(text, ("email",), (r"PROJECT-\d+",)) == (
        "[email], [email], [redacted], +49 30 12345678",
        {"email": 2, "redacted": 1},
    )


def test_a_load_redacts_before_offsets_are_taken(tmp_path: Path):
    (tmp_path / "a.md").write_text("# Ann a@b.org\n\nWrite to a@b.org.\n\n# Next\n\nWords.\n")
    corpus = load_corpus([str(tmp_path)], options=LoadOptions(redact=("email",)))
    document = corpus.documents[0]
    assert document.title == "Ann [email]"
    assert "@" not in document.text
    assert [document.text[start:].split("\n")[0] for start, _, _ in document.headings] == ["# Ann [email]", "# Next"]
    assert corpus_report(corpus)["redacted"] == {"email": 2}


@pytest.mark.parametrize("options", [LoadOptions(redact=("emails",)), LoadOptions(redact_patterns=("(",))])
def test_unknown_kinds_and_broken_patterns_are_bad_input(tmp_path, options):
    (tmp_path / "a.txt").write_text("Words.")
    with pytest.raises(BadInput, match="redact"):
        load_corpus([str(tmp_path)], options=options)


def test_a_text_with_a_small_change_is_a_near_duplicate_and_another_is_not():
    text = " ".join(SENTENCES)
    changed = " ".join([*SENTENCES[:20], "A new sentence.", *SENTENCES[20:]])
    other = " ".join(f"Quite another line {n} about the {n}th bridge of stone." for n in range(40))
    found = find_near_duplicates([text, other, changed, "too short", "too short"], 0.8)
    assert list(found) == [2]
    assert found[2][0] == 0
    assert 0.9 < found[2][1] < 1


@pytest.mark.slow
def test_near_duplicates_are_kept_flagged_or_dropped_as_asked(tmp_path: Path):
    (tmp_path / "a.txt").write_text(" ".join(SENTENCES))
    (tmp_path / "b.txt").write_text(" ".join([*SENTENCES, "The end."]))
    kept = load_corpus([str(tmp_path)])
    flagged = load_corpus([str(tmp_path)], options=LoadOptions(near_duplicates="flag"))
    dropped = load_corpus([str(tmp_path)], options=LoadOptions(near_duplicates="drop"))
    assert [len(corpus.documents) for corpus in (kept, flagged, dropped)] == [2, 2, 1]
    assert flagged.documents[1].metadata["near_duplicate_of"] == "a.txt"
    assert dropped.duplicates[0].same_as == "a.txt"
    assert dropped.duplicates[0].similarity > 0.9
    for corpus in (kept, flagged, dropped):
        counts = corpus.counts
        assert counts["found"] == 2 == counts["loaded"] + counts["quarantined"] + counts["duplicates"]


def test_the_report_counts_formats_encodings_and_reasons(tmp_path: Path):
    (tmp_path / "a.txt").write_bytes("Flüsse und Täler, Brücken und Häuser.".encode("cp1252"))
    (tmp_path / "b.md").write_text("# Head\n\nWords.")
    (tmp_path / "c.txt").write_text("")
    report = corpus_report(load_corpus([str(tmp_path)]))
    assert report["by_media_type"] == {"text/markdown": 1, "text/plain": 1}
    assert sum(report["by_encoding"].values()) == 2
    assert report["quarantined_by_reason"] == {"empty": 1}
    assert report["with_headings"] == 1
    json.dumps(report)


@pytest.mark.slow
@pytest.mark.shared_data
def test_the_short_and_the_long_version_of_real_pages_are_found(shared_data: Path):
    folder = shared_data / "messy_docs" / "docx"
    corpus = load_corpus([f"{folder}/markitdown_test*.docx"], options=LoadOptions(near_duplicates="flag"))
    assert [document.metadata.get("near_duplicate_of") for document in corpus.documents] == [
        None,
        "markitdown_test.docx",
    ]
