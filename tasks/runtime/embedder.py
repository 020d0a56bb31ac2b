"""The one place that opens an embedder: for the stage that embeds and for everything that searches."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tasks.runtime.folders import ModelFolder

if TYPE_CHECKING:
    from retrieval.embedding.embedder import Embedder

_open: dict[tuple[str, str, str, bool, str], Embedder] = {}


def load_embedder(
    files: ModelFolder,
    *,
    device: str = "auto",
    precision: str = "auto",
    calibration: Path | None = None,
    interactive: bool = False,
) -> Embedder:
    """The embedder; the last one stays open, since the stages that search use the one that embedded.

    Args:
        calibration: file that remembers the choice of `auto` on this machine.
        interactive: for the questions of somebody who waits (see `Embedder.load`).
    """
    from retrieval.embedding.embedder import Embedder

    identity = (str(files.folder), files.digest, device, interactive)
    if (*identity, precision) not in _open:
        embedder = Embedder.load(
            files.folder, device=device, precision=precision, calibration=calibration, interactive=interactive
        )
        _open.clear()
        _open[*identity, precision] = _open[*identity, embedder.info.precision] = embedder
    return _open[*identity, precision]
