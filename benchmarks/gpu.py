"""Everything a GPU must show, in one call: every GPU path agrees with the CPU, then it is timed.

    python benchmarks/gpu.py [PART ...] [--out FOLDER]

Runs offline, in under eight minutes. Installs the package first where it is not built with CUDA or older than
its sources. Each part is a process of its own, since a kernel that faults takes its process's device with it:
what PART prints is in PART.txt, its warnings and its traceback in PART.log, all figures in results.csv. Ends
with 1 where a part failed.
"""

import argparse
import importlib
import os
import subprocess
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent


def built():
    """Whether this tree's package can be imported with CUDA and is newer than its sources."""
    probe = (
        "from worldfast import _native, kernels; print(_native.core.__file__ if _native.core.cuda else '')"
    )
    found = subprocess.run(
        [sys.executable, "-c", probe], cwd="/", capture_output=True, text=True, check=False
    )
    module = Path(found.stdout.strip())
    if found.returncode or not module.is_relative_to(ROOT):
        return False
    sources = [ROOT / "CMakeLists.txt", *(ROOT / "csrc").iterdir()]
    return module.stat().st_mtime > max(source.stat().st_mtime for source in sources)


def install():
    tools = [str(Path(sys.executable).parent), os.environ.get("PATH", ""), "/usr/local/cuda/bin"]
    environment = os.environ | {"WORLDFAST_CUDA": "ON", "PATH": os.pathsep.join(tools)}
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-build-isolation",
        "--no-deps",
        "-e",
        ".",
    ]
    subprocess.run(command, cwd=ROOT, env=environment, check=True)


# and the seconds that each may take, 445 in all; gpu_PART.py has it
PARTS = {"labels": 80, "attention": 120, "cka": 55, "training": 190}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", default=list(PARTS), help=", ".join(PARTS))
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "gpu")
    parser.add_argument("--here", action="store_true", help="in this process, with the package as it is")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("torch finds no CUDA device")
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"unknown parts: {', '.join(sorted(unknown))}; known: {', '.join(PARTS)}")
    options.out.mkdir(parents=True, exist_ok=True)
    if options.here:
        for part in options.parts:
            getattr(importlib.import_module(f"gpu_{part}"), part)(options.out)
        return
    if not built():
        install()
    print(f"{torch.cuda.get_device_name()}; torch {torch.__version__}")
    failed = [part for part in options.parts if not succeeds(part, options.out)]
    if failed:
        sys.exit(f"FAILED: {', '.join(failed)}")


def succeeds(part, out):
    """Runs a part in a process of its own and shows what it printed."""
    printed, log = out / f"{part}.txt", out / f"{part}.log"
    command = [sys.executable, __file__, part, "--here", "--out", out]
    limit = PARTS[part]
    with open(printed, "w") as stdout, open(log, "w") as stderr:
        try:
            code = subprocess.run(
                command, stdout=stdout, stderr=stderr, timeout=limit, check=False
            ).returncode
            why = f"exit code {code}"
        except subprocess.TimeoutExpired:
            code, why = 1, f"more than {limit} s"
    print(f"\n==== {part}\n{printed.read_text().strip()}")
    if code:
        last = (log.read_text().strip().splitlines() or [""])[-1]
        print(f"{part} FAILED: {why}; {log}: {last}")
    sys.stdout.flush()
    return code == 0


if __name__ == "__main__":
    main()
