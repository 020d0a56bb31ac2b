"""What users give that cannot work: one clear message, the right exit code, no traceback, nothing half done."""

import json
import shutil
import sys

import pytest
import tiny

pytestmark = pytest.mark.slow


def refused(project, *arguments, code=2):
    done = project.raft(*arguments, "--no-prefect", check=False)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert "Error: " in done.stderr
    return done.stderr


def test_an_empty_corpus_folder(project, tmp_path):
    (tmp_path / "empty").mkdir()
    project.values["corpus"] = ["empty"]
    project.write()
    assert "empty: no files there" in refused(project, "ingest")


def test_a_folder_without_one_readable_document_says_why_each_was_refused(project, tmp_path):
    folder = tmp_path / "broken"
    folder.mkdir()
    (folder / "a.pdf").write_bytes(b"%PDF-1.4 and then nothing")
    (folder / "b.txt").write_bytes(b"")
    project.values["corpus"] = ["broken"]
    project.write()
    output = refused(project, "ingest")
    assert "not one readable document" in output
    assert "empty" in output


def test_a_base_of_another_architecture_is_refused_before_anything_is_built(project, tmp_path, domain):
    shutil.copytree(domain / "base", tmp_path / "gpt2")
    config = json.loads((tmp_path / "gpt2" / "config.json").read_text())
    config |= {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"}
    (tmp_path / "gpt2" / "config.json").write_text(json.dumps(config))
    project.values["models"]["base"] = "gpt2"
    project.write()
    output = refused(project, "run")
    assert "GPT2LMHeadModel" in output
    assert "LlamaForCausalLM" in output
    assert "ingest …" not in output


def test_a_judge_without_a_key_is_refused_before_anything_is_built(project, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    project.values["evaluate"] = {**project.values["evaluate"], "judge": "openai"}
    project.write()
    output = refused(project, "run")
    assert "no key in the environment variable OPENAI_API_KEY" in output
    assert "ingest …" not in output


def test_a_metric_writer_that_is_not_installed_is_refused_before_anything_is_built(project, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    project.values["train"] = {**project.values["train"], "writers": ["wandb"]}
    project.write()
    output = refused(project, "run")
    assert "jora-raft[wandb]" in output
    assert "ingest …" not in output


def test_a_base_without_a_chat_template_is_used_with_a_named_one(warm, tmp_path):
    tiny.make_base(tmp_path / "bare", template=False)
    warm.values["models"]["base"] = "bare"
    warm.write()
    output = warm.raft("records", "--no-prefect").stderr
    assert "brings no chat template: the built-in template" in output


def test_a_token_budget_too_small_for_question_and_oracle_says_what_to_raise(warm):
    warm.values["records"]["max_tokens"] = 64
    warm.write()
    output = refused(warm, "records")
    assert "max_tokens" in output


def test_fewer_records_than_one_batch(warm):
    warm.values["train"]["accumulation"] = 64
    warm.write()
    output = refused(warm, "train")
    assert "fewer than one batch of 64" in output
    assert "train.accumulation" in output


def test_a_question_file_that_is_missing_or_no_question_file(warm, tmp_path):
    warm.values["questions"]["file"] = "none.jsonl"
    warm.write()
    assert "none.jsonl" in refused(warm, "questions")
    (tmp_path / "none.jsonl").write_text("not json at all\n")
    refused(warm, "questions")


def test_a_store_that_cannot_be_written(project, tmp_path):
    (tmp_path / "file").write_text("")
    project.values["store"] = "file/raft"
    project.write()
    assert "cannot be written" in refused(project, "ingest")


def test_a_failed_stage_keeps_the_finished_ones(project):
    project.values["train"]["accumulation"] = 64
    project.write()
    refused(project, "train")
    project.values["train"]["accumulation"] = 1
    project.write()
    assert project.json("train", "--no-prefect")["ran"] == ["train"]


def test_a_teacher_none_of_whose_questions_survives_says_what_to_do(warm):
    """A random model writes no question that its passage is found by among vectors."""
    warm.values["retrieval"] = {"mode": "dense"}
    del warm.values["questions"]["file"]
    warm.values["questions"] |= {"count": 4, "dtype": "float32", "batch_size": 4}
    warm.write()
    output = refused(warm, "questions")
    assert "questions.file" in output
