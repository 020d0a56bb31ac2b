"""A wheel of this checkout, built from its sdist as `make release` does, and an environment that holds nothing else."""

import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BACKEND = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"


def _build(kind: str, source: Path, out: Path) -> Path:
    command = [sys.executable, "-P", "-c", BACKEND, f"build_{kind}", str(out)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return out / done.stdout.splitlines()[-1]


@pytest.fixture(scope="session")
def listed() -> list[str]:
    """The files of the checkout, committed or new."""
    command = ["git", "ls-files", "-coz", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("the sources are no git checkout, so what a wheel is built from is not known")
    return sorted(name for name in done.stdout.split("\0") if name and (ROOT / name).is_file())


@pytest.fixture(scope="session")
def source(listed, tmp_path_factory) -> Path:
    """A copy of the checkout's files, since building writes beside them."""
    folder = tmp_path_factory.mktemp("source")
    for name in listed:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((ROOT / name).read_bytes())
    return folder


@pytest.fixture(scope="session")
def sdist(source, tmp_path_factory) -> Path:
    return _build("sdist", source, tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="session")
def wheel(sdist, tmp_path_factory) -> Path:
    """The wheel, built from the sdist alone."""
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    return _build("wheel", next(folder.iterdir()), sdist.parent)


@pytest.fixture(scope="session")
def installed(wheel, tmp_path_factory) -> Path:
    """The folder `bin` of an environment with the wheel.

    What the wheel needs is lent by the environment that the tests run in; `make release` installs that too.
    """
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    lent = [place for place in sys.path if Path(place).name == "site-packages"]
    (site / "lent.pth").write_text("".join(f"{place}\n" for place in lent))  # their own .pth files are not read
    python = folder / "bin" / "python"
    pip = [sys.executable, "-P", "-m", "pip", "--quiet", "--disable-pip-version-check", "--python", str(python)]
    done = subprocess.run(
        [*pip, "install", "--no-deps", "--no-index", "--ignore-installed", str(wheel)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return folder / "bin"
