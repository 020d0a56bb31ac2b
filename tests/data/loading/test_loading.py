"""`load_corpus`: what is found, in which order, counted how, cached how, and what is refused."""

import json
import os
import signal
import sys
from pathlib import Path

import pytest

from data.loading import LoadOptions, load_corpus
from data.loading.pool import Pool
from data.loading.sources import expand
from data.nouns import MemoryCache, digest, text_sha256
from raft_errors import BadInput


def counts_agree(corpus) -> bool:
    counts = corpus.counts
    return counts["found"] == counts["loaded"] + counts["quarantined"] + counts["duplicates"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "two.md").write_text("# Two\n\nSecond text.\n")
    (tmp_path / "a.txt").write_text("First text.\n")
    (tmp_path / "c.html").write_text("<html><title>Three</title><body><h1>Head</h1><p>Third text.</p></body></html>")
    (tmp_path / "copy.txt").write_text("First  text.")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "rows.jsonl").write_text(
        '{"id": "x", "text": "Row one."}\n{"text": \n{"id": "y", "text": "Row two."}\n'
    )
    (tmp_path / ".hidden.txt").write_text("Never read.")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config").write_text("Never read.")
    return tmp_path


@pytest.mark.slow
def test_a_folder_gives_its_documents_in_order_and_counts_everything(folder: Path):
    corpus = load_corpus([str(folder)])
    assert [document.source for document in corpus.documents] == [
        "a.txt",
        "b/two.md",
        "c.html",
        "rows.jsonl#x",
        "rows.jsonl#y",
    ]
    assert [(entry.source, entry.reason) for entry in corpus.quarantined] == [
        ("empty.txt", "empty"),
        ("rows.jsonl#2", "bad-line"),
    ]
    assert [(entry.source, entry.same_as) for entry in corpus.duplicates] == [("copy.txt", "a.txt")]
    assert counts_agree(corpus)
    assert corpus.counts["found"] == 8
    for document in corpus.documents:
        assert document.id == digest(document.source)
        assert document.sha256 == text_sha256(document.text)
        json.dumps(document.to_dict())
    assert corpus.documents[1].title == "Two"
    assert corpus.documents[1].headings == ((0, 1, "Two"),)


@pytest.mark.slow
def test_the_number_of_workers_does_not_change_the_result(folder: Path):
    one, three = (load_corpus([str(folder)], options=LoadOptions(workers=n)) for n in (1, 3))
    assert one == three


@pytest.mark.slow
def test_an_unchanged_file_comes_from_the_cache_and_a_changed_one_does_not(folder: Path):
    cache = MemoryCache()
    first = load_corpus([str(folder)], cache=cache)
    again = load_corpus([str(folder)], cache=cache)
    assert again.cached == again.counts["files"] == 6
    assert (again.documents, again.quarantined, again.duplicates) == (
        first.documents,
        first.quarantined,
        first.duplicates,
    )
    (folder / "a.txt").write_text("Another text.")
    changed = load_corpus([str(folder)], cache=cache)
    assert changed.cached == 5
    assert changed.documents[0].text == "Another text."
    assert load_corpus([str(folder)], cache=cache, options=LoadOptions(max_chars=19)).cached == 0


@pytest.mark.slow
def test_progress_names_every_file(folder: Path):
    seen = []
    load_corpus([str(folder)], progress=lambda done, total, what: seen.append((done, total, what)))
    assert [entry[0] for entry in seen] == list(range(1, 7))
    assert {entry[1] for entry in seen} == {6}
    assert seen[0][2] == "a.txt"


def test_globs_single_files_and_overlaps_name_each_file_once(folder: Path):
    names = [item.source for item in expand([f"{folder}/**/*.md", f"{folder}/a.txt", f"{folder}/*.txt"])]
    assert names == ["a.txt", "b/two.md", "copy.txt", "empty.txt"]


def test_files_of_one_name_in_two_folders_stay_apart(tmp_path: Path):
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "readme.txt").write_text(f"Text of {name}.")
    corpus = load_corpus([str(tmp_path / "x"), str(tmp_path / "y")])
    assert [document.source for document in corpus.documents] == ["x/readme.txt", "y/readme.txt"]


def test_links_are_followed_once_and_loops_end(tmp_path: Path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.txt").write_text("Text.")
    (tmp_path / "a_link").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "loop").symlink_to(tmp_path)
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    corpus = load_corpus([str(tmp_path)])
    assert [document.source for document in corpus.documents] == ["real/a.txt"]
    assert [(entry.source, entry.reason) for entry in corpus.quarantined] == [("broken", "unreadable")]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are POSIX only")
def test_a_named_pipe_is_quarantined_and_not_waited_for(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "a.txt").write_text("Text.")
    assert [entry.reason for entry in load_corpus([str(tmp_path)]).quarantined] == ["unreadable"]


