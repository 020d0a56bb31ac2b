"""The retriever is fitted on training questions alone, and what validation questions do not show to help is dropped."""

import dataclasses
import json
import random
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "retrieval"))
from retrieval_samples import WORDS, make_chunk, make_question, make_tiny_model, make_tiny_reranker

from data.nouns import write_jsonl
from raft_errors import BadInput
from retrieval.adaptation import judgement, training
from retrieval.embedding.embedder import Embedder
from retrieval.index.faiss_index import build_index
from retrieval.search import passage_text
from tasks.adapt import AdaptConfig
from tasks.retrieval import RetrievalConfig
from tasks.runtime.sides import split_corpus
from tasks.splits import SplitsConfig
from tasks.store.itemcache import SqliteCache
from tasks.work.adapt import build, sides_of
from tasks.work.bench import Bench

pytestmark = pytest.mark.slow
SPLITS = SplitsConfig(validation=0.3, test=0.2)
QUICK = {"epochs": 2, "batch": 8, "rate": 1e-3, "negatives": 2, "least_questions": 8, "max_likeness": 1.0}
DOCUMENTS = 24


class Stage(SimpleNamespace):
    """The folder of an earlier stage."""

    files = ()

    def path(self, name):
        return self.folder / name


class Model(SimpleNamespace):
    """A model on this machine."""

    name, digest, source, chat = "tiny", "0" * 64, "folder", {}


@pytest.fixture(scope="module")
def domain(tmp_path_factory):
    """Documents of made-up prose with two questions each, an index over them, and both models."""
    folder = tmp_path_factory.mktemp("domain")
    draw = random.Random(0)
    chunks, questions = [], []
    for number in range(DOCUMENTS):
        for ordinal in range(2):
            words = draw.sample(WORDS, 9)
            chunks.append(make_chunk(" ".join(words), document=f"doc{number:02}", ordinal=ordinal))
            questions.append(make_question(" ".join(draw.sample(words, 4)) + "?", words[0], chunks[-1]))
    write_jsonl(folder / "chunks.jsonl", chunks)
    write_jsonl(folder / "questions.jsonl", questions)
    embedder = make_tiny_model(folder / "embedder", seed=0)
    make_tiny_reranker(folder / "reranker", seed=0)
    model = Embedder.load(embedder, device="cpu", precision="float32")
    vectors = model.encode([passage_text(c) for c in chunks])
    build_index(vectors, [c.id for c in chunks], folder, embedder=model.info.to_dict())
    return SimpleNamespace(folder=folder, chunks=chunks, questions=questions)


@pytest.fixture
def run(domain, tmp_path, monkeypatch):
    """Runs the work with few questions being enough, and gives (outcome, its folder)."""
    monkeypatch.setattr(judgement, "LEAST_QUESTIONS", 4)

    def work(name="one", questions=None, scratch=None, splits=SPLITS, **settings):
        retrieval = RetrievalConfig(mode="hybrid", **settings.pop("retrieval", {}))
        out = tmp_path / name
        out.mkdir()
        scratch = scratch or tmp_path / f"{name}-scratch"
        scratch.mkdir(exist_ok=True)
        bench = Bench(
            out=out, scratch=scratch, cache=SqliteCache(tmp_path / f"{name}.sqlite"), progress=lambda *_: None, seed=0,
            lineage={}, run_child=None, calibration=tmp_path / "calibration.json", compiled=tmp_path,
        )  # fmt: skip
        stage = Stage(folder=domain.folder)
        asked = stage
        if questions is not None:
            asked = Stage(folder=tmp_path)
            write_jsonl(tmp_path / "questions.jsonl", questions)
        reranker = Model(folder=domain.folder / "reranker") if retrieval.rerank else None
        outcome = build(
            bench, AdaptConfig(**{**QUICK, **settings}), asked, stage, stage,
            embedder=Model(folder=domain.folder / "embedder"), retrieval=retrieval, splits=splits, reranker=reranker,
        )  # fmt: skip
        return outcome, out

    return work


