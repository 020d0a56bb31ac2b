"""Text without spaces between its words is compared by characters; any other is left alone."""

import pytest

from data.text.normalisation import is_telling, normalise
from data.text.unspaced import RUN, is_unspaced, pieces, spaced_out, word_count


def test_scripts_are_told_apart():
    for text in ("员工每年享有 15 天年假", "サーバー室は3階です", "노트북은 서울에 있다", "พนักงานลาพักร้อน", "គណៈកម្មការ"):
        assert is_unspaced(text)
    for text in ("", "15", "Der Kessel", "The word 水 means water", "वर्ष में दो बार"):
        assert not is_unspaced(text)


def test_marks_stay_with_their_letters():
    assert spaced_out("ที่นี่ 5") == "ที่ นี่ 5"
    assert spaced_out("が\u3099x") == "が\u3099 x"
    assert spaced_out("Zürich: 5 valves") == "Zürich: 5 valves"


@pytest.mark.parametrize(
    ("run", "expected"),
    [("蓝色胸牌", ["蓝色", "色胸", "胸牌"]), ("天", ["天"]), ("蓝色", ["蓝色"]), ("บ้านที่", ["บ้าน", "านที่"])],
)
def test_runs_are_cut_into_pairs_and_those_of_an_alphabet_into_threes(run, expected):
    assert RUN.fullmatch(run)
    assert list(pieces(run)) == expected


def test_words_are_counted_about_as_people_would():
    assert word_count("The boiler has two valves.") == 5
    assert word_count("员工每年享有十五天带薪年假。") == 7 + 1  # and the full stop
    assert word_count("") == 0


def test_normalised_answers_of_such_scripts_stand_in_texts_as_phrases():
    assert f" {normalise('十五天。')} " in f" {normalise('员工享有十五天年假')} "
    assert f" {normalise('5天')} " not in f" {normalise('共15天')} "
    assert normalise("«Rock ’n’ Roll» – 1939–45") == normalise("\"Rock 'n' Roll\" - 1939-45") == "rock n roll 193945"
    assert [is_telling(normalise(a)) for a in ("蓝色", "天", "five", "yes", "서울")] == [True, False, True, False, True]
