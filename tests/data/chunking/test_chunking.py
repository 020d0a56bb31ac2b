"""Chunks: within their budget, exact spans, nothing lost, cut at headings."""

import json
import unicodedata
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

from data.chunking.chunks import ChunkOptions, chunk_documents
from data.chunking.loose_marks import hide_loose_marks, show_loose_marks
from data.loading.draft import Draft, finish
from data.loading.options import LoadOptions
from data.loading.text import clean_text
from data.nouns import Document, MemoryCache, digest, text_sha256
from raft_errors import BadInput

PROSE = (
    "The river rises in the hills above the town. In spring it floods the meadows, and the farmers move their cattle. "
    "A bridge of three arches was built by masons from the next valley. It has stood for four hundred years. "
)


@pytest.fixture(scope="session")
def tokenizer_file(tmp_path_factory) -> Path:
    """A small byte-level BPE with special tokens, truncation and padding, as embedders ship theirs."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator([PROSE], trainer)
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", None, [("<s>", 0), ("</s>", 1)])
    tokenizer.enable_truncation(16)
    tokenizer.enable_padding(length=16, pad_token="</s>", pad_id=1)
    file = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokenizer.save(str(file))
    return file


@pytest.fixture(scope="session")
def word_tokenizer_file(tmp_path_factory) -> Path:
    """A WordPiece tokenizer that counts any long word as one unknown token, as BERT's does."""
    tokenizer = Tokenizer(
        models.WordPiece({"[UNK]": 0, "a": 1, "##a": 2}, unk_token="[UNK]", max_input_chars_per_word=20)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    file = tmp_path_factory.mktemp("wordpiece") / "tokenizer.json"
    tokenizer.save(str(file))
    return file


def document(text: str, markup: str = "plain", parts: list[str] | None = None) -> Document:
    return finish(Draft(parts or [text], "text/plain", markup, paged=parts is not None), "made/up.txt", LoadOptions())


def raw_document(text: str) -> Document:
    return Document(digest("raw"), "raw", "raw", text, "text/plain", text_sha256(text))


def check_invariants(documents: list[Document], tokenizer_file: Path, options: ChunkOptions) -> None:
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    chunks = chunk_documents(documents, tokenizer_file, options=options)
    by_id = {entry.id: entry for entry in documents}
    for chunk in chunks:
        assert chunk.text == by_id[chunk.document_id].text[chunk.start : chunk.end]
        assert chunk.text.strip() == chunk.text != ""
        assert chunk.tokens == len(tokenizer.encode(chunk.text, add_special_tokens=False).ids)
        assert chunk.tokens <= options.max_tokens or len(chunk.text) == 1
        assert len(chunk.text) <= options.char_limit
        assert chunk.sha256 == text_sha256(chunk.text)
    for entry in documents:
        own = [chunk for chunk in chunks if chunk.document_id == entry.id]
        assert [chunk.ordinal for chunk in own] == list(range(len(own)))
        covered = [False] * len(entry.text)
        for chunk in own:
            covered[chunk.start : chunk.end] = [True] * (chunk.end - chunk.start)
        assert all(seen or char.isspace() for seen, char in zip(covered, entry.text, strict=True))
    assert len({chunk.id for chunk in chunks}) == len(chunks)


TEXTS = st.lists(
    st.one_of(
        st.sampled_from(
            [PROSE, "# Head\n", "## Below\n", "\n", "\n\n", "| a | b |\n| --- | --- |\n| 1 | 2 |\n", "- item\n", "x"]
        ),
        st.text(max_size=40),
        st.text("漢字ab", min_size=30, max_size=300),
    ),
    max_size=25,
).map("".join)


@settings(max_examples=60, deadline=None)
@given(
    TEXTS,
    st.sampled_from(["plain", "markdown", "rst"]),
    st.integers(8, 60),
    st.floats(0, 0.5),
    st.integers(0, 8),
)
@pytest.mark.slow
def test_chunks_keep_to_their_budget_and_lose_no_word(tokenizer_file, text, markup, max_tokens, overlap, min_tokens):
    documents = [document("x " + clean_text(text), markup)]
    check_invariants(documents, tokenizer_file, ChunkOptions(max_tokens, int(overlap * max_tokens), min_tokens))


@pytest.mark.slow
def test_a_run_without_white_space_is_cut_to_the_budget(tokenizer_file, word_tokenizer_file):
    for text in ("a" * 20_000, "漢" * 12_000, "ab1!" * 5_000):
        for file in (tokenizer_file, word_tokenizer_file):
            check_invariants([document(text)], file, ChunkOptions(64))


def test_special_tokens_truncation_and_padding_do_not_count(tokenizer_file):
    chunks = chunk_documents([document(PROSE * 20)], tokenizer_file, options=ChunkOptions(100))
    assert max(chunk.tokens for chunk in chunks) > 60


def test_top_sections_are_not_mixed_and_paths_name_the_headings(tokenizer_file):
    text = f"# Book\n\n{PROSE}\n\n## One\n\n{PROSE}\n\n### Deep\n\n{PROSE * 3}\n\n## Two\n\n{PROSE}"
    chunks = chunk_documents([document(text, "markdown")], tokenizer_file, options=ChunkOptions(200))
    assert not any("## One" in chunk.text and "## Two" in chunk.text for chunk in chunks)
    starts = {chunk.text.split("\n")[0]: chunk.heading_path for chunk in chunks}
    assert starts["# Book"] == ("Book",)
    assert starts["## One"] == ("Book", "One")
    assert starts["## Two"] == ("Book", "Two")
    assert any(chunk.heading_path == ("Book", "One", "Deep") for chunk in chunks)


def test_a_tiny_section_joins_its_neighbour(tokenizer_file):
    text = f"# One\n\nTiny.\n\n# Two\n\n{PROSE}"
    apart = chunk_documents([document(text, "markdown")], tokenizer_file, options=ChunkOptions(200, min_tokens=0))
    joined = chunk_documents([document(text, "markdown")], tokenizer_file, options=ChunkOptions(200, min_tokens=30))
    assert (len(apart), len(joined)) == (2, 1)


def test_a_table_that_fits_stays_whole(tokenizer_file):
    table = "| name | age |\n| --- | --- |\n" + "| river | 400 |\n" * 4
    text = f"{PROSE}\n\n{table}\n{PROSE}"
    chunks = chunk_documents([document(text, "markdown")], tokenizer_file, options=ChunkOptions(120))
    assert any(table.strip() in chunk.text for chunk in chunks)


def test_neighbours_overlap_when_asked(tokenizer_file):
    documents = [document(PROSE * 10)]
    apart = chunk_documents(documents, tokenizer_file, options=ChunkOptions(100))
    overlapping = chunk_documents(documents, tokenizer_file, options=ChunkOptions(100, overlap_tokens=40))
    assert all(a.end <= b.start for a, b in pairwise(apart))
    assert any(a.end > b.start for a, b in pairwise(overlapping))


def test_a_chunk_knows_its_page(tokenizer_file):
    pages = [PROSE * 3, "", "Short page.", PROSE * 2]
    paged = document("", parts=pages)
    chunks = chunk_documents([paged], tokenizer_file, options=ChunkOptions(100))
    assert chunks[0].page == 1
    assert {chunk.page for chunk in chunks} <= {1, 3, 4}
    assert chunks[-1].page == 4
    assert chunk_documents([document(PROSE)], tokenizer_file)[0].page is None


def test_a_chunk_keeps_to_the_budget_of_the_model_that_reads_it_too(tokenizer_file, word_tokenizer_file):
    words = "river bridge stone town " * 100
    documents = [document(words + "\n\n" + PROSE * 10)]
    options = ChunkOptions(60, max_context_tokens=40, min_tokens=4)
    chunks = chunk_documents(documents, word_tokenizer_file, options=options, context_tokenizer_file=tokenizer_file)
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    assert max(len(tokenizer.encode(chunk.text, add_special_tokens=False).ids) for chunk in chunks) <= 40
    assert max(chunk.tokens for chunk in chunks) <= 60
    assert "".join("".join(chunk.text.split()) for chunk in chunks) == "".join(documents[0].text.split())
    with pytest.raises(BadInput, match="both"):
        chunk_documents(documents, tokenizer_file, options=options)


@pytest.mark.slow
def test_many_thousand_headings_are_no_trouble(tokenizer_file):
    documents = [document("\n".join(f"# Head {n}" for n in range(20_000)), "markdown")]
    assert len(documents[0].headings) == 20_000
    chunks = chunk_documents(documents, tokenizer_file, options=ChunkOptions(64))
    assert all(chunk.tokens <= 64 for chunk in chunks)


def test_nothing_but_white_space_gives_no_chunk(tokenizer_file):
    assert chunk_documents([raw_document(" \n\n \t ")], tokenizer_file) == []
    assert chunk_documents([raw_document("")], tokenizer_file) == []


def test_the_cache_gives_the_same_chunks_and_knows_changes(tokenizer_file):
    cache = MemoryCache()
    documents = [document(PROSE * 5, "markdown"), raw_document("Other words.")]
    first = chunk_documents(documents, tokenizer_file, cache=cache)
    assert len(cache.items) == 2
    assert chunk_documents(documents, tokenizer_file, cache=cache) == first
    assert len(cache.items) == 2
    chunk_documents(documents, tokenizer_file, cache=cache, options=ChunkOptions(64))
    assert len(cache.items) == 4


def test_progress_counts_documents(tokenizer_file):
    seen = []
    documents = [raw_document("One."), document("Two.")]
    chunk_documents(documents, tokenizer_file, progress=lambda *step: seen.append(step))
    assert seen == [(1, 2, "raw"), (2, 2, "made/up.txt")]


@pytest.mark.parametrize(
    "options",
    [
        ChunkOptions(4),
        ChunkOptions(64, overlap_tokens=40),
        ChunkOptions(64, min_tokens=65),
        ChunkOptions(64, max_chars=3),
    ],
)
def test_options_out_of_range_are_bad_input(tokenizer_file, options):
    with pytest.raises(BadInput, match="Expected"):
        chunk_documents([raw_document("Words.")], tokenizer_file, options=options)


def test_a_file_that_is_not_a_tokenizer_is_bad_input(tmp_path: Path):
    with pytest.raises(BadInput, match="cannot be read"):
        chunk_documents([raw_document("Words.")], tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer.json").write_text(json.dumps({"no": "tokenizer"}))
    with pytest.raises(BadInput, match="not a tokenizer"):
        chunk_documents([raw_document("Words.")], tmp_path / "tokenizer.json")


CHINESE = [
    "员工每年享有十五天带薪年假，年假必须在次年三月底之前用完。",
    "差旅报销单应在返回后七天内提交给财务部门审核并存档。",
    "灭火器由物业公司每六个月检查一次，结果记录在登记簿里。",
]


def test_chinese_lines_that_are_wrapped_are_cut_at_the_ends_of_sentences(tokenizer_file):
    text = "".join(CHINESE) * 2
    wrapped = "\n".join(text[at : at + 36] for at in range(0, len(text), 36))
    made = chunk_documents([raw_document(wrapped)], tokenizer_file, options=ChunkOptions(max_tokens=180, min_tokens=0))
    assert len(made) > 2
    assert [c.text.endswith("。") for c in made] == [True] * len(made)


def test_what_is_halved_for_its_length_is_halved_between_sentences_or_letters(word_tokenizer_file):
    options = ChunkOptions(max_tokens=10, max_chars=60, min_tokens=0)
    made = chunk_documents([raw_document("".join(CHINESE))], word_tokenizer_file, options=options)
    assert [c.text for c in made] == [CHINESE[0], CHINESE[1] + CHINESE[2]]
    thai = "พนักงานมีสิทธิลาพักร้อนปีละสิบห้าวันตามระเบียบของบริษัทที่ประกาศไว้"
    halves = [c.text for c in chunk_documents([raw_document(thai)], word_tokenizer_file, options=options)]
    assert "".join(halves) == thai
    assert [unicodedata.category(half[0])[0] for half in halves] == ["L"] * len(halves)


@pytest.mark.parametrize("markup", ["markdown", "plain"])
@pytest.mark.parametrize(
    ("text", "together"),
    [
        ("The basic plan costs $40 a month and the large plan costs $95 a month.", ["$40", "$95"]),
        (
            "Fares run from US$1,200 in winter to US$2,400 in summer.",
            ["US$1,200", "US$2,400"],
        ),
        ("It takes ~5 minutes to fill the tank and ~7 minutes to empty it by the valve.", ["~5", "~7"]),
        ("The names that begin with _hidden are not for the keepers of the lock gates.", ["_hidden"]),
        ("All of the rooms have a view *except for those that lie behind the old mill.", ["*except"]),
    ],
)
@pytest.mark.slow
def test_a_sign_is_not_parted_from_its_amount_or_word(tokenizer_file, markup, text, together):
    for max_tokens in range(12, 60):
        options = ChunkOptions(max_tokens, min_tokens=0)
        chunks = chunk_documents([document(text, markup)], tokenizer_file, options=options)
        for words in together:
            assert any(words in chunk.text for chunk in chunks), (max_tokens, [chunk.text for chunk in chunks])
        check_invariants([document(text, markup)], tokenizer_file, options)


def test_an_equation_stays_markup_and_other_marks_stay_as_they_are():
    for text in (
        "It holds $2^n$ bits.",
        "*one* and _two_",
        "snake_case",
        "a\\$5 b",
        "~~5 out~~",
        "* item\n* item",
        "5 * 6",
    ):
        assert hide_loose_marks(text) == text
    hidden = hide_loose_marks("$5, ~6, and *x")
    assert len(hidden) == 14
    assert not set("$~*") & set(hidden)
    assert show_loose_marks(hidden) == "$5, ~6, and *x"
