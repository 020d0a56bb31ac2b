"""What is left of a URL where it is shown or stored."""

import pytest

from data.text.urls import text_without_secrets, value_without_secrets, without_secrets


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://user:pw@host/docs/a.md?sig=SECRET", "https://host/docs/a.md"),
        ("https://host:8443/a.md#access_token=SECRET", "https://host:8443/a.md"),
        ("https://SECRET@host/a.md", "https://host/a.md"),
        ("https://user:p@SECRET@host/a.md", "https://host/a.md"),
        ("https://user:SEC/RET?@host/a.md", "https://host/a.md"),
        ("https://[::1]:8000/a.md?sig=SECRET", "https://[::1]:8000/a.md"),
        ("https://host/package@1.2/a.md", "https://host/package@1.2/a.md"),
        ("https://host?sig=SECRET", "https://host"),
        ("https://host/a?next=https://user:SECRET@other/b", "https://host/a"),
        ("simplecache::https://user:SECRET@host/a.md?sig=SECRET", "simplecache::https://host/a.md"),
        ("zip://in/a.md::simplecache::s3://SECRET@bucket/b.zip?x=1", "zip://in/a.md::simplecache::s3://bucket/b.zip"),
        ("https://host/a?token=a::SECRET", "https://host/a"),
        ("s3://bucket/docs/*.md", "s3://bucket/docs/*.md"),
        ("docs/what?.md", "docs/what?.md"),
        ("pydoc:topics", "pydoc:topics"),
        ("file:///mnt/team/raft", "file:///mnt/team/raft"),
    ],
)
def test_a_url_is_shown_without_user_password_query_and_fragment(url, shown):
    assert without_secrets(url) == shown
    assert "SECRET" not in without_secrets(url)
    assert without_secrets(without_secrets(url)) == shown


def test_urls_inside_the_words_of_others_are_stripped():
    words = "403, message='Forbidden', url='https://user:SECRET@host/a?sig=SECRET' (see https://host/b)"
    assert text_without_secrets(words) == "403, message='Forbidden', url='https://host/a' (see https://host/b)"


def test_every_text_of_a_configuration_is_stripped():
    values = {"share": "https://h/s?sig=SECRET", "corpus": ["https://u:SECRET@h/a", "docs"], "seed": 0, "x": None}
    assert value_without_secrets(values) == {
        "share": "https://h/s",
        "corpus": ["https://h/a", "docs"],
        "seed": 0,
        "x": None,
    }
