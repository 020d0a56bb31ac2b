"""Pages: running lines go, wrapped lines are joined, sentences keep their boundaries."""

from data.chunking.cutting import soft_lines
from data.loading.pages import drop_running_lines, join_wrapped_lines

LONG = "The river rises in the hills above the town and in spring it"


def test_lines_at_the_edges_of_most_pages_are_dropped_whatever_their_number():
    pages = [f"The River Book\nText of page {n} is here.\nmore words {'x' * n}\nPage {n} of 9" for n in range(1, 6)]
    kept, dropped = drop_running_lines(pages)
    assert dropped == 10 + 5  # header, footer, and the line below the header that differs by its number alone
    assert kept[0] == "more words x"


def test_two_pages_or_differing_lines_lose_nothing():
    pages = ["Head\none", "Head\ntwo"]
    assert drop_running_lines(pages) == (pages, 0)
    pages = [f"{word} start\n{word} body\n{word} body\n{word} end" for word in ("a", "b", "c", "d")]
    assert drop_running_lines(pages) == (pages, 0)


def test_wrapped_lines_join_to_paragraphs_and_items_stay_apart():
    page = (
        f"Rivers\n{LONG}\nfloods the meadows.\n"
        "A new paragraph begins here and it is also rather long, you\nsee.\n- item one\n- item two"
    )
    assert join_wrapped_lines(page) == (
        f"Rivers\n{LONG} floods the meadows.\n"
        "A new paragraph begins here and it is also rather long, you see.\n- item one\n- item two"
    )


def test_a_line_that_ends_a_sentence_with_a_citation_is_a_boundary():
    assert join_wrapped_lines(
        f"{LONG} floods.[3]\nThe bridge was built of stone in the year of the great fire, they\nsay."
    ) == (f"{LONG} floods.[3]\nThe bridge was built of stone in the year of the great fire, they say.")


def test_soft_lines_keep_length_code_and_sentence_ends():
    text = f"{LONG}\nfloods. And\nso on.\n\n```\n{LONG}\ncode\n```\n\n- {LONG}\n- item\n\n| {LONG} |\n| a |\n"
    soft = soft_lines(text)
    assert len(soft) == len(text)
    assert soft.startswith(
        f"{LONG} floods. And\nso on.\n\n```\n{LONG}\ncode\n```\n\n- {LONG}\n- item\n\n| {LONG} |\n| a |"
    )
