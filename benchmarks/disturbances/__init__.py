"""What `chaos.py` disturbs, and how."""
