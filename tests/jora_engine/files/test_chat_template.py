"""Chat templates as text: their variables, and the form in which other programs write the same prompts."""

import pytest
import transformers

from jora_engine.files.chat_template import variables_read, with_defaults
from jora_engine.files.tokenizer import Tokenizer
from raft_errors import BadInput

TALK = [{"role": "user", "content": "What is 2 + 2?"}]
SWITCH = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
MACRO = (
    "\n{%- macro told(m) %}{{ m.content ~ ' (' ~ (effort or 'none') ~ ')' }}{% endmacro %}\n"
    "  {% for m in messages %}\n    {% set last = loop.last %}{{ told(m) }}{% if last %}!{% endif %}\n  {% endfor %}\n"
    "{{ bos_token }}{% set ns = namespace(n=0) %}{{ ns.n }}\n"
)
DATED = (
    "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "{{ date_string }}{% for m in messages %}{{ m.content }}{% endfor %}{{ tools or '' }}"
)


def load(folder, template, **chat):
    (folder / "chat_template.jinja").write_text(template)
    return Tokenizer.load(folder, **chat)


@pytest.mark.parametrize(
    ("template", "names"),
    [
        (SWITCH, ("enable_thinking",)),
        (MACRO, ("effort",)),
        (DATED, ("date_string",)),
        ("{% for m in messages %}{% if m.role == 'user' %}{% set x = m.content %}{% endif %}{{ x }}{% endfor %}", ()),
        ("{{ bos_token }}{{ eos_token }}{{ range(3) }}{{ documents }}{{ additional_special_tokens }}", ()),
        ("{% if broken", ()),
    ],
)
def test_the_switches_of_a_template_are_the_names_that_only_a_caller_can_give(template, names):
    assert variables_read(template) == names


@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize(
    ("template", "variables"),
    [
        (SWITCH, {"enable_thinking": False}),
        (SWITCH, {"enable_thinking": True}),
        (MACRO, {"effort": 'low "é" 😀\n\\'}),
        (DATED, {"date_string": "today"}),
        (MACRO, {"effort": None}),
        (MACRO, {"effort": 0.5}),
    ],
)
def test_other_programs_write_the_same_prompt_without_being_told_the_variables(
    tokenizer_folder, template, variables, add
):
    """transformers, given the variables, renders what we do; given the portable template alone, the same."""
    ours = load(tokenizer_folder, template, variables=variables)
    theirs = transformers.AutoTokenizer.from_pretrained(tokenizer_folder)
    want = ours.render(TALK, add)
    assert theirs.apply_chat_template(TALK, tokenize=False, add_generation_prompt=add, **variables) == want
    (tokenizer_folder / "chat_template.jinja").write_text(ours.portable_template())
    bound = transformers.AutoTokenizer.from_pretrained(tokenizer_folder)
    assert bound.apply_chat_template(TALK, tokenize=False, add_generation_prompt=add) == want
    ids = bound.apply_chat_template(TALK, add_generation_prompt=add, return_dict=False)
    assert ids == ours.apply_chat_template(TALK, add)


def test_a_caller_of_the_portable_template_may_still_choose(tokenizer_folder):
    ours = load(tokenizer_folder, with_defaults(SWITCH, {"enable_thinking": False}))
    assert ours.render(TALK, True).endswith("</think>\n\n")
    asked = Tokenizer.load(tokenizer_folder, variables={"enable_thinking": True})
    assert asked.render(TALK, True).endswith("assistant\n")


@pytest.mark.parametrize("template", [SWITCH, MACRO, DATED])
def test_a_prefill_stands_behind_the_prompt_here_and_in_other_programs(tokenizer_folder, template):
    ours = load(tokenizer_folder, template, prefill="\n</think>\n\n")
    plain = Tokenizer.load(tokenizer_folder)
    assert ours.render(TALK, True) == plain.render(TALK, True) + "\n</think>\n\n"
    assert ours.render(TALK) == plain.render(TALK)
    (tokenizer_folder / "chat_template.jinja").write_text(ours.portable_template())
    bound = transformers.AutoTokenizer.from_pretrained(tokenizer_folder)
    for add in (False, True):
        assert bound.apply_chat_template(TALK, tokenize=False, add_generation_prompt=add) == ours.render(TALK, add)


def test_the_contract_holds_the_variables_and_what_they_make_of_a_prompt(tokenizer_folder):
    contract = load(tokenizer_folder, SWITCH, variables={"enable_thinking": False}).chat_contract()
    assert contract == {
        "variables": {"enable_thinking": False},
        "prefill": "",
        "before": "<|im_start|>user\n",
        "after": "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
    }
    contract = load(tokenizer_folder, SWITCH, prefill="So: ").chat_contract()
    assert (contract["variables"], contract["prefill"]) == ({}, "So: ")
    assert contract["after"].endswith("assistant\nSo: ")


def test_a_template_that_fails_is_told_of(tokenizer_folder):
    with pytest.raises(BadInput, match="chat template failed"):
        load(tokenizer_folder, "{{ raise_exception('no') }}").render(TALK)
