"""The run's configuration: one pydantic model whose sections are the stages, read from one YAML file.

It turns what a person wrote into checked values and clear messages; what the values do is the stages' business.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import annotated_types
from pydantic import BaseModel, ValidationError, model_validator
from pydantic.fields import FieldInfo

from data.text.urls import value_without_secrets
from jora_engine.config.recipe import DISTILLED
from raft_errors import BadInput
from tasks.adapt import AdaptConfig
from tasks.adapters.feedback import accepted_of
from tasks.adapters.policy import RetrainConfig
from tasks.ask import AskConfig, QuotingConfig
from tasks.build.section import Section, setting
from tasks.calibrate import CalibrateConfig
from tasks.chunk import ChunkConfig
from tasks.embed import EmbedConfig
from tasks.evaluate import EvaluateConfig
from tasks.export import ExportConfig
from tasks.gate import GateConfig
from tasks.index import IndexConfig
from tasks.ingest import IngestConfig
from tasks.inputs.model_catalog import DEFAULT_BASE, DEFAULT_EMBEDDER
from tasks.inputs.yaml_text import NoYaml, parse_yaml
from tasks.questions import QuestionsConfig
from tasks.records import RecordsConfig
from tasks.replay import ReplayConfig
from tasks.retrieval import RetrievalConfig
from tasks.serve import ServeConfig
from tasks.splits import SplitsConfig
from tasks.store.access import GROUP, PRIVATE
from tasks.train import TrainSection
from tasks.work.questions import ACCEPTED

CONFIG_NAME = "raft.yaml"
NAME_FORM = r"^[a-z0-9][a-z0-9-]{0,62}$"
_FORMS = {NAME_FORM: "of at most 63 small letters, digits and dashes, no dash first"}


class LicencesConfig(Section):
    """Licences and terms by their SPDX names, for the cards; null = as the model or the document says itself."""

    base: str | None = setting(None, "Licence of the base model", result=False)
    embedder: str | None = setting(None, "Licence of the embedder", result=False)
    teacher: str | None = setting(None, "Licence of the teacher, or whose terms apply to it", result=False)
    documents: str | None = setting(None, "Licence of the documents that name none", result=False)


class ModelsConfig(Section):
    """The base model that is adapted, and the embedder that retrieves. A folder, or a Hub id."""

    base: str = setting(DEFAULT_BASE, "Base model: a folder or a Hub id", path="or name")
    base_revision: str | None = setting(None, "Commit, tag or branch of the base on the Hub; none = the pinned one")
    chat_template: dict[str, bool | int | float | str | None] = setting(
        {}, "Variables of the base's chat template, in training and whenever it is asked, such as enable_thinking"
    )
    prefill: str = setting(
        "",
        "Text put behind the prompt of the chat template, before the answer, such as one that closes a think block",
    )
    embedder: str = setting(DEFAULT_EMBEDDER, "Embedder: a folder or a Hub id", path="or name")
    embedder_revision: str | None = setting(None, "Commit, tag or branch of the embedder; none = the pinned one")


class RunConfig(Section):
    """Everything a run is told."""

    corpus: tuple[str, ...] = setting(
        ("pydoc:topics",),
        "Files, folders, globs or URLs; pydoc:topics is the language reference inside Python",
        path=True,
        min_length=1,
    )
    name: str = setting("adapter", "Name of the adapter in the registry", pattern=NAME_FORM, result=False)
    seed: int = setting(0, "Decides every random draw of the run", ge=0, lt=2**31)
    store: str = setting(".raft", "Folder for results, caches and locks", path=True, result=False)
    store_access: Literal["private", "group"] = setting(
        "private",
        "Who may read and write a store that is made now: its owner alone, or the group of the folder it is made in; "
        "of one that exists its folder's mode decides",
        result=False,
        from_outside=False,
    )
    share: str | None = setting(
        None,
        "Where results are shared between machines, any URL that fsspec can write: s3://bucket/raft, "
        "file:///mnt/team/raft; the store is then a cache of it; null = this machine alone",
        result=False,
    )
    models: ModelsConfig = setting(ModelsConfig(), "Models")
    licences: LicencesConfig = setting(LicencesConfig(), "Licences, for the cards")
    ingest: IngestConfig = setting(IngestConfig(), "Sources into documents")
    chunk: ChunkConfig = setting(ChunkConfig(), "Documents into chunks")
    embed: EmbedConfig = setting(EmbedConfig(), "Chunks into vectors")
    index: IndexConfig = setting(IndexConfig(), "Vectors into an index")
    retrieval: RetrievalConfig = setting(RetrievalConfig(), "How passages are found, in training and when asked")
    questions: QuestionsConfig = setting(QuestionsConfig(), "Questions with checked answers")
    adapt: AdaptConfig = setting(AdaptConfig(), "Embedder and reranker fitted to the domain")
    records: RecordsConfig = setting(RecordsConfig(), "RAFT records")
    train: TrainSection = setting(TrainSection(), "LoRA training")
    calibrate: CalibrateConfig = setting(CalibrateConfig(), "The threshold that keeps citations right")
    export: ExportConfig = setting(ExportConfig(), "PEFT folder and merged model")
    evaluate: EvaluateConfig = setting(EvaluateConfig(), "Base against adapter")
    ask: AskConfig = setting(AskConfig(), "How the finished adapter is asked")
    serve: ServeConfig = setting(ServeConfig(), "raft serve: who generates, and how adapters are chosen")
    retrain: RetrainConfig = setting(RetrainConfig(), "raft retrain, when a changed corpus is trained on")
    replay: ReplayConfig = setting(ReplayConfig(), "raft retrain, what a warm start is trained on")
    gate: GateConfig = setting(GateConfig(), "raft retrain, when a new adapter takes the place of the one in use")

    @property
    def model_names(self) -> dict[str, tuple[str, str | None]]:
        """Role -> name and revision of each model that the run uses."""
        models, retrieval = self.models, self.retrieval
        names = {"base": (models.base, models.base_revision), "embedder": (models.embedder, models.embedder_revision)}
        if retrieval.rerank is not None:
            names["reranker"] = (retrieval.reranker, retrieval.rerank_revision)
        return names

    @property
    def splits(self) -> SplitsConfig:
        """What decides the sides of the corpus, for the stages that share it with `records`."""
        return SplitsConfig(**{name: getattr(self.records, name) for name in SplitsConfig.model_fields})

    @property
    def quoting(self) -> QuotingConfig:
        """What an adapter's contract says of its quotes, for the stage that writes it."""
        return QuotingConfig(quote_weight=self.ask.quote_weight)

    @property
    def store_mode(self) -> int:
        """The mode of the store's folder where it is made now."""
        return GROUP if self.store_access == "group" else PRIVATE

    @model_validator(mode="after")
    def _agree(self) -> RunConfig:
        """Values that are right alone and wrong together."""
        records, chunk, train = self.records, self.chunk, self.train
        if 2 * chunk.overlap_tokens > chunk.max_tokens:
            raise ValueError(f"chunk.overlap_tokens ({chunk.overlap_tokens}) is above half of chunk.max_tokens")
        if chunk.min_tokens > chunk.max_tokens:
            raise ValueError(f"chunk.min_tokens ({chunk.min_tokens}) is above chunk.max_tokens ({chunk.max_tokens})")
        self._agree_on_adapting()
        self._agree_on_distilling()
        passages = records.distractors + 1
        if passages * (chunk.max_context_tokens or 0) > records.max_tokens:
            raise ValueError(
                f"{passages} passages of chunk.max_context_tokens ({chunk.max_context_tokens}) are longer than "
                f"records.max_tokens ({records.max_tokens}): lower the one or raise the other"
            )
        if records.validation + records.test >= 1:
            raise ValueError("records.validation and records.test leave no document for training")
        if records.first_rank > records.last_rank:
            raise ValueError(f"records.first_rank ({records.first_rank}) is above records.last_rank")
        if train.sequence_length < records.max_tokens:
            raise ValueError(
                f"train.sequence_length ({train.sequence_length}) is below records.max_tokens ({records.max_tokens}), "
                "so the longest records could not be trained on: raise the one or lower the other"
            )
        return self

    def _agree_on_distilling(self) -> None:
        train = self.train
        if not train.distil_steps:
            return
        if train.base_precision not in DISTILLED:
            why = {
                "bfloat16": "the base is in full already",
                "as_stored": "there is no base in full to learn from, only the one that is stored in fewer bits",
            }[train.base_precision]
            raise ValueError(
                f"train.distil_steps is set and train.base_precision is {train.base_precision}, so {why}: set "
                f"train.base_precision to {' or '.join(DISTILLED)}, or train.distil_steps to 0"
            )
        if not self.records.validation:
            raise ValueError("train.distil_steps is judged on validation records: raise records.validation")

    def _agree_on_adapting(self) -> None:
        adapt, retrieval = self.adapt, self.retrieval
        if adapt.embedder and retrieval.mode == "lexical":
            raise ValueError("adapt.embedder is set, and retrieval.mode lexical uses no embedder: set another mode")
        if adapt.embedder and retrieval.store is not None:
            raise ValueError("adapt.embedder is set, and retrieval.store holds the vectors of the embedder as it is")
        if adapt.reranker and retrieval.rerank is None:
            raise ValueError("adapt.reranker is set without a reranker: set retrieval.rerank")
        if self.ask.citation_error is not None and not self.records.validation:
            raise ValueError("ask.citation_error is calibrated on validation questions: raise records.validation")
        if self.splits_are_measured and not self.records.validation:
            raise ValueError("what is fitted to the domain is judged on validation questions: raise records.validation")

    @property
    def splits_are_measured(self) -> bool:
        """Whether something is chosen by validation questions."""
        adapt, retrieval = self.adapt, self.retrieval
        return adapt.embedder or adapt.reranker or retrieval.rerank == "auto" or retrieval.weights == "measured"


