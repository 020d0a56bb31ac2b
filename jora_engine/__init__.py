"""JAX engine: decoder models of the Llama family, LoRA training, generation and Hugging Face export."""
