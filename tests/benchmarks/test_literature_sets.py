"""Torch Hub, SciFact and the Debian FAQ: their parts, how their answers are measured, and what is fitted to them."""

import collections
import dataclasses
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))  # last: it holds a `serving.py`
from literature.api_calls import called_api, calls_gold, calls_in, read_apis
from literature.composing import options_of
from literature.corpora import read, read_questions
from literature.figures import changes_of, figures_of, plain_keys
from literature.measures import measure_of, verdict
from literature.parts import parts_of, units_of
from literature.protocols import PROTOCOLS, draw, varied
from literature.searching import search_of

from data.nouns import Record

APIS = [  # as the corpus has them
    ("torchhub-0", "Video Classification", "repo_or_dir='facebookresearch/pytorchvideo', model='slow_r50', "),
    ("torchhub-2", "Object Detection", "repo_or_dir='hustvl/yolop', model='yolop', "),
    ("torchhub-59", "Classification", "repo_or_dir='pytorch/vision', model='resnet50', "),
    ("torchhub-61", "Classification", "repo_or_dir='pytorch/vision', model='wide_resnet50_2', "),
    ("torchhub-87", "Classification", "repo_or_dir='szq0214/MEAL-V2', 'meal_v2', model='mealv2_resnest50', "),
]
ROWS = [
    {"id": key, "domain": domain, "api_call": f"torch.hub.load({arguments}pretrained=True)"}
    for key, domain, arguments in APIS
]


def test_a_call_is_read_with_keywords_places_and_brackets_in_texts():
    [outer, inner] = calls_in("model = torch.hub.load(\"a/b (old)\", model=pick('x, y'), force=[1, 2]).eval")
    assert outer.name == "torch.hub.load"
    assert outer.arguments == {0: "a/b (old)", "model": "pick('x, y')", "force": [1, 2]}
    assert inner.text == "pick('x, y')"
    assert outer.text.endswith("force=[1, 2])")
    assert calls_in("torch.hub.load('a', 'b'") == []
    assert calls_in("no call here (or there), f(x y)")[0].arguments == {}, "what is no Python is no argument"
    [meal] = calls_in(ROWS[4]["api_call"])  # positional behind keyword: no Python, but in the corpus
    assert meal.arguments == {
        "repo_or_dir": "szq0214/MEAL-V2",
        0: "meal_v2",
        "model": "mealv2_resnest50",
        "pretrained": True,
    }


@pytest.mark.parametrize(
    ("answer", "place", "is_gold"),
    [
        ("torch.hub.load(repo_or_dir='pytorch/vision', model='wide_resnet50_2', pretrained=True)", 2, True),
        ("model = torch.hub.load('pytorch/vision', 'wide_resnet50_2')", 2, True),  # by place, as in the examples
        ('torch.hub.load("pytorch/vision", "resnet50", pretrained=True)', 2, False),
        ("torch.hub.load('szq0214/MEAL-V2','meal_v2', model='mealv2_resnest50', pretrained=True)", 4, False),
        ("torch.hub.load('pytorch/vision', 'resnet18')", None, False),
        ("torchvision.models.wide_resnet50_2('pytorch/vision')", None, False),
        ("Use wide_resnet50_2 of pytorch/vision.", None, False),
        ("", None, False),
        (  # Gorilla's own form; what stands under other keys does not count
            "{'domain': 'Classification', 'api_call': \"model = torch.hub.load('hustvl/yolop', 'yolop')\", "
            "'api_provider': 'PyTorch', 'code': \"torch.hub.load('pytorch/vision', 'wide_resnet50_2')\"}",
            1,
            False,
        ),
        ("torch.hub.load('hustvl/yolop', 'yolop')\ntorch.hub.load('pytorch/vision', 'wide_resnet50_2')", 2, True),
    ],
)
def test_an_answer_calls_the_first_api_whose_values_its_call_holds(answer, place, is_gold):
    apis = read_apis(ROWS)
    assert called_api(answer, apis) == place  # `resnet50` stands in `wide_resnet50_2`, as in the public script
    assert calls_gold(answer, apis[3]) == is_gold


def record(answers, **metadata):
    return Record("", "", "", {"answers": answers, **metadata})


def answered(text, refused=False, **metrics):
    return {"final_answer": text, "refused": refused, "metrics": {"f1": 0.0, **metrics}, "group": "g"}


