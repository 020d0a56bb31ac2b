"""What can be known to be wrong before hours of work are spent: the base model, and room on the disk."""

from __future__ import annotations

import shutil
from collections.abc import Sequence

from data.memo import memoise
from data.nouns import ItemCache
from flows.calls import Call
from flows.run import Run
from tasks.build.events import Said
from tasks.build.keys import code_fingerprint, key_of
from tasks.inputs.models import ModelFiles
from tasks.store.disks import SPARE_BYTES, no_space


def check(run: Run, calls: Sequence[Call]) -> None:
    """Looks at what the calls of a flow will need.

    Raises:
        BadInput: the base model's architecture is not supported, or its tokenizer or chat template cannot be used.
        RaftError: the disk has no room for the results.
    """
    needed = SPARE_BYTES
    stages = {call.stage.name: call.stage for call in calls}
    if any("base" in stage.models_for(getattr(run.config, name)) for name, stage in stages.items()):
        base = run.models["base"]
        for sentence in _of_the_base(base, run.store.cache("checks")):
            run.reporter(Said(sentence))
        if "export" in stages:
            weights = sum(p.stat().st_size for p in base.folder.glob("*.safetensors"))
            needed += 2 * weights  # the merged model in float32 is twice a base in bfloat16
    free = shutil.disk_usage(run.store.root).free
    if free < needed:
        raise no_space(run.store.root, free, needed)


def _of_the_base(base: ModelFiles, cache: ItemCache) -> list[str]:
    """What to know of the base and its chat template. Raises BadInput for a base that cannot be trained.

    A base that was found usable is not looked at again by the same code, which would import all of JAX.
    """

    def look(_: str) -> list[str]:
        from jora_engine.files.prompt_check import check_prompt
        from jora_engine.files.tokenizer import Tokenizer
        from jora_engine.files.weights import read_model_config

        read_model_config(base.folder)
        tokenizer = Tokenizer.load(base.folder, **base.chat)
        sentences = check_prompt(tokenizer, base.name)
        if tokenizer.fallback_template:
            sentences.append(
                f"{base.name} brings no chat template: the built-in template {tokenizer.fallback_template} is used, "
                "and written into the merged model"
            )
        return sentences

    code = key_of({"code": code_fingerprint("jora_engine.files.prompt_check", "jora_engine.files.weights")})
    return list(memoise(cache, f"base-2 {code}", [base.digest], look)[0])
