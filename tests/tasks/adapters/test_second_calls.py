"""A version whose retriever was fitted names two results of one stage; results of another stage are no such thing."""

import pytest
from pydantic import ValidationError

from flows.calls import CALLS
from tasks.adapters.versions import Adapter, Version
from tasks.store.manifest import Link

EXPORT = Link(stage="export", key="e" * 32, digest="d" * 64)


def adapter(**stages):
    version = Version(number=1, state="candidate", created="2026-11-29T00:00:00+00:00", stages=stages)
    return Adapter(name="town", versions=(version,))


def test_a_second_call_of_a_stage_is_no_damage():
    twice = Link(stage="embed", key="k" * 32, digest="d" * 64)
    assert adapter(export=EXPORT, embed=twice, embed_adapted=twice).versions[0].stages["embed_adapted"] == twice


@pytest.mark.parametrize("name", ["train", "embed_adapted", "exporter"])
def test_a_result_of_another_stage_is(name):
    with pytest.raises(ValidationError, match=f"names a result of export as its {name}"):
        adapter(**{"export": EXPORT, name: EXPORT})


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name)
def test_every_call_is_named_after_its_stage(call):
    assert call.name == call.stage.name or call.name.startswith(f"{call.stage.name}_")
