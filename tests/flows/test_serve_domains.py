"""`raft serve domains.yaml`: the domains of a file on one base; what cannot be served is named, with its reason."""

import json
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from flows import offers as rooms
from flows.offers import Offer, offers
from raft_errors import BadInput
from serving.errors import ApiError
from serving.schema import ChatRequest

sys.path.append(str(Path(__file__).resolve().parents[1] / "serving" / "remote"))
from stand_in import StandIn


@pytest.fixture
def servers(monkeypatch):
    """The servers that would have run; each was told its address."""
    started = []

    def run_server(server, host, port, *, say, **_):
        started.append(server)
        say("http://here")

    monkeypatch.setattr("serving.server.run_server", run_server)
    return started


def write(project, domains: dict, **common) -> None:
    values = {"common": {**project.values, **common}, "domains": domains}
    (project.folder / "domains.yaml").write_text(yaml.safe_dump(values, sort_keys=False))


@pytest.mark.slow
def test_each_domain_answers_under_its_name_and_one_that_was_not_built_says_why(warm, servers, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "a.md").write_text("# A\n\nNothing of this was read yet.\n")
    write(warm, {"elm": {}, "law": {"corpus": [str(other)]}, "fir": {}})
    done = warm.raft("serve", "domains.yaml", "--json", "--sources", "text", "--dtype", "float32")
    reply = json.loads(done.stdout)
    assert reply["models"] == ["base", "elm", "fir", "auto"]
    assert list(reply["absent"]) == ["law"]
    assert "raft domains domains.yaml --only law" in reply["absent"]["law"]
    assert "law is not served: The stage index is not built" in done.stderr
    (server,) = servers
    question = [{"role": "user", "content": "What is the town of Elm known for?"}]
    for name in ("elm", "fir"):
        plan = server.gateway.plan(ChatRequest(model=name, messages=question))
        assert plan.model == name
        assert plan.asked is not None
        assert any("Elm" in citation.text for citation in plan.asked.citations)
        assert (plan.sources, plan.passage_url) == ("text", f"/v1/passages/{name}")
        assert server.gateway.domains[name].retriever._cache is None, "what one key asks is kept for nobody"
    (mine, other_) = server.gateway.plan(ChatRequest(model="auto", messages=question)).routes
    assert {mine.name, other_.name} == {"elm", "fir"}
    assert mine.score == other_.score, "both have the same records, which were found in the store"
    with pytest.raises(ApiError, match="not served: The stage index is not built") as error:
        server.gateway.plan(ChatRequest(model="law", messages=question))
    assert error.value.status == 404
    assert str(tmp_path) not in error.value.message

    done = warm.raft("serve", "domains.yaml", "--json", "--only", "fir")
    assert json.loads(done.stdout)["models"] == ["base", "fir", "auto"]


@pytest.mark.slow
def test_whoever_waits_for_the_programs_sees_how_far_they_are(warm, monkeypatch):
    def make(engine, longest, progress):
        for done in range(4):
            progress(done, 3, f"answers of {longest} tokens")

    monkeypatch.setattr("jora_engine.generation.batching.Engine.warm", make)
    monkeypatch.setattr("jora_engine.generation.batching.Engine.probe", lambda engine, name: None)
    monkeypatch.setattr("serving.gateway.Gateway.prepare_routes", lambda gateway: None)
    monkeypatch.setattr("flows.cli.output.LINE_SECONDS", 0.0)
    monkeypatch.setattr("serving.server.run_server", lambda server, host, port, *, warm, **_: warm())
    done = warm.raft("serve", "raft.yaml", "--json", "--dtype", "float32", "--context", "512")
    assert done.stdout == ""
    assert "compiling …" in done.stderr
    assert [f"compiling: {n}/3 answers of" in done.stderr for n in range(4)] == [True] * 4


