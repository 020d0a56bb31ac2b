"""What runs, in which order: the configuration, the pipeline and the `raft` command. No logic a library should have."""

from raft_names import NAMES, require

require(*NAMES)
