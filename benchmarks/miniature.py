"""A random base of two layers and a few records about towns, for quick modes that only show that a script runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from data.nouns import Record, write_jsonl
from data.prompting.contract import CitedQuote, Passage, load_template, prompt_contract, render, render_output
from tasks.records import RecordsConfig
from tasks.runtime.folders import write_json

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "retrieval"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "flows"))
import tiny


def write_base(folder: Path, hidden: int = 32, positions: int | None = None) -> Path:
    """A Hugging Face folder: Llama of 2 layers with random weights, byte-level tokenizer, chat template; it reads
    `positions` tokens where that is given."""
    tiny.make_base(folder, hidden=hidden)
    if positions:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        write_json(folder / "config.json", {**config, "max_position_embeddings": positions})
    return folder


def write_searchers(folder: Path) -> tuple[Path, Path]:
    """A random embedder and a random cross-encoder of two layers each."""
    from retrieval_samples import make_tiny_model, make_tiny_reranker

    return make_tiny_model(folder / "embedder", seed=0), make_tiny_reranker(folder / "reranker", seed=0)


def write_records(path: Path, count: int = 8) -> Path:
    """JSON Lines of records with one passage each, in the template that a run takes if it says no other."""
    template = load_template(RecordsConfig().template)
    rows = []
    for town, (thing, *_) in list(tiny.TOWNS.items())[:count]:
        sentence = f"The town of {town.title()} is known for {thing} that stands beside the river."
        quotes = [CitedQuote(1, sentence)]
        instruction, text = render(f"What is {town.title()} known for?", [Passage(town, sentence)], template=template)
        metadata = {
            "quotes": [{"passage": 1, "text": sentence}],
            "template": template.id,
            "template_version": template.version,
        }
        rows.append(Record(instruction, text, render_output(thing, quotes, template=template), metadata))
    write_jsonl(path, rows)
    return path


def write_adapter(base: Path, folder: Path) -> Path:
    """A PEFT adapter of rank 2 with random weights, with the prompt contract of `write_records` beside it."""
    import peft
    from transformers import AutoModelForCausalLM

    settings = peft.LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), settings).save_pretrained(str(folder))
    template = load_template(RecordsConfig().template)
    write_json(folder / "raft.json", {"prompt": prompt_contract(template, passages=1, may_refuse=True)})
    return folder
