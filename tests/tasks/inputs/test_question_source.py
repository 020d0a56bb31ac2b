"""Where questions come from is looked at before a run: the file, the templates, the teacher's address and key."""

import sys
from pathlib import Path

import pytest
from free_port import free_port

sys.path.append(str(Path(__file__).resolve().parents[2] / "data"))
from faulty_endpoint import Endpoint, completion, refusal

from data.teachers.protocol import TeacherUnreachable
from raft_errors import BadInput
from tasks.evaluate import EvaluateConfig
from tasks.inputs.question_source import require_judge, require_questions
from tasks.questions import QuestionsConfig


@pytest.fixture
def endpoint():
    endpoint = Endpoint()
    yield endpoint
    endpoint.close()


def asking(endpoint, **settings):
    values = {"teacher": "openai", "teacher_url": endpoint.url, "teacher_model": "tiny", "teacher_attempts": 1}
    return QuestionsConfig(**{**values, **settings})


def test_a_teacher_is_called_once_with_the_settings_of_the_run(endpoint):
    require_questions(asking(endpoint, question_tokens=700, temperature=0.5), 3)
    (body,) = endpoint.bodies
    assert (body["model"], body["max_tokens"], body["temperature"], body["seed"]) == ("tiny", 700, 0.5, 3)
    require_questions(asking(endpoint), 0, call=False)
    assert len(endpoint.bodies) == 1


def test_azure_is_called_as_azure_wants_it(endpoint, monkeypatch):
    monkeypatch.setenv("AZURE_KEY", "sk-very-secret")
    url = endpoint.url.replace("/v1", "/openai/deployments/gpt")
    own = {"teacher_url": url, "teacher_api_version": "2024-10-21", "teacher_key_variable": "AZURE_KEY"}
    require_questions(asking(endpoint, **own), 0)
    assert endpoint.paths == ["/openai/deployments/gpt/chat/completions?api-version=2024-10-21"]
    assert endpoint.all_headers[0]["api-key"] == "sk-very-secret"
    require_questions(asking(endpoint, **own, teacher_key_header="x-gateway-key"), 0)
    assert endpoint.all_headers[1]["x-gateway-key"] == "sk-very-secret"


def test_a_wrong_key_address_or_file_is_told(endpoint, tmp_path, monkeypatch):
    endpoint.script = lambda _: (401, refusal("Incorrect API key provided"))
    with pytest.raises(BadInput, match="Incorrect API key provided"):
        require_questions(asking(endpoint), 0)
    endpoint.script = lambda _: (404, refusal("The model tiny does not exist"))
    with pytest.raises(BadInput, match="The model tiny does not exist"):
        require_questions(asking(endpoint), 0)
    with pytest.raises(BadInput, match="no web address"):
        require_questions(asking(endpoint, teacher_url="127.0.0.1:8000/v1"), 0, call=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(BadInput, match="OPENAI_API_KEY"):
        require_questions(asking(endpoint, teacher_url=None), 0)
    with pytest.raises(BadInput, match="no question file"):
        require_questions(QuestionsConfig(file=str(tmp_path / "own.csv")), 0)
    with pytest.raises(BadInput, match="no template folder"):
        require_questions(QuestionsConfig(templates=str(tmp_path / "own")), 0)


@pytest.mark.parametrize("fault", ["503", "disconnect", "broken"])
def test_a_teacher_that_fails_at_the_trial_alone_stops_no_run(endpoint, caplog, fault):
    """Busy, or it hangs up: the run's own prompts may fare better."""
    endpoint.always = fault
    require_questions(asking(endpoint), 0)
    assert "the run goes on" in caplog.text


def test_an_address_at_which_nobody_listens_is_told_before_the_run(endpoint):
    url = f"http://127.0.0.1:{free_port()}/v1"
    with pytest.raises(TeacherUnreachable, match="gives no answer: unreachable"):
        require_questions(asking(endpoint, teacher_url=url), 0)


def test_a_local_teacher_needs_nothing_of_all_that(endpoint):
    require_questions(QuestionsConfig(), 0)
    endpoint.script = lambda _: (200, completion(None, finish_reason="length", reasoning_content="well"))
    require_questions(asking(endpoint), 0)  # a model that thinks longer than a trial is worth can be used


def test_a_judge_is_called_before_what_it_will_judge_is_trained(endpoint, monkeypatch):
    config = EvaluateConfig(judge="openai", judge_url=endpoint.url, judge_model="wise", judge_tokens=900)
    require_judge(config, 3)
    (body,) = endpoint.bodies
    assert (body["model"], body["max_tokens"], body["seed"]) == ("wise", 900, 3)
    require_judge(config, 0, call=False)
    for needs_none in ("none", "local"):
        require_judge(EvaluateConfig(judge=needs_none, judge_url="nowhere"), 0)
    assert len(endpoint.bodies) == 1
    with pytest.raises(BadInput, match="no web address"):
        require_judge(EvaluateConfig(judge="openai", judge_url="nowhere"), 0, call=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(BadInput, match="OPENAI_API_KEY"):
        require_judge(EvaluateConfig(judge="openai"), 0)
