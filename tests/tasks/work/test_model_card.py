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
    "retrieval": {"recall@5": 0.57, "any_hit@5": 0.9},
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
    assert "distillation" not in text


def test_a_distillation_is_told():
    figures = {"distil_steps": 2, "distil_kept": True, "distil_loss_before": 1.5, "distil_loss_after": 1.4}
    text = card(figures=figures | {"distil_kl_before": 0.03, "distil_kl_after": 0.01})
    assert "| afterwards | 2 steps of distillation: validation loss 1.5000 → 1.4000" in text


def test_the_card_gives_the_gates_verdict_tells_two_measures_apart_and_says_that_a_training_was_cut_short():
    decision = {"verdict": "hold", "reason": "loss on general instructions +0.700", "checks": []}
    figures = {"records": 120, "records_too_long": 0, "records_seen": 12}
    figures |= {"steps": 4, "steps_taken": 4, "steps_of_all_epochs": 54}
    text = card(evaluation={**EVALUATION, "decision": decision}, figures=figures)
    assert "by the rule of the promotion gate: **hold**. loss on general instructions +0.700" in text
    assert "first five for 90% of the test questions\n(any-hit); 57% of all right passages were (recall)" in text
    assert "| cut short | only 12 of 120 records were seen, in 4 of 54 steps (train.max_steps) |" in text


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


def test_each_server_s_flags_are_told():
    text = card()
    for words in (
        "vllm serve owner/base --enable-lora --max-lora-rank 16 --lora-modules law=",
        "sglang.launch_server --model-path owner/base --enable-lora --max-lora-rank 8 --lora-paths law=",
        "lorax-launcher --model-id owner/base",
        '"adapter_source": "local"',
        "LORA_ADAPTERS=law=",
        "llama-server -m base.gguf --lora adapter.gguf",
    ):
        assert words in text
    assert "chat_template.jinja" not in text


def test_a_rank_that_a_server_does_not_take_is_told_instead_of_its_flags():
    text = card(training={"rank": 200})
    assert "--max-lora-rank 256" in text  # vLLM's next one
    assert "lorax-launcher" not in text
    assert "text-generation-launcher" not in text
    assert text.count("serve the merged model") == 2
    text = card(training={"rank": 600})
    assert "vllm serve" not in text
    assert "--max-lora-rank 600" in text  # SGLang's
    assert "max-lora-rank" not in card(training={})


def test_servers_are_given_the_template_of_the_training_where_the_base_s_own_asks_otherwise():
    dated = {**CONTRACT, "prompt": {**CONTRACT["prompt"], "template_date": "26 July 2024"}}
    text = card(contract=dated)
    assert text.count("--chat-template merged/chat_template.jinja") == 2
    assert "--chat-template-file merged/chat_template.jinja" in text


def test_licences_stand_in_the_header_and_in_a_section_of_their_own():
    text = card(licence="Apache-2.0", licences=["Base model: Apache-2.0", "Documents: CC-BY-4.0 (3)"])
    assert ModelCard(text, ignore_metadata_errors=False).data.license == "apache-2.0"
    assert "## Licences\n\n- Base model: Apache-2.0\n- Documents: CC-BY-4.0 (3)\n" in text
    assert "license:" not in card()
    assert "## Licences" not in card()
