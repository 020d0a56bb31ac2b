"""`raft serve` on a finished run, as a user starts it: asked, interrupted while it writes, and gone."""

import concurrent.futures
import json
import shutil
import signal
import subprocess
import threading
import time

import httpx
import pytest
from doc_blocks import blocks
from kept_json import checked


@pytest.mark.slow
def test_a_finished_run_is_served_and_a_signal_lets_streams_end(warm):
    process = warm.start(
        "serve", "raft.yaml", "--port", "0", "--json", "--context", "1024", "--dtype", "float32", stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        ready = json.loads(line or "{}")
        assert ready, process.stderr.read() if process.stderr else ""
        base, adapter, auto = checked(["serve"], ready)["models"]
        assert (base, auto) == ("base", "auto")
        question = [{"role": "user", "content": "What is the town of Elm known for?"}]
        body = {"model": adapter, "messages": question, "max_tokens": 12}
        with httpx.Client(base_url=ready["url"], timeout=600) as http:
            one = http.post("/chat/completions", json=body).json()
            assert one["model"] == adapter
            assert one["usage"]["completion_tokens"] > 0
            site = ready["url"].removesuffix("/v1")
            assert "Ask the documents" in http.get(f"{site}/").text
            said = {"model": one["model"], "question": question[0]["content"], "answer": "the wool", "verdict": "down"}
            kept = http.post(f"{site}/pages/feedback", json={**said, "correction": "a wool hall"}).json()
            (row,) = warm.json("feedback")["feedback"]
            assert (row["id"], row["right"], row["version"]) == (kept["id"], "a wool hall", adapter)

            def stream(number: int) -> list[str]:
                raw = {
                    **body,
                    "model": f"{adapter}/raw",
                    "stream": True,
                    "max_tokens": 800 + number,
                    "ignore_eos": True,
                }
                with http.stream("POST", "/chat/completions", json=raw) as reply:
                    return [line for line in reply.iter_lines() if line.startswith("data: ")]

            with concurrent.futures.ThreadPoolExecutor(4) as pool:
                streams = [pool.submit(stream, number) for number in range(4)]
                while "raft_requests_running 4.0" not in http.get(f"{ready['url'].removesuffix('/v1')}/metrics").text:
                    assert not any(one.done() for one in streams), "a stream had ended before the last one began"
                    time.sleep(0.01)
                process.send_signal(signal.SIGTERM)
                assert all(one.result()[-1] == "data: [DONE]" for one in streams)
        assert process.wait(60) == 0
    finally:
        process.kill()


@pytest.mark.heavy  # the same within one process: tests/serving/test_promotions.py, test_local.py
def test_a_running_server_follows_the_registry_and_the_documents_and_answers_raft_ask(warm, domain):
    docs = warm.folder / "docs"
    shutil.copytree(domain / "docs", docs)
    warm.values["corpus"] = ["docs"]
    warm.write()
    assert warm.json("run", "--no-prefect")["ran"] == []
    words = ["ask", "What is the town of Elm known for?", "--max-tokens", "8", "--compare"]
    own, own_shown = warm.json(*words), warm.raft(*words)
    assert "answered by a model loaded for this question" in own_shown.stderr
    process = warm.start("serve", "raft.yaml", "--port", "0", "--json", "--context", "2048", stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline() or "{}")
        assert ready, process.stderr.read() if process.stderr else ""
        name = ready["models"][1]
        (file,) = (warm.folder / ".raft" / "servers").glob("*.json")
        assert file.stat().st_mode & 0o777 == 0o600

        def asked(question="What is the town of Elm known for?"):
            body = {"model": name, "messages": [{"role": "user", "content": question}], "max_tokens": 4}
            reply = httpx.post(
                f"{ready['url']}/chat/completions", json={**body, "stream": True, "sources": "open_webui"}, timeout=600
            )
            pieces = [json.loads(line[6:]) for line in reply.text.splitlines() if line.startswith("data: {")]
            shown = [piece["event"]["data"]["document"][0] for piece in pieces if "event" in piece]
            return pieces[0]["model"], " ".join(shown)

        assert asked()[0] == name
        there = warm.raft(*words)
        assert f"answered by the server on {ready['url'].removesuffix('/v1')}" in there.stderr
        assert there.stdout == own_shown.stdout
        assert warm.json(*words) == own
        warm.raft("promote")
        assert asked()[0] == f"{name}@1"
        assert warm.json(*words) == own
        warm.raft("rollback")
        body = {"model": name, "messages": [{"role": "user", "content": "?"}]}
        reply = httpx.post(f"{ready['url']}/chat/completions", json=body, timeout=600)
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "model_not_found")
        warm.raft("promote")

        (docs / "elm.md").write_text((docs / "elm.md").read_text() + "\nA windmill of red brick was opened in Elm.\n")
        warm.raft("index", "--no-prefect")
        until = time.monotonic() + 60
        while "windmill" not in asked("Who opened the windmill of red brick?")[1]:
            assert time.monotonic() < until, "the new documents are not searched"
            time.sleep(0.2)
        done = warm.raft("ask", "Who opened the windmill?", "--max-tokens", "8")  # the adapter's run had another index
        assert "not from the server" in done.stderr
        assert "searches another index" in done.stderr
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert list(file.parent.iterdir()) == []
    finally:
        process.kill()


