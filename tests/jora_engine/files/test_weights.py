"""A checkpoint becomes the parameter tree exactly, and a wrong one is refused with its tensor and file named."""

import json
import subprocess
import sys

import jax
import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from jora_engine.files.tensor_files import TensorSpec, write_model, write_tensors
from jora_engine.files.weights import hf_tensors, load_params, model_digest, read_model_config
from jora_engine.model.parameters import leaf_of, param_shapes
from raft_errors import BadInput


def as_hf(params, config):
    """The tree under Hugging Face names, as numpy."""
    out = {}
    for name, (parameter, layer) in hf_tensors(config).items():
        value = leaf_of(params, parameter)
        out[name] = np.asarray(value if layer is None else value[layer])
    return out


@pytest.mark.slow
def test_every_tensor_of_every_family_lands_in_its_leaf(any_model):
    config = read_model_config(any_model)
    params = load_params(any_model, config, "float32")
    state = AutoModelForCausalLM.from_pretrained(any_model).state_dict()
    ours = as_hf(params, config)
    assert set(ours) == set(state) - ({"lm_head.weight"} if config.tie_embeddings else set())
    for name, value in ours.items():
        np.testing.assert_array_equal(value, state[name].numpy(), err_msg=name)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), params) == jax.tree.map(
        lambda x: (x.shape, x.dtype), param_shapes(config, "float32")
    )


@pytest.mark.slow
def test_casting_to_bfloat16_rounds_as_numpy_does(model_folder):
    folder = model_folder("llama")
    config = read_model_config(folder)
    full, half = (as_hf(load_params(folder, config, d), config) for d in ("float32", "bfloat16"))
    for name, value in half.items():
        assert value.dtype == ml_dtypes.bfloat16
        np.testing.assert_array_equal(value, full[name].astype(ml_dtypes.bfloat16))


@pytest.mark.slow
def test_sharded_checkpoints_read_the_same_and_have_their_own_digest(model_folder, tmp_path):
    folder = model_folder("qwen3")
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.save_pretrained(tmp_path, max_shard_size="30KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    config = read_model_config(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, load_params(tmp_path, config), load_params(folder, config))
    assert model_digest(tmp_path) != model_digest(folder)
    assert model_digest(folder) == model_digest(folder)


SHARDED = """
import sys, numpy as np, jax
from pathlib import Path
from jax.sharding import NamedSharding, PartitionSpec as P
from jora_engine.files import weights
from jora_engine.files import tensor_files
from jora_engine.model.parameters import param_shapes
folder = Path(sys.argv[1]); config = weights.read_model_config(folder)
whole = weights.load_params(folder, config, "float32")
mesh = jax.make_mesh((2, 2), ("fsdp", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
def rule(x):
    spec = P(None, "tensor", "fsdp") if x.ndim == 3 else P("tensor") if x.shape == (96, 32) else P()
    return NamedSharding(mesh, spec)
read, sizes = tensor_files.TensorFolder.read, []
def spy(self, name, index=None):
    out = read(self, name, index); sizes.append((name, out.size)); return out
tensor_files.TensorFolder.read = spy
parts = weights.load_params(folder, config, "float32", jax.tree.map(rule, param_shapes(config)))
jax.tree.map(np.testing.assert_array_equal, whole, parts)
largest = max(size for name, size in sizes if name.endswith("up_proj.weight"))
assert largest == 56 * 32 // 4, largest
assert parts["layers"]["up"].addressable_shards[0].data.shape == (3, 28, 16)
print("equal")
"""


@pytest.mark.slow
def test_each_device_reads_only_its_own_slice(model_folder):
    done = subprocess.run(
        [sys.executable, "-c", SHARDED, str(model_folder("llama"))],
        capture_output=True,
        text=True,
        env={"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu", "PATH": ""},
    )
    assert done.stdout.strip() == "equal", done.stderr


def damaged(folder, tmp_path, change):
    """A copy of a model folder whose tensors went through `change`."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    return tmp_path


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda t: t.pop("model.layers.1.mlp.up_proj.weight"), "model.layers.1.mlp.up_proj.weight is missing"),
        (lambda t: t.update(extra=torch.zeros(2)), "extra is not part"),
        (lambda t: t.update({"model.norm.weight": torch.zeros(5)}), r"model.norm.weight has shape \[5\]"),
        (lambda t: t["model.layers.2.self_attn.q_proj.weight"].__setitem__((0, 0), float("nan")), "q_proj.*NaN"),
        (lambda t: t["model.embed_tokens.weight"].__setitem__((3, 0), float("inf")), "embed_tokens.*NaN or infinite"),
        (lambda t: t.update({"model.norm.weight": torch.ones(32, dtype=torch.int8)}), "stored as I8"),
    ],
)
def test_a_wrong_tensor_is_named_with_its_file(change, named, model_folder, tmp_path):
    folder = damaged(model_folder("llama"), tmp_path, change)
    with pytest.raises(BadInput, match=named):
        load_params(folder, read_model_config(folder))


def test_a_truncated_file_is_named(model_folder, tmp_path):
    folder = damaged(model_folder("llama"), tmp_path, lambda t: None)
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-100])
    with pytest.raises(BadInput, match=r"model\.safetensors cannot be read"):
        load_params(folder, read_model_config(folder))


def test_a_missing_shard_and_missing_weights_are_named(model_folder, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(model_folder("llama"))
    model.save_pretrained(tmp_path, max_shard_size="30KB")
    config = read_model_config(tmp_path)
    (tmp_path / "model-00002-of-00004.safetensors").unlink(missing_ok=True)
    shard = sorted(set(json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"].values()))[1]
    (tmp_path / shard).unlink(missing_ok=True)
    with pytest.raises(BadInput, match=shard):
        load_params(tmp_path, config)
    with pytest.raises(BadInput, match="its weights are missing"):
        load_params(tmp_path / "nowhere", config)


@pytest.mark.slow
def test_a_tied_head_must_equal_the_embedding(model_folder, tmp_path):
    def equal_head(t):
        t["lm_head.weight"] = t["model.embed_tokens.weight"].clone()

    folder = damaged(model_folder("smollm2"), tmp_path, equal_head)
    config = read_model_config(folder)
    assert "head" not in load_params(folder, config)

    def other_head(t):
        t["lm_head.weight"] = t["model.embed_tokens.weight"] + 1

    damaged(model_folder("smollm2"), tmp_path, other_head)
    with pytest.raises(BadInput, match=r"lm_head.weight differs"):
        load_params(folder, config)


def test_the_writer_gives_the_same_bytes_and_what_safetensors_reads(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {f"t{i}": rng.normal(size=(i + 1, 3)).astype(ml_dtypes.bfloat16) for i in range(5)}
    specs = [TensorSpec(n, a.shape, a.dtype) for n, a in arrays.items()]
    write_tensors(tmp_path / "a", specs, arrays.__getitem__)
    write_tensors(tmp_path / "b", specs, arrays.__getitem__)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    for name, value in load_file(tmp_path / "a").items():
        np.testing.assert_array_equal(value.float().numpy(), arrays[name].astype(np.float32))
    files = write_model(tmp_path, specs, arrays.__getitem__, max_shard_bytes=40)
    assert [f.name for f in files][-1] == "model.safetensors.index.json"
    assert all(f.stat().st_size < 700 for f in files[:-1])
    assert not list(tmp_path.glob(".*"))
