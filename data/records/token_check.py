"""Checks records as tokens before training spends hours on them: what is trained on, what is cut, what is wrong.

It takes any function that turns a record into token ids and a mask, so that it sees exactly what the trainer will see,
and knows no tokenizer itself. `TokenCheck.check` stops a training run whose labels are empty, cut off or never end.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from data.memo import memoise
from data.nouns import ItemCache, Record
from data.records.figures import spread
from raft_errors import BadInput

Tokenise = Callable[[Record], tuple[Sequence[int], Sequence[bool]]]
"""Record -> (token ids, True where the loss is taken), of equal length, before any cut."""


class Measurement(NamedTuple):
    """One record: its tokens, those trained on, and whether these lack the end or a part of the output."""

    length: int
    trained: int
    endless: bool
    lost: bool
    aligned: bool = True


OPEN, CLOSE = "⟦", "⟧"


@dataclass(frozen=True)
class TokenCheck:
    """Attributes:
    samples: records as the model sees them, with the text that is trained on between ⟦ and ⟧.
    figures: counts over all records; JSON values only.
    faults: reasons not to train, one sentence each.
    """

    samples: list[str]
    figures: dict[str, Any]
    faults: list[str]

    def check(self) -> None:
        """Raises BadInput that names every fault."""
        if self.faults:
            raise BadInput(
                "records: " + "; ".join(self.faults),
                expected="a label in every record that is trained on as a whole, its end included",
                do="look at preflight.txt, then at template, tokenizer and records.max_tokens",
            )


def check_tokens(
    records: Sequence[Record],
    tokenise: Tokenise,
    decode: Callable[[Sequence[int]], str],
    *,
    end_ids: Collection[int],
    max_tokens: int,
    samples: int = 3,
    cache: ItemCache | None = None,
    tokenizer: str = "",
) -> TokenCheck:
    """Tokenises every record and reports what a training on them would learn.

    Args:
        decode: token ids to text, special tokens included.
        end_ids: the tokens that end an answer; one must be trained as the last of each record.
        max_tokens: what fits; longer records are counted as cut.
        cache: keeps the measurements of each record, by its Alpaca triple and by `tokenizer`, which names whatever
            decides what `tokenise` returns.
    """
    by_triple = {json.dumps([r.instruction, r.input, r.output]): r for r in records}

    def take(triple: str) -> Measurement:
        return _measure(by_triple[triple], *tokenise(by_triple[triple]), decode, end_ids)

    triples = [json.dumps([r.instruction, r.input, r.output]) for r in records]
    # "preflight" was this check's name when today's caches were filled
    measurements = [Measurement(*row) for row in memoise(cache, f"preflight-1 {tokenizer}", triples, take)]
    first = list(zip(records, measurements, strict=True))[:samples]
    texts = [_render(*tokenise(record), decode) for record, m in first if m.aligned]
    figures = _figures(measurements, max_tokens)
    return TokenCheck(texts, figures, _faults(figures, max_tokens))


def _figures(measurements: Sequence[Measurement], max_tokens: int) -> dict[str, Any]:
    whole = [m for m in measurements if m.aligned]
    lengths, trained_lengths = [m.length for m in whole], [m.trained for m in whole]
    return {
        "records": len(measurements),
        "tokens": sum(lengths),
        "trained_tokens": sum(trained_lengths),
        "trained_share": round(sum(trained_lengths) / max(1, sum(lengths)), 4),
        "length": spread(lengths),
        "trained_length": spread(trained_lengths),
        "cut": sum(m.length > max_tokens for m in whole),
        "without_label": sum(not m.trained for m in whole),
        "without_end": sum(m.endless for m in whole),
        "output_not_whole": sum(m.lost for m in whole),
        "misaligned": len(measurements) - len(whole),
    }


def _faults(figures: Mapping[str, Any], max_tokens: int) -> list[str]:
    """The reasons not to train, by the figures."""
    if not figures["records"]:
        return ["there is no record"]
    faults = [
        f"{figures[name]} of {figures['records']} records {words}"
        for name, words in (
            ("misaligned", "have a mask that is not as long as their tokens"),
            ("without_label", "have no trained token"),
            ("without_end", "do not train the end of the answer"),
            ("output_not_whole", "do not train their whole output"),
            ("cut", f"are longer than {max_tokens} tokens"),
        )
        if figures[name]
    ]
    share = figures["trained_tokens"] / max(1, figures["tokens"])
    if share > 0.9 and not figures["without_label"]:
        faults.append(f"{share:.0%} of all tokens are trained: the prompt is not masked")
    return faults


def _measure(
    record: Record,
    ids: Sequence[int],
    mask: Sequence[bool],
    decode: Callable[[Sequence[int]], str],
    end_ids: Collection[int],
) -> Measurement:
    if len(ids) != len(mask):
        return Measurement(len(ids), 0, False, False, False)
    places = [i for i, on in enumerate(mask) if on]
    endless = bool(places) and ids[places[-1]] not in end_ids
    lost = bool(places) and _plain(record.output) not in _plain(decode([ids[i] for i in places]))
    return Measurement(len(ids), len(places), endless, lost)


def _plain(text: str) -> str:
    """Without what tokenizers are free to normalise: Unicode composition and white space."""
    return "".join(unicodedata.normalize("NFKC", text).split())


def _render(ids: Sequence[int], mask: Sequence[bool], decode: Callable[[Sequence[int]], str]) -> str:
    """The text as the model sees it, in runs of trained and untrained tokens."""
    out, start = [], 0
    for i in range(1, len(ids) + 1):
        if i == len(ids) or mask[i] != mask[start]:
            text = decode(list(ids[start:i]))
            out.append(f"{OPEN}{text}{CLOSE}" if mask[start] else text)
            start = i
    return "".join(out)
