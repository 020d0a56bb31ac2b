"""Where an adapter's loss lies: passage number, markup, quote and answer of RAFT outputs, in nats a record.

    python benchmarks/loss_by_part.py .raft/store/export/KEY/adapter .raft/store/records/KEY/test.jsonl
    python benchmarks/loss_by_part.py ADAPTER train.jsonl --records 24 --json

Tells a model that has not learnt the form, or to copy, from one that does not know what to choose. transformers and
PEFT read the records in float32, the right output before each token given; only records that quote are read, by the
prompt contract in the adapter's raft.json, else by the template that they name. `--quick` reads four, and without an
adapter those of a random model in miniature. The last line with --json is one object: part -> nats and tokens a
record, share right by greedy choice.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter, defaultdict
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from goals import Goals, finish
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from data.nouns import Record, read_jsonl
from data.prompting.contract import PromptTemplate, closing, load_template, template_from_contract, to_messages
from raft_errors import BadInput
from tasks.inputs.models import resolve

KEYS = "records parts/*/nats parts/*/tokens parts/*/right"
GOALS: Goals = {
    "records": (">=", 1),
    "parts/quote, rest/tokens": (">=", 1),
    "parts/answer, first token/tokens": (">=", 1),
}
PARTS = ("passage number", "markup", "quote, 3 first tokens", "quote, rest", "answer, first token", "answer, rest")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adapter", type=Path, nargs="?", help="PEFT folder")
    parser.add_argument("file", type=Path, nargs="?", help="its records (JSON Lines)")
    parser.add_argument("--base", default="HuggingFaceTB/SmolLM2-135M-Instruct", help="Hub id or folder")
    parser.add_argument("--records", type=int, default=24, help="the first so many that quote")
    parser.add_argument("--quick", action="store_true", help="four records")
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object with the figures")
    args = parser.parse_args()
    if args.file is None and not args.quick:
        parser.error("an adapter and its records are needed, or --quick")
    count = 4 if args.quick else args.records
    if args.file is None:
        import miniature

        with tempfile.TemporaryDirectory() as place:
            base = miniature.write_base(Path(place, "base"))
            adapter = miniature.write_adapter(base, Path(place, "adapter"))
            figures = measure(base, adapter, miniature.write_records(Path(place, "records.jsonl")), count)
    else:
        figures = measure(resolve(args.base).folder, args.adapter, args.file, count)
    print(f"{figures['records']} records, {sum(row['nats'] for row in figures['parts'].values()):.2f} nats a record")
    for part, row in figures["parts"].items():
        print(f"{part:22} {row['nats']:6.2f} nats {row['tokens']:6.1f} tokens {row['right']:6.1%} right")
    return finish(figures, GOALS, args.json)


def template_of(record: Record, adapter: Path) -> PromptTemplate:
    """The template by which a record was written; BadInput where neither the adapter nor this release has it."""
    contract = adapter / "raft.json"
    if contract.is_file() and "prompt" in (facts := json.loads(contract.read_text(encoding="utf-8"))):
        template = template_from_contract(facts["prompt"])
    else:
        template = load_template(record.metadata["template"])
    if template.version != record.metadata["template_version"]:
        raise BadInput(
            f"the records were written by another template than {template.id!r} is now",
            expected="the adapter's folder with its raft.json, and the records that it was trained on",
        )
    return template


def measure(base: Path, adapter: Path, file: Path, count: int) -> dict[str, Any]:
    """Nats and tokens a record, and the share right by greedy choice, of each of PARTS, in `count` records."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    whole = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = PeftModel.from_pretrained(whole, adapter).eval()
    quoting = (record for record in read_jsonl(file, Record) if record.metadata["quotes"])
    records = list(islice(quoting, count))
    nats: defaultdict[str, float] = defaultdict(float)
    tokens: Counter[str] = Counter()
    right: Counter[str] = Counter()
    for record in records:
        prompt = str(tokenizer.apply_chat_template(to_messages(record), tokenize=False, add_generation_prompt=True))
        read = tokenizer(
            prompt + record.output, return_offsets_mapping=True, return_tensors="pt", add_special_tokens=False
        )
        ids, starts = read.input_ids, [int(start) - len(prompt) for start, _ in read.offset_mapping[0]]
        with torch.no_grad():
            log = torch.log_softmax(model(ids).logits[0, :-1], -1)
        seen: Counter[str] = Counter()
        template = template_of(record, adapter)
        for place, start in enumerate(starts):
            if start >= 0:
                token = ids[0, place]
                part = part_of(record.output, start, str(tokenizer.decode(token)), template, seen)
                nats[part] -= log[place - 1, token].item()
                tokens[part] += 1
                right[part] += int(log[place - 1].argmax() == token)
    number = max(1, len(records))
    parts = {
        part: {
            "nats": round(nats[part] / number, 3),
            "tokens": round(tokens[part] / number, 2),
            "right": round(right[part] / max(1, tokens[part]), 3),
        }
        for part in PARTS
    }
    return {"records": len(records), "parts": parts}


def part_of(output: str, start: int, token: str, template: PromptTemplate, seen: Counter[str]) -> str:
    """Which of PARTS the token at character `start` of the output is; counts what it has `seen` of each."""
    answer = output.rindex(template.answer_marker) + len(template.answer_marker)
    opened = output.rfind(template.begin_quote, 0, start + 1)
    first = opened + len(template.begin_quote)
    inside = opened >= 0 and first <= start < closing(output, first, template.begin_quote, template.end_quote)
    if start >= answer:
        part = "answer, rest" if seen["answer"] else "answer, first token"
        seen["answer"] += 1
    elif inside:
        part = "quote, rest" if seen[f"quote {opened}"] >= 3 else "quote, 3 first tokens"
        seen[f"quote {opened}"] += 1
    else:
        part = "passage number" if token.strip().isdigit() and output[:start].endswith("[") else "markup"
    return part


if __name__ == "__main__":
    sys.exit(main())
