"""One thin stage a module, and the store that makes stages cached, locked, retried and resumable."""

from raft_names import require

require("data", "retrieval", "jora_engine")
