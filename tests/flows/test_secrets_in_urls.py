"""A secret in the URL of a corpus or share opens it, and is then nowhere: store, Prefect's database, output, errors."""

import os
import sqlite3
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from data.loading import load_corpus
from data.loading.sources import expand
from raft_errors import BadInput
from tasks.config import config_of
from tasks.inputs.corpus import snapshot
from tasks.store.hashing import FileHashes
from tasks.store.share import Share

SECRET = "PLANTEDsignature"
PASSWORD = "PLANTEDpassword"


class SignedFileSystem(MemoryFileSystem):
    """A memory whose files are reached by URLs with a signature, as those of a web server are."""

    protocol = "signed"
    cachable = False

    @classmethod
    def _strip_protocol(cls, path):
        path = path.removeprefix("signed://").rpartition("@")[2].removeprefix("host")
        return "/" + path.strip("/") if path.strip("/") else ""


@pytest.fixture
def signed():
    fsspec.register_implementation("signed", SignedFileSystem, clobber=True)
    files = SignedFileSystem()
    yield files
    for path in list(files.store):
        del files.store[path]


def everywhere(folder: Path) -> list[Path]:
    """Files that hold a planted secret, those of the home of Prefect included."""
    homes = [folder, Path(os.environ["PREFECT_HOME"])]
    places = []
    for home in homes:
        for path in home.rglob("*.db"):
            with sqlite3.connect(path) as db:  # what SQLite has not written into the file yet
                db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        paths = [path for path in home.rglob("*") if path.is_file()]
        places += [path for path in paths if b"PLANTED" in path.read_bytes()]
    return places


@pytest.mark.slow
def test_a_run_with_prefect_leaves_no_secret_anywhere(project, signed, caplog):
    signed.pipe_file(f"/doc.md?sig={SECRET}", b"# A title\n\nSome words.")
    project.values["corpus"] = [f"signed://me:{PASSWORD}@host/doc.md?sig={SECRET}"]
    project.values["share"] = f"signed://host/share?sig={SECRET}"
    project.write()
    process = project.raft("ingest")
    assert project.json("ingest", "--no-prefect")["ran"] == []
    assert '"source": "signed://host/doc.md"' in next(project.folder.rglob("documents.jsonl")).read_text()
    assert any(path.startswith(f"/share?sig={SECRET}/ingest/") for path in signed.store)
    assert "PLANTED" not in process.stdout + process.stderr + caplog.text
    assert everywhere(project.folder) == [project.config]
    assert (Path(os.environ["PREFECT_HOME"]) / "prefect.db").is_file()


def test_two_documents_that_differ_only_in_the_query_stay_two_and_show_neither(signed):
    signed.pipe_file(f"/get?id=1&sig={SECRET}", b"The first text.")
    signed.pipe_file(f"/get?id=2&sig={SECRET}", b"The second text.")
    urls = [f"signed://host/get?id={number}&sig={SECRET}" for number in (1, 2)]
    corpus = load_corpus(urls)
    sources = [document.source for document in corpus.documents]
    assert len(set(sources)) == 2
    assert all(source.startswith("signed://host/get~") for source in sources)
    digests = {snapshot(chosen, FileHashes()).digest for chosen in ([urls[0]], [urls[1]], urls)}
    assert len(digests) == 3


def test_a_folder_behind_a_signature_names_its_files_without_it(signed):
    signed.pipe_file(f"/docs?sig={SECRET}/a.md", b"The first text.")
    signed.pipe_file(f"/docs?sig={SECRET}/deep/b.md", b"The second text.")
    names = [item.source for item in expand([f"signed://me:{PASSWORD}@host/docs?sig={SECRET}"])]
    assert names == ["signed://host/docs/a.md", "signed://host/docs/deep/b.md"]


def test_errors_quote_no_secret(signed, monkeypatch):
    url = f"signed://me:{PASSWORD}@host/gone.md?sig={SECRET}"
    with pytest.raises(BadInput) as missing:
        load_corpus([url])

    def forbidden(self, path, **kwargs):
        raise OSError(f"403, message='Forbidden', url='{url}'")

    signed.pipe_file(f"/gone.md?sig={SECRET}", b"Words.")
    monkeypatch.setattr(SignedFileSystem, "_open", forbidden)
    with pytest.raises(BadInput, match=r"cannot be fetched \(403") as refused:
        load_corpus([url])
    monkeypatch.setattr(SignedFileSystem, "exists", forbidden)
    with pytest.raises(BadInput, match=r"403") as closed:
        load_corpus([url])
    with pytest.raises(BadInput) as share:
        Share.at(f"nosuch://host/x?sig={SECRET}")
    with pytest.raises(BadInput) as password:
        Share.at(f"s3://me:{PASSWORD}@host/x?sig={SECRET}")
    for error in (missing, refused, closed, share, password):
        assert "PLANTED" not in str(error.value)
        assert error.value.__cause__ is None


def test_a_configuration_error_quotes_no_secret(tmp_path):
    with pytest.raises(BadInput, match=r"https://host/doc\.md") as error:
        config_of({"corpus": f"https://me:{PASSWORD}@host/doc.md?sig={SECRET}"}, "raft.yaml", tmp_path)
    assert "PLANTED" not in str(error.value)


def test_the_configuration_of_a_domain_is_the_users_alone(tmp_path):
    from flows.cli.verbs.domains import _write_private

    path = tmp_path / "domain.yaml"
    path.write_text("old")
    path.chmod(0o644)
    _write_private(path, "corpus: []")
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_text() == "corpus: []"
