"""The model card: what an adapter is, how to ask it, what it was made from and how well it did, as the Hub expects it.

It is written from the adapter's raft.json, the manifests behind it and its evaluation; nothing is computed here. The
export writes it without results, which come later; `raft card` writes it with them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from data.distillation import distillation_words
from data.evaluation.conditions import condition_words, setting_words
from data.evaluation.promotion import verdict_in_markdown
from data.evaluation.scoring import METRICS
from data.prompting.contract import chat_of
from data.statistics import TOO_FEW
from data.text.counts import counted
from data.training_coverage import unseen_records
from tasks.work.serving_flags import serving_flags

README = "README.md"


def model_card(
    contract: Mapping[str, Any],
    *,
    name: str,
    training: Mapping[str, Any],
    figures: Mapping[str, Any],
    evaluation: Mapping[str, Any] | None = None,
    evaluated: str = "",
    licences: Sequence[str] = (),
    licence: str = "",
) -> str:
    """The card as Markdown with the Hub's YAML header.

    Args:
        contract: the adapter's raft.json.
        training: the section `train` of the training run.
        figures: of the training (records, steps, losses).
        evaluation: the evaluation's metrics.json.
        evaluated: its content digest.
        licences: a line each on what the adapter was made from.
        licence: the base's, for the header; "" where it is not known.
    """
    summary = (evaluation or {}).get("summary") or {}
    lines = [
        "---",
        yaml.safe_dump(_header(contract, name, summary, licence), sort_keys=False, allow_unicode=True).rstrip(),
        "---",
    ]
    lines += ["", f"# {name}", ""]
    bare = contract.get("prompt", {}).get("citation") == "unquoted"
    quotes = "" if bare else ", quotes the words that hold the answer,"
    lines += [
        f"A LoRA adapter for `{contract.get('base_model', 'an unknown base')}`, fine-tuned with RAFT (retrieval-"
        f"augmented fine-tuning): it answers a question from numbered passages{quotes} and says so when none does.",
    ]
    lines += ["", "## How to ask it", "", *_asking(contract)]
    lines += ["", "## How to serve it", "", *serving_flags(contract, name=name, rank=training.get("rank"))]
    lines += ["", "## How it did", "", *_results(summary, evaluation or {})]
    lines += ["", "## How it was trained", "", *_training(training, figures)]
    lines += ["", "## What it was made from", "", *_lineage(contract, evaluated)]
    if licences:
        lines += ["", "## Licences", "", *(f"- {line}" for line in licences)]
    lines += ["", "## Limits", "", *_limits(contract)]
    return "\n".join(lines) + "\n"


def _header(contract: Mapping[str, Any], name: str, summary: Mapping[str, Any], licence: str) -> dict[str, Any]:
    base = str(contract.get("base_model", ""))
    header: dict[str, Any] = {"library_name": "peft", "pipeline_tag": "text-generation"}
    if re.fullmatch(r"[\w.-]+/[\w.-]+", base):  # a local folder means nothing to the Hub
        header |= {"base_model": base, "base_model_relation": "adapter"}
    if licence:
        header["license"] = licence.lower()
    header["tags"] = ["lora", "raft", "retrieval-augmented-generation", "question-answering"]
    if metrics := list(_scores(summary, "adapter")):
        where = setting_words(summary["headline_setting"])
        result = {
            "task": {"type": "question-answering", "name": f"Question answering with {where}"},
            "dataset": {"type": "raft-records", "name": "held-out RAFT records of the same corpus"},
            "metrics": [{"type": key, "name": METRICS[key], "value": round(row["value"], 4)} for key, row in metrics],
        }
        header["model-index"] = [{"name": name, "results": [result]}]
    return header


def _scores(summary: Mapping[str, Any], condition: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The metrics of a condition in the headline's setting, in the report's order."""
    setting = summary.get("settings", {}).get(summary.get("headline_setting"), {})
    scores = setting.get("conditions", {}).get(condition, {}).get("metrics", {})
    yield from ((key, scores[key]) for key in METRICS if scores.get(key, {}).get("value") is not None)


