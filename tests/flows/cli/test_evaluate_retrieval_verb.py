"""What `raft evaluate retrieval` takes for a question with a right passage."""

from types import SimpleNamespace

from data.nouns import Document, Question, write_jsonl
from flows.cli.verbs import evaluate_retrieval
from tasks.retrieval import RetrievalConfig
from tasks.runtime.folders import write_json


def test_a_question_without_an_answer_has_no_right_passage(tmp_path, monkeypatch):
    asked = [
        Question("a", "Who keeps the keys?", "the porter", ("c",), ("d",)),
        Question("u", "Who keeps the dog?", "", ("c",), ("d",), kind="unanswerable"),  # it was asked about that chunk
        Question("f", "Who keeps the door?", "nobody", ("c",), ("d",), origin="feedback"),
    ]
    write_jsonl(tmp_path / "questions.jsonl", asked)
    write_jsonl(tmp_path / "dropped.jsonl", [])
    write_jsonl(tmp_path / "documents.jsonl", [Document("d", "d.md", "", "x", "text/markdown", "")])
    write_json(tmp_path / "index.json", {"embedder": {"max_tokens": 128}})
    stage = SimpleNamespace(path=tmp_path.joinpath, metrics={})
    built = dict.fromkeys(("questions", "ingest", "embed", "index"), stage)
    config = SimpleNamespace(retrieval=RetrievalConfig(), questions=SimpleNamespace(file=None))
    monkeypatch.setattr(evaluate_retrieval, "open_search", lambda *args, **settings: SimpleNamespace(chunks={}))
    comparison = evaluate_retrieval._own(SimpleNamespace(config=config), built)
    assert [question.id for question in comparison.questions] == ["a"]
    assert comparison.about == "1 teacher question over 0 passages of 1 document."
