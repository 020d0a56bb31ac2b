"""What can words alone tell of a yes / no / maybe question? A floor for PubMedQA beside the majority class.

    python benchmarks/verdict_words.py [--quick] [--json]

Logistic regression over TF-IDF of one to three words (scikit-learn, otherwise its defaults), trained on the official
500 training questions and tried on the official 500 test questions, from: the question; the abstract; what stands in it
after `RESULTS:` (all, where it has no such section); the sentence that the import chose as the quote. The last line is
one JSON object; --quick reads the question alone.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from literature.corpora import read, read_corpus
from literature.protocols import PROTOCOLS
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from data.questions.importing import import_questions

NEEDS = "data sklearn"
KEYS = "always_yes question"


def main() -> int:
    here = Path(__file__).resolve().parents[1]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(os.environ.get("RAFT_SHARED_DATA", here.parent / "shared" / "data"))
    parser.add_argument("--data", type=Path, default=default)
    parser.add_argument("--quick", action="store_true", help="the question alone")
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON line only")
    args = parser.parse_args()
    folder = args.data / PROTOCOLS["pubmedqa"].folder
    if not folder.is_dir():
        parser.error(f"{folder} is not there: set RAFT_SHARED_DATA or give --data")
    chunks, documents = read_corpus(folder / PROTOCOLS["pubmedqa"].corpus)
    rows = {row["id"]: row for row in read(folder / "questions.jsonl")}
    asked = import_questions(list(rows.values()), chunks, documents=documents).questions
    text_of = {c.id: c.text for c in chunks}
    seen = {
        "question": [q.question for q in asked],
        "abstract": [text_of[q.gold_chunk_ids[0]] for q in asked],
        "results": [text_of[q.gold_chunk_ids[0]].rpartition("RESULTS:")[2] for q in asked],
        "quote": [q.quotes[0].text for q in asked],
    }
    train, test = (
        [n for n, q in enumerate(asked) if rows[q.metadata["row_id"]]["split"] == side] for side in ("train", "test")
    )
    truth = [q.answer for q in asked]
    yes = sum(truth[n] == "yes" for n in test) / len(test)
    if args.quick:
        seen = {"question": seen["question"]}
    out = {"always_yes": round(yes, 4)}
    for name, texts in seen.items():
        model = make_pipeline(TfidfVectorizer(ngram_range=(1, 3)), LogisticRegression(max_iter=1000))
        model.fit([texts[n] for n in train], [truth[n] for n in train])
        said = model.predict([texts[n] for n in test])
        out[name] = round(sum(a == truth[n] for a, n in zip(said, test, strict=True)) / len(test), 4)
        if not args.json:
            print(f"{name:10} accuracy {out[name]:.3f}, says yes to {list(said).count('yes')} of {len(test)}")
    print(json.dumps(out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