def load_config(path: Path | None = None, overrides: Sequence[str] = ()) -> RunConfig:
    """The checked configuration.

    Args:
        path: a YAML file; None takes `raft.yaml` of the working directory, or without one the defaults.
        overrides: `section.field=value` texts; values are read as YAML.
    Raises:
        BadInput: naming the key, what was expected and the nearest known key.
    """
    if path is None and Path(CONFIG_NAME).is_file():
        path = Path(CONFIG_NAME)
    values = read_yaml(path) if path is not None else {}
    if "domains" in values:
        raise BadInput(
            f"{path} is a file of domains",
            expected="the configuration of one domain",
            do=f"run `raft domains {path}`, and give one of the files that it writes: domains/NAME.yaml in the store",
        )
    for text in overrides:
        _override(values, text)
    return config_of(values, str(path or "--set"), path.parent if path is not None else Path())


def config_of(values: Mapping[str, Any], source: str, folder: Path) -> RunConfig:
    """The checked configuration of values that were read already.

    Args:
        source: where they stand, for messages.
        folder: what relative paths are relative to.
    """
    try:
        config = RunConfig.model_validate(values)
    except ValidationError as error:
        raise _explained(error, source) from None
    return _with_feedback(_resolved(config, folder.absolute()), folder.absolute())


