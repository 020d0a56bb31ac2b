"""What can be known to be wrong with questions before a corpus is read: the question file, and templates of one's own.

Looks and asks nobody.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from data.questions.files import A_ROW, in_words, read_rows
from data.questions.options import QuestionOptions
from data.questions.prompts import OWN_TEMPLATES, load_prompts
from raft_errors import BadInput


def require_question_file(path: Path, columns: Mapping[str, str] | None = None) -> int:
    """The number of rows with a question, of a file that can be imported.

    Raises:
        BadInput: no such file, not readable, no column for question or answer, or no row that holds a question.
    """
    rows = read_rows(path, columns=columns)
    usable = [row for row in rows if row.question and not row.fault]
    if not usable:
        faults = Counter(row.fault or "empty_question" for row in rows)
        what = ", ".join(f"{count} {in_words(reason)}" for reason, count in faults.most_common())
        raise BadInput(
            f"none of {len(rows)} rows of {path} holds a question ({what})",
            expected=A_ROW,
            do="correct the file, or name its columns: questions.columns",
        )
    return len(usable)


def require_prompts(options: QuestionOptions) -> None:
    """Sees that the templates can be used, and that each file of one's own folder takes the place of one.

    Raises:
        BadInput: a template does not parse, lacks or invents a slot; a file that replaces nothing.
    """
    if options.templates is not None and options.templates.is_dir():
        shipped = {file.relative_to(OWN_TEMPLATES).as_posix() for file in OWN_TEMPLATES.rglob("*.*") if file.is_file()}
        files = sorted(file.relative_to(options.templates).as_posix() for file in options.templates.rglob("*.jinja"))
        for name in files:
            if name not in shipped:
                near = difflib.get_close_matches(name, shipped, n=1, cutoff=0.5)
                raise BadInput(
                    f"the template {options.templates / name} takes the place of none",
                    expected="one of " + ", ".join(sorted(shipped)),
                    do=f"rename it to {near[0]}" if near else "rename it",
                )
    load_prompts(options)
