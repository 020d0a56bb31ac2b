"""Stage `export`: the adapter as a PEFT folder and a merged model, and the gate that they compute what was trained."""

from __future__ import annotations

from typing import Literal

from tasks.build.section import Section, setting
from tasks.build.stage import Stage
from tasks.work.export import build


class ExportConfig(Section):
    """What is exported and how it is checked."""

    merged_dtype: Literal["float32", "bfloat16"] = setting(
        "float32", "Precision of the merged model; bfloat16 is half as large and rounds the adapter's share"
    )
    gate_prompts: int = setting(3, "Prompts of the parity gate", unit="prompts", ge=1, le=64)
    gate_tokens: int = setting(16, "Greedy continuation that must be equal", unit="tokens", ge=1, le=256)
    tolerance: float = setting(1e-3, "Largest logit difference in float32", gt=0, le=1)


STAGE = Stage(
    "export",
    ExportConfig,
    build,
    help="Write the PEFT adapter and the merged model, and check that both agree with the engine.",
    models=("base",),
    models_if_set=("reranker",),
    shared=("quoting",),
    packages=("jax", "jaxlib", "torch", "transformers", "peft", "safetensors"),
    describing=("adapter/README.md",),
)
