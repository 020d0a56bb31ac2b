"""Links that lead out of what was named are not followed, unless they may be; all of them are counted."""

import json
import stat
import zipfile
from pathlib import Path

import pytest

from data.loading import LoadOptions, load_corpus


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    (tmp_path / "outside" / "deep").mkdir(parents=True)
    (tmp_path / "outside" / "secret.txt").write_text("A secret text.")
    (tmp_path / "outside" / "deep" / "more.txt").write_text("More secrets.")
    return tmp_path / "outside"


@pytest.fixture
def docs(tmp_path: Path, outside: Path) -> Path:
    folder = tmp_path / "docs"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "a.txt").write_text("Plain text.")
    (folder / "file_out.txt").symlink_to(outside / "secret.txt")
    (folder / "folder_out").symlink_to(outside)
    (folder / "gone_out.txt").symlink_to(outside / "nothing.txt")
    (folder / "z_in.txt").symlink_to(folder / "sub" / "a.txt")
    (folder / "hop.txt").symlink_to(folder / "file_out.txt")
    return folder


OUT = ["file_out.txt", "folder_out", "gone_out.txt", "hop.txt"]


def names(corpus) -> list[str]:
    return [document.source for document in corpus.documents]


def refused(corpus) -> list[str]:
    assert all("follow_links" in entry.detail for entry in corpus.quarantined if entry.reason == "link")
    return [entry.source for entry in corpus.quarantined if entry.reason == "link"]


def test_links_that_lead_out_are_counted_with_the_option_that_follows_them(docs: Path):
    corpus = load_corpus([str(docs)])
    assert names(corpus) == ["sub/a.txt"]
    assert refused(corpus) == OUT
    assert corpus.counts["found"] == 5


def test_links_that_lead_out_are_followed_where_that_is_asked_for(docs: Path):
    corpus = load_corpus([str(docs)], options=LoadOptions(follow_links=True))
    assert {document.text for document in corpus.documents} == {"Plain text.", "A secret text.", "More secrets."}
    assert [(entry.source, entry.reason) for entry in corpus.quarantined] == [("gone_out.txt", "unreadable")]


def test_a_link_into_another_folder_of_the_corpus_does_not_lead_out(docs: Path, outside: Path):
    corpus = load_corpus([str(docs), str(outside)])
    assert refused(corpus) == []
    assert {document.text for document in corpus.documents} == {"Plain text.", "A secret text.", "More secrets."}


@pytest.mark.slow
def test_a_corpus_that_is_a_link_itself_is_what_it_points_to(tmp_path: Path, outside: Path):
    (tmp_path / "corpus").symlink_to(outside)
    assert names(load_corpus([str(tmp_path / "corpus")])) == ["deep/more.txt", "secret.txt"]
    assert names(load_corpus([f"{tmp_path}/corpus/*.txt"])) == ["secret.txt"]
    (tmp_path / "one.txt").symlink_to(outside / "secret.txt")
    assert names(load_corpus([str(tmp_path / "one.txt")])) == ["one.txt"]


def test_a_folder_whose_name_only_begins_like_the_corpus_is_outside(tmp_path: Path):
    for name in ("docs", "docs2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text(f"Text of {name}.")
    (tmp_path / "docs" / "b.txt").symlink_to(tmp_path / "docs2" / "a.txt")
    assert refused(load_corpus([str(tmp_path / "docs")])) == ["b.txt"]


def test_a_glob_does_not_lead_out_either(docs: Path):
    assert refused(load_corpus([f"{docs}/*.txt"])) == ["file_out.txt", "gone_out.txt", "hop.txt"]
    deep = load_corpus([f"{docs}/**/*.txt"])
    assert names(deep) == ["sub/a.txt"]
    assert {"folder_out/secret.txt", "folder_out/deep/more.txt"} <= set(refused(deep))


def test_a_file_url_does_not_lead_out_either(docs: Path):
    corpus = load_corpus([docs.as_uri()])
    assert not any("secret" in document.text.lower() for document in corpus.documents)
    assert any(source.endswith("file_out.txt") for source in refused(corpus))


@pytest.mark.slow
def test_a_saved_data_set_is_refused_if_it_reads_beyond_itself(tmp_path: Path, docs: Path):
    import datasets

    datasets.Dataset.from_list([{"text": "Their secret row."}]).save_to_disk(tmp_path / "theirs")
    datasets.Dataset.from_list([{"text": "Our row."}]).save_to_disk(docs / "linked")
    data = next((docs / "linked").glob("*.arrow"))
    data.unlink()
    data.symlink_to(next((tmp_path / "theirs").glob("*.arrow")))
    datasets.Dataset.from_list([{"text": "Our row."}]).save_to_disk(docs / "named")
    state = docs / "named" / "state.json"
    body = json.loads(state.read_text())
    body["_data_files"] = [{"filename": f"../../theirs/{data.name}"}]
    state.write_text(json.dumps(body))
    corpus = load_corpus([str(docs)])
    assert names(corpus) == ["sub/a.txt"]
    assert "linked" in refused(corpus)
    assert [e.detail for e in corpus.quarantined if e.source == "named"] == [
        "its state.json names what is not in its folder; do not trust this data set"
    ]


def test_a_link_inside_a_zip_is_refused(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.txt", "Plain text.")
        link = zipfile.ZipInfo("link.txt")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    corpus = load_corpus([str(tmp_path)], options=LoadOptions(archives=True))
    assert [(e.source, e.detail) for e in corpus.quarantined] == [
        ("a.zip/link.txt", "it is a link inside an archive; leave it out")
    ]
    assert names(corpus) == ["a.zip/a.txt"]
