"""The verb `serve`: the adapter behind the OpenAI API."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.options import ConfigArgument, JsonOption, SetOption
from flows.cli.output import Terminal, emit, warn
from flows.ready import open_search, ready
from raft_errors import BadInput
from tasks.adapters.registry import Registry

if TYPE_CHECKING:
    from flows.run import Run
    from serving.domain import ServedVersion


def serve(
    config: ConfigArgument = None,
    host: Annotated[str, typer.Option(help="Address; others than loopback demand --keys")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 = a free one")] = 8000,
    keys: Annotated[Path | None, typer.Option(help="File with API keys, one a line")] = None,
    name: Annotated[list[str] | None, typer.Option(help="Host name of this server; may be repeated")] = None,
    rows: Annotated[int, typer.Option(min=1, max=128, help="Requests answered side by side")] = 8,
    context: Annotated[int, typer.Option(min=128, max=131072, help="Tokens of prompt and answer together")] = 2048,
    dtype: Annotated[str, typer.Option(help="bfloat16, or float32: slower, exact")] = "bfloat16",
    max_rank: Annotated[int, typer.Option(min=1, max=512, help="Largest rank of an adapter")] = 64,
    adapter_memory: Annotated[int, typer.Option(min=1, help="MiB for adapters in memory")] = 1024,
    prefix_memory: Annotated[int, typer.Option(min=0, help="MiB for prompts computed before")] = 512,
    deadline: Annotated[int, typer.Option(min=1, max=3600, help="Seconds that a request may take")] = 300,
    queue: Annotated[int, typer.Option(min=1, max=10000, help="Requests that may wait")] = 64,
    set_: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Serve the adapter in use behind the OpenAI API: retrieval, its prompt, checked citations."""
    if dtype not in ("bfloat16", "float32"):
        raise BadInput(f"--dtype {dtype}", expected="bfloat16 or float32")
    from serving.server import require_keys, run_server

    accepted = read_keys(keys)
    require_keys(host, accepted)
    run, built, stale = ready(config, set_, "index")
    warn(stale)
    published = _export(config, set_)
    find = versions(run, published)
    find(None)  # or there is nothing to serve
    logging.getLogger("raft.serving").setLevel(logging.INFO)

    from jora_engine.config.lora import LoraConfig
    from jora_engine.files.weights import model_digest
    from jora_engine.generation.adapter_memory import AdapterMemory
    from jora_engine.generation.batching import Engine
    from jora_engine.generation.compiles import watch_compiles
    from jora_engine.generation.decode import STEPS
    from jora_engine.generation.loaded import load_model
    from serving.domain import Domain
    from serving.engine_loop import EngineLoop
    from serving.gateway import Gateway
    from serving.state import Limits, Server
    from tasks.runtime.folders import read_json

    base = run.models["base"]
    out = Terminal(stderr=True)
    out.print(f"loading {base.name}")
    watch_compiles()
    digest = model_digest(base.folder)
    model = load_model(base.folder, dtype=dtype, base_digest=digest, chat=base.chat)
    memory = AdapterMemory(model.config, dtype, max_bytes=adapter_memory << 20, max_rank=max_rank, base_digest=digest)
    rank = LoraConfig.from_peft(read_json(find(None).folder / "adapter_config.json")).rank
    engine = Engine(model, rows, adapters=memory, adapter_rank=rank, prefix_bytes=prefix_memory << 20, chunks_between=1)
    domain = Domain(run.config.name, open_search(run, built), find)
    longest = min(context, model.config.longest_sequence) - STEPS
    fingerprint = hashlib.sha256(f"{digest} {dtype}".encode()).hexdigest()
    gateway = Gateway(base.folder, base.chat, {domain.name: domain}, memory, longest, fingerprint)
    server = Server(gateway, EngineLoop(engine), Limits(float(deadline), queue))

    def say(url: str) -> None:
        if json:
            emit({"ok": True, "url": f"{url}/v1", "models": gateway.names()})
        out.print(f"serving {', '.join(gateway.names())} on {url}/v1", soft_wrap=True)

    def warm() -> None:
        out.print("compiling")
        engine.warm(longest)

    run_server(
        server,
        host,
        port,
        keys=accepted,
        hosts=name or [],
        warm=warm,
        say=say,
    )


def read_keys(file: Path | None) -> list[str]:
    """The keys of a file: one a line, `#` begins a remark."""
    if file is None:
        return []
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"--keys {file} cannot be read", expected="a text file with one key a line") from error
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys or min(map(len, keys)) < 16:
        raise BadInput(
            f"--keys {file} holds " + ("a key that is too short" if keys else "no key"),
            expected="keys of at least 16 characters",
            do="make one with: openssl rand -hex 24",
        )
    return keys


def versions(run: Run, published: Path | None) -> Callable[[int | None], ServedVersion]:
    """What finds a version of the run's adapter: by number, or the one in use; without one, what the last run made."""
    from serving.domain import ServedVersion

    registry = Registry(run.store, run.config.name)

    def find(number: int | None) -> ServedVersion:
        adapter = registry.read()
        version = adapter.in_use if number is None else adapter.version(number)
        if version is not None:
            link = version.stages["export"]
            return ServedVersion(f"{adapter.name}@{version.number}", run.store.folder(link.stage, link.key) / "adapter")
        if published is None:
            raise BadInput(f"No version of {adapter.name} is promoted", do="run `raft run` or `raft promote`")
        return ServedVersion(adapter.name, published)

    return find


def _export(config: Path | None, overrides: list[str] | None) -> Path | None:
    """The adapter of the finished run, if there is one for this configuration."""
    try:
        _, built, _ = ready(config, overrides, "export")
    except BadInput:
        return None
    return built["export"].path("adapter")
