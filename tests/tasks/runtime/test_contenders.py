"""Who may be compared: earlier adapters of the same base and prompt, and no others."""

import json

import pytest

from data.prompting.contract import load_template, prompt_contract
from raft_errors import BadInput
from tasks.inputs.models import ModelFiles
from tasks.runtime.contenders import contenders

CONTRACT = prompt_contract(load_template("raft"), passages=4, may_refuse=True)


def make_adapter(folder, *, base="b" * 64, contract=CONTRACT, weights=b"w", **fields):
    folder.mkdir(parents=True)
    settings = {"peft_type": "LORA", "target_modules": ["q_proj"], "r": 4, "lora_alpha": 8, **fields}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    (folder / "adapter_model.safetensors").write_bytes(weights)
    if base:
        serving = {"base_model": "some/base", "base_digest": base, "prompt": contract}
        (folder / "raft.json").write_text(json.dumps(serving))
    return folder


@pytest.fixture
def new(tmp_path):
    return make_adapter(tmp_path / "new" / "adapter")


def compare(new, *earlier):
    base = ModelFiles("some/base", new, "digest", "folder")
    return contenders(base, new, "weights", CONTRACT, [str(e) for e in earlier])


def test_without_earlier_adapters_it_is_base_against_adapter(new):
    assert [(c.name, c.adapter) for c in compare(new)] == [("base", None), ("adapter", new)]


def test_a_peft_folder_and_an_export_are_both_taken_and_told_apart(new, tmp_path):
    plain = make_adapter(tmp_path / "monday")
    make_adapter(tmp_path / "tuesday" / "adapter", weights=b"other")
    entrants = compare(new, plain, tmp_path / "tuesday")
    assert [c.name for c in entrants[2:]] == ["monday", "tuesday"]
    assert len({c.digest for c in entrants}) == 4


def test_two_folders_of_one_name_get_two_names(new, tmp_path):
    first, second = make_adapter(tmp_path / "a" / "adapter"), make_adapter(tmp_path / "b" / "adapter")
    assert len({c.name for c in compare(new, first, second, second)}) == 5


def test_another_base_is_refused_with_both_digests(new, tmp_path):
    with pytest.raises(BadInput, match=r"another base model .*base_digest: cccccc.*here bbbbbb"):
        compare(new, make_adapter(tmp_path / "old", base="c" * 64))


def test_an_adapter_that_is_more_than_lora_is_refused_before_anybody_answers(new, tmp_path):
    dora, twofold = make_adapter(tmp_path / "dora", use_dora=True), make_adapter(tmp_path / "twofold")
    (twofold / "adapter_model.bin").write_bytes(b"other")
    with pytest.raises(BadInput, match="use_dora=True"):
        compare(new, dora)
    with pytest.raises(BadInput, match="several sets of weights"):
        compare(new, twofold)


@pytest.mark.parametrize(
    ("change", "shown"),
    [({"may_refuse": False}, "may_refuse: False, here True"), ({"template_version": "x1"}, "template_version: x1")],
)
def test_another_prompt_contract_is_refused_with_what_differs(new, tmp_path, change, shown):
    with pytest.raises(BadInput, match=shown):
        compare(new, make_adapter(tmp_path / "old", contract={**CONTRACT, **change}))


def test_another_number_of_passages_is_no_other_prompt(new, tmp_path):
    assert compare(new, make_adapter(tmp_path / "old", contract={**CONTRACT, "passages": 8}))[2].name == "old"


def test_an_adapter_from_elsewhere_says_nothing_about_its_prompt_and_is_taken(new, tmp_path):
    assert compare(new, make_adapter(tmp_path / "theirs", base=""))[2].name == "theirs"


def test_a_folder_without_adapter_is_bad_input(new, tmp_path):
    with pytest.raises(BadInput, match="holds no adapter"):
        compare(new, tmp_path)
