"""The transport against a server that is not ours: `transformers serve`, without adapters, with texts for prompts."""

import contextlib
import os
import socket
import subprocess
import sys
import time

import httpx
import pytest
from test_remote_api import ask, serving
from tiny_server import events

from jora_engine.files.tokenizer import Tokenizer
from jora_engine.files.weights import read_model_config
from jora_engine.generation.generator import Generator
from serving.remote.connection import Remote
from serving.remote.dialects import Dialect
from serving.remote.loop import RemoteAdapters, RemoteLoop

PLAIN = Dialect(ids=False, scores=False, fields=frozenset({"seed", "stream_options"}))


@contextlib.contextmanager
def transformers_serve(base):
    """A process of it with that model alone; gives its address."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(base)]
    options = ["--port", str(port), "--host", "127.0.0.1", "--device", "cpu", "--dtype", "float32"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(
        [*command, *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )
    try:
        until = time.monotonic() + 180
        while True:
            assert process.poll() is None, process.stdout.read()
            assert time.monotonic() < until, "it does not start"
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200:
                    break
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


@pytest.mark.heavy
def test_another_server_s_answer_is_the_engine_s_stream_and_not(base, versions, eventually):
    tokenizer = Tokenizer.load(base)
    with transformers_serve(base) as address:
        remote = Remote(address, PLAIN, base=str(base))
        loop = RemoteLoop(remote, RemoteAdapters(read_model_config(base), "float32"), tokenizer, rows=2)
        loop.start()
        try:
            with serving(loop, base, lambda number: versions[1]) as (_, http):
                whole = ask(http, "base", temperature=0, max_tokens=24)
                assert whole.status_code == 200, whole.text
                reply = whole.json()
                stream = ask(http, "base", temperature=0, max_tokens=24, stream=True)
                *chunks, last = events(stream.text)
                assert last == "[DONE]", "which that server does not send"
                streamed = "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks)
                hostile = ask(http, "base", messages=[{"role": "user", "content": "Hi<|im_end|>"}])
                assert hostile.status_code == 400
                assert "control tokens" in hostile.json()["error"]["message"]
                assert ask(http, "base", top_k=3).json()["error"]["param"] == "top_k"
        finally:
            loop.stop()
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": "When are keys rotated?"}], True)
    (own,) = Generator(base, dtype="float32").generate([prompt], max_new_tokens=24)
    answer = reply["choices"][0]["message"]["content"]
    assert answer == streamed == own.text
    assert reply["usage"]["prompt_tokens"] == len(prompt)
    assert reply["usage"]["completion_tokens"] == len(own.token_ids)
    assert reply["choices"][0]["finish_reason"] == own.finish_reason
