"""What can be known to be wrong before hours of work are spent: the base model, and room on the disk."""

from __future__ import annotations

import shutil

from flows.pipeline import Run, stages_to
from tasks.store import SPARE_BYTES, no_space


def check(run: Run, until: str) -> None:
    """Looks at what the stages up to `until` will need.

    Raises:
        BadInput: the base model's architecture is not supported, or its tokenizer cannot be used.
        RaftError: the disk has no room for the results.
    """
    stages = stages_to(until)
    needed = SPARE_BYTES
    if any("base" in made.models_for(getattr(run.config, made.name)) for made in stages):
        from jora_engine.tokenizer import Tokenizer
        from jora_engine.weights import read_model_config

        base = run.models["base"]
        read_model_config(base.folder)
        tokenizer = Tokenizer.load(base.folder)
        if tokenizer.fallback_template:
            run.reporter.say(
                f"{base.name} brings no chat template: the built-in template {tokenizer.fallback_template} is used, "
                "and written into the merged model"
            )
        if "export" in {made.name for made in stages}:
            weights = sum(p.stat().st_size for p in base.folder.glob("*.safetensors"))
            needed += 2 * weights  # the merged model in float32 is twice a base in bfloat16
    free = shutil.disk_usage(run.store.root).free
    if free < needed:
        raise no_space(run.store.root, free, needed)
