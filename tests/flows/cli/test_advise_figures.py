"""What `raft advise` shows of a probe: every figure has words of its own, in one column."""

from data.evaluation.advice import Probe
from flows.cli.verbs.advise import NAMES


def test_every_figure_of_a_probe_is_named_in_words():
    assert set(NAMES) == set(Probe().figures)
    assert not [words for words in NAMES.values() if "_" in words]
    assert max(map(len, NAMES.values())) <= 26
    assert len(set(NAMES.values())) == len(NAMES)
