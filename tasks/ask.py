"""The section `ask`: how the finished adapter is asked, by `raft ask` and `raft serve` alike."""

from __future__ import annotations

from tasks.build.section import Section, setting


class QuotingConfig(Section):
    """What decides which passage is quoted."""

    quote_weight: float = setting(
        0.0,
        "Where quotes are copied: how much the search counts, beside the model's own likelihood, in the choice of what "
        "is quoted, such as 1; kept in the adapter's raft.json. 0 = the model alone chooses",
        ge=0,
        le=100,  # HEAVIEST_QUOTE of `data.prompting.contract`, which takes longer to import
    )


class AskConfig(QuotingConfig):
    """What is promised of the answers that are given."""

    citation_error: float | None = setting(
        None,
        "Of the answers given, the share that may cite wrongly, such as 0.1; an answer whose citation is less sure is "
        "withheld. Calibrated on validation questions for each adapter and kept in its raft.json; null = no such limit",
        gt=0,
        lt=1,
    )
    copy_quotes: bool = setting(
        False, "With citation_error: calibrate, and ask, with quotes copied from the passages (--copy-quotes)"
    )
