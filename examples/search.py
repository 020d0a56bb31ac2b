"""Builds a search index over a folder of documents, and answers questions with passages and where they stand.

    python examples/search.py my-documents "How is the bridge kept in repair?" --index my-index

The index is built the first time and opened from then on; delete its folder when the documents have changed.
"""

import argparse
from pathlib import Path

from data import Chunk, chunk_documents, load_corpus, read_jsonl, write_jsonl
from retrieval import Embedder, Retriever, build_index, open_index, passage_text
from tasks.inputs.models import resolve


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("documents", help="a folder, a file, a glob or a URL")
    parser.add_argument("question", nargs="+")
    parser.add_argument("--index", type=Path, default=Path("index"), help="folder of the index")
    parser.add_argument("--embedder", default="sentence-transformers/all-MiniLM-L6-v2", help="a folder, or a Hub id")
    parser.add_argument("--mode", default="hybrid", choices=["dense", "lexical", "hybrid"])
    parser.add_argument("-k", type=int, default=3, help="passages a question")
    options = parser.parse_args()

    model = resolve(options.embedder, say=print).folder
    embedder = Embedder.load(model)
    if not (options.index / "index.json").exists():
        build(options.documents, model, embedder, options.index)
    chunks = list(read_jsonl(options.index / "chunks.jsonl", Chunk))
    index = open_index(options.index, expect_embedder=embedder.info.digest)
    retriever = Retriever(index, embedder, chunks, mode=options.mode)
    for question, hits in zip(options.question, retriever.search(options.question, options.k), strict=True):
        print(f"\n{question}")
        for citation in map(retriever.cite, hits):
            page = f", page {citation.page}" if citation.page else ""
            print(f"{citation.rank}. {citation.source}{page}: {' '.join(citation.text.split())[:200]}")


def build(documents: str, model: Path, embedder: Embedder, folder: Path) -> None:
    corpus = load_corpus([documents])
    for source in corpus.quarantined:
        print(f"left out: {source.source} ({source.reason}: {source.detail})")
    chunks = chunk_documents(corpus.documents, model / "tokenizer.json")
    folder.mkdir(parents=True, exist_ok=True)
    write_jsonl(folder / "chunks.jsonl", chunks)
    vectors = embedder.encode([passage_text(chunk) for chunk in chunks])
    build_index(vectors, [chunk.id for chunk in chunks], folder, embedder=embedder.info.to_dict())
    print(f"{len(corpus.documents)} documents in {len(chunks)} passages")


if __name__ == "__main__":
    main()
