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


def test_the_registries_of_other_trainers_name_files_that_exist(result, tmp_path):
    write_records(tmp_path, {"train": result.train, "test": result.test}, formats=FORMATS)
    info = json.loads((tmp_path / "dataset_info.json").read_text())
    assert info["raft_train"]["columns"] == {"prompt": "instruction", "query": "input", "response": "output"}
    assert info["raft_train_chat"]["formatting"] == "sharegpt"
    assert all((tmp_path / entry["file_name"]).is_file() for entry in info.values())
    datasets = yaml.safe_load((tmp_path / "axolotl.yaml").read_text())["datasets"]
    assert {d["type"] for d in datasets} == {"alpaca", "chat_template"}
    assert all((tmp_path / d["path"]).is_file() for d in datasets)


def test_the_same_records_give_the_same_bytes_in_folders_that_are_made(result, tmp_path):
    for name in ("a", "b"):
        write_records(tmp_path / name, {"train": result.train}, formats=FORMATS)
    for path in sorted((tmp_path / "a").iterdir()):
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_an_unknown_format_is_refused(result, tmp_path):
    with pytest.raises(BadInput, match="parquet"):
        write_records(tmp_path, {"train": result.train}, formats=["csv"])
