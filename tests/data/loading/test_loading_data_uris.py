"""The bytes of pictures are no text, wherever they stand; the words around them stay."""

import base64
import random

import pytest

from data.loading.data_uris import without_base64, without_data_uris

DATA = base64.b64encode(random.Random(3).randbytes(900)).decode()
WRAPPED = "\n".join(DATA[n : n + 76] for n in range(0, len(DATA), 76))


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (f"a ![the plan](data:image/png;base64,{DATA}) b", "a the plan b"),
        (f'a ![plan](<data:image/png;base64,{DATA}> "title") b', "a plan b"),
        (f"![Mill][image1] b\n\n[image1]: <data:image/png;base64,{DATA}>\nc", "Mill b\n\n\nc"),
        (f'a <img width=3 alt="mill" src="data:image/png;base64,{DATA}"> b', "a mill b"),
        (f"a <img src='data:image/png;base64,{DATA}' alt='mill'/> b", "a mill b"),
        (f"url(data:font/woff2;charset=utf-8;base64,{DATA}) b", "url(data:font/woff2;charset=utf-8;base64,…) b"),
        (f"data:image/png;base64,\n{WRAPPED}\nNext words.", "data:image/png;base64,…\nNext words."),
        (f"data:;base64,{DATA}", "data:;base64,…"),
        (f"![x](data:image/svg+xml,%3Csvg{'%20a' * 60}) b", "x b"),
    ],
)
def test_data_go_and_words_stay(text, left):
    assert without_data_uris(text) == (left, 1)


@pytest.mark.parametrize("text", ["see data: the table", "data:text/plain;base64,SGVsbG8=", f"key = {DATA}"])
def test_examples_and_other_data_stay(text):
    assert without_data_uris(text) == (text, 0)


def test_many_beginnings_without_an_end_cost_no_time():
    for text in (
        "data:" * 200_000,
        "![" * 200_000 + "data:",
        "<img " * 200_000 + "data:",
        "data:a/b" + ";a=b" * 200_000,
    ):
        assert without_data_uris(text)[1] == 0


@pytest.mark.parametrize("data", [DATA, WRAPPED])
def test_bare_base64_is_taken_out_too(data):
    assert without_base64(f"picture = '\n{data}\n'\nplt.show()") == ("picture = '\n…\n'\nplt.show()", 1)


@pytest.mark.parametrize("text", ["ACGT" * 500, "0123456789abcdef" * 100, DATA[:400], "word " * 500, "a/b" * 400])
def test_long_sequences_that_are_no_base64_stay(text):
    assert without_base64(text) == (text, 0)
