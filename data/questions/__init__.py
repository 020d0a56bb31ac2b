"""Questions about a corpus: asked of a teacher, filtered, answered with verbatim quotes, every loss counted."""

from data.questions.generate import generate_questions
from data.questions.options import KINDS, QuestionOptions
from data.questions.results import Dropped, QuestionSet, question_set

__all__ = ["KINDS", "Dropped", "QuestionOptions", "QuestionSet", "generate_questions", "question_set"]
