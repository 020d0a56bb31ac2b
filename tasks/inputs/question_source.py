"""Looks before a run at where its questions will come from (the file, the templates, and the teacher by one call), and
at who will judge its answers."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.work.questions import ACCEPTED, options_of, teacher_of

if TYPE_CHECKING:
    from data.teachers.protocol import Teacher
    from tasks.evaluate import EvaluateConfig
    from tasks.questions import QuestionsConfig

log = logging.getLogger("raft.tasks")


def require_questions(config: QuestionsConfig, seed: int, *, call: bool = True) -> None:
    """Sees that questions can be imported or asked for.

    Args:
        call: whether an endpoint is called, with one short prompt; leave it out where no reply will be needed.

    Raises:
        BadInput: the file, a template, the endpoint's address, key, model or settings cannot be used.
        BudgetReached: the account has no credit, or the budget does not pay for one call.
        TeacherUnreachable: nobody listens at the endpoint's address.
    """
    from data.questions.readiness import require_prompts, require_question_file

    if config.feedback not in (None, ACCEPTED):
        require_question_file(Path(config.feedback))
    if config.file is not None:
        require_question_file(Path(config.file), config.columns)
        return
    options = options_of(config, seed)
    require_prompts(options)
    if config.teacher == "openai":
        teacher = teacher_of(config, None)
        if call:
            _try_out(teacher, options.question_tokens or 96, config.temperature, seed)


def require_judge(config: EvaluateConfig, seed: int, *, call: bool = True) -> None:
    """Sees that the judge of the answers can be asked, where it is an endpoint: its turn comes after the training.

    Args and errors are those of `require_questions`.
    """
    if config.judge == "openai":
        from tasks.work.evaluate import judge_of

        judge = judge_of(config, None)
        if call:
            _try_out(judge, config.judge_tokens, 0.0, seed)


def _try_out(teacher: Teacher, tokens: int, temperature: float, seed: int) -> None:
    from data.teachers.endpoint import OpenAITeacher
    from data.teachers.protocol import TeacherUnavailable, TeacherUnreachable

    assert isinstance(teacher, OpenAITeacher)
    try:
        teacher.try_out(max_tokens=tokens, temperature=temperature, seed=seed)
    except TeacherUnreachable:
        raise
    except TeacherUnavailable as error:  # busy, or at a loss with this one prompt: the run's own may fare better
        log.warning("%s; the run goes on, and asks it once more when its turn comes", error.what)
