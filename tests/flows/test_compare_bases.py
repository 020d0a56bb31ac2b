"""Several bases under one recipe: each cell is an ordinary run, a base that is added pays for itself, one that fails
stops no other, and an interruption goes through."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import tiny
import yaml
from kept_json import checked

from data.evaluation.lift import Lift
from flows import bases
from flows.bases import Outcome, cells_of
from flows.calls import STAGES
from flows.domains import read_configs
from flows.run import Run
from raft_errors import BadInput, Interrupted
from tasks.build.events import silent
from tasks.config import load_config
from tasks.inputs.models import on_this_machine
from tasks.store.finished import finished_runs
from tasks.store.store import Store

OF_THE_BASE = {"records", "train", "export", "evaluate"}
"""The stages that read the base's files."""


def altered(base: Path, folder: Path) -> Path:
    """A copy of a base with other weights."""
    from safetensors.numpy import load_file, save_file

    shutil.copytree(base, folder)
    weights = load_file(folder / "model.safetensors")
    save_file({name: value * 1.01 for name, value in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    return folder


def of_an_unknown_family(base: Path, folder: Path) -> Path:
    """A copy of a base that nobody here can load."""
    shutil.copytree(base, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "abacus", "architectures": ["Abacus"]}))
    return folder


def results(project) -> set[tuple[str, str]]:
    """Stage and key of everything in the project's store."""
    return {p.parent.parts[-2:] for p in (project.folder / ".raft" / "store").glob("*/*/manifest.json")}


def compare(project, *bases: Path) -> dict:
    return project.json("compare-bases", *(argument for base in bases for argument in ("--bases", str(base))))


@pytest.mark.slow
def test_a_base_pays_for_itself_and_one_that_cannot_be_loaded_is_named(warm, domain):
    first, second = domain / "base", altered(domain / "base", warm.folder / "second")
    third = of_an_unknown_family(domain / "base", warm.folder / "third")
    before, latest = results(warm), (warm.folder / ".raft" / "latest").resolve()
    process = warm.raft("compare-bases", "--bases", f"{first},{third},{second}", "--json", check=False)
    reply = checked(["compare-bases"], json.loads(process.stdout.splitlines()[-1]))
    assert [process.stderr.count(f"✓ {stage} (") for stage in ("chunk", "records", "train")] == [1, 1, 1], (
        "told once each"
    )
    assert (reply["ok"], reply["exit_code"]) == (False, 2)
    cells = {cell["base"]: cell for cell in reply["cells"]}
    assert list(cells) == ["base", "third", "second"]

    built = results(warm) - before
    assert sorted(stage for stage, _ in built) == sorted(OF_THE_BASE), "once each, for the second base alone"
    assert cells["base"]["ran"] == [], "the plain run has made it all"
    assert set(cells["second"]["ran"]) == OF_THE_BASE
    assert cells["third"]["state"] == "failed"
    assert "architecture 'Abacus' is not supported" in cells["third"]["reason"]
    assert (warm.folder / ".raft" / "latest").resolve() == latest, "what a person uses stays where it is"
    assert cells["second"]["state"] == "done", "it comes after the one that failed"

    plain = warm.json("run", "--no-prefect", "--set", f"models.base={second}")
    assert plain["ran"] == [], "a cell is an ordinary run"
    evaluation = next(row for row in plain["stages"] if row["stage"] == "evaluate")["metrics"]["headline"]
    ours = cells["second"]
    assert (ours["zero_shot"], ours["tuned"]) == (evaluation["base"], evaluation["other"])
    assert (ours["low"], ours["high"], ours["n"]) == (evaluation["low"], evaluation["high"], evaluation["n"])
    training = next(row for row in plain["stages"] if row["stage"] == "train")
    assert ours["train_tokens"] == training["metrics"]["tokens"]
    assert ours["train_seconds"] == training["seconds"]
    assert 0 < ours["weights_bytes"] < ours["step_bytes"]
    assert cells["base"]["weights_bytes"] == ours["weights_bytes"], "the same shapes"

    again = compare(warm, first, second)
    assert all(cell["ran"] == [] for cell in again["cells"])
    assert [cell["reads"] for cell in again["cells"]] == [cells["base"]["reads"], cells["second"]["reads"]]
    assert results(warm) - before == built
    assert "Tuned, " in warm.raft("compare-bases", "--bases", f"{first},{second}").stdout
    table = list(csv.DictReader(Path(again["table"]).read_text().splitlines()))
    assert [row["base"] for row in table] == ["base", "second"]
    page = Path(again["report"]).read_text()
    assert Path(cells["second"]["report"]).as_uri() in page
    store = Store(warm.folder / ".raft")
    assert all("export" in finished_runs(store, cell["name"])[0].results for cell in again["cells"]), "gc keeps them"


