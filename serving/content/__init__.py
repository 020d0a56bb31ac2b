"""What a request comes to, and the text of its answer with its citations."""
