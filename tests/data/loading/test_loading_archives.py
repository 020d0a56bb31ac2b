"""Archives when asked for, and data sets saved in folders."""

import gzip
import io
import json
import tarfile
import zipfile
from pathlib import Path

import pytest

from data.loading import LoadOptions, load_corpus
from data.loading.parse import load_file
from data.nouns import MemoryCache

OPEN = LoadOptions(archives=True, max_unpacked_bytes=1_000_000)


def write_zip(path: Path, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def inner_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("deep.txt", "Deep words.")
    return buffer.getvalue()


def test_files_inside_a_zip_are_loaded_and_tricks_are_not(tmp_path: Path):
    members = {
        "docs/b.md": b"# Two\n\nSecond text.",
        "a.txt": b"First text.",
        "rows.jsonl": b'{"id": "x", "text": "Row."}',
        "../climb.txt": b"Never read.",
        ".hidden": b"Never read.",
        "inner.zip": inner_zip(),
        "empty.txt": b"",
    }
    write_zip(tmp_path / "a.zip", members)
    documents, quarantined, _ = load_file(tmp_path / "a.zip", "a.zip", OPEN)
    assert [document.source for document in documents] == ["a.zip/a.txt", "a.zip/docs/b.md", "a.zip/rows.jsonl#x"]
    assert [(entry.source, entry.reason) for entry in quarantined] == [
        ("a.zip/../climb.txt", "unreadable"),
        ("a.zip/empty.txt", "empty"),
        ("a.zip/inner.zip", "archive"),
    ]


def test_a_compressed_file_is_read_as_what_it_holds(tmp_path: Path):
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(b'{"id": 1, "text": "Row one."}\n'))
    documents, _, _ = load_file(tmp_path / "rows.jsonl.gz", "rows.jsonl.gz", OPEN)
    assert [(document.source, document.text) for document in documents] == [("rows.jsonl.gz/rows.jsonl#1", "Row one.")]


def test_a_tar_gives_its_files_and_refuses_links(tmp_path: Path):
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        entry = tarfile.TarInfo("a.txt")
        entry.size = 11
        archive.addfile(entry, io.BytesIO(b"First text."))
        link = tarfile.TarInfo("link.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    documents, quarantined, _ = load_file(tmp_path / "a.tar.gz", "a.tar.gz", OPEN)
    assert [document.source for document in documents] == ["a.tar.gz/a.txt"]
    assert [(entry.source, entry.reason) for entry in quarantined] == [("a.tar.gz/link.txt", "unreadable")]


@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_equally_named_files_of_an_archive_stay_apart(tmp_path: Path, kind: str):
    rows = "d.1/rows.jsonl"
    members = [(rows, '{"id": "x", "text": "Row one."}'), (rows, '{"id": "x", "text": "Row two."}'),
               ("a.txt", "First."), ("a.txt", "Second."), ("a.txt", ""), ("a~2.txt", "Its own."), ("d.1/b", "One."),
               ("d.1/b", "Two.")]  # fmt: skip
    path = tmp_path / f"a.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, text in members:
                archive.writestr(name, text)
    else:
        with tarfile.open(path, "w") as archive:
            for name, text in members:
                entry = tarfile.TarInfo(name)
                entry.size = len(text)
                archive.addfile(entry, io.BytesIO(text.encode()))
    documents, quarantined, _ = load_file(path, "a", OPEN)
    assert {document.source: document.text for document in documents} == {
        "a/a.txt": "First.",
        "a/a~2.txt": "Second.",
        "a/a~2~2.txt": "Its own.",
        "a/d.1/b": "One.",
        "a/d.1/b~2": "Two.",
        "a/d.1/rows.jsonl#x": "Row one.",
        "a/d.1/rows~2.jsonl#x": "Row two.",
    }
    assert [(entry.source, entry.reason) for entry in quarantined] == [("a/a~3.txt", "empty")]


@pytest.mark.parametrize("name", ["bomb.zip", "bomb.gz"])
def test_what_comes_out_of_an_archive_is_bounded(tmp_path: Path, name: str):
    if name.endswith(".zip"):
        write_zip(tmp_path / name, {f"{n}.txt": b"a" * 300_000 for n in range(5)})
    else:
        (tmp_path / name).write_bytes(gzip.compress(b"a" * 2_000_000))
    documents, quarantined, _ = load_file(tmp_path / name, name, OPEN)
    assert not documents
    assert [entry.reason for entry in quarantined] == ["too-large"]


def test_archives_stay_closed_unless_asked_for(tmp_path: Path):
    write_zip(tmp_path / "a.zip", {"a.txt": b"First text."})
    assert load_file(tmp_path / "a.zip", "a.zip", LoadOptions())[1][0].reason == "archive"


def test_a_damaged_archive_is_unreadable(tmp_path: Path):
    (tmp_path / "a.gz").write_bytes(gzip.compress(json.dumps(list(range(1000))).encode())[:500])
    assert load_file(tmp_path / "a.gz", "a.gz", OPEN)[1][0].reason == "unreadable"


@pytest.mark.slow
def test_a_folder_saved_by_datasets_is_rows(tmp_path: Path):
    datasets = pytest.importorskip("datasets")
    rows = {"id": ["a", "b"], "text": ["First words.", "Second words."]}
    datasets.Dataset.from_dict(rows).save_to_disk(str(tmp_path / "corpus" / "saved"))
    (tmp_path / "corpus" / "plain.txt").write_text("Plain words.")
    cache = MemoryCache()
    corpus = load_corpus([str(tmp_path / "corpus")], cache=cache)
    assert [document.source for document in corpus.documents] == ["plain.txt", "saved#a", "saved#b"]
    assert load_corpus([str(tmp_path / "corpus")], cache=cache).cached == 2
    alone = load_corpus([str(tmp_path / "corpus" / "saved")])
    assert [document.source for document in alone.documents] == ["saved#a", "saved#b"]