@pytest.mark.slow
def test_the_configuration_names_another_server_that_generates(warm, servers):
    there = StandIn()
    with there.running() as address:
        engine = ["--set", "serve.engine=openai", "--set", f"serve.url={address}"]
        done = warm.raft("serve", "raft.yaml", "--json", *engine)
        (server,) = servers
        name = json.loads(done.stdout)["models"][1]
        assert f"{address} generates" in done.stderr
        server.loop.bring(server.loop.adapters.names())
        (loaded,) = there.adapters
        assert loaded.startswith(f"{name}-"), "the last run's adapter has no number"
        question = [{"role": "user", "content": "What is the town of Elm known for?"}]
        plan = server.gateway.plan(ChatRequest(model=name, messages=question))
        ended = threading.Event()
        job = server.loop.submit(plan.request, None, lambda job: ended.set())
        assert ended.wait(60)
        assert job.completion.text == there.text(loaded, list(plan.request.prompt))
        server.loop.stop()
    for settings, words in (
        ([], "cannot be used: it cannot be reached"),
        (["--set", "serve.mix=2"], "another server adds up no adapters"),
        (["--set", "serve.url=null"], "needs the address of that server"),
        (["--set", "serve.url=http://127.0.0.1:99999/v1"], "serve.url: no web address"),
        (["--set", "serve.url=http://[::1"], "serve.url: no web address"),
        (["--set", "serve.url=http://me:secret@host/v1"], "it holds a password or key"),
    ):
        done = warm.raft("serve", "raft.yaml", *engine, *settings, check=False)
        assert done.returncode in (1, 2)
        assert words in " ".join(done.stderr.split()), done.stderr
        assert "secret" not in done.stderr


@pytest.mark.slow
def test_a_mixture_has_room_in_every_slot(warm, servers):
    write(warm, {"elm": {}, "fir": {}}, serve={"mix": 2})
    done = warm.raft("serve", "domains.yaml", "--json", "--dtype", "float32")
    assert json.loads(done.stdout)["models"] == ["base", "elm", "fir", "auto", "mix"]
    (server,) = servers
    rank = warm.values["train"]["rank"]
    assert server.loop.engine.slots.rank == 8 * -(-2 * rank // 8)
    question = [{"role": "user", "content": "What is the town of Elm known for?"}]
    plan = server.gateway.plan(ChatRequest(model="mix", messages=question))
    assert plan.model in ("mix:elm*0.5+fir*0.5", "base"), "two domains of the same questions are as near"
    write(warm, {"elm": {"serve": {"mix": 2}}, "fir": {}})
    done = warm.raft("serve", "domains.yaml", check=False)
    assert done.returncode == 2
    assert "serve.mix is one thing for elm and another for fir" in " ".join(done.stderr.split())


@pytest.mark.slow
def test_what_cannot_be_meant_is_refused(project):
    write(project, {"elm": {}, "fir": {}})
    for arguments, words in (
        (["domains.yaml"], "No domain can be served (elm: The stage index is not built"),
        (["domains.yaml", "--only", "law"], "has no domain 'law'"),
        (["domains.yaml", "--set", "train.rank=2"], "--set is for one configuration"),
        (["raft.yaml", "--only", "elm"], "--only is for a file of domains"),
        (["domains.yaml", "--sources", "footnotes"], "one of annotations, text, open_webui"),
    ):
        done = project.raft("serve", *arguments, check=False)
        assert done.returncode == 2
        assert words in " ".join(done.stderr.split()), done.stderr


def test_domains_on_another_base_are_refused_by_name(monkeypatch):
    digests = {"law": "1" * 64, "health": "2" * 64, "faq": "1" * 64}

    def offer(config, command):
        files = SimpleNamespace(name=f"base of {config}", digest=digests[config])
        run = SimpleNamespace(models=SimpleNamespace(plain=lambda role: files))
        return Offer(run, {}, None, lambda number: None)

    monkeypatch.setattr(rooms, "offer", offer)
    served, _ = offers({"law": "law", "faq": "faq"}, lambda name, stage: "")
    assert list(served) == ["law", "faq"]
    with pytest.raises(BadInput, match=r"law stands on base of law, and on another health \(base of health\)"):
        offers({name: name for name in digests}, lambda name, stage: "")
