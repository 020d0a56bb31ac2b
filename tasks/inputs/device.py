"""One training at a time on a device, among all runs of all projects of this user on this machine.

Two trainings at once do not fail on a CPU, but each takes more than twice as long; on an accelerator the second one
runs out of memory. The kernel frees the lock when its holder dies.
"""

from __future__ import annotations

import hashlib
import os

from tasks.store.locks import FileLock
from tasks.store.places import lock_folder

VISIBLE = ("JAX_PLATFORMS", "CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "TPU_VISIBLE_CHIPS", "TPU_VISIBLE_DEVICES")


def one_training() -> FileLock:
    """The lock of the devices that this process sees; runs on other devices have another one."""
    devices = "\0".join(os.environ.get(name, "") for name in VISIBLE)
    return FileLock(lock_folder() / f"training-{hashlib.sha256(devices.encode()).hexdigest()[:8]}.lock")
