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
EXTRAS = ("tensorboardX", "mlflow", "wandb", "xllamacpp")
ABSENT = ("torch", "transformers", "peft", "prefect", "faiss", "datasets", "pydantic", "sentence_transformers", *EXTRAS)
EVERY_MODULE = f"""
import importlib, importlib.abc, json, pkgutil, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {ABSENT!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
import jora_engine
names = [module.name for module in pkgutil.walk_packages(jora_engine.__path__, "jora_engine.")]
for name in names:
    importlib.import_module(name)
print(json.dumps(names))
"""


def run(program):
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_importing_the_engine_pulls_in_nothing_foreign():
    loaded = set(run(PROGRAM))
    assert not loaded & {*FOREIGN, *EXTRAS}
    assert "jax" in loaded


def test_every_module_imports_where_there_is_no_prefect_faiss_or_datasets():
    names = run(EVERY_MODULE)
    assert len(names) > 50
    assert "jora_engine.training.job" in names
