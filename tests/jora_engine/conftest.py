"""Tiny random models of each family, made on the spot by transformers and shared by this folder's tests."""

from pathlib import Path

import jax
import pytest
import tokenizers
import torch
import transformers

torch.set_num_threads(1)  # its threads spin beside those of XLA, which makes tiny models minutes slow

SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 56,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
LLAMA3 = {
    "rope_theta": 500.0,
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
FULL, SLIDING = "full_attention", "sliding_attention"
FAMILIES = {
    "llama": (transformers.LlamaConfig, {"rms_norm_eps": 1e-5}),
    "smollm2": (
        transformers.LlamaConfig,
        {
            "tie_word_embeddings": True,
            "num_attention_heads": 3,
            "num_key_value_heads": 1,
            "hidden_size": 48,
            "head_dim": 16,
        },
    ),
    "llama3": (transformers.LlamaConfig, {"rope_parameters": LLAMA3}),
    "mistral": (transformers.MistralConfig, {"sliding_window": 5, "head_dim": 16}),
    "qwen2": (transformers.Qwen2Config, {"tie_word_embeddings": True}),
    "qwen3": (transformers.Qwen3Config, {"head_dim": 12}),
    "qwen2_some_windows": (
        transformers.Qwen2Config,
        {"use_sliding_window": True, "sliding_window": 5, "layer_types": [FULL, SLIDING, FULL]},
    ),
    "granite": (
        transformers.GraniteConfig,
        {
            "tie_word_embeddings": True,
            "embedding_multiplier": 3.0,
            "attention_multiplier": 0.2,
            "residual_multiplier": 0.6,
            "logits_scaling": 2.0,
        },
    ),
    "smollm3": (transformers.SmolLM3Config, {"no_rope_layers": [1, 0, 1]}),
    "olmo2": (transformers.Olmo2Config, {}),
    "gemma": (transformers.GemmaConfig, {"head_dim": 16}),
    "gemma2": (
        transformers.Gemma2Config,
        {
            "head_dim": 12,
            "sliding_window": 5,
            "query_pre_attn_scalar": 20,
            "attn_logit_softcapping": 1.5,
            "final_logit_softcapping": 2.5,
        },
    ),
    "gemma3": (
        transformers.Gemma3TextConfig,
        {
            "head_dim": 12,
            "sliding_window": 5,
            "query_pre_attn_scalar": 20,
            "layer_types": [SLIDING, FULL, SLIDING],
            "rope_parameters": {
                FULL: {"rope_type": "linear", "factor": 4.0, "rope_theta": 500.0},
                SLIDING: {"rope_type": "default", "rope_theta": 30.0},
            },
        },
    ),
    "phi3": (transformers.Phi3Config, {"sliding_window": 9, "rope_parameters": {"rope_theta": 300.0}}),
}


def make_model(family: str, folder: Path, dtype: torch.dtype = torch.float32, **save) -> Path:
    """Saves a random model of a family; every weight, norm and bias differs from its usual initial value."""
    kind, options = FAMILIES[family]
    config = kind(**{**SIZES, **options})
    torch.manual_seed(len(family))
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.uniform_(0.5, 1.5)
            else:
                weight.normal_(0.0, 0.3 if "bias" in name else weight.shape[-1] ** -0.5)
    model.to(dtype).save_pretrained(folder, **save)
    return folder


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    """`model_folder("qwen3")`: folder of a random model of that family, made once."""
    made: dict[str, Path] = {}

    def get(family: str) -> Path:
        if family not in made:
            made[family] = make_model(family, tmp_path_factory.mktemp(family))
        return made[family]

    return get


@pytest.fixture(scope="module")
def light_compilation():
    """Compiles without LLVM's costly passes, for a module that compares values with a tolerance.

    XLA's program is the same, and its machine code rounds a little otherwise. Such code is kept for this module alone:
    where bytes are compared, both sides have to come from the same compiler.
    """
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
    jax.clear_caches()


@pytest.fixture(params=list(FAMILIES))
def any_family(request):
    """The name of each family in turn."""
    return request.param


RELATIVES = ("smollm2", "llama3", "mistral", "qwen2", "gemma")
"""Families whose layer has nothing that the other families together do not have (Llama 3 has its own angles)."""
LIKE_LLAMA = ("qwen2_some_windows", "qwen3", "granite", "smollm3", "olmo2", "phi3")
"""Families whose layer differs from Llama's in one thing."""


def marks_of(family: str) -> list[pytest.MarkDecorator]:
    return [pytest.mark.heavy] * (family in RELATIVES) + [pytest.mark.wide] * (family in LIKE_LLAMA)


@pytest.fixture(params=[pytest.param(name, marks=marks_of(name)) for name in FAMILIES])
def any_layer(request):
    """`any_family` for tests that take seconds a family: those of one layer with another are heavy, those that differ
    from Llama in one thing are wide."""
    return request.param


@pytest.fixture
def any_model(any_family, model_folder):
    """Folder of a random model of each family in turn."""
    return model_folder(any_family)


TEXTS = [
    "Hello world, it's the year 2024; we'll see 3.14 and a1b2.",
    "  two leading spaces\n\n\tand a tab \r\n",
    "Ünïcödé 漢字 😀 naïve café ½ ²",
    "<|im_start|>user\nhi<|im_end|>\n",
    "def f(x):\n    return x ** 2  # comment",
    "",
]
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>'"
    " + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture(scope="session")
def bpe():
    """A small byte-level BPE tokenizer in SmolLM2's style: digits alone, `<|im_end|>` ends a turn."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Digits(individual_digits=True),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    return tokenizer


@pytest.fixture
def kernels(monkeypatch):
    """The library of this processor."""
    monkeypatch.delenv("RAFT_NATIVE", raising=False)
    from jora_engine.model.attention_backends import choose
    from jora_engine.model.native import library as native

    native.library.cache_clear()
    try:
        yield native.library()
    except native.Unavailable as reason:
        pytest.skip(f"no native kernels here: {reason}")
    finally:  # the tests that follow do without
        native.library.cache_clear()
        choose.cache_clear()


@pytest.fixture
def tokenizer_folder(bpe, tmp_path):
    """A folder with the tokenizer as transformers saves it, chat template included."""
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>"
    )
    fast.chat_template = CHATML
    fast.save_pretrained(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def texts():
    """Words, digits, white space, scripts, special tokens and code."""
    return TEXTS