@pytest.fixture
def hub(tmp_path):
    from data.nouns import write_jsonl

    write_jsonl(tmp_path / "corpus.jsonl", ROWS)
    return measure_of("apibench_torchhub", tmp_path / "corpus.jsonl")


def test_an_api_of_the_same_domain_matches_and_the_majority_is_told(hub):
    asked = [record([ROWS[place]["api_call"]]) for place in (3, 2, 2, 1)]
    always = [answered(ROWS[4]["api_call"]) for _ in asked]
    rows = [row | hub(one, row) for one, row in zip(asked, always, strict=True)]
    assert [row["measures"]["ast_match"] for row in rows] == [1.0, 1.0, 1.0, 0.0]
    assert not any(row["measures"]["gold_call"] for row in rows)
    figures = figures_of(rows, rows, seed=0)
    assert figures["ast_match"]["value"] == figures["ast_match_over_majority"]["majority"] == 0.75
    assert figures["ast_match_over_majority"]["value"] == 0.0
    assert figures["ast_match_over_majority"]["always"] == "Classification"
    invented = hub(asked[0], answered("torch.hub.load('nobody/none', 'x')"))
    assert invented["measures"] == {"ast_match": 0.0, "gold_call": 0.0, "hallucinated": 1.0}
    assert hub(asked[0], answered(ROWS[3]["api_call"], refused=True))["measures"]["ast_match"] == 0.0
    before = [row | hub(one, row) for one, row in zip(asked, [answered("") for _ in asked], strict=True)]
    change = changes_of(rows, before, seed=0)["ast_match"]
    assert (change["base"], change["adapter"], change["difference"]) == (0.0, 0.75, 0.75)


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("support", "support"),
        ("Contradict.", "contradict"),
        ("The abstract supports this claim", "support"),
        ("Supported, although one group contradicted it", "support"),
        ("The passages do not support it", None),
        ("One supports and one contradicts it", None),
        ("There is not enough evidence to support it", "not enough"),
        ("Yes", None),
    ],
)
def test_the_verdict_on_a_claim_is_read_in_any_form(answer, label):
    assert verdict(answer, refused=False) == label
    assert verdict(answer, refused=True) == "not enough"


def test_a_claim_without_evidence_is_right_when_refused():
    measure = measure_of("scifact", Path("unread"))
    assert measure(record([]), answered("", refused=True)) == {"measures": {"accuracy": 1.0}, "gold": "not enough"}
    assert measure(record(["support"]), answered("", refused=True))["measures"]["accuracy"] == 0.0
    assert measure(record(["support"]), answered("support"))["measures"]["accuracy"] == 1.0
    rows = [answered("", accuracy=None) | measure(record([]), answered("", refused=True))]
    assert figures_of(rows, rows, seed=0)["accuracy"]["value"] == 1.0, "the product has no accuracy for it"


def test_long_answers_are_measured_by_rouge():
    measure = measure_of("debian_faq", Path("unread"))
    assert measure(record(["x"]), answered("x", rouge_l=0.25)) == {"measures": {"rouge_l": 0.25}}
    assert measure(record([]), answered("x", rouge_l=None)) == {}
    assert measure_of("squad", Path("unread")) is None


CLAIMS = [
    ("1", "0-dimensional biomaterials lack inductive properties.", []),
    ("2", "0-dimensional biomaterials show inductive properties.", ["31715818"]),
    ("3", "1 in 5 million in UK have abnormal PrP positivity.", ["13734012"]),
    ("4", "The prion protein is found in the appendix of many people in Britain.", ["13734012", "99"]),
    ("5", "Aspirin lowers the risk of a second stroke by half.", ["99"]),
    ("6", "Zebrafish regrow their fins.", []),
]


def test_claims_that_share_an_abstract_or_their_words_are_placed_together():
    rows = [{"id": key, "question": claim, "gold_doc_ids": documents} for key, claim, documents in CLAIMS]
    for order in (rows, rows[::-1], rows[3:] + rows[:3]):
        units = units_of("scifact", order)
        assert units == {"1": "1", "2": "1", "3": "3", "4": "3", "5": "3", "6": "6"}


@pytest.mark.parametrize("name", ["apibench_torchhub", pytest.param("scifact", marks=pytest.mark.slow), "debian_faq"])
def test_no_document_is_in_two_parts(name, shared_data):
    rows = read_questions(name, shared_data / PROTOCOLS[name].folder)
    parts = parts_of(name, rows)
    assert set(parts.values()) == {"development", "test", "train"}
    sides = collections.defaultdict(set)
    for row in rows:
        for document in row["gold_doc_ids"]:
            if name != "apibench_torchhub" or parts[str(row["id"])] != "train":  # whose documents are known
                sides[document].add(parts[str(row["id"])])
    assert {len(side) for side in sides.values()} == {1}


