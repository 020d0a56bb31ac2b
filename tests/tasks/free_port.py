"""A port for a server that a test starts in another process."""

import random
import socket


def free_port() -> int:
    """A free port on loopback, below those that the kernel hands out: nobody gets it by chance before it is used."""
    for _ in range(100):
        port = random.SystemRandom().randrange(15000, 32000)  # the kernel's begin at 32768, see ip_local_port_range
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError("no port from 15000 to 32000 is free")
