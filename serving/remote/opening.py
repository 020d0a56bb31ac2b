"""The other server as the section `serve` of the configuration describes it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from jora_engine.files.tokenizer import Tokenizer
from jora_engine.files.weights import read_model_config
from raft_errors import BadInput, RaftError
from serving.remote.connection import Remote
from serving.remote.dialects import DIALECTS
from serving.remote.fleet import Patience
from serving.remote.loop import RemoteAdapters, RemoteLoop
from tasks.serve import ServeConfig


def open_remote(
    serve: ServeConfig,
    base: Path,
    chat: Mapping[str, Any],
    stores: Collection[Path],
    *,
    base_digest: str,
    rows: int,
    max_rank: int,
    adapter_bytes: int,
) -> tuple[RemoteLoop, int]:
    """The loop to that server, begun, and the tokens of prompt and answer together that both sides take.

    Args:
        stores: folders that the adapters lie in.
        base: folder of the base here, whose tokenizer makes the prompts; chat: what its chat template is told.

    Raises:
        BadInput: the section cannot be meant; RaftError: the server does not answer.
    """
    assert serve.url is not None
    model = read_model_config(base)
    remote = Remote(serve.url, DIALECTS[serve.kind], base=serve.model, key_variable=serve.key_variable)
    adapters = RemoteAdapters(model, "float32", max_bytes=adapter_bytes, max_rank=max_rank, base_digest=base_digest)
    seen = as_seen(stores, serve.store_there)
    patience = Patience(load=float(serve.load_seconds))
    loop = RemoteLoop(remote, adapters, Tokenizer.load(base, **chat), rows=rows, seen=seen, patience=patience)
    loop.start()
    try:
        longest = loop.greet()
    except RaftError:
        loop.stop()
        raise
    return loop, min(longest or model.longest_sequence, model.longest_sequence)


def as_seen(stores: Collection[Path], there: str | None) -> Callable[[Path], str]:
    """What a folder of ours is called on the other server.

    Raises:
        BadInput: one folder there cannot stand for several stores here.
    """
    roots = {store.resolve() for store in stores}
    if there is None:
        return lambda folder: str(folder.resolve())
    if len(roots) > 1:
        raise BadInput(
            f"serve.store_there is one folder, and the domains have {len(roots)} stores",
            expected="one store for all domains, or the same paths on both machines",
            do="give the domains one `store` under `common`",
        )
    (root,) = roots
    return lambda folder: f"{there.rstrip('/')}/{folder.resolve().relative_to(root).as_posix()}"
