"""`raft serve` on a finished run, as a user starts it: asked, interrupted while it writes, and gone."""

import concurrent.futures
import json
import signal
import subprocess
import time

import httpx
import pytest
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
