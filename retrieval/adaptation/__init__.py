"""Fits embedder and reranker to a domain, and judges whether that helped. Nothing here knows of stages."""
