"""A saved data set or a Parquet file gives its own rows, and opens nothing that it names."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import datasets
import pyarrow
import pytest
from pyarrow import parquet

from data.loading import LoadOptions, load_corpus
from data.loading.formats.hf_datasets import folder_sha256
from data.loading.parse import load_file

watched: list[str] = []
opened: list[str] = []


def look(event: str, arguments: tuple) -> None:
    if watched and event in ("open", "os.listdir", "os.scandir", "socket.connect", "socket.getaddrinfo"):
        opened.extend(str(arguments[0]) for mark in watched if mark in str(arguments))


sys.addaudithook(look)


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A saved data set that no corpus names; `opened` tells what was opened of it."""
    folder = tmp_path / "outside_everything"
    datasets.Dataset.from_list([{"text": "Their secret row."}]).save_to_disk(folder)
    opened.clear()
    watched[:] = ["outside_everything"]
    yield folder
    watched.clear()


def save_splits(folder: Path) -> Path:
    rows = datasets.Dataset.from_list([{"text": "Our row."}])
    datasets.DatasetDict({"train": rows, "test.v2": rows}).save_to_disk(folder)
    return folder


def refusal(path: Path) -> tuple[str, str]:
    documents, quarantined, _ = load_file(path, path.name, LoadOptions())
    assert not documents
    return quarantined[0].reason, quarantined[0].detail


def test_the_splits_of_a_saved_data_set_are_its_rows(tmp_path: Path):
    documents, quarantined, _ = load_file(save_splits(tmp_path / "ours"), "ours", LoadOptions())
    assert [document.source for document in documents] == ["ours#1", "ours#2"]
    assert not quarantined


@pytest.mark.parametrize(
    "splits",
    ["[{absolute}]", '["../outside_everything"]', '["train", "train/../../outside_everything"]', "{{{absolute}: 1}}",
     '["file::{url}"]', '["..\\\\outside_everything"]', '[".."]', "[7]"],
)  # fmt: skip
def test_a_split_is_a_folder_in_the_data_set_and_nothing_else(tmp_path: Path, outside: Path, splits: str):
    ours = save_splits(tmp_path / "ours")
    text = splits.format(absolute=json.dumps(str(outside)), url=outside.as_uri()) if "{" in splits else splits
    (ours / "dataset_dict.json").write_text(f'{{"splits": {text}}}')
    reason, detail = refusal(ours)
    assert reason == "unreadable"
    assert detail.startswith("its dataset_dict.json")
    assert not opened


@pytest.mark.parametrize("key", ["_data_files", "_indices_files"])
def test_data_files_and_indices_lie_in_their_split(tmp_path: Path, outside: Path, key: str):
    ours = save_splits(tmp_path / "ours")
    state = ours / "train" / "state.json"
    body = json.loads(state.read_text())
    body[key] = [{"filename": str(next(outside.glob("*.arrow")))}]
    state.write_text(json.dumps(body))
    opened.clear()
    assert refusal(ours) == ("unreadable", "its state.json names what is not in its folder; do not trust this data set")
    assert not opened


def test_a_data_set_below_a_folder_that_reads_like_urls_is_not_looked_for_there(tmp_path: Path, outside: Path):
    ours = save_splits(tmp_path / f"x::file:{outside}".replace("//", "/"))
    assert "rename the folder" in refusal(ours)[1]


def test_what_lies_behind_a_linked_split_counts_as_the_data_sets_own(tmp_path: Path, outside: Path):
    ours = save_splits(tmp_path / "corpus" / "ours")
    (ours / "train").rename(tmp_path / "corpus" / "zz")
    (ours / "train").symlink_to(tmp_path / "corpus" / "zz")
    (tmp_path / "corpus" / "a.txt").write_text("Plain text.")
    before = folder_sha256(ours, LoadOptions())
    data = next((ours / "train").glob("*.arrow"))
    data.unlink()
    data.symlink_to(next(outside.glob("*.arrow")))
    assert folder_sha256(ours, LoadOptions()) != before
    opened.clear()
    corpus = load_corpus([str(tmp_path / "corpus")])
    assert ("ours", "link") in [(entry.source, entry.reason) for entry in corpus.quarantined]
    assert "Their secret row." not in [document.text for document in corpus.documents]


PICTURE = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
FEATURES = {
    "text": {"dtype": "string", "_type": "Value"},
    "picture": {"_type": "Image"},
    "sound": {"_type": "Audio"},
    "deep": {"more": {"feature": {"_type": "Image"}, "_type": "List"}},
}


@pytest.mark.parametrize("kind", ["saved", "parquet"])
@pytest.mark.parametrize(
    "place", ["outside_everything/note.txt", "outside_everything/gone.png", "http://outside_everything/a.png"]
)
def test_pictures_and_recordings_that_rows_name_are_never_opened(tmp_path: Path, outside: Path, kind: str, place: str):
    (outside / "note.txt").write_text("A secret note.")
    named = {"bytes": None, "path": place if "://" in place else str(tmp_path / place)}
    row = {"text": "Words beside a picture.", "picture": named, "sound": named, "deep": {"more": [named]}}
    deep = pyarrow.struct([("more", pyarrow.list_(PICTURE))])
    schema = pyarrow.schema([("text", pyarrow.string()), ("picture", PICTURE), ("sound", PICTURE), ("deep", deep)])
    table = pyarrow.Table.from_pylist([row], schema=schema)
    path = tmp_path / f"rows.{kind}"
    if kind == "parquet":
        stated = json.dumps({"info": {"features": FEATURES}})
        parquet.write_table(table.replace_schema_metadata({"huggingface": stated}), path)
    else:
        datasets.Dataset(table).save_to_disk(path)
        info = path / "dataset_info.json"
        info.write_text(json.dumps(json.loads(info.read_text()) | {"features": FEATURES}))
    opened.clear()
    documents, quarantined, _ = load_file(path, path.name, LoadOptions())
    assert [document.text for document in documents] == ["Words beside a picture."]
    assert not quarantined
    assert not opened


def test_the_bytes_of_a_picture_are_no_text(tmp_path: Path):
    row = {"caption": "A cat.", "picture": {"bytes": b"\x89PNG", "path": "cat.png"}, "more": [{"bytes": b"\x89PNG"}]}
    parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "rows.parquet")
    documents, _, _ = load_file(tmp_path / "rows.parquet", "rows.parquet", LoadOptions())
    assert "A cat." in documents[0].text
    assert "PNG" not in documents[0].text


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="makes a pipe")
@pytest.mark.parametrize("name", ["train/data-00000-of-00001.arrow", "train/state.json", "train/dataset_info.json"])
def test_a_pipe_in_a_saved_data_set_is_refused_before_anything_is_opened(tmp_path: Path, name: str):
    ours = save_splits(tmp_path / "ours")
    (ours / name).unlink()
    os.mkfifo(ours / name)
    (tmp_path / "plain.txt").write_text("Plain text.")
    corpus = load_corpus([str(tmp_path)], options=LoadOptions(max_seconds=5))
    assert [document.text for document in corpus.documents] == ["Plain text."]
    assert [(entry.source, entry.reason) for entry in corpus.quarantined] == [("ours", "unreadable")]
    assert corpus.quarantined[0].detail.startswith(f"{name} in it is not a regular file")
