"""Stage `evaluate`: base with retrieval against adapter with retrieval, on documents that were not trained on."""

from __future__ import annotations

from tasks.section import Section, setting


class EvaluateConfig(Section):
    """How the adapter is measured."""

    limit: int | None = setting(None, "Test records at most; none = all", unit="records", ge=1)
    max_new_tokens: int = setting(160, "Longest answer", unit="tokens", ge=8, le=8192)
    batch_size: int = setting(8, "Prompts answered at once", unit="prompts", ge=1, le=512)
