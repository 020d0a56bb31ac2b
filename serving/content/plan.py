"""A request made ready for the engine, and what its text is told as while it grows."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from serving.content.citations import Content, finished, growing, shown_passages

if TYPE_CHECKING:
    from jora_engine.generation.requests import Request
    from serving.routing import Route
    from serving.schema import Sources
    from tasks.runtime.asking import Asked


@dataclass(frozen=True)
class Plan:
    """A request made ready for the engine.

    Attributes:
        model: the id of what answers (`faq@3`, `base`).
        request: for the engine; None where the answer is known already.
        asked: the question and its passages; None where nothing is searched.
        ignored: parts of the request that have no place in the contract; `retrieval` where a chat page's own prompt
            went to the base.
        sources: where the citations are to stand beside `annotations`.
        routes: the domains that `auto` or `mix` looked at, the nearest first.
    """

    model: str
    request: Request | None
    prompt_tokens: int
    asked: Asked | None = None
    ignored: tuple[str, ...] = ()
    passages_left_out: int = 0
    passage_url: str = ""
    sources: Sources = "annotations"
    routes: tuple[Route, ...] = ()
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def shown(self) -> tuple[dict[str, Any], ...]:
        """What a page shows before the text: the passages, where it asks for them."""
        return shown_passages(self.asked, self.passage_url) if self.asked and self.sources == "passages" else ()

    def settled(self, text: str) -> str:
        """The content that stands fast while a text grows; of an answer that may be withheld, nothing does."""
        if self.asked is None:
            return text
        return "" if self.asked.citing else growing(text, self.asked.template)

    def content(self, text: str) -> Content:
        """The whole content and its annotations."""
        return finished(text, self.asked, self.passage_url, self.sources) if self.asked else Content(text)


def is_page_task(text: str) -> bool:
    """Whether a text is built as Open WebUI's own prompts are, in every language that they are translated to: a task,
    and the talk, or the text that is to be completed. In linear time, since anybody may send anything."""
    text = text.lstrip()
    if not text.startswith("### Task:"):
        return False
    return any(-1 < text.find(f"<{part}>") < text.rfind(f"</{part}>") for part in ("chat_history", "text"))
