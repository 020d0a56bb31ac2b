"""Models and tokenizers on disk: safetensors, Hugging Face folders, GGUF."""
