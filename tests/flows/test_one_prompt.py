"""One prompt, wherever it is asked: training, evaluation, `ask`, smoke test, the export's gate and merged model.

Each way from a record to token ids is walked as the product walks it; only the model behind it is replaced by one that
notes what it was asked.
"""

import dataclasses
import json
from types import SimpleNamespace

import pytest
import tiny
import transformers

from data.nouns import Record
from data.prompting.contract import Passage, chat_of, load_template, prompt_contract, render, to_messages
from data.records.formats import write_records
from jora_engine.files.tokenizer import Tokenizer
from jora_engine.generation import generator
from jora_engine.training.records import read_examples
from raft_errors import BadInput
from tasks.inputs.models import on_this_machine

THINKING = tiny.CHATML.replace(
    "<|im_start|>assistant\n' }}{% endif %}",
    "<|im_start|>assistant\n' }}{% if think is defined and not think %}{{ '<think></think>\n' }}{% endif %}{% endif %}",
)
PASSAGES = [
    Passage("Chats", "A turn ends with <|im_end|> and the next begins with <|im_start|>user."),
    Passage("", "\n The second passage has no title, and begins with a line break."),
]
QUESTION = "What ends a turn, <|im_end|> or a line?"
CHATS = [
    {},
    {"variables": {"think": False}},
    {"prefill": "Answer:\n"},
    {"variables": {"think": True}, "prefill": "\nSo "},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    base = tiny.make_base(tmp_path_factory.mktemp("one-prompt") / "base")
    assert "think" in THINKING
    (base / "chat_template.jinja").write_text(THINKING)
    return base


@pytest.fixture(params=CHATS, ids=str)
def base(request, folder):
    """The base as a run has it, in each form of its chat template."""
    chat = {"variables": {}, "prefill": "", **request.param}
    return on_this_machine(str(folder)).with_chat(**chat)


@pytest.fixture
def asked(monkeypatch):
    """The prompts that any generator was given."""
    prompts = []

    class Noting:
        def __init__(
            self, folder, adapter=None, dtype="bfloat16", *, max_rows=32, base_digest=None, chat=None, precision=None
        ):
            self.tokenizer = Tokenizer.load(folder, **(chat or {}))

        def generate(self, given, *, on_done=None, **_):
            prompts.extend(given)
            done = [SimpleNamespace(text="<ANSWER>: a line", token_ids=(1,), finish_reason="stop") for _ in given]
            for number, one in enumerate(done if on_done else ()):
                on_done(number, one)
            return done

    monkeypatch.setattr(generator, "Generator", Noting)
    return prompts


@pytest.fixture
def record():
    instruction, shown = render(QUESTION, PASSAGES)
    quote = "A turn ends with <|im_end|>"
    spans = [{"start": shown.index(p.text), "end": shown.index(p.text) + len(p.text)} for p in PASSAGES]
    return Record(instruction, shown, f"It says: {quote}. <ANSWER>: <|im_end|>", {"passages": spans})


def test_training_evaluation_ask_smoke_test_and_export_give_the_model_the_same_ids(base, record, asked, tmp_path):
    from serving.asking import Asking, request_of
    from tasks.adapters.smoke import _answers
    from tasks.runtime.answers import answer
    from tasks.runtime.asking import Asked
    from tasks.runtime.exam import make_answerer
    from tasks.store.itemcache import SqliteCache
    from tasks.work.export import parity_prompts

    tokenizer = Tokenizer.load(base.folder, **base.chat)
    contract = {
        **prompt_contract(load_template(), passages=2, may_refuse=True),
        "chat_template": tokenizer.chat_contract(),
    }
    write_records(tmp_path, {"train": [record], "test": [record]}, formats=["alpaca", "chat"])
    trained = {
        tuple(read_examples(tmp_path / f, tokenizer)[0].prompt.tolist()) for f in ("train.jsonl", "train.chat.jsonl")
    }
    assert len(trained) == 1, "the chat form is the same record"

    settings = {"dtype": "float32", "max_new_tokens": 4, "batch_size": 2, "copy_quotes": False}
    who = make_answerer(base, None, base.digest, settings, contract)
    answer(who, [record], SqliteCache(tmp_path / "items.sqlite"), lambda *_: None, "test")
    shown = Asked(QUESTION, tuple(PASSAGES), load_template(), may_refuse=True)
    said = {
        "domain": "d",
        "index": "",
        "adapter": None,
        "contract": contract,
        "chat": chat_of(contract),
        "max_tokens": 4,
    }
    one = Asking(**said, names=["base"], question=QUESTION)
    asked.append(request_of(one, shown, Tokenizer.load(base.folder, **one.chat), None).prompt)
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "raft.json").write_text(json.dumps({"prompt": contract}))
    _answers(base.folder, tmp_path / "adapter", [record])
    assert len(asked) == 3
    (tmp_path / "validation.jsonl").touch()
    gate = parity_prompts(SimpleNamespace(path=lambda name: tmp_path / name), tokenizer, 1)
    assert {tuple(prompt) for prompt in (*asked, *gate)} == trained


