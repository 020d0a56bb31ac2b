"""Licences are read where they stand, named as SPDX does, and what does not go together is said."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import small_chain

from data.nouns import Document
from flows.licences import licences_of, warnings_of
from flows.plan import notices_of
from tasks.config import RunConfig
from tasks.inputs.licences import UNKNOWN, Licences, of_documents, of_model, of_teacher, spdx
from tasks.store.store import Store

NONE = "No document names a licence: set `licences.documents`."


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("apache-2.0", "Apache-2.0"),
        ("Apache License", "Apache-2.0"),
        ("cc-by-nc-4.0", "CC-BY-NC-4.0"),
        ("CC BY-SA 4.0", "CC-BY-SA-4.0"),
        ("llama3", "Llama-3"),
        ("other", ""),
        ("House rules of 1998", "House rules of 1998"),
    ],
)
def test_names_are_those_of_spdx_where_there_is_one(given, name):
    assert spdx(given) == name


def test_a_model_says_its_licence_in_its_card_else_by_the_text_beside_it(tmp_path):
    assert of_model("my/model", tmp_path) == UNKNOWN
    (tmp_path / "LICENSE").write_text("Apache License\n   Version 2.0, January 2004\n")
    assert of_model("my/model", tmp_path) == "Apache-2.0"
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n# A model\n")
    assert of_model("my/model", tmp_path) == "MIT"
    assert of_model("HuggingFaceTB/SmolLM2-135M-Instruct", None) == "Apache-2.0"
    assert of_model("meta-llama/Meta-Llama-3-8B-Instruct", None) == "Llama-3"
    assert of_model("meta-llama/Llama-3.1-8B-Instruct", None) == UNKNOWN


def test_a_teacher_is_known_by_its_address_or_its_name():
    assert of_teacher("anything", None) == "OpenAI"
    assert of_teacher("gpt-4o", "http://127.0.0.1:8000/v1") == "OpenAI"
    assert of_teacher("meta-llama/Llama-2-70b-chat-hf", "http://127.0.0.1:8000/v1") == "Llama-2"
    assert of_teacher("Qwen/Qwen3-8B", "http://127.0.0.1:8000/v1") == ""


def document(source: str, **metadata) -> Document:
    return Document(
        id=source, source=source, title="", text="Words.", media_type="text/plain", sha256="0" * 64, metadata=metadata,
    )  # fmt: skip


def test_documents_are_counted_by_the_licence_that_they_name():
    rows = [document("a", fields={"license": "cc-by-4.0"}), document("b"), document("pydoc:topics/if")]
    assert of_documents(rows, None) == {"": 1, "CC-BY-4.0": 1, "PSF-2.0": 1}
    assert of_documents(rows, "MIT") == {"CC-BY-4.0": 1, "MIT": 1, "PSF-2.0": 1}


def test_what_does_not_go_together_is_said():
    assert Licences("Llama-3", "Apache-2.0", "Llama-3").conflicts() == [], "a base may be its own teacher"
    [sentence] = Licences("Apache-2.0", "Apache-2.0", "Llama-3").conflicts()
    assert sentence.startswith("The teacher stands under Llama-3: its output may improve no language model but")
    [sentence] = Licences("MIT", "MIT", documents={"CC-BY-NC-4.0": 3}).conflicts()
    assert "CC-BY-NC-4.0" in sentence
    assert Licences("MIT", "MIT", documents={"": 3}).gaps() == [
        "No document names a licence: set `licences.documents`."
    ]
    assert "2 of the documents name no" in Licences("MIT", "MIT", documents={"": 2, "MIT": 1}).gaps()[0]
    assert "licences.base" in Licences().gaps()[0]


def test_a_run_warns_of_what_its_documents_are_under(tmp_path):
    ingest = small_chain.write_chain(Store(tmp_path / "raft"))["ingest"]
    config = RunConfig(store=str(tmp_path / "raft"))
    assert warnings_of(config, ingest) == [NONE]
    named = config.model_copy(update={"licences": config.licences.model_copy(update={"documents": "CC-BY-NC-4.0"})})
    [sentence] = warnings_of(named, ingest)
    assert sentence == "Documents stand under CC-BY-NC-4.0, which may not allow an adapter made of them."


def test_the_plan_warns_of_a_teacher_whose_output_may_not_be_trained_on(tmp_path):
    config = RunConfig(store=str(tmp_path / "raft"))
    assert notices_of(config) == []
    hired = config.model_copy(update={"questions": config.questions.model_copy(update={"teacher": "openai"})})
    assert ["OpenAI" in notice for notice in notices_of(hired)] == [True]
    allowed = hired.model_copy(update={"licences": hired.licences.model_copy(update={"teacher": "our contract"})})
    assert licences_of(allowed).teacher == "our contract"
    assert notices_of(allowed) == []
