"""The same prompts through llama.cpp itself: its tokens of a chat, and what it answers greedily, beside the engine's.

    python -m jora_engine.generation.llama_cpp JOB.json

runs llama.cpp (the extra `llama-cpp`, a wheel with its server inside) in a process of its own, since a file that it
does not like ends the process.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jora_engine.files.chat_template import Message
from jora_engine.files.tensor_files import read_json, write_json
from raft_errors import RaftError

EXTRA = "llama-cpp"
"""The extra of this project that brings llama.cpp."""


@dataclass(frozen=True)
class Answers:
    """What llama.cpp makes of some chats.

    Attributes:
        rendered: the token ids of each chat, by its own template engine and tokenizer, with what it puts before them.
        counted: the length that its chat API gives for each prompt; 1 more than `rendered` would be a second BOS.
        continued: the greedy tokens behind each prompt of ids.
        version: of the wheel.
    """

    rendered: list[list[int]]
    counted: list[int]
    continued: list[list[int]]
    version: str


def available() -> bool:
    """Whether the extra is installed."""
    return importlib.util.find_spec("xllamacpp") is not None


def ask_llama_cpp(
    model: Path,
    chats: Sequence[Sequence[Message]],
    prompts: Sequence[Sequence[int]],
    *,
    adapter: Path | None = None,
    new_tokens: int = 24,
    threads: int | None = None,
    timeout_seconds: float = 1800,
) -> Answers:
    """Loads a GGUF model, and a GGUF adapter beside it, and asks it.

    Args:
        chats: rendered and counted.
        prompts: token ids, continued greedily.

    Raises:
        RaftError: llama.cpp is not installed, does not load the files, or ends before it has answered.
    """
    from jora_engine.model.sharding import usable_cores  # which loads JAX: the other process does without

    if not available():
        raise RaftError("llama.cpp is not installed", do=f"pip install 'jora-raft[{EXTRA}]'")
    with tempfile.TemporaryDirectory() as scratch:
        job, out, log = (Path(scratch, name) for name in ("job.json", "out.json", "log.txt"))
        longest = max(map(len, prompts), default=0)
        work: dict[str, Any] = {
            "model": str(model),
            "adapter": None if adapter is None else str(adapter),
            "out": str(out),
            "chats": chats,
            "prompts": prompts,
            "tokens": new_tokens,
            "context": longest + new_tokens + 8,
            "threads": threads or usable_cores(),
        }
        write_json(job, work)
        command = [sys.executable, "-P", "-m", "jora_engine.generation.llama_cpp", str(job)]
        path = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
        with log.open("w") as sink:
            done = subprocess.run(
                command,
                stdout=sink,
                stderr=sink,
                env={**os.environ, "PYTHONPATH": path},
                timeout=timeout_seconds,
                check=False,
            )
        if done.returncode != 0 or not out.exists():
            lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
            raise RaftError(
                f"llama.cpp did not answer (exit code {done.returncode}): {' | '.join(lines[-3:])}",
                expected=f"a model and an adapter that it loads: {model.name}, {adapter.name if adapter else 'none'}",
                do="report it with the base model's name; the rules alone: uninstall the extra",
            )
        return Answers(**read_json(out))


def _answer(job: Mapping[str, Any]) -> dict[str, Any]:
    """The child's work: a server on this machine's loopback, asked over HTTP."""
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path = job["model"]
    settings.n_ctx, settings.n_parallel, settings.n_gpu_layers = job["context"], 1, 0
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = job["threads"]
    settings.warmup = False
    settings.hostnames = ["127.0.0.1"]
    # what is compared is the arithmetic: a cache of keys in float16 would round
    settings.cache_type_k = settings.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    if job["adapter"]:
        lora = xllamacpp.CommonAdapterLoraInfo()
        lora.path, lora.scale = job["adapter"], 1.0
        settings.lora_adapters = [lora]
    server = xllamacpp.Server(settings)

    def post(path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        data = json.dumps(body).encode()
        request = urllib.request.Request(server.listening_address + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as reply:
            return json.load(reply)

    rendered, counted = [], []
    for chat in job["chats"]:
        text = post("/apply-template", {"messages": chat})["prompt"]
        tokens = post("/tokenize", {"content": text, "add_special": True, "parse_special": True})["tokens"]
        usage = post("/v1/chat/completions", {"messages": chat, "max_tokens": 1, "temperature": 0})["usage"]
        rendered.append(tokens)
        counted.append(usage["prompt_tokens"])
    greedy = {"n_predict": job["tokens"], "temperature": 0, "return_tokens": True, "cache_prompt": False}
    continued = [post("/completion", {"prompt": prompt, **greedy})["tokens"] for prompt in job["prompts"]]
    return {
        "rendered": rendered,
        "counted": counted,
        "continued": continued,
        "version": xllamacpp.__version__,
    }


if __name__ == "__main__":
    work = read_json(Path(sys.argv[1]))
    write_json(Path(work["out"]), _answer(work))
