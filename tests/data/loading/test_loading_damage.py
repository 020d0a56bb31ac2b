"""Damaged bytes: letters that can be told are mended, the others are marked, and either is said."""

import json
from pathlib import Path

import pytest

from data.loading import LoadOptions, corpus_report, load_corpus
from data.loading.text import decode

POLISH = "Żółta łódź płynie po rzece. "


@pytest.mark.parametrize(
    ("raw", "text", "codec"),
    [
        (POLISH.encode() + b"Pan M\xfcller.", POLISH + "Pan Müller.", "cp1252"),
        (POLISH.encode() + b"Rzeka pr\xb9d", POLISH + "Rzeka pr\ufffdd", ""),
        ("Das Café in ".encode() + b"\xd6sterreich", "Das Café in Österreich", "cp1252"),
        ("Der Zug nach Köln, ".encode() + b"don\x92t \x96 no", "Der Zug nach Köln, don’t – no", "cp1252"),
        ("Köln – Łódź, ".encode() + b"don\x92t", "Köln – Łódź, don’t", "cp1252"),
        (b"\xef\xbb\xbf" + "für ".encode() + b"M\xfcller", "für Müller", "cp1252"),
    ],
)
def test_a_letter_of_another_encoding_is_mended_where_it_makes_a_word(raw, text, codec):
    read, encoding = decode(raw)
    assert read == text
    assert ("read as" in encoding) == bool(codec)
    assert codec in encoding


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (POLISH.encode() + "żyć".encode()[1:], POLISH + "\ufffdyć"),
        (POLISH.encode() + b"\xc5ycie", POLISH + "\ufffdycie"),
        (POLISH.encode() + "12 €".encode()[:-1] + b" x", POLISH + "12 \ufffd x"),
    ],
)
def test_a_cut_letter_is_marked_and_not_made_up(raw, text):
    assert decode(raw) == (text, "utf-8")


def test_damaged_characters_are_told_in_metadata_and_report(tmp_path: Path):
    (tmp_path / "a.txt").write_bytes(POLISH.encode() * 3 + b"Nie \xc5ycie")
    (tmp_path / "b.txt").write_text("Already \ufffd lost before.", encoding="utf-8")
    corpus = load_corpus([str(tmp_path)], options=LoadOptions(workers=1))
    assert [document.metadata["damaged_characters"] for document in corpus.documents] == [1, 1]
    assert corpus_report(corpus)["damaged_characters"] == 2
    assert "damaged" in json.dumps(corpus_report(corpus))


def test_text_that_is_no_utf_8_is_not_taken_for_a_damaged_one():
    for text, codec in (
        ("Le CAFÉ» à côté de la forêt brûlée.", "cp1252"),
        ("Günther und Jürgen fahren über die Brücke.", "cp1252"),
        ("Вчера вечером поезд опоздал на час. Её дети ели яблоки.", "koi8_r"),
        ("昨日の夜、電車は一時間遅れました。", "euc_jp"),
        ("昨天晚上火车晚点了一个小时。", "gb18030"),
        ("เมื่อคืนรถไฟมาช้าหนึ่งชั่วโมง เด็กกินแอปเปิลและดูแม่น้ำ", "cp874"),
    ):
        assert not decode(text.encode(codec))[1].startswith("utf-8"), codec


@pytest.mark.parametrize("text", ["日本の港は\n日曜日に閉まります。", "The gate opens at six.\nNot before."])
@pytest.mark.parametrize("codec", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_a_mark_also_where_it_is_cut(text, codec):
    assert decode(text.encode(codec)) == (text, codec)
    assert decode(text.encode(codec)[:-1]) == (text[:-1], codec)
