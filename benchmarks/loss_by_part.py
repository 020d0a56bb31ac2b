"""Where an adapter's loss lies: passage number, markup, quote and answer of RAFT outputs, in nats a record.

    python benchmarks/loss_by_part.py .raft/store/export/KEY/adapter .raft/store/records/KEY/test.jsonl
    python benchmarks/loss_by_part.py ADAPTER train.jsonl --records 24 --json

Tells a model that has not learnt the form, or to copy, from one that does not know what to choose. transformers and
PEFT read the records in float32, the right output before each token given; only records that quote are read. `--quick`
reads four. The last line with --json is one object: part -> nats and tokens a record, share right by greedy choice.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter, defaultdict
from itertools import islice
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from data.nouns import Record, read_jsonl
from data.prompting.contract import PromptTemplate, load_template, to_messages
from tasks.inputs.models import resolve

PARTS = ("passage number", "markup", "quote, 3 first tokens", "quote, rest", "answer, first token", "answer, rest")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adapter", type=Path, help="PEFT folder")
    parser.add_argument("file", type=Path, help="records (JSON Lines) in a built-in template")
    parser.add_argument("--base", default="HuggingFaceTB/SmolLM2-135M-Instruct", help="Hub id or folder")
    parser.add_argument("--records", type=int, default=24, help="the first so many that quote")
    parser.add_argument("--quick", action="store_true", help="four records")
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object with the figures")
    args = parser.parse_args()
    folder = resolve(args.base).folder
    tokenizer = AutoTokenizer.from_pretrained(folder)
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, args.adapter).eval()
    quoting = (record for record in read_jsonl(args.file, Record) if record.metadata["quotes"])
    records = list(islice(quoting, 4 if args.quick else args.records))
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
        template = load_template(record.metadata["template"])
        for place, start in enumerate(starts):
            if start >= 0:
                token = ids[0, place]
                part = part_of(record.output, start, str(tokenizer.decode(token)), template, seen)
                nats[part] -= log[place - 1, token].item()
                tokens[part] += 1
                right[part] += int(log[place - 1].argmax() == token)
    count = max(1, len(records))
    found = {
        part: {
            "nats": round(nats[part] / count, 3),
            "tokens": round(tokens[part] / count, 2),
            "right": round(right[part] / max(1, tokens[part]), 3),
        }
        for part in PARTS
    }
    print(f"{len(records)} records, {sum(nats.values()) / count:.2f} nats a record")
    for part, row in found.items():
        print(f"{part:22} {row['nats']:6.2f} nats {row['tokens']:6.1f} tokens {row['right']:6.1%} right")
    if args.json:
        print(json.dumps({"records": len(records), "parts": found}))


def part_of(output: str, start: int, token: str, template: PromptTemplate, seen: Counter[str]) -> str:
    """Which of PARTS the token at character `start` of the output is; counts what it has `seen` of each."""
    answer = output.rindex(template.answer_marker) + len(template.answer_marker)
    opened = output.rfind(template.begin_quote, 0, start + 1)
    inside = opened >= 0 and opened + len(template.begin_quote) <= start < output.index(template.end_quote, opened)
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
    main()
