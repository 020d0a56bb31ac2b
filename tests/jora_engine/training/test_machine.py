"""A machine's description tells what decides rounding, and does not start JAX for it unless asked."""

import json
import subprocess
import sys

import jax

from jora_engine.training.machine import describe, differences, keep_programs


def test_a_description_is_json_and_starts_no_jax_unless_devices_are_asked_for():
    program = (
        "import json, sys\nfrom jora_engine.training.machine import describe\n"
        "facts = describe()\nassert 'jax' not in sys.modules\nprint(json.dumps([facts, describe(devices=True)]))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    plain, whole = json.loads(done.stdout)
    assert plain == describe()
    assert plain.items() <= whole.items()
    assert whole["backend"] == "cpu"
    assert whole["devices"] >= 1
    assert plain["packages"]["jax"] != "absent"


def test_another_processor_another_version_and_another_device_are_named():
    before = {"cpu_features": ["amx_bf16", "avx2"], "packages": {"jax": "1", "numpy": "2"}, "backend": "cpu", "old": 1}
    now = {"cpu_features": ["avx2", "avx512_bf16"], "packages": {"jax": "3", "numpy": "2"}, "backend": "gpu", "new": 1}
    assert differences(before, now) == [
        "cpu_features without amx_bf16",
        "cpu_features with avx512_bf16",
        "packages jax 3 instead of 1",
        "backend gpu instead of cpu",
    ]
    assert differences(before, before) == []


def test_compiled_programs_go_to_the_users_folder_unless_the_environment_names_another(tmp_path, monkeypatch):
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    try:
        for name in names:
            monkeypatch.setenv(name.upper(), str(before[name]))
        keep_programs(tmp_path)
        assert {name: getattr(jax.config, name) for name in names} == before
        for name in names:
            monkeypatch.delenv(name.upper())
        keep_programs(None)
        assert {name: getattr(jax.config, name) for name in names} == before
        keep_programs(tmp_path)
        assert jax.config.jax_compilation_cache_dir == str(tmp_path)
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
