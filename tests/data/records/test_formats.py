"""The written files load as they are in `datasets` and follow the columns that LLaMA-Factory and Axolotl document."""

import json

import pytest
import yaml
from made_up import ask_all, compose, corpus

from data.records.formats import FORMATS, write_records
from raft_errors import BadInput


@pytest.fixture(scope="module")
def result():
    chunks = corpus(20)
    return compose(chunks, ask_all(chunks))


def test_every_file_loads_in_datasets_and_says_the_same(result, tmp_path):
    from datasets import load_dataset

    write_records(tmp_path, {"train": result.train, "test": result.test, "validation": []}, formats=FORMATS)
    cache = str(tmp_path / "cache")
    alpaca = load_dataset("json", data_files=str(tmp_path / "train.jsonl"), split="train", cache_dir=cache)
    chat = load_dataset("json", data_files=str(tmp_path / "train.chat.jsonl"), split="train", cache_dir=cache)
    table = load_dataset("parquet", data_files=str(tmp_path / "train.parquet"), split="train", cache_dir=cache)
    assert alpaca.num_rows == chat.num_rows == table.num_rows == len(result.train)
    for i, record in enumerate(result.train[:5]):
        user, assistant = chat[i]["messages"]
        assert user == {"role": "user", "content": f"{record.instruction}\n{record.input}"}
        assert assistant == {"role": "assistant", "content": record.output}
        assert table[i]["output"] == alpaca[i]["output"] == record.output
        assert json.loads(table[i]["metadata"]) == record.metadata
    assert not (tmp_path / "validation.jsonl").exists()


def test_the_folder_is_one_data_set_in_which_no_record_stands_twice(result, tmp_path):
    from datasets import load_dataset

    splits = {"train": result.train, "validation": result.validation, "test": result.test}
    (tmp_path / "records").mkdir()
    write_records(tmp_path / "records", splits, formats=FORMATS)
    (tmp_path / "alone").mkdir()
    write_records(tmp_path / "alone", splits, formats=["parquet"])
    for folder, config, column in (
        ("records", None, "instruction"),
        ("records", "chat", "messages"),
        ("alone", None, "instruction"),
    ):
        loaded = load_dataset(str(tmp_path / folder), config, cache_dir=str(tmp_path / "cache"))
        assert {name: part.num_rows for name, part in loaded.items()} == {n: len(rows) for n, rows in splits.items()}
        assert column in loaded["train"].column_names


def test_the_registries_of_other_trainers_name_files_that_exist(result, tmp_path):
    write_records(tmp_path, {"train": result.train, "test": result.test}, formats=FORMATS)
    info = json.loads((tmp_path / "dataset_info.json").read_text())
    assert info["raft_train"]["columns"] == {"prompt": "instruction", "query": "input", "response": "output"}
    assert info["raft_train_chat"]["formatting"] == "sharegpt"
    assert all((tmp_path / entry["file_name"]).is_file() for entry in info.values())
    forms = [(entry["file_name"].split(".")[0], entry["formatting"]) for entry in info.values()]
    assert len(info) == len({entry["file_name"] for entry in info.values()})
    assert set(forms) == {(split, form) for split in ("train", "test") for form in ("alpaca", "sharegpt")}


@pytest.mark.parametrize(
    ("formats", "file", "kind"),
    [
        (FORMATS, "chat.jsonl", "chat_template"),
        (("alpaca", "parquet"), "jsonl", "alpaca"),
        (("parquet",), "parquet", "alpaca"),
    ],
)
def test_axolotl_is_given_every_training_record_once(result, tmp_path, formats, file, kind):
    """It trains on all that is listed; the validation is its test set, and the test is kept from it."""
    write_records(
        tmp_path, {"train": result.train, "validation": result.validation, "test": result.test}, formats=formats
    )
    text = (tmp_path / "axolotl.yaml").read_text()
    sections = yaml.safe_load(text)
    assert set(sections) == {"datasets", "test_datasets"}
    for section, split in (("datasets", "train"), ("test_datasets", "validation")):
        (entry,) = sections[section]
        assert (entry["path"], entry["type"], entry["split"]) == (f"{split}.{file}", kind, "train")
        assert (tmp_path / entry["path"]).is_file()
    assert ("adds a preamble" in text) == (kind == "alpaca")
    assert "test." not in text


def test_the_same_records_give_the_same_bytes_in_folders_that_are_made(result, tmp_path):
    for name in ("a", "b"):
        write_records(tmp_path / name, {"train": result.train}, formats=FORMATS)
    for path in sorted((tmp_path / "a").iterdir()):
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_an_unknown_format_is_refused(result, tmp_path):
    with pytest.raises(BadInput, match="parquet"):
        write_records(tmp_path, {"train": result.train}, formats=["csv"])
