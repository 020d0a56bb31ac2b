"""The engine stands on JAX and files alone: nothing heavier is loaded with it, and nothing that its extras need."""

import json
import subprocess
import sys

PROGRAM = """
import json, sys
import jora_engine.adapters.merged_model, jora_engine.generation.generator, jora_engine.training.plan_job
print(json.dumps(sorted(sys.modules)))
"""
FOREIGN = ("torch", "transformers", "peft", "prefect", "faiss", "datasets", "pydantic", "flax.nnx", "matplotlib")
EXTRAS = ("tensorboardX", "mlflow", "wandb")


def test_importing_the_engine_pulls_in_nothing_foreign():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout))
    assert not loaded & {*FOREIGN, *EXTRAS}
    assert "jax" in loaded