def _with_feedback(config: RunConfig, folder: Path) -> RunConfig:
    """The configuration with the path of the feedback that is trained on: by itself that which was accepted for this
    adapter, where there is any."""
    name = config.questions.feedback
    if name is None:
        return config
    file = accepted_of(Path(config.store), config.name) if name == ACCEPTED else folder / Path(name).expanduser()
    if name == ACCEPTED and not file.exists():
        return config
    return config.model_copy(update={"questions": config.questions.model_copy(update={"feedback": str(file)})})


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; an empty file is an empty one.

    Raises:
        BadInput: no such file, no YAML, a key that stands twice, or something else in it.
    """
    try:
        values = parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(
            f"The configuration {path} cannot be read ({error.strerror})",
            expected="a YAML file",
            do="correct the path, or write one with `raft init`",
        ) from error
    except (NoYaml, UnicodeDecodeError) as error:
        why = str(error) if isinstance(error, NoYaml) else f"it is no UTF-8 text, see byte {error.start + 1}"
        raise BadInput(f"The configuration {path} cannot be used: {why}", do="correct the file") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise BadInput(f"The configuration {path} holds a {type(values).__name__}", expected="sections with fields")
    # `train:` with every line below it commented out is an empty section
    sections = {name for name, info in RunConfig.model_fields.items() if _is_section(info.annotation)}
    return {name: {} if value is None and name in sections else value for name, value in values.items()}


def _override(values: dict[str, Any], text: str) -> None:
    name, equals, raw = text.partition("=")
    if not equals or not name.strip():
        raise BadInput(f"--set {text!r}", expected="section.field=value, e.g. train.max_steps=20")
    try:
        value = parse_yaml(raw)
    except NoYaml as error:
        raise BadInput(f"--set {name}: {raw!r} is no YAML value ({error})") from error
    *parents, last = name.strip().split(".")
    place = values
    for part in parents:
        if place.get(part) is None:
            place[part] = {}
        place = place[part]
        if not isinstance(place, dict):
            raise BadInput(f"--set {name}: {part} is no section", expected="section.field=value")
    place[last] = value


# ---- messages


def _explained(error: ValidationError, source: str) -> BadInput:
    """All problems of a configuration as one message."""
    details = error.errors()
    inner = {tuple(d["loc"][:-1]) for d in details if isinstance(d["loc"][-1:][0] if d["loc"] else "", int)}
    problems = dict.fromkeys(  # a union complains once for each member, and a list beside its item
        _problem(detail) for detail in details if tuple(detail["loc"]) not in inner
    )
    return BadInput(
        f"{source}: " + "; ".join(problems), do="correct the configuration (`raft schema` lists every field)"
    )


def _problem(detail: Mapping[str, Any]) -> str:
    where = [str(part) for part in detail["loc"] if part != "[key]"]
    name = ".".join(where)
    if detail["type"] in ("extra_forbidden", "invalid_key"):
        return f"unknown key {name}{_suggestion(where)}"
    if detail["type"] == "value_error":
        words = str(detail["ctx"]["error"])
        return words if name in words else f"{name}: {words}"
    path, field = _field(where)
    if detail["type"] == "missing":
        return f"{name} is missing" + (f", expected {describe_values(field)}" if field else "")
    value = detail["input"]
    text = "a mapping" if isinstance(value, (dict, BaseModel)) else repr(value_without_secrets(value))
    if isinstance(value, bool):  # as YAML means it, which reads yes and on as true, no and off as false
        text = f"{str(value).lower()} (so YAML reads yes, no, on and off)"
    if field is None:
        return f"{name} is {text}, expected {_section_of(where)}"
    places = [int(part) + 1 for part in where[len(path) :] if part.isdigit()]
    if places and (item := _item(field)):
        return f"item {places[0]} of {'.'.join(path)} is {text}, expected {item}"
    return f"{'.'.join(path)} is {text}, expected {describe_values(field)}"


def _section_of(where: Sequence[str]) -> str:
    """What stands in the place of a section, in words."""
    kind: Any = RunConfig
    for part in where:
        info = getattr(kind, "model_fields", {}).get(part)
        kind = next((k for k in _members(info.annotation) if _is_section(k)), None) if info else None
    return f"a section with {', '.join(kind.model_fields)}" if _is_section(kind) else "a section of fields"


def _item(info: FieldInfo) -> str:
    """What an item of a list is, in words; "" where the field is no list."""
    for kind in _members(info.annotation):
        if get_origin(kind) in (tuple, list):
            inner = get_args(kind)[0]
            choices = get_args(inner) if get_origin(inner) is Literal else ()
            return f"one of {', '.join(map(str, choices))}" if choices else _TYPES.get(inner, "another value")
    return ""


def _suggestion(where: list[str]) -> str:
    """The nearest known key: first in the same section, then in any."""
    known = [".".join(path) for path, _ in fields(RunConfig)]
    sections = list(RunConfig.model_fields)
    siblings = [k for k in known if k.split(".")[:-1] == where[:-1]] + (sections if len(where) == 1 else [])
    beside = {name.split(".")[-1]: name for name in siblings}
    if near := difflib.get_close_matches(where[-1], list(beside), n=1, cutoff=0.6):
        return f" (did you mean {beside[near[0]]}?)"
    leaves = {k: k.split(".")[-1] for k in known}
    if near := difflib.get_close_matches(where[-1], list(leaves.values()), n=1, cutoff=0.75):
        return f" (did you mean {next(k for k, leaf in leaves.items() if leaf == near[0])}?)"
    return f" (known here: {', '.join(dict.fromkeys(siblings))})" if siblings else ""


def fields(model: type[BaseModel], prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], FieldInfo]]:
    """Every leaf field with its path; a section that may be null is one as well, before its own."""
    for name, info in model.model_fields.items():
        sections = [kind for kind in _members(info.annotation) if _is_section(kind)]
        if info.annotation not in sections:
            yield (*prefix, name), info
        for section in sections:
            yield from fields(section, (*prefix, name))


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _field(where: list[str]) -> tuple[tuple[str, ...], FieldInfo | None]:
    """The field that an error is about, and its path."""
    names = tuple(part for part in where if not part.isdigit())
    known = dict(fields(RunConfig))
    for path in (names, names[:2], names[:1]):
        if path in known:
            return path, known[path]
    return names, None


def describe_values(info: FieldInfo) -> str:
    """What a field takes: type, choices, range and unit, in words."""
    choices, types, optional = [], [], False
    limits = list(info.metadata)
    for kind in _members(info.annotation):
        if get_origin(kind) is Annotated:
            kind, *own = get_args(kind)
            limits += own
        if kind is type(None):
            optional = True
        elif get_origin(kind) is Literal:
            choices += [str(choice) for choice in get_args(kind)]
        elif get_origin(kind) is tuple and get_origin(get_args(kind)[0]) is Literal:
            types.append("a list of " + ", ".join(str(choice) for choice in get_args(get_args(kind)[0])))
        elif _is_section(kind):
            types.append(f"a section of {', '.join(kind.model_fields)}")
        else:
            types.append(_TYPES.get(get_origin(kind) or kind, str(kind)))
    text = " or ".join(([f"one of {', '.join(choices)}"] if choices else []) + types)
    if bounds := _limits(limits):
        text += f" {bounds}"
    unit = info.json_schema_extra.get("unit") if isinstance(info.json_schema_extra, dict) else ""
    return text + (f" {unit}" if unit else "") + (", or null" if optional else "")


_TYPES = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "true or false",
    tuple: "a list",
    list: "a list",
    dict: "a mapping",
}


def _members(annotation: Any) -> tuple[Any, ...]:
    if get_origin(annotation) in (None, Literal, tuple, list, dict):
        return (annotation,)
    return get_args(annotation)


def _limits(limits: Sequence[Any]) -> str:
    low = high = ""
    for limit in limits:
        if isinstance(limit, annotated_types.Ge):
            low = f"at least {limit.ge}"
        elif isinstance(limit, annotated_types.Gt):
            low = f"above {limit.gt}"
        elif isinstance(limit, annotated_types.Le):
            high = f"at most {limit.le}"
        elif isinstance(limit, annotated_types.Lt):
            high = f"below {limit.lt}"
        elif isinstance(limit, annotated_types.MinLen):
            low = "that is not empty" if limit.min_length == 1 else f"of at least {limit.min_length}"
        elif pattern := getattr(limit, "pattern", None):
            low = _FORMS.get(pattern, f"of the form {pattern}")
    return " and ".join(filter(None, (low, high)))


# ---- paths


def _resolved(section: Any, folder: Path) -> Any:
    """A copy whose path fields, relative to the configuration file, are absolute."""
    changes: dict[str, Any] = {}
    for name, info in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            changes[name] = _resolved(value, folder)
        elif isinstance(info.json_schema_extra, dict) and info.json_schema_extra.get("path") and value is not None:
            or_name = info.json_schema_extra["path"] == "or name"
            one = isinstance(value, str)
            done = tuple(absolute_place(text, folder, or_name) for text in ([value] if one else value))
            changes[name] = done[0] if one else done
    return section.model_copy(update=changes)


def absolute_place(text: str, folder: Path, or_name: bool) -> str:
    """A path as an absolute one, relative to `folder`; a URL as it is.

    Args:
        or_name: whether a word may be a name instead, as which it is kept unless there is such a folder.
    """
    if "://" in text or text.startswith("pydoc:"):
        return text
    path = Path(text).expanduser()
    if or_name and not text.startswith((".", "~", "/")) and not _stands_at(folder / path, word="." not in text):
        return text
    return str(path if path.is_absolute() else folder / path)


def _stands_at(path: Path, word: bool) -> bool:
    """Whether a folder or file is there; a file named like a `word` (auto, quoted) is taken for no path."""
    return path.is_dir() or (path.is_file() and not word)
