"""What the trainer says reaches whoever runs the stage."""

from tasks.work.train import in_words, show


def test_what_became_of_a_checkpoint_is_told_and_not_only_logged_in_the_scratch_folder(caplog):
    shown = []
    show(
        {"event": "warning", "what": "checkpoint 4 was set aside in /work: a.bin is not as it was saved"}, shown.append
    )
    assert "training: checkpoint 4 was set aside in /work" in caplog.text
    assert shown == []


def test_one_record_in_one_row_and_one_step_are_told_as_one():
    facts = {"records": 1, "records_too_long": 0, "rows": 1, "steps": 1, "first_loss": 2.0, "final_loss": 1.5}
    assert in_words(facts) == "1 record (0 too long) in 1 row, 1 step: loss 2.000 → 1.500"
    shown = []
    show({"event": "start", "records": 1, "steps": 1}, lambda *words: shown.append(words[-1]))
    assert shown == ["1 record, 1 step, compiling"]


DISTILLED = {
    "distil_steps": 20,
    "distil_kept": True,
    "distil_loss_before": 1.2345,
    "distil_loss_after": 1.2301,
    "distil_kl_before": 0.0312,
    "distil_kl_after": 0.0121,
}


def test_a_distillation_is_told_by_itself_as_it_runs_and_when_it_is_done():
    facts = {"records": 9, "records_too_long": 0, "rows": 4, "steps": 6, "first_loss": 2.0, "final_loss": 1.5}
    assert in_words(facts | DISTILLED).endswith(
        "loss 2.000 → 1.500; 20 steps of distillation: validation loss 1.2345 → 1.2301, divergence from the base in "
        "full 0.0312 → 0.0121, kept"
    )
    diverged = {**DISTILLED, "distil_kept": False, "distil_loss_after": None, "distil_kl_after": None}
    assert in_words(facts | diverged).endswith("; 20 steps of distillation: it diverged, dropped")
    shown, now = [], {"pass": "distillation", "steps": 20}
    for event in (
        {"event": "start"},
        {"event": "resumed", "step": 4},
        {"event": "step", "step": 5, "loss": 0.02, "tokens_per_second": 90.2, "seconds_left": 65.0},
    ):
        show(event | now, lambda *words: shown.append(words))
    assert shown == [
        (0, 20, "distillation, 20 steps, loading the base in full"),
        (4, None, "distillation, resumed at step 4"),
        (5, 20, "distillation: divergence 0.0200, 90 tokens/s, 1:05 left"),
    ]
