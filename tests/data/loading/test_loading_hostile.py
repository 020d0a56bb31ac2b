"""Hostile and broken files end in quarantine with their reason, in bounded time and memory."""

import io
import json
import zipfile
from pathlib import Path

import pytest

from data.loading import LoadOptions, load_corpus
from data.loading.parse import load_file

CONTENT_TYPES = '<?xml version="1.0"?><Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"/>'
LAUGHS = (
    '<?xml version="1.0"?><!DOCTYPE lolz [<!ENTITY lol "lol">'
    + "".join(f'<!ENTITY lol{n} "{f"&lol{n - 1 or str()};" * 10}">' for n in range(1, 10))
    + "]><lolz>&lol9;</lolz>"
)
SMALL = LoadOptions(max_file_bytes=50_000_000, max_unpacked_bytes=20_000_000, max_seconds=20)


def zipped(members: dict[str, bytes | str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def docx(document: bytes | str, **others: bytes | str) -> bytes:
    return zipped({"[Content_Types].xml": CONTENT_TYPES, "word/document.xml": document, **others})


def reason_of(tmp_path: Path, name: str, raw: bytes, options: LoadOptions = SMALL) -> str:
    """The reason with which one file is refused, read in this process."""
    file = tmp_path / name
    file.write_bytes(raw)
    documents, quarantined, _ = load_file(file, name, options)
    assert not documents
    assert len(quarantined) == 1
    assert quarantined[0].source == name
    assert len(quarantined[0].detail) > 15
    return quarantined[0].reason


def text_of(tmp_path: Path, name: str, raw: bytes, options: LoadOptions = SMALL) -> str:
    file = tmp_path / name
    file.write_bytes(raw)
    documents, quarantined, _ = load_file(file, name, options)
    assert not quarantined
    return documents[0].text


@pytest.mark.parametrize(
    ("name", "raw", "reason"),
    [
        ("laughs.xml", LAUGHS.encode(), "unreadable"),
        ("laughs.docx", docx(LAUGHS), "unreadable"),
        ("laughs16.docx", docx(LAUGHS.replace('"1.0"', '"1.0" encoding="utf-16"').encode("utf-16")), "unreadable"),
        (
            "laughs.odt",
            zipped({"mimetype": "application/vnd.oasis.opendocument.text", "content.xml": LAUGHS}),
            "unreadable",
        ),
        ("bomb.docx", docx(b"a" * 30_000_000), "too-large"),
        ("ratio.docx", docx(b"a" * 19_000_000), "too-large"),
        ("members.docx", docx("x", **{f"word/{n}": b"" for n in range(20_001)}), "too-large"),
        ("climb.docx", docx("x", **{"../../etc/evil": "x"}), "unreadable"),
        ("absolute.docx", docx("x", **{"/etc/evil": "x"}), "unreadable"),
        ("drive.docx", docx("x", **{"C:/evil": "x"}), "unreadable"),
        ("no_xml.docx", docx("this is no XML"), "unreadable"),
        ("cut.docx", docx("x" * 1000)[:300], "unreadable"),
        ("plain.zip", zipped({"a.txt": "text"}), "archive"),
        ("plain.tar", b"a.txt" + b"\0" * 252 + b"ustar" + b"\0" * 300, "archive"),
        ("plain.gz", b"\x1f\x8b\x08" + b"\0" * 50, "archive"),
        ("picture.txt", b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "unsupported"),
        ("program", b"\x7fELF" + b"\0" * 100, "unsupported"),
        ("old.doc", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 600, "unreadable"),
        ("noise.txt", bytes(range(256)) * 100, "unsupported"),
        ("empty.txt", b"", "empty"),
        ("blank.md", b" \n\t\n ", "empty"),
        ("nuls.txt", b"\0" * 1000, "empty"),
        ("marks.txt", b"--- *** ---\n", "empty"),
        ("header.pdf", b"%PDF-1.7\n", "unreadable"),
        ("noise.pdf", b"%PDF-1.7\n" + bytes(range(256)) * 50, "unreadable"),
        ("nested.json", b"[" * 200_000 + b"]" * 200_000, "unreadable"),
        ("broken.json", b'{"text": ', "unreadable"),
        ("deep.rtf", b"{\\rtf1 " + b"{" * 100_000, "unreadable"),
        ("broken.ipynb", b'{"cells": 3, "nbformat": 4}', "unreadable"),
        ("broken.parquet", b"PAR1" + b"x" * 100, "unreadable"),
        ("long.txt", b"word " * 20_000, "too-large"),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 20 else "",
)
@pytest.mark.slow
def test_a_bad_file_is_refused_with_its_reason(tmp_path, name, raw, reason):
    options = LoadOptions(max_unpacked_bytes=20_000_000, max_chars=50_000 if name == "long.txt" else 20_000_000)
    assert reason_of(tmp_path, name, raw, options) == reason


@pytest.mark.slow
def test_a_file_over_the_size_limit_is_not_read(tmp_path):
    with (tmp_path / "line.txt").open("wb") as file:
        file.truncate(1_000_000_000)  # sparse: one line of a gigabyte
    (tmp_path / "good.txt").write_text("Good words.")
    corpus = load_corpus([str(tmp_path)])
    assert [(entry.source, entry.reason) for entry in corpus.quarantined] == [("line.txt", "too-large")]


def test_encrypted_zip_members_are_named_so(tmp_path):
    raw = bytearray(docx("x"))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = raw.find(signature)
        while place >= 0:
            raw[place + offset] |= 1
            place = raw.find(signature, place + 4)
    assert reason_of(tmp_path, "locked.docx", bytes(raw)) == "encrypted"


def test_a_member_that_lies_about_its_size_is_refused(tmp_path):
    raw = bytearray(docx(b"<a>" + b"x" * 100_000 + b"</a>"))
    for place in range(len(raw) - 4):
        if raw[place : place + 4] == b"PK\x01\x02":
            raw[place + 24 : place + 28] = (10).to_bytes(4, "little")
    assert reason_of(tmp_path, "liar.docx", bytes(raw)) == "unreadable"


def test_nul_bytes_and_lone_surrogates_never_reach_a_document(tmp_path):
    assert text_of(tmp_path, "nul.txt", b"some words\0 and more words, so many words\0") == (
        "some words and more words, so many words"
    )
    row = json.dumps({"text": "half \ud83d pair \0 end", "title": "t\udc00", "id": "i\ud800", "note": "n"}).encode()
    (tmp_path / "rows.jsonl").write_bytes(row)
    documents, _, _ = load_file(tmp_path / "rows.jsonl", "rows.jsonl", SMALL)
    json.dumps(documents[0].to_dict(), ensure_ascii=False).encode("utf-8")
    assert documents[0].text == "half \ufffd pair  end"


@pytest.mark.slow
def test_deeply_nested_html_keeps_its_words(tmp_path):
    page = b"<html><body>" + b"<div>" * 30_000 + b"words at the bottom" + b"</div>" * 30_000
    assert text_of(tmp_path, "deep.html", page) == "words at the bottom"


def test_a_long_line_of_json_costs_that_line(tmp_path):
    lines = [b'{"text": "first"}', b'{"text": "' + b"x" * 60_000 + b'"}', b'{"text": "last"}']
    (tmp_path / "rows.jsonl").write_bytes(b"\n".join(lines))
    documents, quarantined, _ = load_file(tmp_path / "rows.jsonl", "rows.jsonl", LoadOptions(max_chars=50_000))
    assert [document.text for document in documents] == ["first", "last"]
    assert [(entry.source, entry.reason) for entry in quarantined] == [("rows.jsonl#2", "bad-line")]


@pytest.mark.slow
def test_a_hostile_folder_costs_only_its_hostile_files(tmp_path):
    (tmp_path / "bomb.docx").write_bytes(docx(b"a" * 30_000_000))
    (tmp_path / "laughs.xml").write_text(LAUGHS)
    (tmp_path / "deep.json").write_bytes(b"[" * 300_000)
    (tmp_path / "good.txt").write_text("Good words.")
    corpus = load_corpus([str(tmp_path)], options=LoadOptions(max_unpacked_bytes=20_000_000))
    assert [document.source for document in corpus.documents] == ["good.txt"]
    assert {entry.source for entry in corpus.quarantined} == {"bomb.docx", "laughs.xml", "deep.json"}
    assert corpus.counts["found"] == 4


@pytest.mark.slow
def test_a_file_that_takes_too_long_is_quarantined_and_tried_again_next_time(tmp_path, monkeypatch):
    from data.nouns import MemoryCache

    (tmp_path / "a.txt").write_text("Good words.")
    (tmp_path / "slow.html").write_text("<p>" + "<b><i><p>x" * 150_000)
    cache = MemoryCache()
    corpus = load_corpus([str(tmp_path)], options=LoadOptions(max_seconds=0.4), cache=cache)
    assert [(entry.source, entry.reason) for entry in corpus.quarantined] == [("slow.html", "too-slow")]
    assert len(cache.items) == 1
