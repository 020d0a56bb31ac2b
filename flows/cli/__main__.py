"""`python -m flows.cli` is the command `raft`."""

from flows.cli.app import main

if __name__ == "__main__":  # a process that a library spawns imports this file too
    main()