def files(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def always(helps):
    """A judge that has made up its mind."""
    real = judgement.compare

    def compare(questions, before, after):
        return judgement.Judgement(**{**real(questions, before, after).__dict__, "helps": helps})

    return compare


@pytest.fixture
def seen(monkeypatch):
    """Every text that a training was given."""
    texts = SimpleNamespace(questions=set(), passages=set())

    def spy(real):
        def adapt(folder, examples, *args, **kwargs):
            texts.questions |= {e.question for e in examples}
            texts.passages |= {text for e in examples for text in (e.positive, *e.negatives)}
            return real(folder, examples, *args, **kwargs)

        return adapt

    for name in ("adapt_embedder", "adapt_reranker"):
        monkeypatch.setattr(training, name, spy(getattr(training, name)))
    return texts


def test_no_held_out_question_nor_one_that_repeats_it_nor_its_passage_is_trained_on(domain, run, seen, tmp_path):
    """The leak test: sides are those of the records, and nothing of validation or test reaches a model."""
    splits = split_corpus(domain.questions, domain.chunks, SPLITS, 0, SqliteCache(tmp_path / "splits.sqlite"))
    sides = sides_of(domain.questions, domain.chunks, splits, 1000, 0)
    assert {c.id: splits.side(c.id, c.document_id) for c in domain.chunks} == sides.of_chunk
    held_out = [q for q in domain.questions if sides.of_chunk[q.gold_chunk_ids[0]] != "train"]
    assert len(held_out) >= 8
    here = next(c for c in domain.chunks if sides.of_chunk[c.id] == "train")
    planted = [  # asked of a training document in the words of a held-out question: the same, and turned round
        make_question(held_out[0].question.upper(), "x", here),
        make_question(" ".join(reversed(held_out[1].question.rstrip("?").split())), "x", here),
    ]
    outcome, _ = run(
        questions=[*domain.questions, *planted], embedder=True, reranker=True, epochs=1, reranker_questions=10_000,
        retrieval={"rerank": "here", "rerank_depth": 4},
    )  # fmt: skip
    texts = {c.id: passage_text(c) for c in domain.chunks}
    assert seen.questions
    assert seen.questions.isdisjoint({q.question for q in [*held_out, *planted]})
    assert seen.passages.isdisjoint({texts[c] for c, side in sides.of_chunk.items() if side != "train"})
    training = [q.question for q in domain.questions if q not in held_out]
    assert seen.questions <= {*training}
    assert outcome.metrics["questions"]["left_out_as_repeating_held_out"] >= 2


def test_what_a_question_without_an_answer_was_asked_about_is_no_right_passage(domain, tmp_path):
    asked = [dataclasses.replace(q, id=f"no-{q.id}", kind="unanswerable", answer="") for q in domain.questions]
    splits = split_corpus(domain.questions, domain.chunks, SPLITS, 0, SqliteCache(tmp_path / "splits.sqlite"))
    sides = sides_of([*domain.questions, *asked], domain.chunks, splits, 1000, 0)
    assert sides.train
    assert not [q for q in (*sides.train, *sides.validation) if q.kind == "unanswerable"]


def test_a_question_in_other_words_is_left_out_by_its_vector(domain):
    from retrieval.adaptation.examples import repeats

    own, other = domain.questions[:2], domain.questions[2:4]
    near = {own[0].question: [1.0, 0.0], own[1].question: [0.0, 1.0]}
    near |= {other[0].question: [0.96, 0.28], other[1].question: [0.6, -0.8]}
    embed = lambda texts: [near[text] for text in texts]  # noqa: E731
    assert repeats(own, other, embed, 0.95) == {own[0].id: other[0].id}
    assert repeats(own, other, embed, 0.97) == {}


def test_what_helps_is_kept_with_its_digest_and_serves(domain, run, monkeypatch):
    from tasks.runtime.adapted import adapted
    from tasks.runtime.retriever import open_retriever

    monkeypatch.setattr(judgement, "compare", always(True))
    outcome, out = run(embedder=True, reranker=True, retrieval={"rerank": "here", "rerank_depth": 4})
    choice = json.loads((out / "retriever.json").read_text())
    result = Stage(folder=out)
    assert choice["rerank"] is True
    for role in ("embedder", "reranker"):
        model = adapted(result, role)
        assert model.digest == choice[role]["digest"]
        weights = (out / role / "model.safetensors").read_bytes()
        assert weights != (domain.folder / role / "model.safetensors").read_bytes()
    assert Embedder.load(out / "embedder", device="cpu").info.digest == choice["embedder"]["digest"]
    assert "fitted embedder kept" in outcome.summary
    stage = Stage(folder=domain.folder)
    models = {role: Model(folder=domain.folder / role) for role in ("embedder", "reranker")}
    with pytest.raises(BadInput, match="built with embedder"):
        open_retriever(
            RetrievalConfig(rerank="here"), stage, stage, models, adapt=result, device="cpu"
        )  # the index still holds the vectors of the embedder as it came


def test_what_does_not_help_is_dropped_and_the_report_says_so(run, monkeypatch):
    monkeypatch.setattr(judgement, "compare", always(False))
    outcome, out = run(embedder=True, reranker=True, epochs=1, retrieval={"rerank": "auto", "rerank_depth": 4})
    choice = json.loads((out / "retriever.json").read_text())
    assert not {"embedder", "reranker"} & {*choice}
    assert choice["rerank"] is False
    assert not (out / "embedder").exists()
    assert not (out / "reranker").exists()
    report = json.loads((out / "report.json").read_text())
    assert report["embedder"]["helps"] is False
    assert {"low", "high", "before", "after", "training"} <= {*report["reranker"]}
    assert outcome.summary.count("dropped") == 3


def test_a_killed_training_goes_on_and_ends_with_the_same_bytes(run, monkeypatch, tmp_path):
    monkeypatch.setattr(judgement, "compare", always(True))
    _, whole = run("whole", embedder=True)
    scratch = tmp_path / "survives"

    class Killed(Exception):
        pass

    from transformers import TrainerCallback

    class Kill(TrainerCallback):
        def on_epoch_begin(self, args, state, control, **_):
            if state.global_step:
                raise Killed

    real = training._callbacks
    with monkeypatch.context() as patch:
        patch.setattr(training, "_callbacks", lambda *a: [*real(*a), Kill()])
        with pytest.raises(Killed):
            run("killed", embedder=True, scratch=scratch)
    assert list((scratch / "embedder" / "training").glob("checkpoint-*"))
    steps = []

    class Count(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            steps.append(state.global_step)

    monkeypatch.setattr(training, "_callbacks", lambda *a: [*real(*a), Count()])
    _, resumed = run("resumed", embedder=True, scratch=scratch)
    assert steps[0] > 1, "the first epoch is not trained again"
    assert files(resumed) == files(whole)


def test_reranking_is_judged_alone_where_nothing_is_fine_tuned(run):
    outcome, out = run(retrieval={"rerank": "auto", "rerank_depth": 4, "weights": "measured"})
    choice = json.loads((out / "retriever.json").read_text())
    assert choice["rerank"] in (True, False)
    assert choice["lexical_share"] in judgement.SHARES
    assert {"grid", "low", "high"} <= {*outcome.metrics["weights"]}
    assert json.loads((out / "cost.json").read_text())["seconds_per_question"] > 0


def test_a_reranker_that_helps_and_takes_too_long_is_dropped(run, monkeypatch):
    monkeypatch.setattr(judgement, "compare", always(True))
    outcome, out = run(retrieval={"rerank": "auto", "rerank_depth": 4, "rerank_seconds": 1e-6})
    assert json.loads((out / "retriever.json").read_text())["rerank"] is False
    assert "though it helps" in outcome.summary


def test_too_few_questions_change_nothing_and_say_how_many_are_needed(run, monkeypatch):
    monkeypatch.setattr(judgement, "LEAST_QUESTIONS", 500)
    outcome, out = run(retrieval={"rerank": "auto", "rerank_depth": 4, "weights": "measured"})
    choice = json.loads((out / "retriever.json").read_text())
    assert (choice["rerank"], choice["lexical_share"]) == (False, 0.5)
    assert outcome.summary.count("500") == 2
    with pytest.raises(BadInput, match=r"cannot be fine-tuned on \d+ training") as caught:
        run("two", embedder=True)
    assert "500" in caught.value.expected


def test_questions_of_one_document_are_bad_input(domain, run):
    one = [q for q in domain.questions if q.document_ids[0] == domain.chunks[0].document_id]
    chunk = next(c for c in domain.chunks if c.id == one[0].gold_chunk_ids[0])
    with pytest.raises(BadInput, match=r"independent"):
        run(
            questions=[*one, make_question("and a third?", "x", chunk)],
            embedder=True,
            splits=SplitsConfig(validation=0.3, test=0),
        )


def test_a_reranker_that_has_to_prove_itself_is_another_request_than_one_that_is_set():
    from tasks.build.keys import result_fields

    name = "cross-encoder/one"
    fields = {value: result_fields(RetrievalConfig(rerank=value)) for value in (None, "auto", name, "another/one")}
    assert fields["auto"] != fields[name]
    assert fields[None] == fields[name] == fields["another/one"], "which one it is, the digest of the model tells"


def test_a_model_without_weights_to_train_is_bad_input():
    import torch

    frozen = torch.nn.Linear(2, 2)
    frozen.requires_grad_(False)
    with pytest.raises(BadInput, match="no weights that can be trained"):
        training._require_trainable(frozen, Path("model"))
