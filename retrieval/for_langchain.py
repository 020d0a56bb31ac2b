"""The retriever and the prompt contract for LangChain: a `BaseRetriever`, and messages as the adapter knows them.

Needs the extra `langchain`. Nothing else in the project imports this module.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from data.prompting.contract import Passage, render, template_from_contract, to_messages
from raft_errors import BadInput
from retrieval.search import Retriever

try:
    from langchain_core.callbacks import CallbackManagerForRetrieverRun
    from langchain_core.documents import Document
    from langchain_core.retrievers import BaseRetriever
except ImportError as error:
    raise BadInput(
        f"LangChain is not installed ({error})",
        expected="the package langchain-core",
        do="install the extra: pip install 'jora-raft[langchain]'",
    ) from error


class RaftRetriever(BaseRetriever):
    """Our retriever as LangChain's: same index, same order, citations as metadata.

    Example:
        >>> RaftRetriever(retriever=retriever, k=4).invoke("How do closures work?")[0].metadata["source"]
    """

    retriever: Any
    """A `retrieval.search.Retriever`."""
    k: int = 4
    """Passages for each question; the `passages` of the prompt contract, if an adapter is to read them."""

    def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForRetrieverRun) -> list[Document]:
        search: Retriever = self.retriever
        citations = [search.cite(hit).to_dict() for hit in search.search([query], self.k)[0]]
        return [Document(id=row["chunk_id"], page_content=row.pop("text"), metadata=row) for row in citations]


def messages_for(contract: Mapping[str, Any], question: str, documents: Sequence[Document]) -> list[dict[str, str]]:
    """The chat messages for a question and its passages, exactly as the adapter was trained to read them.

    Args:
        contract: the `prompt` of the adapter's raft.json.
    """
    passages = [Passage(str(d.metadata.get("title", "")), d.page_content) for d in documents]
    template = template_from_contract(contract)
    instruction, text = render(question, passages, template=template, may_refuse=contract["may_refuse"])
    return to_messages({"instruction": instruction, "input": text})
