"""The evaluation from end to end on the domain in miniature: settings, earlier adapters, advice, and `ask`."""

import json
import shutil
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def folder_of(project, stage) -> Path:
    rows = {row["stage"]: row for row in project.json("run", "--no-prefect")["stages"]}
    return Path(rows[stage]["folder"])


def without_effect(adapter: Path, folder: Path) -> Path:
    """A copy of an adapter whose B factors are zero, so that it changes nothing."""
    import numpy as np
    from safetensors.numpy import load_file, save_file

    shutil.copytree(adapter, folder)
    weights = load_file(adapter / "adapter_model.safetensors")
    zero = {name: np.zeros_like(value) if "lora_B" in name else value for name, value in weights.items()}
    save_file(zero, folder / "adapter_model.safetensors")
    return folder


def test_rows_are_left_as_json_lines_and_as_parquet_and_the_summary_as_markdown(finished):
    import pyarrow.parquet as pq

    folder = folder_of(finished[0], "evaluate")
    lines = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    table = pq.read_table(folder / "rows.parquet").to_pylist()
    assert [r["record_id"] for r in lines] == [r["record_id"] for r in table]
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["general"]["instructions"] == 2
    assert "Token F1" in (folder / "summary.md").read_text()
    assert "General skills" in (folder / "report.html").read_text()


def test_stage_line_report_metrics_and_advice_give_one_verdict(finished):
    project, _ = finished
    rows = {row["stage"]: row for row in project.json("run", "--no-prefect")["stages"]}
    folder = Path(rows["evaluate"]["folder"])
    decision = json.loads((folder / "metrics.json").read_text())["decision"]
    assert decision["verdict"] == "hold", "six questions decide nothing"
    assert "20 are needed" in decision["reason"]
    assert rows["evaluate"]["metrics"]["verdict"] == "hold"
    assert f"verdict: hold, {decision['reason']}" in rows["evaluate"]["summary"]
    report = (folder / "report.html").read_text()
    assert report.index(">hold</strong>") < report.index("</header>")
    assert decision["reason"] in (folder / "summary.md").read_text()
    reply = project.json("advise", "--questions", "4")
    assert reply["probe"]["verdict"] == "hold"
    assert not any("likely to pay" in row["do"] for row in reply["advice"]), "it was measured"


def test_a_training_that_was_cut_short_says_so_wherever_it_is_told(warm):
    warm.values["train"]["max_steps"] = 1
    warm.write()
    rows = {row["stage"]: row for row in warm.json("run", "--no-prefect")["stages"]}
    figures = rows["train"]["metrics"]
    assert figures["records_seen"] < figures["records"]
    clause = f"only {figures['records_seen']} of 9 records were seen, in 1 of 9 steps (train.max_steps)"
    assert rows["train"]["summary"].endswith(f"; {clause}")
    folder = Path(rows["evaluate"]["folder"])
    advice = json.loads((folder / "metrics.json").read_text())["advice"]
    assert any(row["why"] == clause and "leave out train.max_steps (now 1)" in row["do"] for row in advice)
    for name in ("report.html", "summary.md"):
        assert f"The training was cut short: {clause}." in (folder / name).read_text()


def test_settings_and_earlier_adapters_are_measured_in_one_pass_and_a_no_op_adapter_equals_the_base(warm, tmp_path):
    adapter = folder_of(warm, "export") / "adapter"
    settings = ["retrieved", "oracle_only", "oracle_with_2", "closed_book"]
    warm.values["evaluate"] |= {
        "settings": settings,
        "earlier": [str(without_effect(adapter, tmp_path / "no-op"))],
        "limit": 3,
        "general": 0,
    }
    warm.write()
    folder = folder_of(warm, "evaluate")
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    assert list(dict.fromkeys(r["setting"] for r in rows)) == settings
    predictions = {
        name: [r["prediction"] for r in rows if r["condition"] == name] for name in ("base", "adapter", "no-op")
    }
    assert len(predictions["base"]) == 3 * len(settings)
    assert predictions["no-op"] == predictions["base"]
    summary = json.loads((folder / "metrics.json").read_text())["summary"]
    assert summary["against"]["no-op"]["base"] == summary["headline"]["base"]
    assert warm.json("plan")["stages"][-1]["state"] == "cached"


