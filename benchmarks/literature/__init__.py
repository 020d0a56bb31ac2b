"""What `raft_literature.py` is made of: protocols, parts of each set, arms that are compared, rows of results."""
