"""What people said about an adapter's answers, and what became of it: only what somebody accepted is trained on.

Below `<store>/feedback/NAME/` stand two files of JSON Lines that are only added to, `feedback.jsonl` (what was said)
and `decisions.jsonl` (what somebody decided about it, the last line of an entry counts), and `accepted.jsonl`, a
question file that is written anew after each decision and that the stage `questions` imports beside its own questions.
Two that contradict each other are never both accepted. Knows no server and no training.
"""

from __future__ import annotations

import json
import logging
import re
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from data.nouns import FEEDBACK
from data.text.alike import alike
from raft_errors import BadInput, RaftError
from tasks.adapters.registry import now
from tasks.adapters.versions import Moment
from tasks.store.access import make_folder, write_whole
from tasks.store.hashing import read_regular
from tasks.store.lines import append_line
from tasks.store.locks import FileLock, locked

log = logging.getLogger("raft.tasks")

State = Literal["pending", "accepted", "rejected"]
MOST_BYTES = 256 << 20  # of what was said about one adapter; a server takes no more then

Line = TypeVar("Line", bound=BaseModel)


class FeedbackFull(RaftError):
    """There is more feedback on an adapter than is kept."""


class Shown(BaseModel):
    """A passage that the answer was given over."""

    model_config = ConfigDict(frozen=True)
    chunk_id: str
    source: str
    text: str


class Feedback(BaseModel):
    """What one person said about one answer.

    Attributes:
        version: the id of what answered (`faq@3`).
        verdict: a thumb.
        correction: the right answer in the person's words; "" where none was given. An older server took one with a
            thumb up too: it counts as in place of the answer.
        quotes: the answer's own, those that stand word for word in a passage.
        passages: all that were shown, the quoted ones first.
    """

    model_config = ConfigDict(frozen=True)
    id: str
    at: Moment
    origin: Literal["feedback"] = FEEDBACK
    version: str
    question: str
    answer: str
    verdict: Literal["up", "down"]
    correction: str = ""
    quotes: tuple[str, ...] = ()
    passages: tuple[Shown, ...] = ()

    @property
    def proposal(self) -> str:
        """The answer that this says is right; "" where it only says what is wrong."""
        return self.correction or (self.answer if self.verdict == "up" else "")


class Decision(BaseModel):
    """What somebody decided about an entry; `open` takes a decision back.

    Attributes:
        answer: in place of what was proposed; "" leaves that.
        refuse: the documents hold no answer, and the adapter is to say so.
    """

    model_config = ConfigDict(frozen=True)
    id: str
    at: Moment
    decision: Literal["accept", "reject", "open"]
    answer: str = ""
    refuse: bool = False


@dataclass(frozen=True)
class Entry:
    """Feedback with the last decision about it."""

    feedback: Feedback
    decision: Decision | None = None

    @property
    def id(self) -> str:
        return self.feedback.id

    @property
    def state(self) -> State:
        decided = self.decision.decision if self.decision else "open"
        return {"accept": "accepted", "reject": "rejected", "open": "pending"}[decided]  # type: ignore[return-value]

    @property
    def refuses(self) -> bool:
        """Whether it was accepted as a question that the documents do not answer."""
        return self.state == "accepted" and self.decision is not None and self.decision.refuse

    @property
    def answer(self) -> str:
        """The right answer, as decided or as proposed; "" where there is none."""
        if self.refuses:
            return ""
        return (self.decision.answer if self.decision else "") or self.feedback.proposal

    def is_about(self, sources: Collection[str]) -> bool:
        """Whether a passage of one of these documents was shown with the answer."""
        return any(passage.source in sources for passage in self.feedback.passages)

    def contradicts(self, other: Entry) -> bool:
        """Whether both cannot be right: another answer to the same question, or one says that the other's is wrong."""
        if self.id == other.id or _words(self.feedback.question) != _words(other.feedback.question):
            return False
        mine, others = self._means(), other._means()
        if mine is not None and others is not None:
            return mine != others
        if mine is None and others is None:
            return False
        denied, meant = (self, others) if mine is None else (other, mine)
        return _words(denied.feedback.answer) == meant

    def _means(self) -> str | None:
        """The words of the right answer, "" for a refusal, None where nothing is said to be right."""
        return "" if self.refuses else _words(self.answer) or None


