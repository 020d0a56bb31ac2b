"""What is listed, and what a name stands for, without HTTP and without an engine."""

import pytest
from tiny_server import CONTEXT

from jora_engine.files.weights import read_model_config
from jora_engine.generation.adapter_memory import AdapterMemory
from raft_errors import BadInput
from serving.domain import Domain
from serving.errors import ApiError
from serving.gateway import Gateway, is_page_task
from serving.schema import ChatRequest


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


@pytest.mark.parametrize("name", ["base", "auto", "mix", "", "a/raw", "a@1", "a:b", ".a"])
def test_names_that_mean_something_else_are_no_domains(towns, name):
    with pytest.raises(BadInput, match="cannot be served under the name"):
        Domain(name, towns, lambda number: None)


def test_a_hostile_text_does_not_keep_the_server_busy():
    assert not is_page_task("### Task:" + "<text>" * 150_000)
    assert not is_page_task("### Task:</text>" + "<text>" * 150_000)
