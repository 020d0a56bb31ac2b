"""The teacher against a real OpenAI-compatible server: `transformers serve` with SmolLM2 on loopback."""

import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from free_port import free_port
from made_up import chunk_of

from data.nouns import Hit, MemoryCache
from data.questions import QuestionOptions, generate_questions
from data.teachers import OpenAITeacher, TeacherFailure

pytestmark = pytest.mark.heavy

TEXTS = {
    "Valves": 'The "red" valve returns the hot water to the tank.',
    "Pumps": "A heat pump is a machine that moves heat into a house.",
    "Leases": "The deposit is paid back once the keys have been returned.",
    "Tenants": "A tenant who leaves early must pay one month of rent to the owner.",
    "Roads": "The mountain road was closed in March due to heavy snow on the pass.",
    "Ovens": "The baker stores fresh loaves in the cold cellar over night.",
}
CHUNKS = [chunk_of(title, text) for title, text in TEXTS.items()]


@pytest.fixture(scope="module")
def base() -> Path:
    """SmolLM2-135M-Instruct from RAFT_TEST_BASE or the model cache, or a skip that says how to supply it."""
    if named := os.environ.get("RAFT_TEST_BASE"):
        return Path(named)
    from tasks.inputs.models import on_this_machine

    found = on_this_machine("HuggingFaceTB/SmolLM2-135M-Instruct")
    if found is None:
        pytest.skip("SmolLM2 is not here: set RAFT_TEST_BASE to its folder, or fetch it (raft models --fetch)")
    return found.folder


@pytest.fixture(scope="module")
def served(base, tmp_path_factory):
    """(address, model name) of a server that runs while the tests do."""
    name = tmp_path_factory.mktemp("served") / "SmolLM2"  # the server reads an @ in a path as a revision
    name.symlink_to(base)
    port = free_port()
    command = [Path(sys.executable).with_name("transformers"), "serve", name, "--host", "127.0.0.1", "--port", port]
    process = subprocess.Popen([str(part) for part in command], env={**os.environ, "HF_HUB_OFFLINE": "1"})
    try:
        while True:
            assert process.poll() is None, "the server ended"
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).close()
                break
            except OSError:
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1", str(name)
    finally:
        process.terminate()
        process.wait(30)


def find_own(queries, k):
    own = [max(CHUNKS, key=lambda c: len(set(c.text.lower().split()) & set(q.lower().split()))) for q in queries]
    return [[Hit(c.id, 1.0, 1)] for c in own]


@pytest.mark.parametrize("style", ["small", "full"])
def test_a_real_server_is_asked_counted_and_not_asked_again(served, style):
    url, model = served
    cache = MemoryCache()

    def run():
        teacher = OpenAITeacher(model, base_url=url, concurrency=2)
        options = QuestionOptions(style=style, mend_questions=False, answer_tokens=96)
        return teacher, generate_questions(CHUNKS, teacher, find_own, options=options, cache=cache)

    teacher, made = run()
    assert made.counts["asked"] == len(made.questions) + len(made.dropped) == len(CHUNKS)
    assert "teacher_failed" not in made.counts["dropped"]
    assert teacher.usage.failures == 0
    assert made.counts["tokens"]["prompt"] == teacher.usage.prompt_tokens > 0
    assert made.counts["tokens"]["completion"] == teacher.usage.completion_tokens > 0
    if style == "small":
        assert made.questions
    again, second = run()
    assert again.usage.requests == 0
    assert (second.questions, second.counts["tokens"]) == (made.questions, made.counts["tokens"])


def test_greedy_replies_are_the_same_twice_and_a_wrong_model_is_a_failure_of_its_own(served):
    url, model = served
    prompt = [[{"role": "user", "content": "Name a colour."}]]
    said = [
        OpenAITeacher(model, base_url=url).complete(prompt, max_tokens=8, temperature=0.0, seed=0) for _ in range(2)
    ]
    assert said[0] == said[1]
    teacher = OpenAITeacher("nobody/nothing", base_url=url, attempts=2, first_wait_seconds=0.01)
    (reply,) = teacher.complete(prompt, max_tokens=8, temperature=0.0, seed=0)
    assert isinstance(reply, TeacherFailure)
