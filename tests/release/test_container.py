"""The Containerfile: what it copies exists, and the image works for any user on a read-only root.

No container engine is needed: Debian's buildah builds without a daemon and runs steps in a chroot. Registries need not
be reached either, as the base image is made of Debian's own packages.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from raft_version import VERSION

ROOT = Path(__file__).resolve().parents[2]
FILE = (ROOT / "Containerfile").read_text()


def test_what_is_copied_is_what_a_wheel_is_built_from(listed):
    patterns = re.findall(r"^!(\S+)$", (ROOT / ".containerignore").read_text(), re.MULTILINE)
    for pattern in patterns:
        assert list(ROOT.glob(pattern)), f"{pattern} is not there"
    code = {name.split("/")[0] for name in listed if name.endswith((".py", ".pyi"))}
    needed = code - {".ci", "tests", "benchmarks"} | {
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "MANIFEST.in",
        "constraints.txt",
    }
    assert [name for name in sorted(needed) if not any(Path(name).match(pattern) for pattern in patterns)] == []


def test_places_that_are_written_are_volumes_and_no_user_is_named():
    written = dict(re.findall(r"^ *(?:ENV )?(HOME|XDG_CACHE_HOME|RAFT_CACHE|HF_HOME)=(\S+)", FILE, re.MULTILINE))
    assert written.keys() == {"HOME", "XDG_CACHE_HOME", "RAFT_CACHE", "HF_HOME"}
    assert all(place == "/tmp" or place.startswith("/cache") for place in written.values())
    assert "VOLUME /work /cache" in FILE
    assert not re.search(r"^USER", FILE, re.MULTILINE)
    assert 'CMD ["raft", "--version"]' in FILE


@pytest.mark.heavy
def test_the_image_is_built_and_works_for_any_user_on_a_read_only_root(tmp_path):
    tools = [name for name in ("buildah", "debootstrap", "unshare") if shutil.which(name) is None]
    if tools or os.geteuid() != 0:
        pytest.skip(f"needs root and {', '.join(tools) or 'nothing else'} (apt-get install buildah debootstrap)")
    store = ["--storage-driver", "vfs", "--root", str(tmp_path / "store"), "--runroot", str(tmp_path / "run")]

    def buildah(*arguments: str | Path) -> str:
        done = subprocess.run(["buildah", *store, *arguments], capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout.strip()

    packages = "--include=python3,ca-certificates"  # Debian's Python for the libraries under it; the one in use is this
    debian = ["debootstrap", "--variant=minbase", packages, "bookworm", str(tmp_path / "debian")]
    if subprocess.run(debian, capture_output=True).returncode:
        pytest.skip("Debian's packages cannot be reached")
    container = buildah("from", "scratch")
    buildah("copy", "-q", container, tmp_path / "debian", "/")
    ours = Path(sys.base_prefix)
    buildah("copy", "-q", container, ours / "bin" / f"python3.{sys.version_info.minor}", "/usr/local/bin/python3")
    buildah("copy", "-q", container, ours / "lib", "/usr/local/lib")
    buildah("run", "--isolation", "chroot", container, "/sbin/ldconfig")
    buildah("commit", "-q", container, "base")
    options = [
        "--format",
        "docker",
        "--isolation",
        "chroot",
        "--build-arg",
        "BASE=localhost/base",
        "-t",
        "raft",
        "-f",
        "Containerfile",
    ]
    for name in ("pip.conf", "ssl/certs/ca-certificates.crt"):  # how this machine reaches the package index
        options += ["-v", f"/etc/{name}:/etc/{name}:ro"] if Path("/etc", name).exists() else []
    buildah("bud", *options, ".")
    image = Path(buildah("mount", buildah("from", "--pull-never", "localhost/raft")))
    work, cache = tmp_path / "work", tmp_path / "cache"
    for place in (work, cache):
        place.mkdir()
        os.chown(place, 12345, 12345)
    mounts = [
        f"mount --bind {image} {image}",
        f"mount --bind {work} {image}/work",
        f"mount --bind {cache} {image}/cache",
        f"mount -t tmpfs tmpfs {image}/tmp",
        f"mount -t proc proc {image}/proc",
        f"mount --bind /dev {image}/dev",
        f"mount -o remount,ro,bind {image} {image}",
    ]
    inside = (
        "cd /work; touch /opt/x 2>/dev/null && exit 3; raft --version && mkdir docs && echo words > docs/a.md && "
        "raft init --corpus docs && raft ingest --no-prefect"
    )
    script = "\n".join([*mounts, f"exec chroot --userspec=12345:12345 {image} /bin/sh -c '{inside}'"])
    variables = dict(re.findall(r"^ *(?:ENV )?([A-Z_]+)=(\S+)", FILE.split("ENV ")[1].split("RUN ")[0], re.MULTILINE))
    variables["PATH"] = "/opt/raft/bin:/usr/sbin:/usr/bin:/bin"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-ec", script], env=variables, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"raft {VERSION}\n")
    assert list(work.glob(".raft/store/ingest/*/manifest.json"))
