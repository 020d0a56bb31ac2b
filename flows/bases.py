"""Several bases under one recipe: each with each domain is an ordinary run of the pipeline, with another `models.base`.

So a cell of that table takes from the store what it has in common with others and with plain runs, and whoever adds a
base pays for that base. A cell that fails says why, and the others go on. Which base is worth adapting, the evaluations
say (`data.evaluation.lift`).
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.memo import memoise
from flows.build import work
from flows.calls import STAGES, calls_to
from flows.engine_plan import engine_plan
from flows.finished import remember
from flows.probe import probe_base
from flows.run import Models, Run
from flows.walk import Built, published, walk
from raft_errors import BadInput, Interrupted, RaftError
from tasks.build.events import Event, Finished, Reporter, Said, progress_of, voice_of
from tasks.build.keys import code_fingerprint, key_of, result_fields
from tasks.config import RunConfig, absolute_place
from tasks.evaluate import PROBED
from tasks.inputs.models import resolve
from tasks.store.manifest import Manifest
from tasks.store.store import read_json

if TYPE_CHECKING:
    from data.evaluation.lift import Lift

log = logging.getLogger("raft.flows")

FORECAST = ("retrieved", "oracle_only")
"""What the base is asked for a forecast; the first of them the evaluation asks as well."""
LONGEST_NAME = 63


@dataclass(frozen=True)
class Cell:
    """A base on a domain.

    Attributes:
        base: as the table calls it.
        config: the domain's configuration with this base, under a name of its own, so that the results stay beside
            those of the domain.
        asker: the configuration whose base asks the questions, where a base does: all are asked the same.
    """

    domain: str
    base: str
    config: RunConfig
    asker: RunConfig | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of a cell.

    Attributes:
        state: `done`, `failed`, or `waiting` for its turn.
        reason: why it failed.
        exit_code: of the failure, else 0.
        ran: the stages that were built now.
        gate: the verdict of the promotion gate.
        forecast: whether a gain was forecast from `reads`, token F1 of the base with the oracle alone.
        train_seconds, train_tokens: what the training took.
        weights_bytes, step_bytes: of the base, and of a training step in all, on one device, as `raft plan --engine`
            has them.
        built: the results; empty unless done.
    """

    cell: Cell
    state: str = "waiting"
    reason: str = ""
    exit_code: int = 0
    ran: tuple[str, ...] = ()
    lift: Lift | None = None
    gate: str = ""
    forecast: bool | None = None
    reads: float | None = None
    train_seconds: float | None = None
    train_tokens: int | None = None
    weights_bytes: int | None = None
    step_bytes: int | None = None
    built: Built = field(default_factory=dict, repr=False)

    @property
    def came_true(self) -> bool | None:
        """Whether it went as forecast; None where one of the two is not known."""
        gained = self.lift.gained if self.lift else None
        return None if self.forecast is None or gained is None else self.forecast == gained

    def to_dict(self) -> dict[str, Any]:
        """The cell as one flat row of JSON values."""
        from data.evaluation.scoring import METRICS

        lift = self.lift
        figures = lift.figures if lift else {}
        return {
            "domain": self.cell.domain,
            "base": self.cell.base,
            "state": self.state,
            "reason": self.reason,
            "ran": list(self.ran),
            "metric": METRICS[lift.metric] if lift else None,
            "zero_shot": lift.zero_shot if lift else None,
            "tuned": lift.tuned if lift else None,
            **{name: figures.get(name) for name in ("difference", "low", "high", "level", "n", "verdict")},
            "flag": lift.flag if lift else "",
            "gate": self.gate,
            "forecast": {True: "gain", False: "little", None: None}[self.forecast],
            "reads": self.reads,
            "came_true": self.came_true,
            "train_seconds": self.train_seconds,
            "train_tokens": self.train_tokens,
            "weights_bytes": self.weights_bytes,
            "step_bytes": self.step_bytes,
            "name": self.cell.config.name,
            "report": str(self.built["evaluate"].path("report.html")) if self.built else "",
        }


