"""An H100 to compile for on a machine that has none: its description for XLA, its devices, and what compiling wants.

    pip install --no-deps jax-cuda13-plugin==0.10.2 jax-cuda13-pjrt==0.10.2 'nvidia-cuda-nvcc==13.*' 'nvidia-nvvm==13.*'

Those four wheels (0.7 GB) are enough, no driver and no other library; the first two in the version of the jaxlib that
is installed. XLA's autotuning wants the device and is off, so memory and structure of a program are shown, its speed is
not. Attention is the blocked form: kernels are taken where a check on the device has found them right.
"""

from __future__ import annotations

import importlib.util
from typing import Any

ENVIRONMENT = {"JAX_PLATFORMS": "cpu", "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1"}
"""Of a process that compiles for it, before it imports jax."""

H100 = """
platform_name: "CUDA"
device_description_str: "NVIDIA H100 80GB HBM3"
dnn_version_info { major: 9 minor: 10 }
gpu_device_info {
  cuda_compute_capability { major: 9 }
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  device_memory_size: 84942979072
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  shared_memory_per_core: 233472
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  threads_per_core_limit: 2048
  threads_per_block_limit: 1024
  threads_per_warp: 32
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
}
"""
"""`stream_executor.GpuTargetConfigProto` as text; the figures are NVIDIA's of the SXM card."""


def lacking() -> str:
    """Why nothing can be compiled for it here; "" where it can."""
    names = ("jax_cuda13_plugin", "jax_plugins.xla_cuda13", "nvidia.cu13")
    missing = [name for name in names if not _installed(name)]
    return f"XLA's compiler for CUDA is not installed (no {', '.join(missing)}): see gpu_target.py" if missing else ""


def devices(count: int = 1) -> list[Any]:
    """That many of them, to be compiled for; the process has `ENVIRONMENT`."""
    from jax.experimental import topologies

    described = topologies.get_topology_desc(
        platform="cuda", topology_name="h100", target_config=H100, topology=f"1x1x{count}"
    )
    return list(described.devices)


def _installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # the package that it would be in
        return False
