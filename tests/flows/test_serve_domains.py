"""`raft serve domains.yaml`: the domains of a file on one base; what cannot be served is named, with its reason."""

import json
from types import SimpleNamespace

import pytest
import yaml

from flows import offers as rooms
from flows.offers import Offer, offers
from raft_errors import BadInput
from serving.errors import ApiError
from serving.schema import ChatRequest


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
    assert reply["models"] == ["base", "elm", "fir"]
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
    with pytest.raises(ApiError, match="not served: The stage index is not built") as error:
        server.gateway.plan(ChatRequest(model="law", messages=question))
    assert error.value.status == 404
    assert str(tmp_path) not in error.value.message

    done = warm.raft("serve", "domains.yaml", "--json", "--only", "fir")
    assert json.loads(done.stdout)["models"] == ["base", "fir"]


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
