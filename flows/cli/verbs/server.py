"""The verb `server`: starts Prefect's server for a project, with its pages on the loopback interface and no telemetry.

Runs and schedules of the project find it through a note in the store (`flows.prefect.server`).
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.options import ConfigOption, JsonOption, SetOption
from flows.cli.output import Terminal, emit
from flows.prefect.server import AUTH, LOOPBACK, NOTE, auth_string, settings
from raft_errors import BadInput
from tasks.config import load_config
from tasks.runtime.folders import write_json
from tasks.store.access import working_in
from tasks.store.store import Store


def server(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the pages and the API")] = 4200,
    host: Annotated[
        str, typer.Option(help="Address to listen on; beyond loopback the auth string travels unencrypted")
    ] = "127.0.0.1",
    name: Annotated[
        list[str] | None, typer.Option(help="A host name under which it is reached, such as a proxy's; may be repeated")
    ] = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Start Prefect's server and pages for this project. Runs and schedules find it by themselves. Ends with Ctrl-C."""
    run_config = load_config(config, set_ or [])
    store = Store(Path(run_config.store), mode=run_config.store_mode)
    store.prepare()
    if _is_taken(host, port):
        raise BadInput(f"Port {port} of {host} is in use", do="stop what uses it, or choose another with --port")
    address = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    url = f"http://{address}:{port}/api"
    auth_string(store, os.environ.get("PREFECT_SERVER_API_AUTH_STRING"))
    write_json(store.root / NOTE, {"url": url})
    if json:
        emit({"ok": True, "url": url, "pages": url.removesuffix("/api"), "auth_file": str(store.root / AUTH)})
    else:
        out = Terminal()
        out.print(f"Pages: {url.removesuffix('/api')}   (Ctrl-C stops the server)", soft_wrap=True)
        out.print(
            f"They ask for the auth string in {store.root / AUTH}; raft's own commands read it themselves.",
            soft_wrap=True,
        )
        if host not in LOOPBACK:
            out.print(
                f"{host} can be reached from other machines: whoever has the auth string can run commands here, and it "
                "travels unencrypted. Put a TLS proxy in front, or stay on loopback and use an ssh tunnel.",
                soft_wrap=True,
            )
    names = [part for one in name or [] for part in ("--name", one)]
    place = ["--host", host, "--port", str(port)]
    command = [sys.executable, "-P", "-m", "flows.prefect.server_process", str(store.root), *names, *place]
    environment = {**os.environ, **settings(store, host, port)}
    with working_in(store.root):
        os.execvpe(sys.executable, command, environment)


def _is_taken(host: str, port: int) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return True
    return False
