"""A child for the supervisor's tests: `python -m child_program KIND [FILE]`."""

import json
import os
import signal
import sys
import time
from pathlib import Path


def say(**event):
    print(json.dumps(event), flush=True)


if __name__ == "__main__":
    kind, *rest = sys.argv[1:]
    if kind == "events":
        print("a line of some library", flush=True)
        say(event="step", step=1)
        say(event="step", step=2)
    elif kind == "bad":
        say(event="error", what="the file is wrong", expected="a right one", do="mend it")
        sys.exit(2)
    elif kind == "failed":
        print("Traceback: it broke", file=sys.stderr)
        sys.exit(1)
    elif kind == "stopped":
        sys.exit(75)
    elif kind == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif kind == "supervised":
        secrets = [name for name, value in os.environ.items() if value == "secret"]
        say(event="pid", parent=int(os.environ["RAFT_SUPERVISOR"]), group=os.getpgrp(), secrets=secrets)
    elif kind == "hangs":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        say(event="ready")
        time.sleep(60)
    elif kind in ("saves", "saves slowly"):

        def save(*_):
            time.sleep(1.0 if kind == "saves slowly" else 0.0)
            Path(rest[0]).write_text("state")
            sys.exit(75)

        signal.signal(signal.SIGTERM, save)
        say(event="ready")
        time.sleep(60)
