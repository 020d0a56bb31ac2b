"""The other sides, each in a process of its own that answers blocks of requests: transformers with PEFT, transformers'
batch, llama.cpp's server.

    python rivals.py KIND JOB.json      # a child of serving.py; lines of JSON in, lines of JSON out
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
Answer = Callable[[list[dict[str, Any]]], int]
"""Answers requests (`prompt`, `new_tokens`, `adapter`), returns how many tokens it made."""


class Rival:
    """The process of one other side."""

    def __init__(self, kind: str, job: dict[str, Any], place: Path) -> None:
        file = place / f"{kind}.json"
        file.write_text(json.dumps(job))
        # our folder must not be on the path: it holds a `serving.py` beside the package of that name
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(_path())}
        self._process = subprocess.Popen(
            [sys.executable, __file__, kind, str(file)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._next()  # it is ready

    def run(self, asks: Sequence[Any]) -> Any:
        """A block of `load.Ask`."""
        from serving_arms.load import Block

        assert self._process.stdin
        self._process.stdin.write(json.dumps([asdict(ask) for ask in asks]) + "\n")
        self._process.stdin.flush()
        return Block(**self._next())

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()

    def _next(self) -> dict[str, Any]:
        assert self._process.stdout
        for line in self._process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise RuntimeError(f"the other side ended with code {self._process.wait()}")


def _path() -> list[str]:
    return [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]


def peft_switching(job: dict[str, Any]) -> Answer:
    """One request after the other, the adapter switched before each, as PEFT's documentation has it."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.bfloat16, attn_implementation="sdpa")
    model: Any = None
    for number, folder in enumerate(job["adapters"]):
        options: dict[str, Any] = {
            "adapter_name": f"a{number}",
            "autocast_adapter_dtype": False,
        }  # bfloat16 factors: the fastest form
        if model is None:
            model = PeftModel.from_pretrained(base, folder, **options)
        else:
            model.load_adapter(folder, **options)
    model = model.to(torch.bfloat16).eval()

    def answer(requests: list[dict[str, Any]]) -> int:
        count = 0
        for request in requests:
            model.set_adapter(f"a{request['adapter']}")
            count += _generate(model, [request])
        return count

    return answer


def transformers_batch(job: dict[str, Any]) -> Answer:
    """All requests of a block as one batch of `generate`; the prompts are of one length."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.bfloat16, attn_implementation="sdpa").eval()
    return lambda requests: _generate(model, requests)


def _generate(model: Any, requests: list[dict[str, Any]]) -> int:
    import torch

    ids, new = torch.tensor([request["prompt"] for request in requests]), requests[0]["new_tokens"]
    with torch.inference_mode():
        out = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=new,
            min_new_tokens=new,
            do_sample=False,
            pad_token_id=0,
        )
    return int((out.shape[1] - ids.shape[1]) * out.shape[0])


def llama_cpp(job: dict[str, Any]) -> Answer:
    """llama.cpp's own server with as many slots as we have rows, asked over loopback by as many threads."""
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path = job["gguf"]
    settings.n_parallel, settings.n_gpu_layers = job["rows"], 0
    settings.n_ctx = job["rows"] * job["longest"]
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = len(os.sched_getaffinity(0))
    settings.hostnames = ["127.0.0.1"]
    server = xllamacpp.Server(settings)

    def one(request: dict[str, Any]) -> int:
        body = {
            "prompt": request["prompt"],
            "n_predict": request["new_tokens"],
            "temperature": 0,
            "ignore_eos": True,
            "cache_prompt": False,
            "return_tokens": True,
        }
        sent = urllib.request.Request(
            f"{server.listening_address}/completion", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(sent) as reply:
            return len(json.load(reply)["tokens"])

    pool = ThreadPoolExecutor(job["rows"])
    return lambda requests: sum(pool.map(one, requests))


KINDS = {"peft": peft_switching, "transformers": transformers_batch, "llama_cpp": llama_cpp}


def main() -> int:
    answer = KINDS[sys.argv[1]](json.loads(Path(sys.argv[2]).read_text()))
    print("{}", flush=True)
    for line in sys.stdin:
        requests = json.loads(line)
        began, cpu = time.perf_counter(), time.process_time()
        tokens = answer(requests)
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        print(json.dumps({"seconds": seconds, "cpu": cpu, "requests": len(requests), "tokens": tokens}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