def test_copied_quotes_are_an_evaluation_of_their_own(warm):
    free = folder_of(warm, "evaluate")
    warm.values["evaluate"]["copy_quotes"] = True
    warm.write()
    held = folder_of(warm, "evaluate")
    assert held != free
    rows = [json.loads(line) for line in (held / "rows.jsonl").read_text().splitlines()]
    assert all(quote["verbatim"] for row in rows for quote in row["quotes"])
    assert {r["record_id"] for r in rows} == {
        json.loads(line)["record_id"] for line in (free / "rows.jsonl").read_text().splitlines()
    }


def test_an_adapter_for_another_prompt_is_refused_with_what_differs(warm, tmp_path):
    other = without_effect(folder_of(warm, "export") / "adapter", tmp_path / "other")
    serving = json.loads((other / "raft.json").read_text())
    serving["prompt"]["template_version"] = "0123"
    (other / "raft.json").write_text(json.dumps(serving))
    warm.values["evaluate"]["earlier"] = [str(other)]
    warm.write()
    process = warm.raft("run", "--no-prefect", check=False)
    assert process.returncode == 2
    assert "trained for another prompt (template_version: 0123, here" in " ".join(process.stderr.split())


def test_advice_comes_before_any_training_and_its_answers_are_the_evaluations(warm):
    reply = warm.json("advise", "--questions", "4")
    assert reply["probe"]["oracle_only"] is not None
    assert reply["probe"]["any_hit"] >= reply["probe"]["recall"] > 0
    trial = reply["probe"]["trial"]
    assert (trial["questions"], trial["passages"], set(trial["by_mode"])) == (3, 3, {"dense", "lexical"})
    assert not any("hybrid" in row["do"] for row in reply["advice"]), "it is the mode of the run"
    assert reply["advice"]
    words = warm.raft("advise", "--questions", "4").stdout
    assert reply["advice"][0]["do"].split()[0] in words


def test_ask_shows_the_answer_as_it_is_written_then_checked_with_its_sources(finished, monkeypatch):
    project, _ = finished
    words = ("ask", "What is the town of Birch known for?", "--compare", "--max-tokens", "8")
    piped = project.raft(*words).stdout
    assert "writes:" not in piped
    assert ".md, characters" in piped
    monkeypatch.setenv("FORCE_COLOR", "1")  # a terminal
    output = project.raft(*words).stdout
    assert output.index("adapter writes:") < output.index("base writes:") < output.index("Passages shown:")


def test_without_a_passage_no_model_is_asked(finished):
    """A filter that nothing passes is a mistake; words that stand nowhere get the refusal that was trained."""
    project, _ = finished
    refused = project.raft("ask", "What is Birch known for?", "--where", "source=nowhere.md", check=False)
    assert refused.returncode == 2
    assert "No passage passes --where source=nowhere.md" in " ".join(refused.stderr.split())
    assert "writes:" not in refused.stdout
    words = ["ask", "qwxyz?", "--compare", "--set", "retrieval.mode=lexical"]
    answer = project.json(*words)
    assert answer["passages"] == []
    assert [row["refused"] for row in answer["answers"].values()] == [True, True]
    output = project.raft(*words).stdout
    assert "No passage was found, so no model was asked." in output
    assert "writes:" not in output


def test_the_base_alone_is_asked_before_there_is_an_adapter_as_its_records_would_ask(warm):
    warm.raft("index", "--no-prefect")
    given = warm.json("ask", "What is the town of Birch known for?", "--base", "--max-tokens", "8")
    assert list(given["answers"]) == ["base"]
    assert given["text"] == given["answers"]["base"]["text"]
    assert len(given["passages"]) == warm.values.get("records", {}).get("distractors", 3) + 1
    held = warm.json("ask", "What is the town of Birch known for?", "--base", "--copy-quotes", "--max-tokens", "8")
    assert all(quote["verbatim"] for quote in held["quotes"])
    assert held["passages"] == given["passages"]
    refused = warm.raft("ask", "What is Birch?", "--base", "--compare", check=False)
    assert refused.returncode == 2
    assert "--base and --compare" in " ".join(refused.stderr.split())