def _asking(contract: Mapping[str, Any]) -> Iterator[str]:
    prompt, retrieval = contract.get("prompt", {}), contract.get("retrieval", {})
    sources = prompt.get("sources", {})
    yield (
        f"It was trained on prompts with {prompt.get('passages', '?')} passages in the template "
        f"`{prompt.get('template', '?')}` (version `{prompt.get('template_version', '?')}`). Other prompts give worse "
        "answers; the whole contract is in `raft.json`."
    )
    for part in ("instruction.jinja", "input.jinja"):
        if part in sources:
            yield from ("", f"`{part}`:", "```", sources[part].rstrip(), "```")
    if date := prompt.get("template_date"):
        yield ""
        yield (
            f"The base's chat template prints the day. In training it was {date}, always: render prompts with the chat "
            "template of the merged model, which holds that date."
        )
    if chat := chat_of(prompt):
        yield ""
        yield (
            f"The base's chat template was told {json.dumps(chat, ensure_ascii=False)}. The chat template of the "
            "merged model has that written into it; a server that renders with the base's own needs it as "
            "`chat_template_kwargs`, or that template."
        )
    if held := contract.get("base_precision"):
        yield ""
        yield (
            f"It was trained on the base with its linear layers in {held} (docs/quantised.md), and answers as measured "
            "on a base held so. `merged/` holds the base's own weights with the adapter added; `parity.json` says what "
            "that changes."
        )
    if embedder := retrieval.get("embedder"):
        chunking = retrieval.get("chunking", {})
        yield ""
        yield (
            f"Passages in training: chunks of at most {chunking.get('max_tokens', '?')} tokens, found with the "
            f"embedder `{embedder.get('name', '?')}`."
        )


def _results(summary: Mapping[str, Any], evaluation: Mapping[str, Any]) -> Iterator[str]:
    retrieval, decision = evaluation.get("retrieval") or {}, evaluation.get("decision")
    headline = summary.get("headline")
    if not headline:
        yield "Not measured yet: `raft evaluate` compares it with its base, and `raft card` writes the result here."
        return
    interval = f"{100 * headline.get('level', 0.95):g} % interval [{headline['low']:+.3f}, {headline['high']:+.3f}]"
    sure = "" if headline["verdict"] == TOO_FEW else f", {interval}"
    yield (
        f"On {counted(headline['n'], 'held-out question')}, with {setting_words(summary['headline_setting'])}: "
        f"{METRICS.get(summary['headline_metric'], summary['headline_metric'])} {headline['base']:.3f} (base) against "
        f"{headline['other']:.3f} (adapter), difference {headline['difference']:+.3f}{sure}: {headline['verdict']}."
    )
    if decision:
        yield from ("", verdict_in_markdown(decision))
    base = dict(_scores(summary, "base"))
    rows = [(key, base[key]["value"], row["value"]) for key, row in _scores(summary, "adapter") if key in base]
    if rows:
        yield from ("", f"| | {condition_words('base')} | {condition_words('adapter')} |", "|---|---|---|")
        yield from (f"| {METRICS[key]} | {one:.3f} | {other:.3f} |" for key, one, other in rows)
    if "any_hit@5" in retrieval:
        share, whole = retrieval["any_hit@5"], retrieval["recall@5"]
        yield ""
        yield f"At least one right passage was among the retriever's first five for {share:.0%} of the test questions"
        yield f"(any-hit); {whole:.0%} of all right passages were (recall)."


def _training(training: Mapping[str, Any], figures: Mapping[str, Any]) -> Iterator[str]:
    names = ("rank", "alpha", "target_modules", "epochs", "max_steps", "learning_rate", "sequence_length", "dtype")
    yield "| setting | value |"
    yield "|---|---|"
    yield from (f"| {name} | {training[name]} |" for name in names if training.get(name) is not None)
    if clause := unseen_records(figures):
        yield f"| cut short | {clause} |"
    if clause := distillation_words(figures):
        yield f"| afterwards | {clause} |"
    for name, words in (("records", "training records"), ("steps", "steps"), ("final_loss", "last loss")):
        if figures.get(name) is not None:
            value = figures[name]
            yield f"| {words} | {f'{value:.3f}' if isinstance(value, float) else value} |"


def _lineage(contract: Mapping[str, Any], evaluated: str) -> Iterator[str]:
    yield "The sha256 over the files of every stage behind it; `raft explain --verify` recomputes them."
    yield ""
    yield "| stage | digest |"
    yield "|---|---|"
    if digest := contract.get("base_digest"):
        yield f"| base model ({contract.get('base_source', '')}) | `{digest}` |"
    yield from (f"| {stage} | `{digest}` |" for stage, digest in contract.get("lineage", {}).items())
    if evaluated:
        yield f"| evaluate | `{evaluated}` |"


def _limits(contract: Mapping[str, Any]) -> Iterator[str]:
    yield "- It answers from the passages it is shown: what the retriever does not find it cannot know."
    yield "- It was measured on questions about held-out documents of its own corpus; elsewhere it was not measured."
    if contract.get("prompt", {}).get("may_refuse"):
        yield "- Where no passage holds the answer it was trained to say so, which it may do too often or too seldom."
    yield "- Licence and terms of the base model and of the documents apply."