def cells_of(configs: Mapping[str, RunConfig], bases: Sequence[str]) -> list[Cell]:
    """Each domain with each base, in this order.

    Args:
        bases: folders, Hub ids, or Hub ids with `@` and a revision.

    Raises:
        BadInput: a name is empty, or a folder has a revision.
    """
    wanted = list(dict.fromkeys(_name_and_revision(text) for text in bases))
    labels = _labels(wanted)
    cells = []
    for domain, config in configs.items():
        own = config.models
        local = "base" in STAGES["questions"].models_for(config.questions)
        for name, given in wanted:
            revision = own.base_revision if given is None and name == own.base else given
            models = own.model_copy(update={"base": name, "base_revision": revision})
            # an earlier adapter is one of another base
            evaluate = config.evaluate.model_copy(update={"earlier": ()})
            changes = {"models": models, "evaluate": evaluate, "name": _run_name(config.name, name, revision)}
            whole = config.model_copy(update=changes)
            cells.append(Cell(domain, labels[name, given], whole, config if local else None))
    return cells


def require_models(cells: Sequence[Cell], reporter: Reporter) -> None:
    """Fetches the models of all cells, so that one that does not exist is refused before anything runs; folders are
    looked for first, before anything is fetched.

    Raises:
        BadInput, RaftError: there is no such base, or it cannot be fetched.
    """
    find = functools.partial(resolve, say=voice_of(reporter))
    each = [(Models(one, find), one is cell.asker) for cell in cells for one in (cell.asker, cell.config) if one]
    wanted = [(models, role, role == "base" and not asks) for models, asks in each for role in models]
    for models, role, compared in sorted(wanted, key=lambda one: not Path(one[0].name(one[1])).is_absolute()):
        try:
            models[role]
        except BadInput as error:
            if not compared:
                raise
            raise BadInput(error.what, expected=error.expected, do="correct --bases") from error


def compare(cells: Sequence[Cell], reporter: Reporter, keep: Collection[str] = ()) -> Iterator[list[Outcome]]:
    """Runs the cells one after the other; gives all outcomes after each, those to come as waiting.

    An interruption goes through: what is finished is in the store, and the next comparison goes on from there.

    Args:
        keep: stages whose finished result counts though other code made it.
    """
    outcomes = [Outcome(cell) for cell in cells]
    yield list(outcomes)
    for place, cell in enumerate(cells):
        reporter(Said(f"{cell.domain}, {cell.base} ({place + 1} of {len(cells)})"))
        try:
            outcomes[place] = _outcome(cell, reporter, keep)
        except Interrupted:
            raise
        except Exception as error:
            if _interrupted(error):
                raise
            log.debug("%s on %s", cell.base, cell.domain, exc_info=True)
            known = isinstance(error, RaftError)
            reason = str(error) if known else f"{type(error).__name__}: {str(error).strip() or 'no message'}"
            code = error.exit_code if isinstance(error, RaftError) else 1
            outcomes[place] = Outcome(cell, "failed", reason, code)
            reporter(Said(f"{cell.domain}, {cell.base} failed: {reason}"))
        yield list(outcomes)


def ahead(outcomes: Sequence[Outcome]) -> dict[str, dict[str, Any]]:
    """For each domain the tuned base that scores highest, and how far it is ahead of the others, by paired questions.

    Returns:
        domain -> `base`, `tuned`, `metric` and `others`: base -> the difference with its interval.
    """
    from data.evaluation.lift import lift_between

    leaders = {}
    for domain in dict.fromkeys(outcome.cell.domain for outcome in outcomes):
        done = [(one, one.lift) for one in outcomes if one.cell.domain == domain and one.lift is not None]
        if not done:
            continue
        first, lift = max(done, key=lambda pair: pair[1].tuned)
        rows, config = _rows(first), first.cell.config
        others = {}
        for other, _ in done:
            if other is not first:
                between = lift_between(_rows(other), rows, samples=config.evaluate.samples, seed=config.seed)
                if between is not None:
                    others[other.cell.base] = dict(between.figures)
        leaders[domain] = {"base": first.cell.base, "tuned": lift.tuned, "metric": lift.metric, "others": others}
    return leaders


def _outcome(cell: Cell, reporter: Reporter, keep: Collection[str]) -> Outcome:
    """Runs a cell to its report, with the forecast before the training."""
    from data.evaluation.advice import expects_gain
    from data.evaluation.lift import lift_of

    states: dict[str, bool] = {}  # by call, whether it was built now

    def listen(event: Event) -> None:
        if isinstance(event, Finished):
            again = event.cached and event.stage in states  # the way to the report leads past the records once more
            states[event.stage] = states.get(event.stage, False) or not event.cached
            if again:
                return
        reporter(event)

    run = Run.of(cell.config, listen, keep)
    if cell.asker is not None:
        run = replace(run, asker=Run.of(cell.asker, listen).models)
    reads = _reading(run, _build(run, "records"))
    built = _build(run, "evaluate")
    remember(run, built, latest=False)
    train, metrics = built["train"], read_json(built["evaluate"].path("metrics.json"))
    planned = _planned(run, built["records"])
    return Outcome(
        cell,
        "done",
        ran=tuple(call for call, built_now in states.items() if built_now),
        lift=lift_of(metrics["summary"]),
        gate=(metrics["decision"] or {}).get("verdict", ""),
        forecast=expects_gain(reads),
        reads=reads,
        train_seconds=train.seconds,
        train_tokens=train.metrics.get("tokens"),
        weights_bytes=planned.get("weights"),
        step_bytes=planned.get("step"),
        built=built,
    )