def test_torch_hub_trains_on_the_official_side_and_the_majority_is_as_good_as_the_published_figure(shared_data):
    folder = shared_data / "apibench_torchhub"
    rows = read_questions("apibench_torchhub", folder)
    parts = parts_of("apibench_torchhub", rows)
    assert all((parts[row["id"]] == "train") == (row["split"] == "train") for row in rows)
    corpus = read(folder / "corpus.jsonl")
    domains = {row["id"]: row["domain"] for row in corpus}
    asked = [row for row in rows if row["split"] == "eval"]
    assert len(asked) == 186
    assert sum(domains[row["gold_doc_ids"][0]] == "Classification" for row in asked) == 158  # 84.95 %
    apis = read_apis(corpus)
    for api, row in zip(apis, corpus, strict=True):
        place = called_api(row["api_call"], apis)
        assert apis[place].domain == row["domain"]
        assert calls_gold(row["api_call"], api)


@pytest.mark.slow
def test_claims_have_verdicts_quotes_and_what_nothing_says_is_refused(shared_data):
    rows = read_questions("scifact", shared_data / "scifact")
    assert collections.Counter(tuple(row["answers"]) for row in rows) == {
        ("support",): 456,
        ("contradict",): 237,
        (): 416,
    }
    assert all(row["answerable"] == bool(row["answers"]) == bool(row["quotes"]) for row in rows)


def test_questions_of_other_parts_that_name_no_document_are_placed_too():
    rows = [{"id": str(n), "gold_doc_ids": [] if n % 2 else [str(n)]} for n in range(12)]
    parts = {str(n): ("train", "development", "test")[n // 4] for n in range(12)}
    drawn = draw(PROTOCOLS["scifact"], rows, parts, "development")
    assert {row["id"] for row in drawn["unplaced"]} == {"9", "11"}
    assert {row["id"] for row in drawn["test"]} == {"4", "5", "6", "7"}


def test_models_are_asked_in_the_protocols_words_and_the_search_in_the_questions_own():
    protocol = PROTOCOLS["scifact"]
    asked = []

    class Retriever:
        def search(self, queries, k):
            asked.extend(queries)
            return [[] for _ in queries]

    search_of(protocol, Retriever())([protocol.wording.replace("{}", "Fins regrow.")], 3)
    search_of(PROTOCOLS["squad"], Retriever())(["Who built it?"], 3)
    assert asked == ["Fins regrow.", "Who built it?"]


def test_every_set_prints_the_same_keys():
    figures = {"recall@1": {"value": 0.5}, "refusal_recall": {"value": 0.25}, "f1": {"value": 1.0}}
    assert plain_keys(figures, {"coverage": 0.0, "citation_error": None, "why": "too few"}) == {
        **{"recall@1": 0.5, "oracle_shown": None, "citation_precision": None, "coverage": 0.0},
        **{"citation_error": None, "refusal_recall": 0.25, "refusal_precision": None},
    }


@pytest.mark.parametrize(("changes", "words"), [(["adapt=index"], "none of embedder"), (["adapt=reranker"], "without")])
def test_what_cannot_be_fitted_is_refused(changes, words):
    with pytest.raises(SystemExit, match=words):
        varied(PROTOCOLS["squad"], changes)
    fitted = varied(PROTOCOLS["squad"], ["rerank=true", "adapt=embedder,reranker"])
    assert fitted.digest_for("squad", "raft") != PROTOCOLS["squad"].digest_for("squad", "raft")
    assert dataclasses.replace(fitted, rerank=False, adapt="") == PROTOCOLS["squad"]


def test_more_oracles_than_passages_leave_no_room_for_distractors():
    protocol = dataclasses.replace(PROTOCOLS["squad"], passages=2, p_oracle=0.5)
    one, three = (SimpleNamespace(gold_chunk_ids=("a", "b", "c")[:count]) for count in (1, 3))
    assert options_of(protocol, [one]).distractors == 1
    assert (options_of(protocol, [three]).distractors, options_of(protocol, [three]).min_distractors) == (0, 0)
    fixed = dataclasses.replace(protocol, distractors=3, min_distractors=None)
    assert (options_of(fixed, [three]).distractors, options_of(fixed, [three]).min_distractors) == (3, None)
