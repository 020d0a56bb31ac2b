"""A question with its passages as a prompt, and the reply read back: the same for `raft ask` and the server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from data.evaluation.citing import citing_score
from data.evaluation.metrics import check_quotes
from data.prompting.contract import Passage, PromptTemplate, parse_answer, quote_weight_of, render, to_messages
from data.prompting.copying import QuoteCopier, TokenBytes
from retrieval.preference import preference

if TYPE_CHECKING:
    from retrieval.search import Citation, Retriever


@dataclass(frozen=True)
class Asked:
    """A question with the passages that are shown with it, best first.

    Attributes:
        citations: of the passages shown, which number n is the n-th.
        citing: what was calibrated for the adapter (`data.evaluation.citing.Calibration`), from its contract; empty
            where nothing is promised of its citations.
        quote_weight: how much the search counts in the choice of what is copied (`ask.quote_weight`).
        reranked: whether the citations' scores are a cross-encoder's.
    """

    question: str
    citations: tuple[Citation, ...]
    template: PromptTemplate
    may_refuse: bool
    citing: Mapping[str, Any] = field(default_factory=dict)
    quote_weight: float = 0.0
    reranked: bool = False

    @property
    def texts(self) -> list[str]:
        """The text of each passage shown."""
        return [citation.text for citation in self.citations]

    @property
    def refusal(self) -> str:
        """The reply of a question for which no passage was found, which no model needs to be asked for."""
        return f"{self.template.answer_marker} {self.template.refusal}"

    def messages(self) -> list[dict[str, str]]:
        """The prompt in chat form, as the adapter was trained."""
        passages = [Passage(citation.title, citation.text) for citation in self.citations]
        instruction, text = render(self.question, passages, template=self.template, may_refuse=self.may_refuse)
        return to_messages({"instruction": instruction, "input": text})

    def copier(self, vocabulary: TokenBytes) -> QuoteCopier:
        """What keeps the quotes of an answer word for word, as in the evaluation."""
        ranks, scores = [c.rank for c in self.citations], [c.score for c in self.citations]
        preferred = preference(ranks, scores, weight=self.quote_weight, reranked=self.reranked)
        return QuoteCopier(vocabulary, self.template, self.texts, preferred)

    def read(self, text: str) -> dict[str, Any]:
        """A reply: its final answer, whether it refuses, its quotes checked against the passages, the raw text.

        Where citations are promised to be right, an answer whose own is not sure enough is `withheld`: its place is
        taken by the refusal that the adapter was taught.
        """
        reply = parse_answer(text, template=self.template)
        quotes = check_quotes(reply.quotes, self.texts, [])
        read = {"answer": reply.final_answer, "refused": reply.refused, "quotes": quotes, "text": text}
        if not self.citing:
            return read
        score = citing_score(quotes, [citation.score for citation in self.citations])
        withheld = not reply.refused and (score is None or score < self.citing["threshold"])
        if withheld:
            read |= {"answer": self.template.refusal, "refused": True}
        return {**read, "withheld": withheld}


def put(
    question: str,
    retriever: Retriever,
    template: PromptTemplate,
    contract: Mapping[str, Any],
    *,
    k: int | None = None,
    where: Mapping[str, Any] | None = None,
) -> Asked:
    """The question with the passages that the search gives it, as many as the contract says or `k`."""
    hits = retriever.search([question], k or contract["passages"], where=where)[0]
    citations = tuple(retriever.cite(hit) for hit in hits)
    return Asked(
        question,
        citations,
        template,
        contract["may_refuse"],
        contract.get("citing") or {},
        quote_weight=quote_weight_of(contract),
        reranked=retriever.reranker is not None,
    )