@pytest.mark.heavy
def test_the_walk_of_the_page_to_a_second_promotion_loses_no_request(warm, domain):
    """The commands of docs/serving.md, "Promotion is live", in their order, with clients that ask all the while."""
    (walk,) = (
        block for block in blocks() if block.page.name == "serving.md" and "raft rollback --reason" in block.text
    )
    shutil.copytree(domain / "docs", warm.folder / "docs")
    warm.values["corpus"] = ["docs"]
    warm.write()
    over, ready, process, clients = threading.Event(), {}, None, []
    answers: list[tuple[float, float, int, str]] = []  # begin, end, status, version

    def ask() -> str:
        question = [{"role": "user", "content": "What is the town of Elm known for?"}]
        body = {"model": ready["models"][1], "messages": question, "max_tokens": 4}
        began = time.monotonic()
        reply = httpx.post(f"{ready['url']}/chat/completions", json=body, timeout=600)
        version = reply.json().get("model", reply.text).partition("@")[2]
        answers.append((began, time.monotonic(), reply.status_code, version))
        return version

    def client() -> None:
        while not over.is_set():
            ask()
            time.sleep(0.2)

    try:
        used, spans = [], {}
        for _, verb, *options in walk.commands:
            if verb == "serve":
                small = ["--port", "0", "--json", "--context", "1024", "--dtype", "float32"]
                process = warm.start("serve", *options, *small, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
                ready = json.loads(process.stdout.readline() or "{}")
                assert ready
                clients = [threading.Thread(target=client, daemon=True) for _ in range(3)]
                for one in clients:
                    one.start()
                elm = warm.folder / "docs" / "elm.md"
                elm.write_text(elm.read_text() + "\nA windmill of red brick was opened in Elm.\n")
                continue
            began = time.monotonic()
            done = warm.process(verb, *options, *(["--no-prefect"] if verb == "run" else []))
            assert done.returncode == 0, done.stderr
            spans[verb] = began, time.monotonic()
            if process:
                used.append((verb, ask()))  # began after the command had ended
        assert used == [("run", "1"), ("promote", "2"), ("rollback", "1")]
    finally:
        over.set()
        for one in clients:
            one.join(600)
        if process:
            process.kill()
    assert len(answers) > 20
    assert {status for _, _, status, _ in answers} == {200}
    promoted, rolled_back = spans["promote"], spans["rollback"]
    assert {version for _, end, _, version in answers if end < promoted[0]} == {"1"}
    between = {version for begin, end, _, version in answers if begin > promoted[1] and end < rolled_back[0]}
    assert between == {"2"}
    assert {version for begin, _, _, version in answers if begin > rolled_back[1]} == {"1"}
