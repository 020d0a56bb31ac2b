"""Mail: each part in its own charset, headers decoded, forwarded messages read, mailboxes taken apart."""

import base64
from pathlib import Path

import pytest

from data.loading import LoadOptions
from data.loading.parse import load_file
from data.nouns import Document

HEAD = "From: depot@example.org\nTo: team@example.org\nSubject: Hours\nMIME-Version: 1.0\n"
FEES = "Das Tor in Lübeck – 12 €, in Łódź und 東京 öffnet um sieben."


def load(tmp_path: Path, raw: bytes | str, name: str = "a.eml") -> list[Document]:
    (tmp_path / name).write_bytes(raw.encode() if isinstance(raw, str) else raw)
    documents, quarantined, _ = load_file(tmp_path / name, name, LoadOptions())
    assert not quarantined
    return documents


def body(tmp_path: Path, raw: bytes | str) -> str:
    (document,) = load(tmp_path, raw)
    return document.text.partition("\n\n")[2]


def part(kind: str, content: bytes | str, coding: str = "8bit", more: str = "") -> bytes:
    raw = content.encode() if isinstance(content, str) else content
    return f"Content-Type: {kind}\nContent-Transfer-Encoding: {coding}\n{more}\n".encode() + raw


def several(kind: str, *parts: bytes, boundary: str = "edge") -> bytes:
    joined = b"".join(b"--" + boundary.encode() + b"\n" + one + b"\n" for one in parts)
    return f'Content-Type: multipart/{kind}; boundary="{boundary}"\n\n'.encode() + joined + f"--{boundary}--\n".encode()


@pytest.mark.parametrize("kind", ["text/plain; charset=utf-8", "text/plain", "text/plain; charset=us-ascii"])
def test_a_body_in_8_bit_utf_8_is_read_as_it_was_written(tmp_path, kind):
    assert body(tmp_path, HEAD.encode() + part(kind, FEES)) == FEES


@pytest.mark.parametrize(
    ("charset", "codec", "text"),
    [
        ("windows-1251", "cp1251", "Склад открыт до восьми часов вечера."),
        ("koi8-r", "koi8_r", "Склад открыт до восьми часов вечера."),
        ("x-sjis", "cp932", "港は日曜日に閉まります。①"),
        ("ks_c_5601-1987", "cp949", "항구는 일요일에 닫습니다."),
        ("gb2312", "gb18030", "港口星期天关闭。"),
        ("iso-2022-jp", "iso2022_jp", "港は日曜日に閉まります。"),
        ("hz-gb-2312", "hz", "港口星期天关闭。"),
        ("iso-8859-1", "cp1252", "Der Hafen – „zu“ am Sonntag, 12 €."),
    ],
)
def test_each_part_is_read_in_its_own_charset(tmp_path, charset, codec, text):
    mixed = several(
        "mixed",
        part(f"text/plain; charset={charset}", text.encode(codec)),
        part("text/plain; charset=utf-8", FEES),
    )
    assert body(tmp_path, HEAD.encode() + mixed) == f"{text}\n\n{FEES}"


def test_transfer_encodings_and_flowed_lines(tmp_path):
    quoted = part("text/plain; charset=utf-8", "Die Fl=C3=BCsse =\nsteigen.", "quoted-printable")
    coded = part("text/plain; charset=utf-8", base64.encodebytes(FEES.encode()), "base64")
    flowed = part("text/plain; charset=utf-8; format=flowed", "One line that \ngoes on.\n> quoted \n> too\nEnd.")
    assert body(tmp_path, HEAD.encode() + several("mixed", quoted, coded, flowed)) == (
        f"Die Flüsse steigen.\n\n{FEES}\n\nOne line that goes on.\n> quoted too\nEnd."
    )


def test_of_two_forms_the_plain_one_unless_it_is_a_stub(tmp_path):
    page = part("text/html; charset=utf-8", "<p>The gate opens at <del>six</del> seven, and closes at nine.</p>" * 3)
    assert body(
        tmp_path,
        HEAD.encode()
        + several("alternative", part("text/plain", "Gate: open from seven to nine, not on Sundays."), page),
    ) == ("Gate: open from seven to nine, not on Sundays.")
    stub = several("alternative", part("text/plain", "See the page."), page)
    assert "opens at seven" in body(tmp_path, HEAD.encode() + stub)
    nested = several("related", page, part("image/png", b"x", "base64"), boundary="inner")
    (document,) = load(tmp_path, HEAD.encode() + several("alternative", part("text/plain", " "), nested))
    assert "opens at seven" in document.text
    assert document.metadata["left_out"] == {"struck out": 3}


