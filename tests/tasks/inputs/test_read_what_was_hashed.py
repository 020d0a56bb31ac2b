"""A file that is saved, added or deleted between the snapshot and the reading is never published under the old key."""

import json
from pathlib import Path

import pytest

from tasks import ingest
from tasks.build import stage
from tasks.build.section import Section, setting
from tasks.build.stage import Request, Stage
from tasks.build.unchanged import Changed
from tasks.ingest import IngestConfig, corpus_of
from tasks.inputs.corpus import snapshot
from tasks.inputs.models import ModelFiles, on_this_machine
from tasks.store.store import Store
from tasks.work.bench import Outcome

SMALL = IngestConfig(workers=1)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    store.prepare()
    return store


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    (tmp_path / "docs").mkdir()
    for name in ("a", "b"):
        (tmp_path / "docs" / f"{name}.md").write_text(f"# {name}\n\nThe first words of {name}.\n")
    return tmp_path / "docs"


def hashed(docs: Path | str, store: Store, config: IngestConfig = SMALL) -> Request:
    return Request(ingest.STAGE, config, {"corpus": corpus_of([str(docs)], config, store)})


def refused(request: Request, store: Store, name: str) -> None:
    with pytest.raises(Changed, match=rf"{name}.*changed while it was read.*run again"):
        stage.run(request, store)
    assert store.manifests() == []


def save(docs: Path) -> None:
    (docs / "b.md").write_text("# b\n\nOther words.\n")


def delete(docs: Path) -> None:
    (docs / "b.md").unlink()


def add(docs: Path) -> None:
    (docs / "b.txt").write_text("Nobody hashed this one.")


def grow(docs: Path) -> None:
    (docs / "b.md").write_text("word " * 300_000)  # over max_file_mib: not a byte of it is read


@pytest.mark.parametrize("disturb", [save, delete, add, grow])
@pytest.mark.slow
def test_what_changes_after_the_snapshot_is_refused_by_name_and_taken_on_the_next_run(store, docs, disturb):
    config = IngestConfig(workers=1, max_file_mib=1)
    request = hashed(docs, store, config)
    disturb(docs)
    refused(request, store, r"b\.")
    again = stage.run(hashed(docs, store, config), store)
    assert again.key != request.key()


@pytest.mark.slow
def test_what_the_item_cache_holds_is_compared_as_well(store, docs):
    stage.run(hashed(docs, store), store)
    (docs / "b.md").write_text("# b\n\nThe second words.\n")
    stage.run(hashed(docs, store), store)
    kept = Store(store.root / "other")  # the item cache is taken over, the results are not
    kept.prepare()
    (kept.root / "cache").mkdir()
    (kept.root / "cache" / "ingest.sqlite").write_bytes((store.root / "cache" / "ingest.sqlite").read_bytes())
    request = hashed(docs, kept)
    (docs / "b.md").write_text("# b\n\nThe first words of b.\n")
    refused(request, kept, r"b\.md")


@pytest.mark.slow
def test_a_saved_data_set_counts_by_its_files_and_is_compared_too(store, docs):
    import datasets

    datasets.Dataset.from_list([{"text": "Row one."}]).save_to_disk(docs / "rows")
    request = hashed(docs, store)
    data = next((docs / "rows").glob("*.arrow"))
    assert request.inputs["corpus"].files["rows"] != "not a readable file"
    body = data.read_bytes()
    data.write_bytes(body.replace(b"Row one.", b"Row two."))
    refused(request, store, "rows")
    assert hashed(docs, store).key() != request.key()


def test_a_remote_file_counts_by_its_version_before_and_after_the_copy(store, tmp_path):
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    memory.pipe("/hashed/a.txt", b"First words.")
    try:
        request = hashed("memory://hashed", store)
        memory.pipe("/hashed/a.txt", b"Other words.")
        refused(request, store, r"memory://hashed/a\.txt")
        assert stage.run(hashed("memory://hashed", store), store).metrics["loaded"] == 1
    finally:
        memory.rm("/hashed", recursive=True)


def test_kept_documents_are_those_of_the_ingest_that_the_key_names(store, docs):
    first = stage.run(hashed(docs, store), store)
    ingest.remember(hashed(docs, store).inputs["corpus"], SMALL, first, store)
    (docs / "b.md").unlink()
    request = hashed(docs, store)
    assert request.inputs["corpus"].kept == ("b.md",)
    path = first.path("documents.jsonl")
    path.write_text(path.read_text().replace("first words of b", "planted words"))
    with pytest.raises(Changed, match=r"documents\.jsonl"):
        stage.run(request, store)


class NamingConfig(Section):
    file: str = setting(..., "A file that counts by its bytes", path=True, result="content")


class Work:
    """What the stage does meanwhile."""

    def __init__(self) -> None:
        self.disturb = lambda: None


