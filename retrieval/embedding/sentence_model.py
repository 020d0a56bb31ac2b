"""Runs a sentence-transformers model over padded token batches on one device in one precision.

Only the transformer runs in low precision: pooling and what follows are float32, and normalisation is left to the
caller. Torch is imported only where it is needed: the import takes longer than a run that computes nothing.
"""

from __future__ import annotations

import importlib.metadata
import logging
import platform
from collections.abc import Callable
from pathlib import Path

import numpy as np

from raft_errors import BadInput
from retrieval.embedding.model_folder import ModelFolder

# transformers imports it where it is installed, and it warns of kernels that it could have besides
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

Forward = Callable[[np.ndarray, np.ndarray, int], np.ndarray]
"""`forward(ids int64 [rows, length], mask int64 [rows, length], prompt_tokens)` gives float32 [rows, dim], any norm."""


def load_forward(model: ModelFolder, *, device: str, precision: str) -> tuple[Forward, int]:
    """Loads the weights and returns the forward function and its dimension."""
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging as hf_logging

    bars = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    try:
        network = SentenceTransformer(
            str(model.path),
            device=device,
            local_files_only=True,
            model_kwargs={"dtype": getattr(torch, precision), "use_safetensors": True},
        )
    except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
        raise BadInput(
            f"Embedder folder {model.path} cannot be loaded ({error})",
            expected="a sentence-transformers model that the installed versions know",
            do="check the folder, or choose another embedder",
        ) from error
    finally:
        if bars:
            hf_logging.enable_progress_bar()
    network.eval()
    transformer, *rest = list(network)
    rest = [module.float() for module in rest if type(module).__name__ != "Normalize"]

    def forward(ids: np.ndarray, mask: np.ndarray, prompt_tokens: int) -> np.ndarray:
        with torch.inference_mode():
            features = transformer(
                {"input_ids": torch.from_numpy(ids).to(device), "attention_mask": torch.from_numpy(mask).to(device)}
            )
            features["token_embeddings"] = features["token_embeddings"].float()
            if not model.include_prompt:
                features["prompt_length"] = prompt_tokens
            for module in rest:
                features = module(features)
            return features["sentence_embedding"].float().cpu().numpy()

    probe = np.full((8, 16), model.pad_id, dtype=np.int64)
    return forward, int(forward(probe, np.ones_like(probe), 0).shape[1])


def resolve_device(device: str) -> str:
    """`auto` becomes `cuda` where torch sees one, else `cpu`; anything else must be a torch device of this machine."""
    if device == "cpu" or (device == "auto" and _torch_version().endswith("+cpu")):
        return "cpu"
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise BadInput(
            f"Device {device!r} cannot be used ({str(error).splitlines()[0]})",
            expected="auto, cpu or cuda",
            do="use auto",
        ) from error
    return device


def batch_rows(device: str) -> int:
    """Texts in every batch. Short batches are padded to it, so it is only as large as the device needs."""
    import torch

    return 256 if device.startswith("cuda") else min(128, max(16, 4 * torch.get_num_threads()))


def hardware(device: str) -> tuple[str, bool]:
    """(description that a remembered calibration is valid for, whether the device has bfloat16 units)."""
    if device.startswith("cuda"):
        import torch

        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}", torch.cuda.is_bf16_supported()
    flags = _cpu_flags()
    units = [flag for flag in ("amx_bf16", "avx512_bf16") if flag in flags]
    name = " ".join([device, platform.machine(), *units])
    return f"{name}, torch {_torch_version()}", bool(units) and device == "cpu"


def _torch_version() -> str:
    """`torch.__version__`, without the import."""
    return importlib.metadata.version("torch")


def _cpu_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return set()  # not Linux: stay with float32
    return set(next((line for line in lines if line.startswith(("flags", "Features"))), "").split())
