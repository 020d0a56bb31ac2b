"""What a teacher's replies have cost, and whether the budget pays for another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from data.teachers.protocol import BudgetReached, Messages, Price, Usage


class Account:
    """Counts what is used in `usage`, and sets aside what requests in flight may cost at most."""

    def __init__(self, price: Price | None, budget: float | None) -> None:
        self.usage = Usage(cost=0.0 if price else None)
        self._price, self._budget = price, budget
        self._reserved = 0.0

    @contextmanager
    def reserved(self, messages: Messages, max_tokens: int) -> Iterator[None]:
        """Sets aside what one request can cost at most (a token is at least about two bytes of English).

        Raises:
            BudgetReached: the budget does not pay for it.
        """
        if self._price is None or self._budget is None:
            yield
            return
        prompt_tokens = sum(len(m["content"].encode()) // 2 + 8 for m in messages)
        ceiling = (prompt_tokens * self._price.prompt + max_tokens * self._price.completion) / 1e6
        spent = self.usage.cost or 0.0
        if spent + self._reserved + ceiling > self._budget:
            raise BudgetReached(
                f"the teacher's budget of {self._budget:g} does not pay for the next request, which may cost "
                f"{ceiling:.4g}: {spent:.4f} are spent",
                do="raise the budget and run again: finished replies are kept and not paid again",
            )
        self._reserved += ceiling
        try:
            yield
        finally:
            self._reserved -= ceiling

    def count(self, prompt: int, completion: int) -> None:
        """Adds the tokens of a reply."""
        self.usage.prompt_tokens += prompt
        self.usage.completion_tokens += completion
        if self._price is not None:
            cost = (prompt * self._price.prompt + completion * self._price.completion) / 1e6
            self.usage.cost = (self.usage.cost or 0.0) + cost
