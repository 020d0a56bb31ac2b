"""The programs of docs/serving.md as they stand there, each by its own client against a running server."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import openai
import pytest
from test_sources_api import QUESTION, REPLY

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
OWN = ROOT / ".venv-clients" / "bin" / "python"
LANGCHAIN_FACTS = """
import json
about = answer.response_metadata
facts = {"usage": answer.usage_metadata, "model": about["model_name"], "fingerprint": about["system_fingerprint"]}
blocks = [block for piece in cited.stream(QUESTION) for block in piece.content if isinstance(block, dict)]
facts["text"] = "".join(block.get("text", "") for block in blocks)
facts["citations"] = [one["quote"] for block in blocks for one in block.get("annotations", [])]
print("facts", json.dumps(facts))
"""
ADDRESS = "http://127.0.0.1:8000"


def program(language: str, word: str, url: str) -> str:
    """The block of the page that holds a word, for this server and its corpus."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    (block,) = [block for block in blocks if word in block]
    assert ADDRESS in block
    question = QUESTION[0]["content"]
    for shown, here in ((ADDRESS, url), ("How do closures work?", question), ('"raft"', '"faq"')):
        assert shown in block, shown
        block = block.replace(shown, here)
    return block


def run(command: list[str], **options) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def own() -> str:
    """The Python with the clients."""
    if not OWN.exists():
        pytest.skip("the clients are not installed: make test-clients")
    return str(OWN)


@pytest.mark.slow
def test_openai(served, scripted):
    scripted(REPLY)
    shown = run([sys.executable, "-c", program("python", "from openai", served.url)])
    assert "“rotated on the first Monday” [1]" in shown
    assert "Keys, page 3 rotated on the first Monday True" in shown
    assert "Keys, page 3 rotated on Tuesdays False" in shown


def test_curl(served, scripted):
    if not shutil.which("curl"):
        pytest.skip("curl is not installed")
    scripted(REPLY)
    shown = run(["sh", "-ec", program("", "curl", served.url)])
    assert '"url_citation"' in shown
    assert "“rotated on the first Monday” [1]" in shown


@pytest.mark.slow
def test_langchain(served, scripted):
    python = own()
    scripted(REPLY)
    text = program("python", "langchain_openai", served.url)
    assert text.count('"faq"') == 1
    text = text.replace("OpenAIEmbeddings(**server", "OpenAIEmbeddings(**{**server, 'model': 'towns'}")
    shown, facts = run([python, "-c", f"{text}\nQUESTION = {QUESTION[0]['content']!r}{LANGCHAIN_FACTS}"]).split(
        "facts "
    )
    assert shown.count("Sources:\n[1] Keys, page 3 (not quoted word for word): http://127") == 2  # whole and in pieces
    assert shown.count("'type': 'url_citation'") == 3
    assert shown.rstrip().endswith("\n32")
    invoked = json.loads(facts)
    assert invoked["model"] == "faq@2"
    assert invoked["usage"]["total_tokens"] == invoked["usage"]["input_tokens"] + 5
    assert invoked["fingerprint"].startswith("fp_")
    assert invoked["text"].startswith("On Mondays, and at nine.")
    assert "Sources:" not in invoked["text"]
    assert invoked["citations"] == ["locked at nine", "rotated on the first Monday", "rotated on Tuesdays"]


@pytest.mark.slow
def test_llama_index_in_both_modes(served, scripted):
    python = own()
    scripted(REPLY)
    shown = run([python, "-c", program("python", "llama_index", served.url)])
    assert shown.count("On Mondays, and at nine.") == 4  # chat and completion, whole and in pieces
    assert shown.count("“locked at nine” [2]") == 4
    assert shown.count("Sources:\n[1] Keys, page 3") == 4


@pytest.mark.slow
def test_a_full_queue_is_waited_for_as_long_as_it_says(served, monkeypatch):
    counts, before = served.server.counts, served.server.counts.received
    monkeypatch.setattr(type(served.server), "waiting", lambda self: 99 if counts.received < before + 3 else 0)
    client = openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=2, timeout=3600)
    began = time.monotonic()
    one = client.chat.completions.create(model="base", messages=QUESTION, max_tokens=2)
    assert one.usage.completion_tokens <= 2
    assert counts.received == before + 3
    assert time.monotonic() - began >= 4  # Retry-After says two seconds, twice
    monkeypatch.setattr(type(served.server), "waiting", lambda self: 99)
    with pytest.raises(openai.RateLimitError) as error:
        client.with_options(max_retries=0).chat.completions.create(model="base", messages=QUESTION)
    assert (error.value.code, error.value.response.headers["retry-after"]) == ("rate_limit_exceeded", "2")


def test_a_broken_adapter_is_asked_for_once(served):
    before = served.server.counts.received
    client = openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=2, timeout=3600)
    with pytest.raises(openai.BadRequestError) as error:
        client.chat.completions.create(model="faq@3", messages=QUESTION)
    assert error.value.code == "adapter_broken"
    assert served.server.counts.received == before + 1


CLASSES = [
    ({"model": "nobody"}, openai.NotFoundError, "model", "model_not_found"),
    ({"model": "law"}, openai.NotFoundError, "model", "model_not_found"),
    ({"temperature": 3}, openai.BadRequestError, "temperature", "invalid_value"),
    ({"max_tokens": 10**6}, openai.BadRequestError, "messages", "context_length_exceeded"),
    ({"messages": [{"role": "user", "content": "x" * 30_000}]}, openai.APIStatusError, None, "request_too_large"),
    ({"extra_headers": {"host": "evil.example"}}, openai.BadRequestError, None, "invalid_host"),
    ({"extra_headers": {"origin": "https://evil.example"}}, openai.PermissionDeniedError, None, "invalid_origin"),
]


@pytest.mark.parametrize(("values", "kind", "param", "code"), CLASSES, ids=[code for *_, code in CLASSES])
def test_openai_raises_the_class_of_each_error(client, values, kind, param, code):
    with pytest.raises(kind) as error:
        client.chat.completions.create(**{"model": "faq", "messages": QUESTION, **values})
    assert (error.value.param, error.value.code) == (param, code)


def test_openai_raises_in_mid_stream_and_while_the_server_drains(client, served, monkeypatch):
    monkeypatch.setattr(served.server.limits, "deadline_seconds", 0.0)
    with pytest.raises(openai.APIError) as late:
        list(client.chat.completions.create(model="faq", messages=QUESTION, max_tokens=300, stream=True))
    assert late.value.code == "timeout"
    monkeypatch.setattr(served.server, "ready", False)
    with pytest.raises(openai.InternalServerError) as draining:
        client.chat.completions.create(model="faq", messages=QUESTION)
    assert (draining.value.status_code, draining.value.code) == (503, "not_ready")


def test_a_domain_that_was_not_built_says_so(client):
    with pytest.raises(openai.NotFoundError, match="'law' is not served: the stage index is not built"):
        client.models.retrieve("law")
    assert "law" not in [model.id for model in client.models.list()]
