"""LoRA adapters on disk: PEFT folders, and models with an adapter merged in."""
