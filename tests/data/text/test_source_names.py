"""A person may call a source as any list or table of ours does."""

import pytest

from data.text.source_names import names_of


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("guides/leave.md", ("guides/leave.md",)),
        ("it.csv#7", ("it.csv#7", "it.csv")),
        ("mail/box.mbox#2", ("mail/box.mbox#2", "mail/box.mbox")),
        ("old.zip/a/it.csv#7", ("old.zip/a/it.csv#7", "old.zip/a/it.csv", "old.zip")),
        ("v1.2/a.md", ("v1.2/a.md",)),
        ("pydoc:topics#assert", ("pydoc:topics#assert",)),
        ("a\nb.md", ("a\nb.md", "a\\nb.md")),
    ],
)
def test_it_is_called_by_its_own_name_its_files_name_and_as_it_is_shown(source, names):
    assert names_of(source) == names
