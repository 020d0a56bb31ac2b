"""The model card is one that the Hub can read, tells the results where there are any, and names no local folder."""

from huggingface_hub import ModelCard

from tasks.work.model_card import model_card

CONTRACT = {
    "base_model": "owner/base",
    "base_digest": "b" * 64,
    "base_source": "hub",
    "prompt": {"template": "raft", "passages": 3, "may_refuse": True, "sources": {"input.jinja": "{{ passages }}"}},
    "retrieval": {"embedder": {"name": "owner/embedder"}, "chunking": {"max_tokens": 64}},
    "lineage": {"ingest": "1" * 64, "train": "2" * 64},
}
SCORE = {"f1": {"value": 0.61}, "exact_match": {"value": None}}
EVALUATION = {
    "summary": {
        "headline": {
            "base": 0.25,
            "other": 0.61,
            "difference": 0.36,
            "low": 0.3,
            "high": 0.42,
            "level": 0.95,
            "n": 80,
            "verdict": "better",
        },
        "headline_metric": "f1",
        "headline_setting": "retrieved",
        "settings": {
            "retrieved": {"conditions": {"base": {"metrics": {"f1": {"value": 0.25}}}, "adapter": {"metrics": SCORE}}}
        },
    },
    "retrieval": {"recall@5": 0.9},
}


def card(**changes):
    given = {"name": "law", "training": {"rank": 8}, "figures": {"records": 100, "final_loss": 1.25}, **changes}
    return model_card(given.pop("contract", CONTRACT), **given)


def test_the_hub_reads_the_header_and_the_results():
    data = ModelCard(card(evaluation=EVALUATION, evaluated="3" * 64), ignore_metadata_errors=False).data
    assert (data.base_model, data.library_name, data.pipeline_tag) == ("owner/base", "peft", "text-generation")
    assert [(r.metric_type, r.metric_value) for r in data.eval_results] == [("f1", 0.61)]


def test_results_lineage_and_contract_are_told():
    text = card(evaluation=EVALUATION, evaluated="3" * 64)
    for words in (
        "0.250 (base) against 0.610 (adapter)",
        "[+0.300, +0.420]: better",
        "3" * 64,
        "2" * 64,
        "{{ passages }}",
    ):
        assert words in text
    assert "| training records | 100 |" in text


def test_quotes_are_promised_only_where_the_template_asks_for_them():
    assert "quotes the words" in card()
    prompt = {**CONTRACT["prompt"], "citation": "unquoted"}
    assert "quotes the words" not in card(contract={**CONTRACT, "prompt": prompt})


def test_without_an_evaluation_it_says_so():
    text = card()
    assert "Not measured yet" in text
    assert ModelCard(text).data.eval_results is None


def test_a_local_base_is_no_link_on_the_hub():
    assert ModelCard(card(contract={**CONTRACT, "base_model": "/models/base"})).data.base_model is None


def test_what_the_chat_template_was_told_is_told():
    told = {"variables": {"enable_thinking": False}, "prefill": "", "before": "x", "after": "y"}
    text = card(contract={**CONTRACT, "prompt": {**CONTRACT["prompt"], "chat_template": told}})
    assert '{"variables": {"enable_thinking": false}}' in text
    assert "chat_template_kwargs" in text
    assert "chat_template_kwargs" not in card()


def test_licences_stand_in_the_header_and_in_a_section_of_their_own():
    text = card(licence="Apache-2.0", licences=["Base model: Apache-2.0", "Documents: CC-BY-4.0 (3)"])
    assert ModelCard(text, ignore_metadata_errors=False).data.license == "apache-2.0"
    assert "## Licences\n\n- Base model: Apache-2.0\n- Documents: CC-BY-4.0 (3)\n" in text
    assert "license:" not in card()
    assert "## Licences" not in card()