@pytest.mark.heavy
def test_bases_of_other_families_come_to_their_reports(project):
    """A Gemma 3 without a chat template, as its pretrained models are, and a Qwen 3 with one."""
    gemma = tiny.make_base(project.folder / "gemma", family="gemma3", template=False)
    qwen = tiny.make_base(project.folder / "qwen", family="qwen3")
    reply = compare(project, gemma, qwen)
    assert [(cell["base"], cell["state"], cell["reason"]) for cell in reply["cells"]] == [
        ("gemma", "done", ""),
        ("qwen", "done", ""),
    ]
    first, second = reply["cells"]
    assert set(second["ran"]) == OF_THE_BASE, "what no base is read for was there"
    assert 0 < second["weights_bytes"] < first["weights_bytes"] < first["step_bytes"]
    store = Store(project.folder / ".raft")
    for cell in reply["cells"]:
        assert cell["n"] == 12
        assert "export" in finished_runs(store, cell["name"])[0].results, "its logits were compared with PEFT's"


def test_bases_are_told_apart_however_they_are_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a/base", "b/base", "plain"):
        (tmp_path / name).mkdir(parents=True)
    config = load_config(overrides=["models.base=owner/model", "models.base_revision=v2", "name=law"])
    given = ["a/base", "./b/base", "plain", "owner/model", "owner/model@v3", "plain", "owner/model"]
    cells = cells_of({"law": config}, given)
    assert [(c.config.models.base, c.config.models.base_revision) for c in cells] == [
        (str(tmp_path / "a/base"), None),
        (str(tmp_path / "b/base"), None),
        (str(tmp_path / "plain"), None),
        ("owner/model", "v2"),  # as the configuration has it
        ("owner/model", "v3"),
    ]
    labels = [str(tmp_path / "a/base"), str(tmp_path / "b/base"), "plain", "owner/model", "owner/model@v3"]
    assert [cell.base for cell in cells] == labels
    names = [cell.config.name for cell in cells]
    assert len({*names}) == 5
    assert all(name.startswith("law-on-") for name in names)
    assert "law" not in names, "the domain's own run is not covered by one of these"


