"""One holder at a time, whoever dies, and everybody knows who it is."""

import os
import signal
import subprocess
import sys

from tasks.store.locks import FileLock, locked

HOLD = """
import sys, time
from pathlib import Path
from tasks.store.locks import FileLock
FileLock(Path(sys.argv[1])).acquire()
print("held", flush=True)
time.sleep(60)
"""


def hold_elsewhere(path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def test_a_lock_held_by_another_process_is_refused_and_names_it(tmp_path):
    path = tmp_path / "a.lock"
    other = hold_elsewhere(path)
    try:
        lock = FileLock(path)
        assert not lock.acquire(timeout_seconds=0)
        assert lock.holder().pid == other.pid
        assert f"process {other.pid}" in str(lock.holder())
    finally:
        other.kill()
        other.wait()


def test_kill_9_of_the_holder_frees_the_lock(tmp_path):
    path = tmp_path / "a.lock"
    other = hold_elsewhere(path)
    holders = []

    def kill(holder):
        holders.append(holder)
        os.kill(holder.pid, signal.SIGKILL)

    lock = FileLock(path)
    assert lock.acquire(timeout_seconds=30, on_wait=kill)
    assert [h.pid for h in holders] == [other.pid]
    assert lock.holder().pid == os.getpid()
    lock.release()
    other.wait()


def test_two_lock_objects_of_one_process_exclude_each_other(tmp_path):
    one, two = FileLock(tmp_path / "a.lock"), FileLock(tmp_path / "a.lock")
    with locked(one):
        assert not two.acquire(timeout_seconds=0)
    assert two.acquire(timeout_seconds=0)
    two.release()


def test_a_lock_is_freed_when_its_block_fails(tmp_path):
    lock = FileLock(tmp_path / "a.lock")
    try:
        with locked(lock):
            raise RuntimeError
    except RuntimeError:
        pass
    assert lock.acquire(timeout_seconds=0)
    lock.release()
