"""A second machine (a second folder) takes from the share what the first one built."""

import pytest

pytestmark = pytest.mark.slow

STAGES = ["ingest", "chunk", "embed", "index", "questions", "records"]


@pytest.fixture
def two(tmp_path, new_project):
    """Two projects with stores of their own and one share."""
    projects = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        project = new_project(tmp_path / name)
        project.values["share"] = f"file://{tmp_path}/team"
        project.write()
        projects.append(project)
    return projects


def test_a_second_folder_fetches_every_stage_and_builds_none(two):
    one, two = two
    built = one.json("records", "--no-prefect")
    assert built["ran"] == STAGES
    rows = {row["stage"]: row for row in two.json("plan")["stages"]}
    assert [rows[stage]["state"] for stage in STAGES] == ["fetch"] * len(STAGES)
    done = two.raft("records", "--no-prefect")
    assert all(f"{stage}: fetched from file://" in done.stderr for stage in STAGES)
    fetched = two.json("records")
    assert fetched["ran"] == []
    there, here = ({row["stage"]: row["key"] for row in rows["stages"]} for rows in (built, fetched))
    assert here == there
    files = [sorted(p.relative_to(o.folder) for p in o.folder.glob(".raft/store/**/*")) for o in (one, two)]
    assert files[0] == files[1]
    for name in files[0]:
        if (one.folder / name).is_file():
            assert (one.folder / name).read_bytes() == (two.folder / name).read_bytes()


def test_a_share_with_a_password_in_its_url_is_bad_input(project):
    project.values["share"] = "s3://user:hush@bucket/raft"
    project.write()
    done = project.raft("plan", check=False)
    assert done.returncode == 2
    assert "hush" not in done.stdout + done.stderr