def test_forwarded_messages_are_read_and_attachments_named(tmp_path):
    inner = b"From: ann@example.org\nSubject: Keys\n\nThe keys hang by the door.\n"
    named = part("application/pdf", b"JVBERg==", "base64", 'Content-Disposition: attachment; filename="plan.pdf"\n')
    note = part("text/plain", "not opened", more='Content-Disposition: attachment; filename="note.txt"\n')
    whole = several("mixed", part("text/plain", "See below."), named, note, b"Content-Type: message/rfc822\n\n" + inner)
    (document,) = load(tmp_path, HEAD.encode() + whole)
    assert document.text.partition("\n\n")[2] == (
        "See below.\n\n## Keys\nFrom: ann@example.org\n\nThe keys hang by the door."
    )
    assert document.metadata["attachments"] == ["plan.pdf", "note.txt"]


@pytest.mark.parametrize(
    ("subject", "read"),
    [
        (b"=?utf-8?q?Fl=C3=BCsse?= =?utf-8?q?_und_T=C3=A4ler?=", "Flüsse und Täler"),
        (b"=?x-sjis?B?" + base64.b64encode("港の時間".encode("cp932")) + b"?=", "港の時間"),
        (b"=?iso-8859-1*en?Q?Caf=E9?= hours", "Café hours"),
        ("Öffnung in Łódź".encode(), "Öffnung in Łódź"),
        (b"A long subject\n that goes on", "A long subject that goes on"),
        (b"=?broken?x?a?=", "=?broken?x?a?="),
    ],
)
def test_subjects_are_read_whatever_wrote_them(tmp_path, subject, read):
    (document,) = load(tmp_path, b"From: a@b.example\nTo: c@d.example\nSubject: " + subject + b"\n\nBody.\n")
    assert document.title == read


def test_a_message_saved_in_a_wide_encoding(tmp_path):
    raw = (HEAD + "Content-Type: text/plain; charset=iso-8859-1\n\n" + FEES).encode("utf-16")
    assert body(tmp_path, raw) == FEES


def message(number: int) -> str:
    coded = base64.b64encode(f"Depot {number} opens at {number + 5}.".encode()).decode()
    return (
        f"From depot@example.org Mon Jan  1 00:00:0{number} 2024\n{HEAD}Content-Type: text/plain; charset=utf-8\n"
        f"Content-Transfer-Encoding: base64\n\n{coded}\n\n"
    )


@pytest.mark.parametrize("name", ["inbox.mbox", "inbox", "Sent.txt"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_every_message_of_a_mailbox_is_a_document(tmp_path, name, newline):
    box = "".join(map(message, (1, 2, 3))).replace("\n", newline)
    documents = load(tmp_path, box, name)
    assert [document.source for document in documents] == [f"{name}#{n}" for n in (1, 2, 3)]
    assert [document.text.rpartition("\n\n")[2] for document in documents] == [
        f"Depot {n} opens at {n + 5}." for n in (1, 2, 3)
    ]


def test_quoted_separators_charsets_and_one_damaged_message_in_a_mailbox(tmp_path):
    first = message(1)
    second = (
        b"From - Mon Jan 01 10:00:00 2024\nSubject: two\nContent-Type: text/plain; charset=cp1251\n"
        b"Content-Transfer-Encoding: 8bit\n\n"
    ) + "Склад открыт.\n".encode("cp1251") + b">From here it is a mile.\n\n"  # fmt: skip
    empty = b"From - Mon Jan 01 11:00:00 2024\nX-Empty: yes\n\n\n"
    (tmp_path / "box").write_bytes(first.encode() + second + empty)
    documents, quarantined, _ = load_file(tmp_path / "box", "box", LoadOptions())
    assert documents[1].text.partition("\n\n")[2] == "Склад открыт.\nFrom here it is a mile."
    assert [(entry.source, entry.reason) for entry in quarantined] == [("box#3", "empty")]


def test_one_message_with_a_separator_is_a_message_and_prose_is_no_mailbox(tmp_path):
    (document,) = load(tmp_path, message(1), "a.eml")
    assert document.source == "a.eml"
    (prose,) = load(tmp_path, "From the harbour it is a mile, at 10:30 the gate opens.\n\nThe end.", "b.txt")
    assert prose.source == "b.txt"
    folded = (
        "Received: by a.example\n\twith SMTP;\n\tMon, 1 Jan\nFrom: a@b.example\nSubject: x\nTo: c@d.example\n\nBody."
    )
    assert load(tmp_path, folded, "1700000000.M1")[0].media_type == "message/rfc822"
