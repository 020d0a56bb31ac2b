"""Bases whose chat templates think: what `raft records` refuses, what mends it, and where the setting goes."""

import json
import shutil
from pathlib import Path

import pytest

TURNS = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
OPENS = TURNS + "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
SWITCH = TURNS + (
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think></think>\n{% endif %}{% endif %}"
)


@pytest.fixture
def with_template(project, tmp_path):
    """`with_template(source)`: the project, its base with this chat template."""

    def change(source):
        base = shutil.copytree(project.domain / "base", tmp_path / "thinking", dirs_exist_ok=True)
        (base / "chat_template.jinja").write_text(source)
        project.values["models"]["base"] = str(base)
        project.write()
        return project

    return change


def records(project, *more: str) -> Path:
    rows = project.json("records", "--no-prefect", *more)["stages"]
    return Path(next(row["folder"] for row in rows if row["stage"] == "records"))


@pytest.mark.slow
def test_an_open_block_of_thoughts_stops_the_run_before_its_first_stage(with_template):
    project = with_template(OPENS)
    refused = project.raft("records", "--no-prefect", check=False)
    assert refused.returncode == 2
    assert "block that stays open" in refused.stderr
    assert "models.prefill" in refused.stderr
    assert not list((project.folder / ".raft" / "store").glob("ingest/*"))
    project.values["models"]["prefill"] = "\n</think>\n\n"
    project.write()
    folder = records(project)
    first = json.loads((folder / "train.jsonl").read_text().splitlines()[0])
    shown = (folder / "preflight.txt").read_text()
    assert f"assistant\n<think>\n\n</think>\n\n⟦{first['output']}<|im_end|>⟧" in shown
    assert json.loads((folder / "contract.json").read_text())["chat_template"]["prefill"] == "\n</think>\n\n"


@pytest.mark.slow
def test_a_variable_reaches_prompts_contract_and_keys(with_template):
    project = with_template(SWITCH)
    plain = records(project)
    closed = records(project, "--set", "models.chat_template.enable_thinking=false")
    opened = records(project, "--set", "models.chat_template={enable_thinking: true}")
    assert len({plain, closed, opened}) == 3, "each form has records of its own"
    assert "assistant\n⟦" in (plain / "preflight.txt").read_text()
    assert "assistant\n<think></think>\n⟦" in (closed / "preflight.txt").read_text()
    form = json.loads((closed / "contract.json").read_text())["chat_template"]
    assert form["variables"] == {"enable_thinking": False}
    assert form["after"] == "<|im_end|>\n<|im_start|>assistant\n<think></think>\n"
    wrong = project.raft("records", "--no-prefect", "--set", "models.chat_template.thinking=false", check=False)
    assert wrong.returncode == 2
    assert "enable_thinking" in wrong.stderr


def test_a_base_that_is_told_nothing_has_the_digest_of_its_files(project):
    from tasks.inputs.models import on_this_machine

    base = on_this_machine(project.values["models"]["base"])
    assert base.with_chat({}, "") == base
    told = [base.with_chat({"a": 1}, ""), base.with_chat({"a": 2}, ""), base.with_chat({}, "So "), base]
    assert len({one.digest for one in told}) == 4
    assert all(one.digest_now() == one.digest for one in told)


def test_an_adapter_that_was_asked_in_another_form_is_no_rival(tmp_path):
    from data.prompting.contract import load_template, prompt_contract
    from raft_errors import BadInput
    from tasks.runtime.contenders import check_serving

    plain = prompt_contract(load_template(), passages=2, may_refuse=True)
    told = {**plain, "chat_template": {"variables": {"enable_thinking": False}, "prefill": "", "after": "x"}}
    silent = {**plain, "chat_template": {"variables": {}, "prefill": "", "after": "x"}}
    for name, contract in (("old", plain), ("told", told), ("new", silent)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "raft.json").write_text(json.dumps({"base_digest": "b", "prompt": contract}))
    check_serving(tmp_path / "old", silent, tmp_path / "new")  # made before the contract told of it
    with pytest.raises(BadInput, match="enable_thinking"):
        check_serving(tmp_path / "told", silent, tmp_path / "new")
