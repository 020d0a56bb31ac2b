"""Chat templates whose prompt is not how an answered chat begins: refused before training, with what to set."""

import ast
import dataclasses
import json
import re

import pytest
import tokenizers
import yaml

from jora_engine.files.prompt_check import check_prompt
from jora_engine.files.tokenizer import Tokenizer
from raft_errors import BadInput

TURNS = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
SWITCHED = TURNS + (
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
THINKS_UNLESS_TOLD = TURNS + (
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if thinking | default(true) %}<think>\n{% else %}<think></think>{% endif %}{% endif %}"
)
EMPTY_BLOCK_IN_ANSWERS = (  # as Qwen3 renders the last turn
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.last %}<think>\n</think>\n{% endif %}{{ m.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n</think>\n{% endif %}{% endif %}"
)


def opening(mark, in_answers=""):
    """A template that writes the mark behind the prompt of generation, and something else before an answer."""
    return (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}" + in_answers + "{% endif %}"
        "{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
        + mark
        + "{% endif %}"
    )


def load(folder, template, **chat):
    (folder / "chat_template.jinja").write_text(template)
    return Tokenizer.load(folder, **chat)


@pytest.mark.parametrize(
    "mark",
    ["<think>\n", "<thinking>", "<thought>", "<reasoning>\n", "[THINK]", "<|begin_of_thought|>", "<|START_THINKING|>"],
)
@pytest.mark.parametrize("also_in_answers", [False, True])
def test_a_block_that_the_prompt_leaves_open_is_refused_and_the_advice_closes_it(
    tokenizer_folder, mark, also_in_answers
):
    template = opening(mark, mark if also_in_answers else "")
    with pytest.raises(BadInput, match="block that stays open") as refusal:
        check_prompt(load(tokenizer_folder, template), "some/base")
    assert "some/base" in refusal.value.what
    prefill = ast.literal_eval(re.search(r"models\.prefill: ('.*?'),", refusal.value.do)[1])
    mended = load(tokenizer_folder, template, prefill=prefill)
    check_prompt(mended)
    prompt, answer = mended.encode_example([{"role": "user", "content": "Q"}], "Because.")
    assert mended.decode(prompt).endswith(mark + prefill)
    assert mended.decode(answer) == "Because.<|im_end|>"


def test_a_switch_of_the_template_is_advised_where_one_closes_the_block(tokenizer_folder):
    with pytest.raises(BadInput, match="stays open") as refusal:
        check_prompt(load(tokenizer_folder, THINKS_UNLESS_TOLD))
    setting = yaml.safe_load(refusal.value.do.partition("models.chat_template: ")[2].rstrip("."))
    assert setting == {"thinking": False}
    assert check_prompt(load(tokenizer_folder, THINKS_UNLESS_TOLD, variables=setting)) == []


@pytest.mark.parametrize("variables", [{}, {"enable_thinking": True}, {"enable_thinking": False}])
def test_a_block_that_the_prompt_closes_itself_is_no_fault(tokenizer_folder, variables):
    tokenizer = load(tokenizer_folder, SWITCHED, variables=variables)
    assert check_prompt(tokenizer) == []
    prompt, answer = tokenizer.encode_example([{"role": "user", "content": "Q"}], "Four.")
    closed = variables.get("enable_thinking") is False
    assert tokenizer.decode(prompt).endswith("<think>\n\n</think>\n\n" if closed else "assistant\n")
    assert tokenizer.decode(answer) == "Four.<|im_end|>"


def test_what_answers_have_and_the_prompt_lacks_is_told_with_the_setting_that_brings_it_there(tokenizer_folder):
    (sentence,) = check_prompt(load(tokenizer_folder, EMPTY_BLOCK_IN_ANSWERS))
    assert "models.chat_template: {enable_thinking: false}" in sentence
    tokenizer = load(tokenizer_folder, EMPTY_BLOCK_IN_ANSWERS, variables={"enable_thinking": False})
    assert check_prompt(tokenizer) == []
    talk = [{"role": "user", "content": "Q"}]
    prompt, answer = tokenizer.encode_example(talk, "Four.")
    whole = tokenizer.apply_chat_template([*talk, {"role": "assistant", "content": "Four."}])
    assert whole[: len(prompt) + len(answer)] == [*prompt, *answer], "the template's own rendering, token for token"


@pytest.mark.parametrize(
    "template", [opening("Answer: "), TURNS + "{% if add_generation_prompt %}<|im_start|>model\n{% endif %}"]
)
def test_another_beginning_is_refused_with_both(tokenizer_folder, template):
    with pytest.raises(
        BadInput, match=r"ends with .*(Answer: |model).* goes on with .*assistant.*chat_template\.jinja"
    ):
        check_prompt(load(tokenizer_folder, template))


def test_a_prompt_that_ends_inside_a_token_of_the_answered_chat_is_told(tokenizer_folder, bpe):
    """Same text, other tokens: nothing can be set, and training and generation agree, so it is no refusal."""
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    tokenizer = load(tokenizer_folder, template + "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}")
    merged = tokenizers.Tokenizer.from_str(bpe.to_str())
    state = json.loads(merged.to_str())
    state["model"]["vocab"]["\u0120P"] = len(state["model"]["vocab"])
    state["model"]["merges"].insert(0, ["\u0120", "P"])
    merged = dataclasses.replace(tokenizer, backend=tokenizers.Tokenizer.from_str(json.dumps(state)))
    (sentence,) = check_prompt(merged)
    assert "one token" in sentence


@pytest.mark.parametrize("template", [None, TURNS + "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"])
def test_ordinary_templates_and_the_built_in_one_pass_in_silence(tokenizer_folder, template):
    if template is None:
        (tokenizer_folder / "chat_template.jinja").unlink()
        assert check_prompt(Tokenizer.load(tokenizer_folder)) == []
    else:
        assert check_prompt(load(tokenizer_folder, template)) == []


def test_white_space_that_the_template_writes_before_an_answer_is_trained_with_it(tokenizer_folder):
    template = (
        "{% for m in messages %}{% if m.role == 'user' %}USER: {{ m.content }} ASSISTANT:"
        "{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
    )
    tokenizer = load(tokenizer_folder, template)
    assert check_prompt(tokenizer) == []
    talk = [{"role": "user", "content": "Who?"}]
    prompt, answer = tokenizer.encode_example(talk, "Hello world")
    whole = tokenizer.apply_chat_template([*talk, {"role": "assistant", "content": "Hello world"}])
    assert [*prompt, *answer] == whole
    assert tokenizer.decode(answer) == " Hello world<|im_end|>"


@pytest.mark.parametrize("name", ["enable_thinkin", "messages", "bos_token"])
def test_a_variable_that_the_template_does_not_read_is_refused_with_those_that_it_does(tokenizer_folder, name):
    with pytest.raises(BadInput, match=f"sets {name}.*enable_thinking"):
        check_prompt(load(tokenizer_folder, SWITCHED, variables={name: "x"}))
