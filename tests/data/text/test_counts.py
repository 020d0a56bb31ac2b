"""A number agrees with its noun."""

from data.text.counts import counted


def test_one_is_not_several():
    assert [counted(n, "chunk") for n in (0, 1, 2)] == ["0 chunks", "1 chunk", "2 chunks"]
    assert counted(2, "index", "indexes") == "2 indexes"
    assert [counted(n, "day") for n in (0.5, 1.0, 7.0)] == ["0.5 days", "1 day", "7 days"]
