"""Loading measured: files and pages a second by format (against markitdown alone), extraction F1, cost of re-ingesting.

    python benchmarks/loading_speed.py [--quick] [--json] [--data ../shared/data]

F1 is that of words (multiset) against reviewed text: PDF against Markdown, HTML against the book's text edition. The
last line is one JSON object with the figures. Exits 1 where the quality of extraction falls below its goals.
"""

import argparse
import json
import os
import random
import re
import statistics
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from goals import Goals, missed

from data.loading import LoadOptions, load_corpus
from data.loading.parse import load_file
from data.loading.text import clean_text
from data.nouns import MemoryCache

NEEDS = "data"
KEYS = """
    cpus reingest_seconds/cold reingest_seconds/unchanged extraction mean_pdf_f1
    by_format/*/files_per_second by_format/*/times_markitdown"""
GOALS: Goals = {
    "mean_pdf_f1": (">=", 0.98),
    "extraction/html debian_faq": (">=", 0.97),
    "extraction/encodings exact": (">=", 1.0),
}
FORMATS = (".pdf", ".html", ".docx", ".pptx", ".xlsx", ".epub", ".odt", ".rtf", ".eml", ".msg", ".md", ".txt", ".ipynb")


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def f1(one: list[str], other: list[str]) -> float:
    common = sum((Counter(one) & Counter(other)).values())
    return 2 * common / max(1, len(one) + len(other))


def by_format(root: Path, repeats: int) -> dict[str, dict[str, float | None]]:
    """Seconds in this process, parsers warm: files, pages and megabytes of text a second; markitdown on the same."""
    files: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(root.rglob("*")):
        if path.suffix.lower() in FORMATS and "broken_made" not in path.parts and path.stat().st_size:
            files[path.suffix.lower()].append(path)
    figures: dict[str, dict[str, float | None]] = {}
    for suffix, paths in sorted(files.items()):
        load_file(paths[0], paths[0].name, LoadOptions())  # imports
        best, pages, characters = float("inf"), 0, 0
        for _ in range(repeats):
            start = time.perf_counter()
            loaded = [document for path in paths for document in load_file(path, path.name, LoadOptions())[0]]
            best = min(best, time.perf_counter() - start)
            pages = sum(max(1, len(document.pages)) for document in loaded)
            characters = sum(len(document.text) for document in loaded)
        row: dict[str, float | None] = {
            "files": len(paths),
            "files_per_second": round(len(paths) / best, 1),
            "pages_per_second": round(pages / best, 1),
            "megabytes_of_text_per_second": round(characters / best / 1e6, 3),
        }
        theirs = markitdown_speed(paths, suffix, repeats)
        row |= {
            "markitdown_files_per_second": theirs and round(theirs, 1),
            "times_markitdown": theirs and round(len(paths) / best / theirs, 2),
        }
        figures[suffix[1:]] = row
    return figures


def markitdown_speed(paths: list[Path], suffix: str, repeats: int) -> float | None:
    """Files a second that it converts, best of the repeats; None where it has no converter installed for the format."""
    from markitdown import MarkItDown, StreamInfo

    converter = MarkItDown(enable_plugins=False)

    def convert(some: list[Path]) -> int:
        done = 0
        for path in some:
            try:
                with path.open("rb") as stream:
                    converter.convert_stream(stream, stream_info=StreamInfo(extension=suffix))
                done += 1
            except Exception:  # noqa: BLE001  what it cannot read does not count
                continue
        return done

    convert(paths[:1])  # imports
    best = 0.0
    for _ in range(repeats):
        start = time.perf_counter()
        done = convert(paths)
        best = max(best, done / (time.perf_counter() - start))
    return best or None


def quality(root: Path) -> dict[str, float]:
    def text(path: Path) -> list[str]:
        return words("\n".join(document.text for document in load_file(path, path.name, LoadOptions())[0]))

    reviewed = root / "messy_docs" / "pdf_docling"
    scores = {
        f"pdf {truth.stem}": f1(text(reviewed / f"{truth.stem}.pdf"), text(truth))
        for truth in sorted((reviewed / "groundtruth").glob("*.md"))
    }
    book = text(root / "debian_faq" / "txt" / "debian-faq.en.txt")
    chapters = [word for path in sorted((root / "debian_faq" / "html").glob("*.html")) for word in text(path)]
    scores["html debian_faq"] = f1(chapters, book)
    scores["pdf debian_faq"] = f1(text(root / "debian_faq" / "pdf" / "debian-faq.en.pdf"), book)
    folder = root / "messy_docs" / "encodings_made"
    rows = [json.loads(line) for line in (folder / "TRUTH.jsonl").read_text("utf-8").splitlines()]
    rows = [row for row in rows if not row["file"].startswith("broken__")]
    right = 0
    for row in rows:
        documents = load_file(folder / row["file"], row["file"], LoadOptions())[0]
        right += bool(documents) and documents[0].text.split() == clean_text(row["text"]).split()
    scores["encodings exact"] = right / len(rows)
    return {name: round(score, 4) for name, score in scores.items()}


def reingest(count: int) -> dict[str, float]:
    """Seconds to load `count` small files cold, unchanged, and with 1 % and 3 % changed, with a cache in memory."""
    draw = random.Random(0)
    vocabulary = [f"word{n}" for n in range(5000)]
    cache, seconds = MemoryCache(), {}
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{n:05}.md" for n in range(count)]
        for path in paths:
            path.write_text(f"# {path.stem}\n\n" + " ".join(draw.choices(vocabulary, k=400)))
        for name, share in (("cold", 0.0), ("unchanged", 0.0), ("1 % changed", 0.01), ("3 % changed", 0.03)):
            for path in paths[: int(share * count)]:
                path.write_text(path.read_text() + f"\n\nChanged: {name}")
            start = time.perf_counter()
            corpus = load_corpus([folder], cache=cache)
            seconds[name] = round(time.perf_counter() - start, 3)
            assert len(corpus.documents) == count
    return seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one repeat, 500 files")
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON line only")
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("RAFT_SHARED_DATA", default)))
    options = parser.parse_args()
    figures: dict[str, Any] = {"cpus": os.cpu_count()}
    count = 500 if options.quick else 2000
    figures |= {"reingest_files": count, "reingest_seconds": reingest(count)}
    if options.data.is_dir():
        figures["extraction"] = quality(options.data)
        figures["mean_pdf_f1"] = round(
            statistics.mean(v for k, v in figures["extraction"].items() if k.startswith("pdf ")), 4
        )
        figures["by_format"] = by_format(options.data / "messy_docs", 1 if options.quick else 3)
    elif not options.json:
        print("shared data not found: set RAFT_SHARED_DATA or --data; only re-ingesting is measured")
    if not options.json:
        for name, value in figures.items():
            print(name, json.dumps(value, indent=2))
    short = missed(figures, GOALS) if "extraction" in figures else []
    if not options.json:
        print(f"goals missed: {'; '.join(short) or 'none'}")
    print(json.dumps(figures))
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main())
