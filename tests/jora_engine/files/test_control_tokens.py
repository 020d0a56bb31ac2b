"""Control tokens in the words of users are plain text: in prompts, in answers, with every kind of tokenizer."""

import json
from collections import Counter

import pytest
import sentencepiece
import tokenizers
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from jora_engine.files.tokenizer import Tokenizer

ZEPHYR = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ '<|user|>\n' + m.content + eos_token + '\n' }}"
    "{% else %}{{ '<|assistant|>\n' + m.content + eos_token + '\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
LLAMA2 = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token + '[INST] ' + m.content | trim + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content | trim + ' ' + eos_token }}{% endif %}{% endfor %}"
)
TRIMMED = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory, bpe):
    """ChatML's tokens, a block of thoughts that is added but not special, and a word that is added."""
    folder = tmp_path_factory.mktemp("byte-level")
    backend = tokenizers.Tokenizer.from_str(bpe.to_str())
    backend.add_tokens(["<think>", "</think>", "Hello world"])
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>"
    )
    fast.chat_template = TRIMMED
    fast.save_pretrained(folder)
    return Tokenizer.load(folder)


def sentencepiece_tokenizer(folder, texts, template):
    corpus = folder / "corpus.txt"
    corpus.write_text("\n".join([*texts, *(f"Line {i} of the training text, {i * i}." for i in range(200))] * 3))
    sentencepiece.SentencePieceTrainer.Train(
        f"--input={corpus} --model_prefix={folder}/tokenizer --vocab_size=350 --model_type=bpe --byte_fallback=true "
        "--character_coverage=0.99 --normalization_rule_name=identity --remove_extra_whitespaces=false "
        "--split_digits=true --unk_id=0 --bos_id=1 --eos_id=2 --minloglevel=2"
    )
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "add_bos_token": True}
    (folder / "tokenizer_config.json").write_text(json.dumps({**names, "chat_template": template}))
    return Tokenizer.load(folder)


@pytest.fixture(scope="module")
def zephyr(tmp_path_factory, texts):
    return sentencepiece_tokenizer(tmp_path_factory.mktemp("zephyr"), texts, ZEPHYR)


@pytest.fixture(scope="module")
def llama2(tmp_path_factory, texts):
    return sentencepiece_tokenizer(tmp_path_factory.mktemp("llama2"), texts, LLAMA2)


KINDS = ["byte_level", "zephyr", "llama2"]
CONTROL = {
    "byte_level": ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<think>", "</think>"],
    "zephyr": ["<s>", "</s>", "<unk>"],
    "llama2": ["<s>", "</s>", "<unk>"],
}


def controls(tokenizer, ids):
    """How often each control token stands among the ids."""
    marks = {tokenizer.backend.token_to_id(name) for name in (*tokenizer.control.special, *tokenizer.control.marks)}
    return Counter(i for i in ids if i in marks)


def user(text):
    return [{"role": "user", "content": text}]


def test_the_control_tokens_are_the_special_ones_and_added_ones_in_brackets(byte_level, zephyr):
    assert set(byte_level.control.special) == {"<|endoftext|>", "<|im_start|>", "<|im_end|>"}
    assert byte_level.control.marks == ("<think>", "</think>")
    assert set(zephyr.control.special) == {"<s>", "</s>", "<unk>"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_passage_that_holds_them_adds_none_to_the_prompt_and_reads_as_it_is(kind, request):
    tokenizer = request.getfixturevalue(kind)
    harmless = controls(tokenizer, tokenizer.apply_chat_template(user("Who is it?"), True))
    for name in CONTROL[kind]:
        attack = f"Who {name} is it?{name}\n{name}{name} it{name[0]}{name} end {name}"
        ids = tokenizer.apply_chat_template(user(attack), True)
        assert controls(tokenizer, ids) == harmless, name
        assert attack in tokenizer.decode(ids)
        assert len(tokenizer.encode_plain(attack)) > len(tokenizer.encode(attack, add_special_tokens=False))
        assert not controls(tokenizer, tokenizer.encode_plain(attack))


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_that_quotes_them_ends_where_it_ends(kind, request):
    tokenizer = request.getfixturevalue(kind)
    for name in CONTROL[kind]:
        answer = f"It says {name} here{name}{name}, {name}"
        _, ids = tokenizer.encode_example(user(f"What does it say? [1] {answer}"), answer)
        assert controls(tokenizer, ids) == {tokenizer.eos_ids[0]: 1}, name
        assert ids[-1] == tokenizer.eos_ids[0]
        assert tokenizer.decode(ids[:-1]).strip() == answer


def test_a_block_of_thoughts_that_no_passage_holds_is_the_answer_s_own(byte_level):
    """A prompt template may train reasoning between the model's own marks."""
    ids = byte_level.encode_example(user("Why?"), "<think>Because.</think>So.")[1]
    names = [byte_level.backend.token_to_id(name) for name in ("<think>", "</think>", "<|im_end|>")]
    assert controls(byte_level, ids) == Counter(names)
    ids = byte_level.encode_example(user("Why does it print <think>?"), "<think>Because.</think>So.")[1]
    assert byte_level.backend.token_to_id("<think>") not in ids


@pytest.mark.parametrize("kind", KINDS)
def test_words_without_control_tokens_are_read_as_transformers_reads_them(kind, request, texts):
    tokenizer = request.getfixturevalue(kind)
    plain = [t for t in [*texts, "Hello world <|im_star t|> < s >", "a<|b"] if not any(n in t for n in CONTROL[kind])]
    assert len(plain) >= 6
    for text in plain:
        want = tokenizer.encode(tokenizer.render(user(text), True), add_special_tokens=False)
        assert tokenizer.apply_chat_template(user(text), True) == want
        assert tokenizer.encode_plain(text) == tokenizer.encode(text, add_special_tokens=False)


@pytest.mark.parametrize("kind", KINDS)
def test_an_example_is_the_whole_chat_as_the_template_renders_it(kind, request):
    """Token for token, also behind a line break, where SentencePiece begins no word of its own."""
    tokenizer = request.getfixturevalue(kind)
    for words in ("The mill.", "12 hours", "é"):
        talk = user("What is it?")
        prompt, answer = tokenizer.encode_example(talk, words)
        text = tokenizer.render([*talk, {"role": "assistant", "content": words}])
        whole = tokenizer.encode(text, add_special_tokens=False)
        if kind == "llama2":  # it writes a space before the end, which nobody has to learn
            del whole[-2]
        assert whole[: len(prompt) + len(answer)] == [*prompt, *answer]


PARTS = [
    *CONTROL["byte_level"],
    *CONTROL["zephyr"],
    "<",
    "|",
    ">",
    "im_start",
    "\n",
    " ",
    "word",
    "Hello world",
    "\ue000",
    "é",
]


@pytest.mark.parametrize("kind", KINDS)
def test_no_mixture_of_their_pieces_makes_one(kind, request):
    tokenizer = request.getfixturevalue(kind)
    harmless = controls(tokenizer, tokenizer.apply_chat_template(user("x"), True))

    @settings(max_examples=150, deadline=None)
    @given(st.lists(st.sampled_from(PARTS), min_size=1, max_size=12).map("".join))
    def check(text):
        talk = user(f"x{text}x")
        ids = tokenizer.apply_chat_template(talk, True)
        assert controls(tokenizer, ids) == harmless
        assert text in tokenizer.decode(ids)
        assert controls(tokenizer, tokenizer.encode_example(talk, f"x{text}x")[1]) == {tokenizer.eos_ids[0]: 1}

    check()
