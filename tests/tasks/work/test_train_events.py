"""What the trainer says reaches whoever runs the stage."""

from tasks.work.train import show


def test_what_became_of_a_checkpoint_is_told_and_not_only_logged_in_the_scratch_folder(caplog):
    shown = []
    show(
        {"event": "warning", "what": "checkpoint 4 was set aside in /work: a.bin is not as it was saved"}, shown.append
    )
    assert "training: checkpoint 4 was set aside in /work" in caplog.text
    assert shown == []