@pytest.mark.parametrize("base", ["base@v3", "./base@v3", "./gone@v3"])
def test_a_folder_has_no_revisions(tmp_path, monkeypatch, base):
    """`./base@v1,./base@v2` would be one base compared with itself under two names."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base").mkdir()
    with pytest.raises(BadInput, match="which has no revision 'v3'"):
        cells_of({"law": load_config()}, [base])
    (tmp_path / "base@v3").mkdir()
    (cell,) = cells_of({"law": load_config()}, ["base@v3"])
    assert (Path(cell.config.models.base), cell.config.models.base_revision) == (tmp_path / "base@v3", None)


def test_the_longest_names_are_still_names():
    config = load_config(overrides=[f"name={'n' * 63}"])
    (cell,) = cells_of({"n": config}, ["owner/" + "m" * 90])
    again = type(config).model_validate(cell.config.model_dump())
    assert again.name == cell.config.name


def test_a_domain_of_a_file_is_compared_under_the_common_recipe(tmp_path):
    file = tmp_path / "domains.yaml"
    domains = {"law": {"corpus": ["law"]}, "health": {"corpus": ["health"], "train": {"epochs": 5}}}
    file.write_text(yaml.safe_dump({"common": {"train": {"rank": 8}}, "domains": domains}, sort_keys=False))
    cells = cells_of(read_configs(file, [], []), ["owner/a", "owner/b"])
    assert [(c.domain, c.base, c.config.train.rank) for c in cells] == [
        ("law", "owner/a", 8), ("law", "owner/b", 8), ("health", "owner/a", 8), ("health", "owner/b", 8),
    ]  # fmt: skip
    assert [c.domain for c in cells_of(read_configs(file, [], ["law"]), ["owner/a"])] == ["law"]
    with pytest.raises(BadInput, match="--set is for one configuration"):
        read_configs(file, ["train.rank=2"], [])


def test_where_a_base_asks_the_questions_all_are_asked_those_of_the_configured_one(tmp_path, domain):
    settings = [f"models.base={domain / 'base'}", f"store={tmp_path}", "questions.teacher=local"]
    config = load_config(overrides=[*settings, f"models.embedder={domain / 'embedder'}"])
    other = altered(domain / "base", tmp_path / "other")
    (cell,) = cells_of({"law": config}, [str(other)])
    assert cell.asker is config
    own = Run.of(config, silent)
    run = Run(cell.config, own.store, Run.of(cell.config, silent).models, silent, asker=own.models)
    questions, records = (run.request(STAGES[name], {}).models["base"].digest for name in ("questions", "records"))
    assert questions == own.models["base"].digest
    assert records == run.models["base"].digest != questions
    (cell,) = cells_of({"law": load_config(overrides=[*settings, "questions.file=own.jsonl"])}, [str(other)])
    assert cell.asker is None


@pytest.mark.parametrize(
    ("base", "words"), [("./nowhere", "there is no such folder"), ("owner/nowhere", "not on this")]
)
def test_a_base_that_does_not_exist_is_refused_before_anything_runs(project, domain, base, words):
    done = project.raft("compare-bases", "--bases", f"{domain / 'base'},{base}", check=False)
    assert done.returncode in (1, 2)
    assert words in done.stderr
    assert results(project) == set()


def test_a_folder_that_is_not_there_is_refused_before_a_model_is_fetched(tmp_path, monkeypatch):
    def resolve(name, *_, **__):
        pytest.fail(f"{name} is fetched first") if "/" in name and not Path(name).is_absolute() else None
        return on_this_machine(name)

    monkeypatch.setattr(bases, "resolve", resolve)
    for given in (
        ["owner/a", str(tmp_path / "gone")],
        [str(tmp_path / "gone")],
    ):  # with a base that asks, or the embedder
        with pytest.raises(BadInput, match="there is no such folder"):
            bases.require_models(cells_of({"law": load_config()}, given), silent)


def test_no_base_at_all_is_refused(project):
    done = project.raft("compare-bases", check=False)
    assert done.returncode == 2
    assert "There is no base to compare" in done.stderr


@pytest.fixture
def cells():
    return cells_of({"law": load_config()}, ["owner/a", "owner/b", "owner/c"])


def test_what_fails_is_named_whatever_it_was_and_the_others_go_on(cells, monkeypatch):
    ends = {"owner/a": BadInput("no such family"), "owner/b": KeyError("weight"), "owner/c": None}

    def outcome(cell, *_):
        if ends[cell.base]:
            raise ends[cell.base]
        return Outcome(cell, "done")

    monkeypatch.setattr(bases, "_outcome", outcome)
    steps = [[one.state for one in outcomes] for outcomes in bases.compare(cells, silent)]
    assert steps == [
        ["waiting", "waiting", "waiting"],
        ["failed", "waiting", "waiting"],
        ["failed", "failed", "waiting"],
        ["failed", "failed", "done"],
    ]
    last = list(bases.compare(cells, silent))[-1]
    assert [(one.reason, one.exit_code) for one in last] == [
        ("no such family.", 2),
        ("KeyError: 'weight'", 1),
        ("", 0),
    ]


def told_by_a_library():
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt as stop:
        raise RuntimeError("the pool is broken") from stop


@pytest.mark.parametrize("kind", ["signal", "saved", "library"])
def test_an_interruption_goes_through(cells, monkeypatch, kind):
    def outcome(*_):
        if kind == "library":
            told_by_a_library()
        raise KeyboardInterrupt if kind == "signal" else Interrupted("stopped")

    monkeypatch.setattr(bases, "_outcome", outcome)
    with pytest.raises((KeyboardInterrupt, Interrupted, RuntimeError)):
        list(bases.compare(cells, silent))


@pytest.mark.parametrize(
    ("forecast", "verdict", "came_true"),
    [
        (True, "better", True),
        (True, "no clear difference", False),
        (True, "worse", False),
        (False, "better", False),
        (False, "no clear difference", True),
        (True, "too few to say", None),
        (None, "better", None),
    ],
)
def test_a_forecast_comes_true_where_the_interval_says_so(cells, forecast, verdict, came_true):
    lift = Lift("f1", 0.2, 0.3, {"difference": 0.1, "verdict": verdict})
    assert Outcome(cells[0], "done", lift=lift, forecast=forecast).came_true is came_true
