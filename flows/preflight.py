"""What can be known to be wrong before hours of work are spent: base, questions, teacher, template, disk space."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Sequence

from data.memo import memoise
from data.nouns import ItemCache
from data.prompting.contract import load_template
from flows.calls import Call
from flows.licences import licences_of
from flows.run import Run
from raft_errors import BadInput
from tasks.adapters.smoke import require_command
from tasks.build.events import Said
from tasks.build.keys import code_fingerprint, key_of
from tasks.config import RunConfig
from tasks.inputs.models import ModelFiles
from tasks.inputs.question_source import require_judge, require_questions
from tasks.store.disks import SPARE_BYTES, no_space
from tasks.store.store import read_json


def check(run: Run, calls: Sequence[Call], *, finished: Collection[str] = ()) -> None:
    """Looks at what the calls of a flow will need.

    Args:
        finished: stages whose results are there. For the others packages are looked for, and a teacher or judge is
            tried with one short prompt.
    Raises:
        BadInput: the base model's architecture is not supported, its weights are not those of its config.json, or its
            tokenizer or chat template cannot be used; the question file, a template, or the teacher's or judge's
            address, key or settings cannot; a metric writer's package is not installed.
        RaftError: the teacher or judge gives no answer, or the disk has no room for the results.
    """
    needed = SPARE_BYTES
    stages = {call.stage.name: call.stage for call in calls}
    if any("base" in stage.models_for(run.section(name)) for name, stage in stages.items()):
        base = run.models["base"]
        for sentence in _of_the_base(base, run.store.cache("checks")):
            run.reporter(Said(sentence))
        if "export" in stages:
            in_four_bits = read_json(base.folder / "config.json").get("quantization_config")
            weights = (4 if in_four_bits else 1) * sum(p.stat().st_size for p in base.folder.glob("*.safetensors"))
            weights += 4 * sum(p.stat().st_size for p in base.folder.glob("model.gguf"))
            needed += 2 * weights  # the merged model in float32 is twice a base in bfloat16
            if run.config.train.base_precision != "bfloat16":
                needed += 2 * weights  # what the packed weights stand for, while the parity gate compares with it
        if "train" in stages and "train" not in finished and run.config.train.writers:
            from jora_engine.training.trackers import require_packages

            require_packages(run.config.train.writers)
        if "train" in stages and run.config.train.base_precision == "as_stored":
            from jora_engine.files.weights import packed_leaves, read_model_config

            packed_leaves(base.folder, read_model_config(base.folder), "as_stored")
    if "questions" in stages:
        for sentence in licences_of(run.config).conflicts():
            run.reporter(Said(sentence))
        require_questions(run.config.questions, run.config.seed, call="questions" not in finished)
    if "evaluate" in stages:
        require_judge(run.config.evaluate, run.config.seed, call="evaluate" not in finished)
    if "records" in stages:
        load_template(run.config.records.template)
    free = shutil.disk_usage(run.store.root).free
    if free < needed:
        raise no_space(run.store.root, free, needed)


def refusals(config: RunConfig) -> list[str]:
    """What a run or a night would refuse at its start, as far as a plan can tell: nobody is asked, no model opened."""
    command = config.retrain.smoke_command
    sentences = []
    for who, look in (
        ("run", lambda: require_questions(config.questions, config.seed, call=False)),
        ("run", lambda: load_template(config.records.template)),
        ("run", lambda: require_judge(config.evaluate, config.seed, call=False)),
        ("night", lambda: require_command(command) if command is not None else None),
    ):
        try:
            look()
        except BadInput as error:
            sentences.append(f"A {who} would stop at once: {error}")
    return sentences


def _of_the_base(base: ModelFiles, cache: ItemCache) -> list[str]:
    """What to know of the base and its chat template. Raises BadInput for a base that cannot be trained.

    A base that was found usable is not looked at again by the same code, which would import all of JAX.
    """

    def look(_: str) -> list[str]:
        from jora_engine.files.prompt_check import check_prompt
        from jora_engine.files.tensor_sources import open_tensors
        from jora_engine.files.tokenizer import Tokenizer
        from jora_engine.files.weights import check_tensors, read_model_config

        config = read_model_config(base.folder)
        check_tensors(open_tensors(base.folder, config), config)
        tokenizer = Tokenizer.load(base.folder, **base.chat)
        sentences = check_prompt(tokenizer, base.name)
        if tokenizer.fallback_template:
            sentences.append(
                f"{base.name} brings no chat template: the built-in template {tokenizer.fallback_template} is used, "
                "and written into the merged model"
            )
        return sentences

    code = key_of({"code": code_fingerprint("jora_engine.files.prompt_check", "jora_engine.files.weights")})
    return list(memoise(cache, f"base-3 {code}", [base.digest], look)[0])
