"""What runs, in which order: the configuration, the pipeline and the `raft` command. No logic a library should have."""
