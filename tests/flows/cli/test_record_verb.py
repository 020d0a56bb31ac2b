"""`raft records` as a user meets it: what it leaves, what it shows, what it refuses to train on, what changed."""

import json
import shutil
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def built(project, *arguments: str) -> Path:
    rows = project.json("records", "--no-prefect", *arguments)["stages"]
    return Path(next(row["folder"] for row in rows if row["stage"] == "records"))


def rows_of(folder: Path, split: str) -> list[dict]:
    return [json.loads(line) for line in (folder / f"{split}.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def data_set(tmp_path_factory, new_project):
    project = new_project(tmp_path_factory.mktemp("records"))
    return project, built(project)


def test_the_stage_leaves_every_layout_the_card_and_the_sides(data_set):
    _, folder = data_set
    names = {path.name for path in folder.iterdir()}
    assert names >= {"train.jsonl", "train.chat.jsonl", "train.parquet", "test.parquet", "dataset_info.json"}
    assert names >= {"axolotl.yaml", "card.md", "card.html", "card.json", "splits.json", "preflight.json"}
    assert "Tokens that are trained" in (folder / "card.md").read_text()
    shown = next(r for r in rows_of(folder, "train") if r["metadata"]["oracle_present"])
    assert shown["metadata"]["question"] in (folder / "card.html").read_text()


def test_the_preflight_counts_the_tokens_that_the_trainer_will_see(data_set):
    from jora_engine.files.tokenizer import Tokenizer
    from jora_engine.training.records import read_examples

    project, folder = data_set
    tokenizer = Tokenizer.load(project.domain / "base")
    examples = [e for s in ("train", "validation") for e in read_examples(folder / f"{s}.jsonl", tokenizer)]
    figures = json.loads((folder / "preflight.json").read_text())["figures"]
    assert figures["records"] == len(examples)
    assert figures["tokens"] == sum(len(e.prompt) + len(e.completion) for e in examples)
    assert figures["trained_tokens"] == sum(len(e.completion) for e in examples)
    # what the composer reckoned with is a ceiling of what the trainer will see
    train = rows_of(folder, "train")
    longest = [len(e.prompt) + len(e.completion) for e in examples[: len(train)]]
    assert all(n <= row["metadata"]["tokens"] <= n + 16 for n, row in zip(longest, train, strict=True))


def test_shown_records_mark_what_is_trained(data_set):
    project, folder = data_set
    reply = project.json("records", "--show", "2")
    first = rows_of(folder, "train")[0]
    assert len(reply["samples"]) == 2
    assert reply["samples"][0].endswith(f"⟦{first['output']}<|im_end|>⟧")
    assert first["instruction"] in reply["samples"][0].split("⟦")[0]
    words = project.raft("records", "--show", "1").stdout
    assert "of which" in words
    assert "card.html" in words


def test_the_contract_holds_the_date_where_the_base_s_chat_template_prints_one(data_set, tmp_path):
    project, folder = data_set
    plain = json.loads((folder / "contract.json").read_text())
    base = shutil.copytree(project.domain / "base", tmp_path / "dated")
    template = (base / "chat_template.jinja").read_text()
    (base / "chat_template.jinja").write_text("{{ strftime_now('%d %B %Y') }}\n" + template)
    dated = built(project, "--set", f"models.base={base}")
    assert json.loads((dated / "contract.json").read_text()) == {**plain, "template_date": "2024-07-26"}
    assert (dated / "preflight.txt").read_text().startswith("26 July 2024")


def test_another_layout_of_the_same_records_trains_nothing_anew(data_set):
    project, _ = data_set
    digests = [
        next(
            row["digest"]
            for row in project.json("records", "--no-prefect", *more)["stages"]
            if row["stage"] == "records"
        )
        for more in ([], ["--set", "records.formats=[]"])
    ]
    assert digests[0] == digests[1]


def test_a_diff_says_what_changed_between_two_data_sets(data_set):
    project, folder = data_set
    other = built(project, "--set", "records.distractors=1")
    reply = project.json("records", "--diff", str(folder), other.name[:12])
    assert reply["changed"]
    assert "distractors" in reply["why"]
    assert project.json("records", "--diff", "latest", "latest")["changed"] == []
    assert "records are the same" in project.raft("records", "--diff", str(folder), str(other)).stdout
    wrong = project.raft("records", "--diff", "nowhere", "latest", check=False)
    assert wrong.returncode == 2
    assert "'nowhere' names no data sets" in wrong.stderr


def test_p_can_be_measured_and_is_checked_when_given(data_set):
    project, _ = data_set
    measured = built(project, "--set", "records.p_oracle=measured")
    difficulties = [json.loads(line)["difficulty"] for line in _questions(project).read_text().splitlines()]
    share = sum(1 <= (d or 0) <= 3 for d in difficulties) / len(difficulties)
    assert json.loads((measured / "card.json").read_text())["p_oracle_asked"] == pytest.approx(share, abs=1e-4)
    wrong = project.raft("records", "--set", "records.p_oracle=2", check=False)
    assert (
        wrong.stderr.count("records.p_oracle is 2, expected one of measured or a number at least 0 and at most 1") == 1
    )


def _questions(project) -> Path:
    rows = project.json("records", "--no-prefect")["stages"]
    return Path(next(row["folder"] for row in rows if row["stage"] == "questions")) / "questions.jsonl"


def test_a_frozen_test_set_survives_another_seed_and_a_new_document(data_set, tmp_path):
    import shutil

    project, folder = data_set
    docs = tmp_path / "docs"
    shutil.copytree(project.domain / "docs", docs)
    (docs / "ivy.md").write_text("# The town of Ivy\n\nThe town of Ivy is known for nothing at all in the valley.\n")
    freeze = ["--set", f"records.frozen_splits={folder / 'splits.json'}", "--set", "seed=5"]
    later = built(project, "--set", f"corpus=[{docs}]", *freeze)
    held = [{row["metadata"]["question"] for row in rows_of(f, "test")} for f in (folder, later)]
    assert held[0] == held[1]


def test_records_that_the_trainer_would_cut_stop_the_run_before_it(data_set):
    project, folder = data_set
    longest = max(row["metadata"]["tokens"] for row in rows_of(folder, "train"))
    wrong = project.raft(
        *(
            "records",
            "--no-prefect",
            "--set",
            "records.overhead_tokens=0",
            "--set",
            f"records.max_tokens={longest - 9}",
        ),
        check=False,
    )
    assert wrong.returncode == 2
    assert f"longer than {longest - 9} tokens" in wrong.stderr
