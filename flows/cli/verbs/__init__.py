"""One file a verb of the `raft` command, named as the verb."""
