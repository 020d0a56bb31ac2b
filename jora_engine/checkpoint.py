"""Training state on disk through orbax: adapter, optimiser, step and a small JSON; the base model is never copied.

A checkpoint is written under a temporary name and renamed, so a kill leaves the one before. Knows nothing of steps'
meaning or of what is best.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from raft_errors import RaftError

log = logging.getLogger("raft.engine")


class Checkpoints:
    """The newest `keep` states below `folder`, by step number. Saving is synchronous."""

    def __init__(self, folder: Path, keep: int = 1) -> None:
        logging.getLogger("absl").setLevel(logging.ERROR)  # orbax logs every save at INFO and WARNING
        self._manager = ocp.CheckpointManager(
            folder.absolute(),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep, enable_async_checkpointing=False, cleanup_tmp_directories=True
            ),
        )

    def save(self, step: int, state: Any, notes: dict[str, Any]) -> None:
        """Saves a pytree of arrays and JSON notes as step `step`."""
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), notes=ocp.args.JsonSave(notes))
        self._manager.save(step, args=args, force=True)
        self._manager.wait_until_finished()

    def restore(self, like: Any) -> tuple[int, Any, dict[str, Any]] | None:
        """(step, state, notes) of the newest readable state, in the shapes and placement of `like`; None if none.

        A damaged newest state is passed over with a warning for the one before.
        """
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        for step in sorted(self._manager.all_steps(), reverse=True):
            args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract), notes=ocp.args.JsonRestore())
            try:
                found = self._manager.restore(step, args=args)
            except Exception as error:  # noqa: BLE001  orbax raises many kinds for a damaged folder
                log.warning("checkpoint %s cannot be read (%s): trying the one before", step, error)
                continue
            return step, found.state, dict(found.notes)
        return None

    def drop_after(self, step: int) -> None:
        """Removes states newer than `step` (damaged ones that `restore` passed over)."""
        for newer in [s for s in self._manager.all_steps() if s > step]:
            try:
                self._manager.delete(newer)
            except OSError as error:
                raise RaftError(f"checkpoint {newer} cannot be removed ({error})", do="remove it by hand") from error

    def close(self) -> None:
        self._manager.close()