WORK = Work()


def build(bench, config, base: ModelFiles) -> Outcome:
    (bench.out / "copy.txt").write_text(Path(config.file).read_text())
    bench.cache.put_many({base.digest: b"computed with the model"})
    (bench.scratch / "checkpoint").write_text("of these inputs")
    WORK.disturb()
    return Outcome("copied")


NAMING = Stage("naming", NamingConfig, build, models=("base",))


@pytest.fixture
def naming(tmp_path, monkeypatch) -> Request:
    monkeypatch.setenv("RAFT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "template.txt").write_text("A template.")
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text("{}")
    (tmp_path / "base" / "model.safetensors").write_text("weights")
    base = on_this_machine(str(tmp_path / "base"))
    return Request(NAMING, NamingConfig(file=str(tmp_path / "template.txt")), {}, {"base": base})


@pytest.mark.parametrize(
    ("name", "disturb"),
    [
        (r"template\.txt", lambda folder: (folder / "template.txt").write_text("Another template.")),
        (r"template\.txt", lambda folder: (folder / "template.txt").unlink()),
        ("the model .*base", lambda folder: (folder / "base" / "model.safetensors").write_text("other weights")),
        ("the model .*base", lambda folder: (folder / "base" / "config.json").unlink()),
        ("the model .*base", lambda folder: (folder / "base" / "tokenizer.json").write_text("{}")),
    ],
)
def test_a_file_of_the_settings_or_of_a_model_that_changes_while_a_stage_works_is_not_published(
    store, tmp_path, naming, monkeypatch, name, disturb
):
    scratch = store.scratch("naming", naming.key())
    monkeypatch.setattr(WORK, "disturb", lambda: disturb(tmp_path))
    with pytest.raises(Changed, match=rf"{name}.*changed while it was read"):
        stage.run(naming, store)
    assert store.manifests() == []
    assert not scratch.exists()
    if "model" in name:
        assert store.cache("naming").get_many([naming.models["base"].digest]) == {}


def test_inputs_that_hold_still_are_published_with_what_the_key_was_made_of(store, naming, monkeypatch):
    monkeypatch.setattr(WORK, "disturb", lambda: None)
    manifest = stage.run(naming, store)
    assert manifest.key == naming.key()
    assert manifest.ingredients == json.loads(json.dumps(naming.ingredients()))


def test_a_result_of_an_earlier_stage_that_is_altered_meanwhile_is_named(store, docs):
    from tasks import chunk

    read = stage.run(hashed(docs, store), store)

    def disturbed(bench, config, ingest) -> Outcome:
        read.path("documents.jsonl").write_text("planted\n")
        return Outcome("cut")

    request = Request(Stage("cutting", chunk.ChunkConfig, disturbed), chunk.ChunkConfig(), {"ingest": read})
    with pytest.raises(Changed, match=r"stage ingest in the store \(documents\.jsonl"):
        stage.run(request, store)


def test_a_file_that_cannot_be_read_is_no_reason_to_refuse(store, docs):
    (docs / "empty.md").write_text("")
    (docs / "dangling.md").symlink_to(docs / "nowhere.md")
    manifest = stage.run(hashed(docs, store), store)
    assert (manifest.metrics["loaded"], manifest.metrics["quarantined"]) == (2, 2)


def test_the_snapshot_of_a_link_that_leads_out_never_opens_it(tmp_path, docs, store):
    (tmp_path / "secret.md").write_text("Outside.")
    (docs / "link.md").symlink_to(tmp_path / "secret.md")
    before = snapshot([str(docs)], store.hashes)
    (tmp_path / "secret.md").write_text("Changed outside.")
    assert snapshot([str(docs)], store.hashes).digest == before.digest


@pytest.mark.slow
def test_nothing_that_is_redacted_stands_anywhere_in_the_store(store, docs):
    mail = "jane.doe@planted.example"
    (docs / f"{mail}.md").write_text(f"# From {mail}\n\nWords of {mail}.\n")
    (docs / "rows.jsonl").write_text(json.dumps({"id": mail, "text": "A row.", "owner": mail}) + f"\n{{broken {mail}")
    config = IngestConfig(workers=1, redact=("email",))
    request = hashed(docs, store, config)
    manifest = stage.run(request, store)
    ingest.remember(request.inputs["corpus"], config, manifest, store)
    (docs / f"{mail}.md").unlink()  # and is kept, under the name that the store knows
    kept = stage.run(hashed(docs, store, config), store)
    assert kept.metrics["kept"] == 1
    for cache in store._caches.values():
        cache.close()
    files = [path for path in store.root.rglob("*") if path.is_file()]
    assert any(path.name == "sources.sqlite" for path in files)
    assert [path for path in files if b"planted" in path.read_bytes()] == []
