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
