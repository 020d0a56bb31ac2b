"""Generation on another server (`serve.engine: openai`): retrieval, prompts, citations and routing stay here."""
