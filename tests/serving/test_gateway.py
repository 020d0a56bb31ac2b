"""What is listed, and what a name stands for, without HTTP."""

from types import SimpleNamespace

import pytest
from tiny_server import CONTEXT

from data.prompting.contract import load_template
from jora_engine.adapters.peft_folder import write_adapter
from jora_engine.config.lora import LoraConfig
from jora_engine.files.weights import read_model_config
from jora_engine.generation.adapter_memory import AdapterMemory
from jora_engine.model.lora import init_lora
from raft_errors import BadInput
from retrieval.search import Citation
from serving.content.plan import is_page_task
from serving.domain import Domain, ServedVersion, fitting
from serving.errors import ApiError
from serving.gateway import Gateway
from serving.schema import ChatRequest
from tasks.runtime.asking import Asked


@pytest.fixture
def gateway(base, versions, towns):
    def always(number):
        return lambda wanted: versions[number]

    def never(wanted):
        raise BadInput("no version is promoted")

    domains = {"good": always(2), "broken": always(3), "better": always(1), "none": never}
    memory = AdapterMemory(read_model_config(base), "float32")
    return Gateway(base, {}, {n: Domain(n, towns, find) for n, find in domains.items()}, memory, CONTEXT, "test")


def test_adapters_are_read_and_checked_before_they_are_listed(gateway):
    rank, broken = gateway.prepare()
    assert rank == 4
    assert list(broken) == ["broken", "none"]
    assert "safetensors" in broken["broken"]
    assert "no version is promoted" in broken["none"]
    assert gateway.names() == ["base", "good", "better"]
    with pytest.raises(ApiError) as error:
        gateway.plan(ChatRequest(model="broken", messages=[{"role": "user", "content": "?"}]))
    assert (error.value.status, error.value.code) == (400, "adapter_broken")


@pytest.mark.slow
def test_an_adapter_is_listed_once_the_engine_has_answered_through_it(base, versions, towns, engine, tmp_path):
    config, lora = read_model_config(base), LoraConfig(rank=2, alpha=4.0)
    factors = {name: {"a": ab["a"], "b": ab["b"] + 1e15} for name, ab in init_lora(lora, config, 1).items()}
    contract = {"prompt": versions[1].contract}
    folder = write_adapter(tmp_path / "huge", factors, lora, config, "base", contract)
    domains = {
        "good": Domain("good", towns, lambda number: versions[2]),
        "huge": Domain("huge", towns, lambda number: ServedVersion("huge@1", folder)),
    }
    gateway = Gateway(base, {}, domains, engine.adapters, CONTEXT, "test")
    assert gateway.prepare()[1] == {}
    broken = gateway.probe(engine)
    assert list(broken) == ["huge"]
    assert "gives numbers that are not finite" in broken["huge"]
    assert gateway.names() == ["base", "good"]
    with pytest.raises(ApiError) as error:
        gateway.plan(ChatRequest(model="huge", messages=[{"role": "user", "content": "?"}]))
    assert error.value.code == "adapter_broken"


@pytest.mark.parametrize("name", ["base", "auto", "mix", "", "a/raw", "a@1", "a:b", ".a"])
def test_names_that_mean_something_else_are_no_domains(towns, name):
    with pytest.raises(BadInput, match="cannot be served under the name"):
        Domain(name, towns, lambda number: None)


def test_a_hostile_text_does_not_keep_the_server_busy():
    assert not is_page_task("### Task:" + "<text>" * 150_000)
    assert not is_page_task("### Task:</text>" + "<text>" * 150_000)


@pytest.mark.parametrize(("room", "passages", "tried"), [(9, 4, 1), (7, 2, 4), (5, 0, 5), (4, 0, 2)])
def test_passages_go_from_the_last_and_a_question_that_is_too_long_is_read_twice(room, passages, tried):
    """A token for each passage and five for the rest."""
    prompts = []

    def apply_chat_template(messages, add_generation_prompt):
        prompts.append([0] * (5 + messages[0]["content"].count("passage text")))
        return prompts[-1]

    citations = tuple(Citation(f"c{n}", "a.md", "A", None, 0, 9, (), 1.0, n, f"passage text {n}") for n in range(1, 5))
    asked = Asked("?", citations, load_template("numbered"), may_refuse=True)
    part, prompt = fitting(asked, SimpleNamespace(apply_chat_template=apply_chat_template), room)
    assert part.citations == citations[:passages]
    assert len(prompt) == 5 + passages
    assert len(prompts) == tried


@pytest.mark.parametrize("number", ["1" * 5000, "0x1", "-1", "1.0", "\u0661"])
def test_a_number_that_no_version_has_is_no_model(gateway, number):
    with pytest.raises(ApiError, match="does not exist") as error:
        gateway.check(f"good@{number}")
    assert error.value.status == 404
