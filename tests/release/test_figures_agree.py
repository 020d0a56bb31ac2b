"""A figure that stands on two pages is the same on both."""

import re
from pathlib import Path

from raft_version import VERSION

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {page.name: page.read_text(encoding="utf-8") for page in sorted((ROOT / "docs").glob("*.md"))}


def test_what_a_page_takes_from_the_run_of_the_readme_is_in_that_run():
    taken = r"(\d+) passages a second in the README's run on two cores\s+\(([\d,]+) in ([\d.]+) s"
    quoted = [found for text in PAGES.values() for found in re.findall(taken, text)]
    assert quoted  # else this test looks for words that nobody writes any more
    for rate, passages, seconds in quoted:
        count = passages.replace(",", "")
        assert re.search(rf"^embed +built +{seconds} s +{count} chunks", README, re.MULTILINE)
        assert int(rate) == round(int(count) / float(seconds))


def test_the_table_of_last_runs_names_each_script_under_a_page_that_has_its_figures():
    """A line without a page goes on with the one above it."""
    page = ""
    table = PAGES["performance.md"].partition("| page | script |")[2].partition("\n\n")[0]
    for row in table.splitlines()[2:]:
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        page = cells[0] or page
        name = re.search(r"\((\w+\.md)\)", page)
        text = PAGES[name[1] if name else "performance.md"]
        for script in re.findall(r"\w+\.py", cells[1]):
            assert script in text, f"{script} stands under {page}"


def test_the_wheel_that_a_page_names_is_this_release_s():
    named = [found for text in (README, *PAGES.values()) for found in re.findall(r"jora_raft-(\d[\w.]*)-", text)]
    assert set(named) == {VERSION}