def test_a_file_name_that_is_not_utf8_can_be_stored(tmp_path: Path):
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt")).write_text("Text.")
    except OSError:
        pytest.skip("this file system wants UTF-8 names")
    document = load_corpus([str(tmp_path)]).documents[0]
    assert document.source == "caf\\xe9.txt"


def test_the_language_reference_of_python_is_a_corpus():
    corpus = load_corpus(["pydoc:topics"])
    assert counts_agree(corpus)
    assert corpus.counts["loaded"] > 70
    by_source = {document.source: document for document in corpus.documents}
    topic = by_source["pydoc:assert"]
    assert topic.title == 'The "assert" statement'
    assert topic.headings[0] == (0, 1, 'The "assert" statement')
    assert topic.text.startswith('The "assert" statement\n***')


@pytest.mark.slow
def test_remote_files_are_read_through_fsspec(tmp_path: Path):
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    memory.pipe("/corpus/a.txt", b"First text.")
    memory.pipe("/corpus/deep/b.md", b"# Two\n\nSecond text.")
    try:
        corpus = load_corpus(["memory://corpus"])
        assert [document.source for document in corpus.documents] == [
            "memory://corpus/a.txt",
            "memory://corpus/deep/b.md",
        ]
        limited = load_corpus(["memory://corpus"], options=LoadOptions(max_file_bytes=12))
        assert [entry.reason for entry in limited.quarantined] == ["too-large"]
    finally:
        memory.rm("/corpus", recursive=True)


@pytest.mark.parametrize(
    "source", ["no/such/file.txt", "no/such/*.txt", "nosuchprotocol://x/y", "memory://nothing/there"]
)
def test_a_source_that_names_nothing_is_bad_input(source):
    with pytest.raises(BadInput, match="Expected"):
        load_corpus([source])


def test_an_empty_folder_and_one_without_a_readable_document_are_bad_input(tmp_path: Path):
    with pytest.raises(BadInput, match="no files"):
        load_corpus([str(tmp_path)])
    with pytest.raises(BadInput, match="no sources"):
        load_corpus([])
    (tmp_path / "empty.txt").write_text(" \n ")
    with pytest.raises(BadInput, match=r"not one readable document.*empty\.txt \(empty"):
        load_corpus([str(tmp_path)])


TARGET = """
import os, time
def work(request):
    if request == "die": os.kill(os.getpid(), 11)
    if request == "exit": os._exit(3)
    if request == "spin":
        while True: pass
    if request == "eat": return {"size": len(bytearray(1 << 40))}
    if request == "raise": raise ValueError("broken")
    if request == "print": print("noise on stdout")
    return {"echo": request, "home": os.getcwd()}
"""


@pytest.mark.slow
def test_a_dying_endless_or_greedy_parser_costs_one_file(tmp_path: Path, monkeypatch):
    (tmp_path / "raft_test_target.py").write_text(TARGET)
    monkeypatch.syspath_prepend(str(tmp_path))
    requests = ["a", "die", "b", "exit", "spin", "c", "eat", "raise", "print", "d"]
    with Pool(2, max_seconds=1.0, max_memory_bytes=1 << 30, target="raft_test_target:work") as pool:
        answers = list(pool.map(requests))
    assert [answer.get("echo") for answer in answers] == ["a", None, "b", None, None, "c", None, None, "print", "d"]
    assert answers[1]["error"] == f"crashed: {signal.SIGSEGV.name}"
    assert answers[3]["error"] == "crashed: exit code 3"
    assert answers[4]["error"] == "too-slow"
    assert answers[6]["error"] == "memory"
    assert answers[7]["error"] == "ValueError: broken"


IDLE = """
import time
def work(request):
    if request == "wait": time.sleep(30)
    return request
"""


@pytest.mark.slow
def test_a_worker_that_waits_and_uses_no_cpu_is_ended_and_called_too_slow(tmp_path: Path, monkeypatch):
    (tmp_path / "raft_test_idle.py").write_text(IDLE)
    monkeypatch.syspath_prepend(str(tmp_path))
    with Pool(1, max_seconds=0.5, max_memory_bytes=1 << 30, target="raft_test_idle:work") as pool:
        assert list(pool.map(["a", "wait", "b"])) == ["a", {"error": "too-slow"}, "b"]


def test_a_worker_that_does_not_start_costs_one_file_and_is_said():
    with Pool(1, max_seconds=0.5, max_memory_bytes=1 << 30, target="raft_test_nowhere:work") as pool:
        assert list(pool.map(["a", "b"])) == [{"error": "crashed: exit code 1"}] * 2


def test_workers_end_with_the_pool(tmp_path: Path, monkeypatch):
    (tmp_path / "raft_test_pid.py").write_text("import os\ndef pid(request): return {'pid': os.getpid()}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with Pool(1, max_seconds=5, max_memory_bytes=1 << 30, target="raft_test_pid:pid") as pool:
        pids = {answer["pid"] for answer in pool.map(range(5))}
    assert len(pids) == 1  # one process serves many files
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert "raft_test_pid" not in sys.modules
