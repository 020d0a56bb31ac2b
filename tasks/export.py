"""Stage `export`: the adapter as a PEFT folder and a merged model, and the gate that they compute what was trained."""

from __future__ import annotations

from tasks.section import Section, setting


class ExportConfig(Section):
    """What is exported and how it is checked."""

    prompts: int = setting(4, "Prompts of the parity gate", unit="prompts", ge=1, le=64)
    tokens: int = setting(16, "Greedy continuation compared by the gate", unit="tokens", ge=1, le=256)
    tolerance: float = setting(1e-3, "Largest logit difference in float32", gt=0, le=1)
