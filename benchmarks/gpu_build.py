"""Building the package for the GPU that is here, with CUDA, where that has not been done from these sources."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

from gpu_jobs import end

ROOT = Path(__file__).resolve().parent.parent


def digest_of_build(architecture: str) -> str:
    """SHA-256 of all that the compiled module is made from and made for: the sources, the GPU, torch, CUDA."""
    import torch

    made_for = (architecture, torch.__version__, torch.version.cuda, os.environ.get("CMAKE_ARGS", ""))
    return hashlib.sha256(repr((made_for, digest_of_sources())).encode()).hexdigest()


def digest_of_sources() -> str:
    """SHA-256 of all that the compiled module is made from."""
    found = hashlib.sha256()
    for path in [ROOT / "CMakeLists.txt", ROOT / "setup.py", *sorted((ROOT / "csrc").rglob("*"))]:
        if path.is_file():
            found.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    return found.hexdigest()


def digest_file() -> Path:
    return ROOT / "build" / f"gpu-sources-{sys.implementation.cache_tag}.sha256"


def built(architecture: str) -> bool:
    """Return True if this tree's package can be imported with CUDA and was built by `install` for this GPU, torch and CUDA
    from these sources."""
    probe = "from worldfast import _native, kernels; print(_native.core.__file__ if _native.core.cuda else '')"
    command = [sys.executable, "-c", probe]
    found = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False, timeout=60)
    module = Path(found.stdout.strip())
    if found.returncode or not module.is_relative_to(ROOT) or not digest_file().exists():
        return False
    return digest_file().read_text() == digest_of_build(architecture)


def install(log: Path, architecture: str, limit: float) -> None:
    """Builds for one architecture alone, which takes a third of the time. CalledProcessError, TimeoutExpired."""
    tools = [str(Path(sys.executable).parent), os.environ.get("PATH", ""), "/usr/local/cuda/bin"]
    options = f"{os.environ.get('CMAKE_ARGS', '')} -DCMAKE_CUDA_ARCHITECTURES={architecture}".strip()
    environment = os.environ | {"WORLDFAST_CUDA": "ON", "CMAKE_ARGS": options, "PATH": os.pathsep.join(tools)}
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    command = [*pip, "install", "--no-build-isolation", "--no-deps", "-e", "."]
    digest = digest_of_build(architecture)
    with open(log, "w") as file:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=file, start_new_session=True)
        try:
            code = process.wait(limit)
        finally:
            end(process)
    if code:
        raise subprocess.CalledProcessError(code, command)
    digest_file().parent.mkdir(exist_ok=True)
    digest_file().write_text(digest)
