"""Building the package for the GPU that is here, with CUDA, where that has not been done from these sources."""

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

from gpu_jobs import end

ROOT = Path(__file__).resolve().parent.parent
LEAST_CAPABILITY = 8  # as worldfast._native has it, which cannot be imported before it is built


def architecture_here() -> str:
    """Name of the current GPU's architecture for CMake. RuntimeError with the reason where none can be used."""
    import torch

    if not torch.cuda.is_available():
        raise RuntimeError(f"torch finds no CUDA device: {why_no_gpu()}; --dry-run does without one")
    major, minor = torch.cuda.get_device_capability()
    if major < LEAST_CAPABILITY:
        name = torch.cuda.get_device_name()
        has = f"{name} has compute capability {major}.{minor}"
        raise RuntimeError(f"{has}, but {LEAST_CAPABILITY}.0 or later is needed")
    return f"{major}{minor}-real"


def why_no_gpu() -> str:
    """As worldfast._native.why_no_gpu."""
    import torch

    if torch.version.cuda is None:
        return f"torch {torch.__version__} was built without CUDA"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    said = [] if visible is None else [f"CUDA_VISIBLE_DEVICES is {visible!r}"]
    try:
        torch.cuda.init()
    except Exception as error:  # a driver older than torch's CUDA, or none
        said.insert(0, " ".join(str(error).split()))
    return ", ".join(said) or "no reason is known"


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
    """Return True if this tree's package can be imported with CUDA and was built by `install` for this GPU, torch and
    CUDA from these sources."""
    probe = "from worldfast import _native, kernels; print(_native.core.__file__ if _native.core.cuda else '')"
    command = [sys.executable, "-c", probe]
    found = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False, timeout=60)
    module = Path(found.stdout.strip())
    if found.returncode or not module.is_relative_to(ROOT) or not digest_file().exists():
        return False
    return digest_file().read_text() == digest_of_build(architecture)


def install(log: Path, architecture: str, limit: float) -> None:
    """Builds for one architecture alone, which takes a third of the time. RuntimeError, TimeoutExpired."""
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
        raise RuntimeError(f"pip ended with {code}: {first_error(log)}; see {log.name}")
    digest_file().parent.mkdir(exist_ok=True)
    digest_file().write_text(digest)


def first_error(log: Path) -> str:
    """The first line of a log that speaks of an error, and is not pip's own; else its last line."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    own = "subprocess-exited-with-error"
    errors = [line for line in lines if re.search(r"error\b|\bfatal\b", line, re.IGNORECASE) and own not in line]
    return (errors or lines[-1:] or ["it said nothing"])[0]