def test_other_programs_give_the_merged_model_the_same_ids(base, record, tmp_path):
    """With the tokenizer and template that stand beside it, told nothing; where no passage holds a control token."""
    import shutil

    plain = dataclasses.replace(record, **{n: _plain(getattr(record, n)) for n in ("instruction", "input", "output")})
    ours = Tokenizer.load(base.folder, **base.chat)
    merged = shutil.copytree(base.folder, tmp_path / "merged")
    (merged / "chat_template.jinja").write_text(ours.portable_template())
    theirs = transformers.AutoTokenizer.from_pretrained(merged)
    want = theirs.apply_chat_template(to_messages(plain), add_generation_prompt=True, return_dict=False)
    assert ours.apply_chat_template(to_messages(plain), add_generation_prompt=True) == want


def test_the_contract_s_form_is_what_stands_around_the_question(base, record):
    tokenizer = Tokenizer.load(base.folder, **base.chat)
    form = tokenizer.chat_contract()
    (turn,) = to_messages(record)
    prompt = tokenizer.apply_chat_template([turn], add_generation_prompt=True)
    assert tokenizer.decode(prompt) == form["before"] + turn["content"] + form["after"]
    assert form["after"].endswith(base.chat.get("prefill", ""))


def test_the_preflight_measures_what_is_trained(base, record, tmp_path):
    from tasks.work.records import check_training_tokens

    tokenizer = Tokenizer.load(base.folder, **base.chat)
    write_records(tmp_path, {"train": [record]}, formats=["alpaca"])
    (example,) = read_examples(tmp_path / "train.jsonl", tokenizer)
    check = check_training_tokens([record], tokenizer, 4096)
    assert check.faults == []
    assert (check.figures["tokens"], check.figures["trained_tokens"]) == (example.length, len(example.completion))
    assert check.samples[0].endswith(f"⟦{tokenizer.answer_lead}{record.output}<|im_end|>⟧")


@pytest.mark.parametrize("input_", ["", "[1] A passage.\n\nOf two lines."])
def test_an_alpaca_triple_of_somebody_else_is_joined_as_a_record_is(input_, folder, tmp_path):
    tokenizer = Tokenizer.load(folder)
    record = Record("Do this.", input_, "Done.")
    triple = {"instruction": record.instruction, "output": record.output} | ({"input": input_} if input_ else {})
    (tmp_path / "alpaca.jsonl").write_text(json.dumps(triple) + "\n")
    (tmp_path / "ours.jsonl").write_text(json.dumps({"messages": record.messages}) + "\n")
    triples, ours = (read_examples(tmp_path / f"{name}.jsonl", tokenizer) for name in ("alpaca", "ours"))
    assert [e.prompt.tolist() for e in triples] == [e.prompt.tolist() for e in ours]
    assert [e.completion.tolist() for e in triples] == [e.completion.tolist() for e in ours]


def test_a_chat_of_several_turns_is_trained_on_its_last(folder, tmp_path):
    tokenizer = Tokenizer.load(folder)
    talk = [{"role": r, "content": c} for r, c in (("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello."))]
    (tmp_path / "chat.jsonl").write_text(json.dumps({"messages": talk, "instruction": "ignored"}) + "\n")
    (example,) = read_examples(tmp_path / "chat.jsonl", tokenizer)
    assert tokenizer.decode(example.prompt.tolist()) == tokenizer.render(talk[:2], True)
    assert tokenizer.decode(example.completion.tolist()) == "Hello.<|im_end|>"


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"role": "user", "content": "Hi"}]},
        {"messages": [{"role": "assistant", "content": "Hi"}]},
        {"messages": []},
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": [{"type": "text"}]}]},
        {"instruction": "Hi"},
        ["Hi"],
    ],
)
def test_a_line_that_is_neither_is_refused_by_number(row, folder, tmp_path):
    good = json.dumps({"messages": Record("Do this.", "", "Done.").messages})
    (tmp_path / "bad.jsonl").write_text(good + "\n" + json.dumps(row) + "\n")
    with pytest.raises(BadInput, match="line 2: neither a chat nor an Alpaca record"):
        read_examples(tmp_path / "bad.jsonl", Tokenizer.load(folder))


def _plain(text: str) -> str:
    return text.replace("<|", "<").replace("|>", ">")
