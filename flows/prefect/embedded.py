"""The process of a run's embedded Prefect server, which ends with the run, also where that is killed.

Prefect's own would live on without it, with its memory and its port, until somebody finds it.
"""

from __future__ import annotations

import os
import signal
import threading
import time

OWNER = "RAFT_SERVER_OF"
"""The environment variable with the id of the process that the server is for."""
_SECONDS = 1.0  # between looks at who the parent is
_PATIENCE_SECONDS = 10.0  # for an end in good order


def main() -> None:
    """Serves what the arguments say, as `python -m uvicorn` does."""
    follow(int(os.environ[OWNER]))
    import uvicorn

    uvicorn.main()


def follow(owner: int) -> None:
    """Has this process end when its parent, `owner`, is gone."""
    threading.Thread(target=_until_gone, args=(owner,), daemon=True).start()


def _until_gone(owner: int) -> None:
    while os.getppid() == owner:
        time.sleep(_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_PATIENCE_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    main()