class FeedbackLog:
    """The feedback of one adapter.

    Args:
        root: folder of the store. name: of the adapter.
    """

    def __init__(self, root: Path, name: str) -> None:
        self.name, self.folder = name, folder_of(root, name)
        self._lock = FileLock(Path(root) / "locks" / f"feedback-{name}.lock")

    @property
    def accepted_file(self) -> Path:
        """The question file; absent where nothing is accepted."""
        return self.folder / ACCEPTED

    def add(
        self,
        version: str,
        question: str,
        answer: str,
        verdict: Literal["up", "down"],
        *,
        correction: str = "",
        quotes: Sequence[str] = (),
        passages: Sequence[Shown] = (),
    ) -> Feedback:
        """Keeps what somebody said; it is on the disk when this returns.

        Raises:
            FeedbackFull: there is more than `MOST_BYTES` already.
            OSError: it cannot be written.
        """
        entry = Feedback(
            id=uuid.uuid4().hex[:12],
            at=now(),
            version=version,
            question=question,
            answer=answer,
            verdict=verdict,
            correction=correction,
            quotes=tuple(quotes),
            passages=tuple(passages),
        )
        path = self.folder / SAID
        with self._alone():
            if path.exists() and path.stat().st_size > MOST_BYTES:
                raise FeedbackFull(
                    f"{path} is full",
                    expected=f"at most {MOST_BYTES >> 20} MiB of feedback on one adapter",
                    do=f"review it, add the rows of {ACCEPTED} to your own questions, and move its folder away",
                )
            append_line(path, entry.model_dump_json().encode())
        return entry

    def entries(self) -> list[Entry]:
        """Everything that was said, in its order, with the last decision about each."""
        decisions = {decision.id: decision for decision in self._read(DECIDED, Decision)}
        return [Entry(feedback, decisions.get(feedback.id)) for feedback in self._read(SAID, Feedback)]

    def groups(self, entries: Sequence[Entry] | None = None) -> list[list[Entry]]:
        """The entries, those that ask the same together, in the order of the first."""
        groups: dict[str, list[Entry]] = {}
        for entry in self.entries() if entries is None else entries:
            groups.setdefault(_words(entry.feedback.question), []).append(entry)
        return list(groups.values())

    def decide(
        self, id: str, decision: Literal["accept", "reject", "open"], *, answer: str = "", refuse: bool = False
    ) -> Entry:
        """Decides about an entry and writes the question file anew.

        Args:
            id: of the entry, or the beginning of it.
            answer: the right answer, where it is not the proposed one.
            refuse: accepts it as a question that is to be refused.

        Raises:
            BadInput: no such entry, nothing that could be accepted, or one is accepted that says otherwise.
        """
        with self._alone():
            entries = self.entries()
            entry = _named(id, entries, self.name)
            decided = Decision(id=entry.id, at=now(), decision=decision, answer=answer.strip(), refuse=refuse)
            after = Entry(entry.feedback, decided)
            if decision == "accept":
                _require_acceptable(after, entries)
            entries = [after if other.id == entry.id else other for other in entries]
            # a crash between the two leaves what would train less, never more
            if decision != "accept":
                self._write_accepted(entries)
            append_line(self.folder / DECIDED, decided.model_dump_json().encode())
            if decision == "accept":
                self._write_accepted(entries)
        return after

    def forget(self, sources: Collection[str]) -> int:
        """Removes everything that was said about answers over passages of these documents, decisions included.

        Args:
            sources: as the documents are called in the corpus.

        Returns:
            How many entries are gone.
        """
        with self._alone():
            entries = self.entries()
            kept = [entry for entry in entries if not entry.is_about(sources)]
            if len(kept) < len(entries):
                ids = {entry.id for entry in kept}
                decisions = [d for d in self._read(DECIDED, Decision) if d.id in ids]
                _write(self.folder / SAID, [entry.feedback.model_dump_json() for entry in kept])
                _write(self.folder / DECIDED, [decision.model_dump_json() for decision in decisions])
                self._write_accepted(kept)
        return len(entries) - len(kept)

    def _alone(self) -> Any:
        make_folder(self._lock.path.parent)
        return locked(self._lock)

    def _write_accepted(self, entries: Sequence[Entry]) -> None:
        rows = [json.dumps(question_row(e), ensure_ascii=False) for e in entries if e.state == "accepted"]
        if rows:
            _write(self.accepted_file, rows)
        else:
            self.accepted_file.unlink(missing_ok=True)

    def _read(self, file: str, kind: type[Line]) -> Iterator[Line]:
        path = self.folder / file
        try:
            lines = read_regular(path).splitlines()
        except FileNotFoundError:
            return
        except OSError as error:
            raise RaftError(f"The feedback {path} cannot be read ({error.strerror})", expected="a file") from error
        for number, line in enumerate(lines, 1):
            try:
                if line.strip():
                    yield kind.model_validate_json(line)
            except ValidationError:
                log.warning("%s, line %d cannot be read (a crash cut it short?): ignored", path, number)


