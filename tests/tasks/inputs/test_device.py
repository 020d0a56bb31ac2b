"""One training at a time on a device; other devices are another matter."""

from tasks.inputs.device import one_training


def test_a_second_training_on_the_same_device_waits_and_one_on_another_does_not(tmp_path, monkeypatch):
    monkeypatch.setenv("RAFT_CACHE", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    first, second = one_training(), one_training()
    assert first.acquire(0)
    assert not second.acquire(0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    other = one_training()
    assert other.acquire(0)
    first.release()
    assert second.acquire(0)
    for lock in (second, other):
        lock.release()
