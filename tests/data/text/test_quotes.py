"""A quote that was found is always the text's own words; a sentence keeps its offsets."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.text.quotes import locate_quote, sentences

TEXT = (
    "The “with” statement wraps the execution\nof a block — e.g. to close files. Version 3.11 added\n"
    "except* clauses. Dr. Smith wrote it.\n\n* first item. It has two sentences.\n* second item\n"
)


def found(quote: str, text: str = TEXT) -> tuple[str, str] | None:
    located = locate_quote(quote, text)
    return (located.how, located.of(text)) if located else None


def test_exact_words_are_found_as_they_are():
    assert found("Version 3.11 added") == ("exact", "Version 3.11 added")
    assert found('"Version 3.11 added"') == ("exact", "Version 3.11 added")


def test_spaces_quotation_marks_dashes_and_case_are_alike_but_the_text_comes_back():
    assert found('the "with" statement wraps the execution of a block - e.g.') == (
        "normalised",
        "The “with” statement wraps the execution\nof a block — e.g.",
    )


def test_a_nearly_right_quote_is_replaced_by_the_exact_words():
    how, words = found("The “with” statement wraps the executon of a block — e.g. to close file.")
    assert how == "repaired"
    assert words == "The “with” statement wraps the execution\nof a block — e.g. to close files."


@pytest.mark.parametrize(
    "quote", ["", "   ", "…", "opens every file twice and never closes it", "Smyth", "The with statement " * 30]
)
def test_what_is_not_there_is_not_found(quote):
    assert locate_quote(quote, TEXT) is None


def test_a_changed_number_is_never_passed_off_as_the_quote():
    text = "The server listens on port 8081 of every interface."
    located = locate_quote("The server listens on port 8080 of every interface.", text)
    assert located is None or located.of(text) == text


@settings(max_examples=150, deadline=None)
@given(st.text(min_size=1, max_size=80), st.text(min_size=1, max_size=60))
def test_whatever_is_located_is_a_substring_and_verbatim_quotes_are_always_found(text, quote):
    located = locate_quote(quote, text)
    if located:
        assert 0 <= located.start < located.end <= len(text)
    if quote.strip():
        whole = text + quote + text
        located = locate_quote(quote, whole)
        assert located is not None
        assert located.of(whole) == quote.strip()


def test_sentences_know_abbreviations_lists_and_wrapped_lines():
    assert [s.of(TEXT) for s in sentences(TEXT)] == [
        "The “with” statement wraps the execution\nof a block — e.g. to close files.",
        "Version 3.11 added\nexcept* clauses.",
        "Dr. Smith wrote it.",
        "first item.",
        "It has two sentences.",
        "second item",
    ]


def test_headings_and_blocks_are_no_part_of_the_sentence_after_them():
    text = 'The "with" statement\n*********\n\nIt wraps a block:\n\n   with a as b:\n       pass\n\nDone. 好的。再见。'
    assert [s.of(text) for s in sentences(text)] == [
        'The "with" statement',
        "It wraps a block:",
        "with a as b:",
        "pass",
        "Done.",
        "好的。",
        "再见。",
    ]


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="ab .!?\n*-1\"'：。", max_size=80))
def test_sentences_are_ordered_non_empty_and_do_not_overlap(text):
    spans = sentences(text)
    assert all(s.start < s.end and s.of(text) == s.of(text).strip() for s in spans)
    assert all(a.end <= b.start for a, b in pairwise(spans))


def test_composed_and_decomposed_letters_are_alike_and_the_text_comes_back():
    text = "The prize goes to the Café Zürich, it’s near."
    assert found("Cafe\u0301 Zu\u0308rich, it's", text) == ("normalised", "Café Zürich, it’s")
    decomposed = "The prize goes to the Cafe\u0301 Zu\u0308rich."
    assert found("Café Zürich", decomposed) == ("normalised", "Cafe\u0301 Zu\u0308rich")


def test_a_quote_with_another_number_is_not_repaired():
    text = "The red valve of the boiler closes at 80 degrees."
    assert found("The red valve of the boiler closes at 90 degrees.", text) is None
    assert found("The red valve of the boiler closess at 80 degrees.", text) == ("repaired", text)
    chinese = "数据库的备份文件在异地机房保存二十五天。"
    assert found("数据库的备份文件在异地机房保存二十天。", chinese) is None


def test_chinese_is_found_across_a_line_break_and_repaired_inside_a_run():
    assert found("享有十五天带薪年假", "员工每年享有十五\n天带薪年假。") == ("normalised", "享有十五\n天带薪年假")
    text = "按公司规定灭火器由物业公司每六个月全面检查一次并登记在红色登记簿里。"
    quote = "灭火器由物业公司每六个月全面检查一次并登记在红色登记本里"
    assert found(quote, text) == ("repaired", quote.replace("登记本", "登记簿"))


def test_sentences_end_as_their_script_ends_them():
    def cut(text):
        return [s.of(text) for s in sentences(text)]

    assert cut("वाल्व बंद होता है। पंप चालू है।") == ["वाल्व बंद होता है।", "पंप चालू है।"]
    assert cut("年假是十五天。“不能延期！”周五截止") == ["年假是十五天。", "“不能延期！”", "周五截止"]
    first = "พนักงานมีสิทธิลาพักร้อนปีละสิบห้าวันตามระเบียบของบริษัท"
    second = "ใบลาต้องส่งให้หัวหน้าล่วงหน้าสองสัปดาห์เป็นอย่างน้อย"
    assert cut(f"{first} {second}") == [first, second]


@pytest.mark.parametrize(
    "sentence",
    [
        "Die Brücke wurde am 3. Oktober 1990 geöffnet.",
        "Das Büro liegt im 3. Stock des Hauses.",
        "Sie stammt aus dem 19. Jahrhundert und steht noch.",
        "Im 19. Jahrhundert fuhr hier die erste Bahn.",
        "Er kam am 12. August mit dem 2. Zug.",
        "Die Frist endet am 30. September 2024.",
        "Das Fest dauert vom 1. bis 3. Mai und kostet nichts.",
        "Der 2. Weltkrieg begann damals.",
        "Geöffnet ist vom 1. April bis 31. Oktober.",
        "Frau Dr. Meier nimmt z. B. Äpfel, z.B. Boskop.",
        "Vgl. Abs. 2 und Art. 5 der Ordnung.",
        "Die Miete gem. § 5 bzw. Nr. 7 ist fällig.",
        "Das gilt i. d. R. Montags, u. U. Dienstags.",
        "Il faut demander à Mme. Dupont, qui a la clé.",
        "La carta es de la Sra. Gómez, del núm. 4.",
        "Biuro jest przy ul. Długiej, zob. ust. 3 umowy.",
        "Mødet er den 3. oktober og den 4. November.",
    ],
)
def test_ordinals_and_abbreviations_of_other_languages_end_no_sentence(sentence):
    text = f"{sentence} {sentence}"
    assert [span.of(text) for span in sentences(text)] == [sentence, sentence]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("The lock was built in 1990.", "April was wet."),
        ("She has 3.", "August is his friend."),
        ("I am 12.", "April is my sister."),
        ("There were 12.", "Stock was low."),
        ("He teaches art.", "It pays little."),
        ("It is a gem.", "Keep it."),
        ("He did his abs.", "They hurt."),
        ("They left Washington D.C.", "The road was long."),
        ("Put it in a ul.", "Items follow."),
        ("It suits ages 10-12.", "April is best."),
        ("Press Tab.", "3 windows open."),
        ("We bought 12.", "Band members came."),
        ("Take option d.", "Roads are closed."),
        ("Die Brücke hat 12.", "Er zählte sie."),
    ],
)
def test_the_sentences_of_english_end_where_they_did(first, second):
    text = f"{first} {second}"
    assert [span.of(text) for span in sentences(text)] == [first, second]
