"""One thin stage a module, and the store that makes stages cached, locked, retried and resumable."""
