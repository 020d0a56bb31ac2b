"""The server from its first byte to its last: the address is told when it answers, a signal ends it in order."""

import os
import signal
import socket
from urllib.parse import urlsplit

from serving.engine_loop import EngineLoop
from serving.server import run_server
from serving.state import Limits, Server


def test_whoever_is_told_the_address_can_connect_and_end_the_server(served, engine):
    server = Server(served.server.gateway, EngineLoop(engine), Limits())
    addresses = []

    def say(address):
        place = urlsplit(address)
        socket.create_connection((place.hostname, place.port), timeout=10).close()
        addresses.append(address)
        os.kill(os.getpid(), signal.SIGTERM)

    run_server(server, "127.0.0.1", 0, keys=[], hosts=[], warm=lambda: None, say=say)
    assert len(addresses) == 1
    assert not server.ready
