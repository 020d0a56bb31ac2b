"""An endpoint's address is taken as people paste it, and the key goes into the header that the endpoint reads."""

import pytest
from faulty_endpoint import Endpoint, completion

from data.teachers import OpenAITeacher
from data.teachers.address import address_of
from raft_errors import BadInput


@pytest.fixture
def endpoint():
    endpoint = Endpoint()
    endpoint.script = lambda _: (200, completion("yes"))
    yield endpoint
    endpoint.close()


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("TEACHER_KEY", "sk-very-secret")


def ask(endpoint, path, **settings):
    root = endpoint.url.removesuffix("/v1")
    teacher = OpenAITeacher("tiny", base_url=root + path, key_variable="TEACHER_KEY", attempts=1, **settings)
    prompt = [[{"role": "user", "content": "a"}]]
    assert teacher.complete(prompt, max_tokens=8, temperature=0.0, seed=0) == ["yes"]
    return endpoint.paths[-1], endpoint.all_headers[-1]


@pytest.mark.parametrize("path", ["/v1", "/v1/", "/v1/chat/completions", "/v1/chat/completions/"])
def test_a_plain_endpoint_gets_a_bearers_token(endpoint, path):
    asked, headers = ask(endpoint, path)
    assert asked == "/v1/chat/completions"
    assert headers["authorization"] == "Bearer sk-very-secret"
    assert "api-key" not in headers


@pytest.mark.parametrize(
    ("path", "settings"),
    [
        ("/openai/deployments/gpt/chat/completions?api-version=2024-10-21", {}),
        ("/openai/deployments/gpt?api-version=2024-10-21", {}),
        ("/openai/deployments/gpt", {"api_version": "2024-10-21"}),
        ("/openai/deployments/gpt/", {"api_version": "2024-10-21"}),
        ("/openai/deployments/gpt?api-version=2020-01-01", {"api_version": "2024-10-21"}),
    ],
)
def test_an_azure_deployment_gets_its_version_and_its_key_in_its_own_header(endpoint, path, settings):
    asked, headers = ask(endpoint, path, **settings)
    assert asked == "/openai/deployments/gpt/chat/completions?api-version=2024-10-21"
    assert headers["api-key"] == "sk-very-secret"
    assert "authorization" not in headers


def test_the_header_can_be_named_and_a_query_is_kept(endpoint):
    asked, headers = ask(endpoint, "/v1?tenant=a%20b", key_header="Ocp-Apim-Subscription-Key")
    assert asked in ("/v1/chat/completions?tenant=a%20b", "/v1/chat/completions?tenant=a+b")
    assert headers["ocp-apim-subscription-key"] == "sk-very-secret"
    assert "authorization" not in headers
    _, headers = ask(endpoint, "/openai?api-version=1", key_header="Authorization")
    assert headers["authorization"] == "Bearer sk-very-secret"


def test_a_bare_azure_resource_is_asked_for_the_deployment_of_the_models_name():
    for path in ("", "/", "/openai"):
        address = address_of(f"https://acme.openai.azure.com{path}", model="gpt 4", api_version="1")
        assert address.base == "https://acme.openai.azure.com/openai/deployments/gpt%204"
    address = address_of("https://acme.openai.azure.com/openai/v1/", model="gpt")  # the newer form has no version
    assert (address.base, address.key_header) == ("https://acme.openai.azure.com/openai/v1", "authorization")


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:8000/v1",
        "localhost",
        "ftp://h/v1",
        "http://",
        "file:///v1",
        "http://[::1/v1",
        "http://h:99999/v1",
        "http://h:port/v1",
    ],
)
def test_what_is_no_web_address_is_said_to_be_none(url):
    with pytest.raises(BadInput, match="no web address"):
        OpenAITeacher("tiny", base_url=url)


def test_the_key_does_not_follow_a_redirect_in_a_header_of_its_own(endpoint):
    other = Endpoint()
    endpoint.act = lambda handler, fault, text: endpoint.send(handler, 307, b"", {"location": f"{other.url}/x"})
    teacher = OpenAITeacher("tiny", base_url=endpoint.url, api_version="1", key_variable="TEACHER_KEY", attempts=1)
    with pytest.raises(BadInput, match="307"):
        teacher.complete([[{"role": "user", "content": "a"}]], max_tokens=8, temperature=0.0, seed=0)
    assert other.paths == []
    other.close()
