"""LangChain sees the same passages in the same order, and builds the prompt that an adapter was trained on."""

from pathlib import Path

import pytest

pytest.importorskip("langchain_core", reason="the extra `langchain` is not installed: pip install -e '.[langchain]'")

from data.nouns import Chunk, digest, text_sha256
from data.prompting.contract import load_template, prompt_contract, render, to_messages
from retrieval.for_langchain import RaftRetriever, messages_for
from retrieval.search import Retriever

TEXTS = ("The mill stands beside the river.", "The iron bridge was built in 1874.", "Salt is sold on the market.")


def make_chunk(number: int, text: str) -> Chunk:
    return Chunk(
        digest(str(number), "0", text), digest(str(number)), 0, text, 0, len(text), 7, text_sha256(text),
        f"{number}.md", f"Town {number}",
    )  # fmt: skip


@pytest.fixture
def retriever() -> Retriever:
    return Retriever(None, None, [make_chunk(i, t) for i, t in enumerate(TEXTS)], mode="lexical")


def test_the_same_passages_in_the_same_order_with_their_citation(retriever):
    documents = RaftRetriever(retriever=retriever, k=2).invoke("When was the bridge built?")
    hits = retriever.search(["When was the bridge built?"], 2)[0]
    assert [d.id for d in documents] == [h.chunk_id for h in hits]
    assert documents[0].page_content == TEXTS[1]
    assert documents[0].metadata["source"] == "1.md"
    assert (documents[0].metadata["start"], documents[0].metadata["end"]) == (0, len(TEXTS[1]))


def test_the_prompt_is_the_one_of_the_contract(retriever):
    contract = prompt_contract(load_template("numbered"), passages=2, may_refuse=True)
    question = "When was the bridge built?"
    documents = RaftRetriever(retriever=retriever, k=2).invoke(question)
    chunks = [retriever.chunks[d.id] for d in documents]
    instruction, shown = render(question, chunks, template=load_template("numbered"), may_refuse=True)
    assert messages_for(contract, question, documents) == to_messages({"instruction": instruction, "input": shown})


def test_a_chain_of_retriever_prompt_and_local_model(retriever):
    """The chain of docs/consumers.md, with a model that repeats the last line it is shown."""
    from langchain_core.runnables import RunnableLambda

    contract = prompt_contract(load_template("raft"), passages=1, may_refuse=True)
    search = RaftRetriever(retriever=retriever, k=contract["passages"])
    read = RunnableLambda(lambda question: messages_for(contract, question, search.invoke(question)))
    chain = read | RunnableLambda(lambda messages: messages[-1]["content"])
    assert TEXTS[2] in chain.invoke("Where is salt sold?")


def test_the_same_chain_with_a_model_folder_in_langchains_own_pipeline(retriever, tmp_path, monkeypatch):
    huggingface = pytest.importorskip("langchain_huggingface", reason="the extra `langchain` is not installed")
    import torch
    from langchain_core.runnables import RunnableLambda
    from transformers import pipeline

    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[1] / "flows"))
    import tiny

    folder = str(tiny.make_base(tmp_path / "merged"))
    contract = prompt_contract(load_template("raft"), passages=2, may_refuse=True)
    search = RaftRetriever(retriever=retriever, k=contract["passages"])
    pipe = pipeline(
        "text-generation",
        model=folder,
        dtype=torch.float32,
        max_new_tokens=8,
        do_sample=False,
        return_full_text=False,
    )
    model = huggingface.HuggingFacePipeline(pipeline=pipe)
    chat = huggingface.ChatHuggingFace(llm=model, tokenizer=pipe.tokenizer, model_id=folder)
    read = RunnableLambda(lambda question: messages_for(contract, question, search.invoke(question)))
    reply = (read | chat).invoke("Where is salt sold?").content
    assert reply == pipe(read.invoke("Where is salt sold?"))[0]["generated_text"]
