"""The one place where an embedder is opened: for the stage that embeds and for all that search."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tasks.runtime.folders import ModelFolder

if TYPE_CHECKING:
    from retrieval.embedding.embedder import Embedder

_open: dict[tuple[str, str, str, str], Embedder] = {}


def load_embedder(
    files: ModelFolder, *, device: str = "auto", precision: str = "auto", calibration: Path | None = None
) -> Embedder:
    """The embedder; the last one stays open, since the stages that search use the one that made the vectors.

    Args:
        calibration: file that remembers what `auto` chose on this machine.
    """
    from retrieval.embedding.embedder import Embedder

    wanted = (str(files.folder), files.digest, device)
    if (*wanted, precision) not in _open:
        made = Embedder.load(files.folder, device=device, precision=precision, calibration=calibration)
        _open.clear()
        _open[*wanted, precision] = _open[*wanted, made.info.precision] = made
    return _open[*wanted, precision]