SAID, DECIDED, ACCEPTED = "feedback.jsonl", "decisions.jsonl", "accepted.jsonl"


def folder_of(root: Path, name: str) -> Path:
    """Where the feedback of an adapter is kept."""
    return Path(root) / "feedback" / name


def accepted_of(root: Path, name: str) -> Path:
    """The question file of an adapter's accepted feedback, whether it is there or not."""
    return folder_of(root, name) / ACCEPTED


def feedback_logs(root: Path) -> list[FeedbackLog]:
    """The feedback of every adapter of a store."""
    folders = sorted(path for path in (Path(root) / "feedback").glob("*") if path.is_dir())
    return [FeedbackLog(root, folder.name) for folder in folders]


def feedback_about(root: Path, sources: Collection[str]) -> int:
    """How many entries of a store are about answers over passages of these documents."""
    return sum(entry.is_about(sources) for log in feedback_logs(root) for entry in log.entries())


def forget_feedback(root: Path, sources: Collection[str]) -> int:
    """Removes from all feedback of a store what concerns these documents; returns how many entries are gone."""
    return sum(log.forget(sources) for log in feedback_logs(root))


def question_row(entry: Entry) -> dict[str, Any]:
    """An accepted entry as a row of a question file."""
    said = entry.feedback
    own = entry.answer == said.answer  # the answer's quotes stand for the answer alone
    row: dict[str, Any] = {"id": entry.id, "question": said.question, "answer": entry.answer, "origin": FEEDBACK}
    if entry.refuses:
        row["answerable"] = False
    if own and said.quotes:
        row["quotes"] = list(said.quotes)
    if said.passages:
        row["context"] = "\n\n".join(passage.text for passage in said.passages)
    return row


def _named(id: str, entries: Sequence[Entry], name: str) -> Entry:
    matches = [entry for entry in entries if id and entry.id.startswith(id)]
    if len(matches) != 1:
        what = "names several entries" if matches else f"is no feedback on {name}"
        raise BadInput(f"{id!r} {what}", expected="an id, or its beginning, as `raft feedback list` shows it")
    return matches[0]


def _require_acceptable(entry: Entry, entries: Sequence[Entry]) -> None:
    if not entry.refuses and not entry.answer:
        raise BadInput(
            f"{entry.id} says that an answer is wrong and not what is right",
            do="accept it with --answer TEXT, with --refuse if the documents do not say, or reject it",
        )
    if other := next((e for e in entries if e.state == "accepted" and e.contradicts(entry)), None):
        answer = "that the documents do not say" if other.refuses else f"{other.answer[:80]!r}"
        raise BadInput(f"{entry.id} contradicts {other.id}, which is accepted: {answer}", do="reject one of the two")


def _write(path: Path, rows: Sequence[str]) -> None:
    make_folder(path.parent)
    write_whole(path, "".join(f"{row}\n" for row in rows).encode())


_WORD: Callable[[str], list[str]] = re.compile(r"\w+").findall


def _words(text: str) -> str:
    """A text as it is compared: its words and numbers alone."""
    return " ".join(_WORD(alike(text).casefold()))
