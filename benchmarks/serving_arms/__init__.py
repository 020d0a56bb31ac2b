"""What `serving.py` asks the server and its rivals, and how it compares them."""
