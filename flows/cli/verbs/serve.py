"""The verb `serve`: adapters on one base behind the OpenAI API, of one configuration or of a file of domains."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, cast, get_args

import typer

from flows.cli.options import ConfigArgument, JsonOption, SetOption
from flows.cli.output import Display, Terminal, emit, warn
from flows.domains import is_domains_file, read_configs
from flows.offers import Offer, offer, offers
from flows.ready import NotBuilt, command_of
from raft_errors import BadInput, RaftError
from tasks.build.events import Started, progress_of


def serve(
    config: ConfigArgument = None,
    only: Annotated[list[str] | None, typer.Option(help="Of a file of domains this one; may be repeated")] = None,
    host: Annotated[str, typer.Option(help="Address; others than loopback demand --keys")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 = a free one")] = 8000,
    keys: Annotated[Path | None, typer.Option(help="File with API keys, one a line, or YAML with filters")] = None,
    name: Annotated[list[str] | None, typer.Option(help="Host name of this server; may be repeated")] = None,
    rows: Annotated[int, typer.Option(min=1, max=128, help="Requests answered side by side")] = 8,
    context: Annotated[int, typer.Option(min=128, max=131072, help="Tokens of prompt and answer together")] = 2048,
    dtype: Annotated[str, typer.Option(help="bfloat16, or float32: slower, exact")] = "bfloat16",
    max_rank: Annotated[int, typer.Option(min=1, max=512, help="Largest rank of an adapter")] = 64,
    adapter_memory: Annotated[int, typer.Option(min=1, help="MiB for adapters in memory")] = 1024,
    prefix_memory: Annotated[int, typer.Option(min=0, help="MiB for prompts computed before")] = 512,
    deadline: Annotated[int, typer.Option(min=1, max=3600, help="Seconds that a request may take")] = 300,
    queue: Annotated[int, typer.Option(min=1, max=10000, help="Requests that may wait")] = 64,
    sources: Annotated[
        str, typer.Option(help="Where citations stand unless a request says: annotations, passages, text or open_webui")
    ] = "annotations",
    set_: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Serve adapters behind the OpenAI API: retrieval, their prompt, checked citations."""
    from serving.schema import Sources
    from serving.tenants import Tenant, read_keys

    for option, value, known in (
        ("dtype", dtype, ("bfloat16", "float32")),
        ("sources", sources, get_args(Sources)),
    ):
        if value not in known:
            raise BadInput(f"--{option} {value}", expected=f"one of {', '.join(known)}")
    from serving.server import require_keys, run_server
    from serving.telemetry import tracer_from_environment

    tracer = tracer_from_environment()
    accepted = read_keys(keys)
    require_keys(host, accepted)
    served, absent = offered(config, set_, only)
    for name_, reason in absent.items():
        warn(f"{name_} is not served: {reason}")
    for one in served.values():
        warn(one.stale)
    logging.getLogger("raft.serving").setLevel(logging.INFO)

    from jora_engine.adapters.peft_folder import precision_of
    from jora_engine.files.weights import model_digest
    from jora_engine.generation.adapter_memory import AdapterMemory
    from jora_engine.generation.batching import Engine
    from jora_engine.generation.compiles import watch_compiles
    from jora_engine.generation.decode import STEPS
    from jora_engine.generation.loaded import load_model
    from serving.engine_loop import EngineLoop
    from serving.gateway import Gateway
    from serving.local import Announcement, announced, arithmetic
    from serving.remote.loop import RemoteLoop
    from serving.remote.opening import open_remote
    from serving.routing import Router, shared_embedder
    from serving.state import Limits, Server
    from tasks.serve import one_for_all

    base = next(iter(served.values())).run.models["base"]
    section = one_for_all({key: one.run.config.serve for key, one in served.items()})
    out = Terminal(stderr=True)
    watch_compiles()
    digest = model_digest(base.folder)
    memory: AdapterMemory
    held = "bfloat16"
    if section.engine == "openai":
        roots = [one.run.store.root for one in served.values()]
        room = {"rows": rows, "max_rank": max_rank, "adapter_bytes": adapter_memory << 20}
        remote, most = open_remote(section, base.folder, base.chat, roots, base_digest=digest, **room)
        memory = remote.adapters
        out.print(f"{remote.remote.where} generates")
    else:
        out.print(f"loading {base.name}")
        held = precision_of(next(iter(served.values())).find(None).folder)
        model = load_model(base.folder, dtype=dtype, base_digest=digest, chat=base.chat, precision=held)
        most = model.config.longest_sequence
        memory = AdapterMemory(
            model.config,
            dtype,
            max_bytes=adapter_memory << 20,
            max_rank=max_rank,
            base_digest=digest,
            precision=model.precision,
        )
    domains = {key: one.domain() for key, one in served.items()}
    for key in accepted:
        Tenant(where=key.where).check(domain.retriever for domain in domains.values())
    embedder = shared_embedder([domain.retriever.embedder for domain in domains.values()])
    profiles = next(iter(served.values())).run.store.cache("routing")
    router = Router(embedder, profiles, miss=section.auto_miss, most=section.mix) if embedder else None
    longest = min(context, most) - STEPS
    numbers = arithmetic(dtype, held)
    fingerprint = hashlib.sha256(f"{digest} {numbers} {section.kind if section.url else ''}".encode()).hexdigest()
    gateway = Gateway(
        base.folder,
        base.chat,
        domains,
        memory,
        longest,
        fingerprint,
        cast(Sources, sources),
        # what a client is told holds no path
        {key: why.what if isinstance(why, NotBuilt) else "see the server's log" for key, why in absent.items()},
        router,
    )
    rank, broken = gateway.prepare()
    if not rank:
        raise BadInput(f"No adapter can be used ({'; '.join(broken.values())})", do="build or promote another version")
    for name_, reason_ in broken.items():
        warn(f"{name_} is not listed: {reason_}")
    loop: EngineLoop | RemoteLoop
    if section.engine == "openai":
        loop = remote
    else:
        memory.mixed_rank = sum(memory.ranks()[-section.mix :]) if section.mix else 0
        slot_rank, prefix_bytes = max(rank, memory.mixed_rank), prefix_memory << 20
        loop = EngineLoop(
            Engine(model, rows, adapters=memory, adapter_rank=slot_rank, prefix_bytes=prefix_bytes, chunks_between=1)
        )
    stores: dict[Path, tuple[str, ...]] = {}
    # `raft ask` is to say what it would say by itself, which another server's arithmetic does not promise
    for key_, one in served.items() if section.engine == "own" else ():
        stores[one.run.store.root] = (*stores.get(one.run.store.root, ()), key_)
    server = Server(gateway, loop, Limits(float(deadline), queue), tracer=tracer)

    told = contextlib.ExitStack()

    def say(url: str) -> None:
        near = url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")
        for store, names in stores.items():
            own = Announcement(near, socket.gethostname(), os.getpid(), server.nonce, names, numbers)
            try:
                told.enter_context(announced(store, own))
            except (OSError, RaftError) as error:
                warn(f"raft ask will not find this server ({error})")
        if json:
            reasons = {key: str(why) for key, why in absent.items()}
            emit({"ok": True, "url": f"{url}/v1", "models": gateway.names(), "absent": reasons})
        out.print(f"serving {', '.join(gateway.names())} on {url}/v1, and a page to ask on {url}/", soft_wrap=True)

    def warm() -> None:
        if isinstance(loop, RemoteLoop):
            out.print("bringing the adapters there")
            loop.bring([*memory.names()])
            unusable = gateway.probe(loop)
            if unusable:
                out.print("what failed is tried again, and comes into use by itself")
        else:
            display = Display(out)
            display(Started("compiling"))
            try:
                loop.engine.warm(longest, progress_of("compiling", display))
            finally:
                display.close()
            unusable = gateway.probe(loop.engine)
        for name_, reason_ in unusable.items():
            warn(f"{name_} is not listed: {reason_}")
        gateway.prepare_routes()

    with told:
        run_server(
            server,
            host,
            port,
            keys=accepted,
            hosts=name or [],
            warm=warm,
            say=say,
        )


def offered(
    config: Path | None, overrides: list[str] | None, only: list[str] | None
) -> tuple[dict[str, Offer], Mapping[str, BadInput]]:
    """What a configuration or a file of domains has to serve, by name, and why some domains have nothing."""
    configs = read_configs(config, overrides or [], only or [])
    if config is None or not is_domains_file(config):
        return {name: offer(one, lambda stage: command_of(stage, config)) for name, one in configs.items()}, {}
    return offers(configs, lambda name, stage: f"raft domains {config} --only {name}")