def _build(run: Run, until: str) -> Built:
    built = published(run, until) or work(run, calls_to(until), lambda step: walk(run, step, until), direct=True)
    assert built is not None  # a builder gives a result or raises
    return built


def _reading(run: Run, built: Built) -> float | None:
    """Token F1 of the base with the oracle alone, on the first questions that are held out."""

    def look(_: str) -> float | None:
        probe, _advice = probe_base(run, built, FORECAST, PROBED, progress_of("probe", run.reporter))
        return probe.oracle_only

    sections = {name: result_fields(run.section(name)) for name in ("retrieval", "evaluate")}
    inputs = [run.models["base"].digest, built["records"].digest, json.dumps(sections, sort_keys=True, default=str)]
    code = key_of({"code": code_fingerprint("tasks.upkeep.probe"), "inputs": inputs})
    value: float | None = memoise(run.store.cache("checks"), "forecast-1", [code], look)[0]
    return value


def _planned(run: Run, records: Manifest) -> dict[str, int]:
    """Bytes on one device of the base's weights and of a training step in all; empty where no plan can be made."""

    def look(_: str) -> dict[str, int]:
        plan = engine_plan(run.config, records=records)[-1]
        return {"weights": int(plan["bytes"]["weights"]), "step": int(plan["total"])}

    section = json.dumps(result_fields(run.config.train), sort_keys=True, default=str)
    inputs = [run.models["base"].digest, records.digest, section]
    code = key_of({"code": code_fingerprint("jora_engine.training.plan_job"), "inputs": inputs})
    try:
        planned: dict[str, int] = memoise(run.store.cache("checks"), "memory-1", [code], look)[0]
    except RaftError as error:
        run.reporter(Said(f"no plan of its memory: {error.what}"))
        return {}
    return planned


def _rows(outcome: Outcome) -> list[dict[str, Any]]:
    text = outcome.built["evaluate"].path("rows.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.split("\n") if line]  # an answer may hold U+2028


def _interrupted(error: BaseException) -> bool:
    """Whether an interruption is behind an error: a library may have made it an error of its own."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, KeyboardInterrupt):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def _name_and_revision(text: str) -> tuple[str, str | None]:
    name, at, revision = text.strip().rpartition("@")
    if not at or Path(text).is_dir():
        name, revision = text.strip(), ""
    if not name:
        raise BadInput("--bases has an empty name", expected="folders or Hub ids, repeated or as a,b")
    place = absolute_place(name, Path.cwd(), or_name=True)
    if revision and Path(place).is_absolute():  # it would be compared with itself, under another label
        raise BadInput(
            f"--bases {text.strip()}: {name} is a folder, which has no revision {revision!r}",
            expected="a folder, or a Hub id with @ and a revision",
            do=f"leave out @{revision}, or name the folder that holds it",
        )
    return place, revision or None


def _labels(bases: Sequence[tuple[str, str | None]]) -> dict[tuple[str, str | None], str]:
    """What the table calls each base: a Hub id as it is, a folder by its name where no other has it."""
    short = {base: Path(base[0]).name if Path(base[0]).is_absolute() else base[0] for base in bases}
    names = list(short.values())
    whole = {base: name if names.count(name) == 1 else base[0] for base, name in short.items()}
    return {base: f"{name}@{base[1]}" if base[1] else name for base, name in whole.items()}


def _run_name(domain: str, base: str, revision: str | None) -> str:
    """The name under which the runs of a base are kept: never that of another base or domain."""
    mark = hashlib.sha256(f"{base}@{revision or ''}".encode()).hexdigest()[:6]
    words = re.sub(r"[^a-z0-9]+", "-", Path(base).name.lower()).strip("-")
    room = LONGEST_NAME - len(mark) - len("-on--")
    return f"{domain[: room // 2]}-on-{words[: room - room // 2].strip('-')}-{mark}"
