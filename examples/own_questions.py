"""RAFT records from your own documents and your own questions with answers, ready for any trainer that reads Alpaca.

    python examples/own_questions.py my-documents my-questions.jsonl --out records

A row of the questions holds `question` and `answer`; docs/questions.md lists the other layouts. Passages are found by
their words, so that no embedding model is needed; the base model only counts tokens.
"""

import argparse
from pathlib import Path

from data import RecordOptions, chunk_documents, compose_records, import_questions, load_corpus, write_records
from jora_engine import Tokenizer
from retrieval import Retriever, mine_distractors
from tasks.inputs.models import resolve


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("documents", help="a folder, a file, a glob or a URL")
    parser.add_argument("questions", type=Path, help="jsonl, json, csv, tsv or parquet")
    parser.add_argument("--out", type=Path, default=Path("records"))
    parser.add_argument("--model", default="HuggingFaceTB/SmolLM2-135M-Instruct", help="a folder, or a Hub id")
    parser.add_argument("--distractors", type=int, default=3, help="passages beside the one that holds the answer")
    parser.add_argument("--p-oracle", type=float, default=0.8, help="share of the records that show that passage")
    parser.add_argument("--max-tokens", type=int, default=1024, help="most tokens of a record")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    model = resolve(options.model, say=print).folder
    tokenizer = Tokenizer.load(model)
    corpus = load_corpus([options.documents])
    chunks = chunk_documents(corpus.documents, model / "tokenizer.json")
    search = Retriever(None, None, chunks, mode="lexical").search

    asked = import_questions(options.questions, chunks, search, documents=corpus.documents)
    mined = mine_distractors(asked.questions, chunks, search, count=2 * options.distractors, seed=options.seed)
    records = compose_records(
        asked.questions,
        chunks,
        mined,
        options=RecordOptions(
            distractors=options.distractors, p_oracle=options.p_oracle, max_tokens=options.max_tokens
        ),
        count_tokens=lambda text: len(tokenizer.encode(text, add_special_tokens=False)),
        seed=options.seed,
    )
    by_split = {"train": records.train, "validation": records.validation, "test": records.test}
    options.out.mkdir(parents=True, exist_ok=True)
    write_records(options.out, by_split, formats=["alpaca", "chat"])

    print(f"{len(asked.questions)} questions placed in the documents, {len(asked.dropped)} not")
    print(", ".join(f"{len(rows)} {split}" for split, rows in by_split.items()) + f" records in {options.out}")
    for lost in asked.dropped[:5]:
        print(f"dropped: {lost.question} ({lost.reason})")


if __name__ == "__main__":
    main()
