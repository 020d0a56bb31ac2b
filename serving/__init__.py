"""The gateway: promoted adapters on one base behind the OpenAI API, with retrieval, contract and citations."""

from raft_names import require

require("data", "retrieval", "jora_engine", "tasks")
