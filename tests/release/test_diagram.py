"""README's flow is drawn on the documentation site without a script of others."""

import re
import runpy
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parents[2]
diagram = runpy.run_path(str(ROOT / ".ci" / "diagram.py"), run_name="diagram")
FLOW = re.search(r"```mermaid\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]


def test_the_flow_of_the_readme_is_drawn_whole():
    labels, edges = diagram["read"](FLOW)
    picture = ElementTree.fromstring(diagram["draw"](FLOW))
    texts = [text.text for text in picture.iter("text")]
    assert set(labels.values()) | {edge.words for edge in edges if edge.words} == set(texts)
    assert {"documents", "oracle and mined distractors", "export: PEFT + merged", "report"} <= set(texts)
    assert len([p for p in picture.iter("path") if p.get("marker-end")]) == len(edges) == 12
    assert len(list(picture.iter("rect"))) == len(labels) == 11


def test_boxes_of_one_row_stand_apart_and_below_what_leads_to_them():
    labels, edges = diagram["read"]("flowchart LR\n a --> b --> d\n a --> c[another one] --> d")
    assert diagram["levels"](labels, edges) == {"a": 0, "b": 1, "d": 2, "c": 1}
    picture = ElementTree.fromstring(diagram["draw"]("flowchart LR\n a --> b --> d\n a --> c[another one] --> d"))
    boxes = sorted((float(r.get("y")), float(r.get("x")), float(r.get("width"))) for r in picture.iter("rect"))
    middle = [box for box in boxes if box[0] == boxes[1][0]]
    assert middle[0][1] + middle[0][2] < middle[1][1]


@pytest.mark.parametrize("line", ["a --> b --> a", "a --> {choice}", "subgraph x"])
def test_what_cannot_be_drawn_is_refused(line):
    with pytest.raises(ValueError, match="flowchart"):
        diagram["draw"](f"flowchart LR\n  {line}")
