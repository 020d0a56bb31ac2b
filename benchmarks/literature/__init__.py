"""What `raft_literature.py` is made of: protocols, parts of each set, records, arms that are compared, rows."""
