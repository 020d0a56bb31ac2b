"""A key changes with everything that can change a result, and with nothing else."""

import textwrap
from pathlib import Path

import pytest

from raft_errors import BadInput
from tasks.build import keys
from tasks.build.keys import canonical, code_fingerprint, key_of, package_versions, result_fields
from tasks.build.section import Section, setting


class Example(Section):
    size: int = setting(1, "matters")
    workers: int = setting(1, "does not matter", result=False)
    file: str | None = setting(None, "counts by content", result="content")
    template: str = setting("raft", "a name, or a folder that counts by content", path="or name", result="content")


def test_equal_values_have_one_form_whatever_their_order():
    assert key_of({"a": 1, "b": [1, 2.5, None, "ü"]}) == key_of({"b": (1, 2.5, None, "ü"), "a": 1})
    assert key_of({"a": [1, 2]}) != key_of({"a": [2, 1]})
    assert key_of({"a": 1}) != key_of({"a": "1"})


@pytest.mark.parametrize("value", [{1, 2}, Path("a"), b"bytes", object(), {1: "number as key"}])
def test_what_has_no_one_form_is_an_error_and_not_a_silent_miss(value):
    with pytest.raises(TypeError):
        canonical({"field": value})


def test_only_fields_that_change_the_result_count():
    assert result_fields(Example(workers=8)) == result_fields(Example(workers=1))
    assert result_fields(Example(size=2)) != result_fields(Example(size=1))


def test_a_file_counts_by_its_bytes_and_not_by_its_name(tmp_path):
    one, two = tmp_path / "one.csv", tmp_path / "two.csv"
    one.write_text("a")
    two.write_text("a")
    assert result_fields(Example(file=str(one))) == result_fields(Example(file=str(two)))
    two.write_text("b")
    assert result_fields(Example(file=str(one))) != result_fields(Example(file=str(two)))


def test_a_file_that_is_not_there_is_bad_input(tmp_path):
    with pytest.raises(BadInput, match=r"file: the file .* cannot be read"):
        result_fields(Example(file=str(tmp_path / "none.csv")))


def test_a_name_counts_as_itself_and_a_folder_by_its_files(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.jinja").write_text("x")
    before = result_fields(Example(template=str(tmp_path / "mine")))
    assert result_fields(Example())["template"] == "raft"
    (tmp_path / "mine" / "a.jinja").write_text("y")
    assert result_fields(Example(template=str(tmp_path / "mine"))) != before


def test_an_absent_package_has_a_version_too():
    assert package_versions(["pydantic", "no-such-package-at-all"])["no-such-package-at-all"] == "absent"


# ---- code


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A package `madeup` that counts as first-party: stage -> helper -> deep, and templates beside it."""
    folder = tmp_path / "madeup"
    (folder / "sub").mkdir(parents=True)
    (folder / "templates" / "mine").mkdir(parents=True)
    (folder / "templates" / "other").mkdir(parents=True)
    files = {
        "__init__.py": "",
        "stage.py": "import json\ndef build():\n    from madeup.sub import helper\n    return helper.go()\n",
        "sub/__init__.py": "",
        "sub/helper.py": """
            from pathlib import Path
            from .. import deep
            HERE = Path(__file__).parent.parent / "templates" / "mine"
            def go(): return deep.value()
            """,
        "deep.py": "def value(): return 1\n",
        "unrelated.py": "X = 1\n",
        "templates/mine/a.jinja": "hello",
        "templates/other/b.jinja": "hello",
    }
    for name, text in files.items():
        (folder / name).write_text(textwrap.dedent(text))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(keys, "LIBRARIES", ("madeup",))
    keys._module_print.cache_clear()
    yield folder
    keys._module_print.cache_clear()


def fingerprint():
    keys._module_print.cache_clear()
    return code_fingerprint("madeup.stage")


def test_the_fingerprint_follows_imports_and_finds_templates(library):
    assert set(fingerprint()) == {
        "madeup",
        "madeup.stage",
        "madeup.sub",
        "madeup.sub.helper",
        "madeup.deep",
        "madeup/templates/mine/a.jinja",
    }


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("deep.py", "# a comment\ndef value():\n    return (1)\n"),
        ("deep.py", '"""A docstring."""\n\ndef value():\n    "Another."\n    return 1\n'),
        ("unrelated.py", "X = 2\n"),
        ("templates/other/b.jinja", "changed"),
    ],
)
def test_comments_docstrings_formatting_and_unrelated_files_change_nothing(library, file, text):
    before = fingerprint()
    (library / file).write_text(text)
    assert fingerprint() == before


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("deep.py", "def value(): return 2\n"),
        ("deep.py", "def value(x=0): return 1\n"),
        ("sub/__init__.py", "SWITCH = True\n"),
        ("templates/mine/a.jinja", "changed"),
    ],
)
def test_code_and_templates_that_can_be_reached_change_it(library, file, text):
    before = fingerprint()
    (library / file).write_text(text)
    changed = {name for name, value in fingerprint().items() if before.get(name) != value}
    assert len(changed) == 1


def test_the_real_stages_reach_the_libraries_they_use():
    prints = code_fingerprint("tasks.work.records")
    assert {
        "data.records.compose",
        "data.prompting.contract",
        "retrieval.mining",
        "retrieval.search",
        "raft_errors",
    } <= set(prints)
    assert any(name.startswith("data/prompting/templates/raft/") for name in prints)
    assert not any(name.startswith(("flows", "tasks.store", "tasks.build")) for name in prints)


def test_several_files_count_each_by_its_bytes_and_in_their_order(tmp_path):
    class Several(Section):
        files: tuple[str, ...] = setting((), "count by content", result="content")

    (tmp_path / "a").write_text("one")
    (tmp_path / "b").write_text("two")
    (tmp_path / "c").write_text("one")
    a, b, c = (str(tmp_path / name) for name in "abc")
    assert result_fields(Several(files=(a, b))) == result_fields(Several(files=(c, b)))
    assert result_fields(Several(files=(a, b))) != result_fields(Several(files=(b, a)))
    assert result_fields(Several()) == {"files": []}


def test_what_only_a_type_checker_reads_decides_nothing(library):
    before = fingerprint()
    stage = library / "stage.py"
    stage.write_text(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from madeup import unrelated\n"
        "else:\n    from madeup.sub import helper\n" + stage.read_text()
    )
    (library / "unrelated.py").write_text("import json\n")
    after = fingerprint()
    assert after.keys() == before.keys()
    assert after["madeup.stage"] != before["madeup.stage"]
    stage.write_text(stage.read_text().replace("from madeup import unrelated", "import json"))
    assert fingerprint() == after
