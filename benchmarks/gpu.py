"""Everything a GPU must show, in one call of at most so many minutes: it agrees with the CPU, how fast it is, and
the first results of a study.

    python benchmarks/gpu.py [PART ...] [--minutes 9] [--science MINUTES] [--out FOLDER] [--dry-run]

Works offline; builds the package first where it is not built with CUDA from these sources. First every path is
compared with the CPU, side by side in processes; then worldfast is timed, one part after the other; then, with
--science, as much of the paper's canon as fits is trained, read and drawn; last come the peers, which compile
longest. A part that is over its share of the time is ended, one that dies goes on after the case that killed it.

After each part the folder --out has worldfast-gpu.tar.gz (all that was printed, figures, tables, page) and results.csv;
also where the call fails or is stopped. Those of an earlier call are moved to a folder earlier-* beside them, and no
archive of checkpoints is replaced by one that holds less. Ends with 1 where anything failed. --dry-run takes every
step with a stand-in for the GPU and tiny sizes: its figures say nothing and are marked.
"""

import argparse
import csv
import ctypes
import importlib
import importlib.util
import io
import itertools
import json
import math
import os
import platform
import re
import shutil
import signal
import sys
import tarfile
import tempfile
import time
from pathlib import Path

from gpu_build import ROOT, architecture_here, built, digest_of_sources, install
from gpu_jobs import Job, run
from gpu_part import FAULTS, Part, first_line, read
from kept_rows import gather

ARCHIVE = "worldfast-gpu"
PACKING = 12.0  # seconds that are kept for the last archive
BUILDING = 300.0  # seconds that a build may take
KEEPING = 0.1  # share of science that is left for writing its checkpoints
SHOWN = 11_000  # characters of the summary that are printed: whoever runs this elsewhere may see no more

# part -> module, function in it, share of the time of its kind, processes that compare with the CPU
PARTS = {
    "labels": ("gpu_labels", "labels", 2.0, 2),
    "attention": ("gpu_attention", "attention", 2.0, 6),
    "cka": ("gpu_cka", "cka", 1.0, 2),
    "training": ("gpu_training", "training", 3.0, 4),
    "answering": ("gpu_training", "answering", 1.5, 0),
    "science": ("gpu_science", "science", 0.0, 0),
    "peers": ("gpu_peers", "peers", 5.0, 0),
}
AGREEMENT = 5.0  # the share of all comparisons, which run at the same time
NEEDED = {
    "": ("numpy", "torch", "triton", "threadpoolctl"),
    "science": ("h5py", "safetensors", "sklearn", "pandas", "scipy", "matplotlib"),
}


class Stopped(BaseException):
    """A signal that asks to stop."""


class Call:
    """The parts of a call, in the time it has; what they wrote is packed after each."""

    def __init__(self, options):
        self.options = options
        self.end = time.monotonic() + 60 * options.minutes
        self.out = options.out
        self.scratch = options.scratch
        self.temporary = None if self.scratch else Path(tempfile.mkdtemp(prefix="worldfast-gpu-"))
        self.unsaved = False  # checkpoints that are nowhere but in the folder where science worked
        self.work = (self.scratch or self.temporary) / ("dry-run" if options.dry_run else "gpu")
        self.faults: list[str] = []  # of the call itself
        self.out.mkdir(parents=True, exist_ok=True)
        self.set_aside()
        if self.work.exists():
            for path in self.work.glob("*.*"):  # of a call before, whose cases are not this one's; science goes on
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        self.work.mkdir(parents=True, exist_ok=True)

    def left(self) -> float:
        return self.end - PACKING - time.monotonic()

    def tried(self, name: str, step, *arguments) -> bool:
        """Takes a step of the call; what it raises is a fault."""
        try:
            step(*arguments)
            return True
        except Exception as error:  # whatever it is, it is said, and the rest goes on
            self.faults.append(f"{name}: {first_line(error)}")
            print(self.faults[-1], flush=True)
            return False

    def run(self) -> None:
        dry, parts = self.options.dry_run, self.runnable()
        if self.options.resume and not self.tried("resume", self.unpack):
            parts = [part for part in parts if part != "science"]  # which would begin anew
        self.tried("about", self.describe)
        if not dry and not self.tried("build", self.build):
            return
        compared = [] if dry else [part for part in parts if PARTS[part][3]]
        if compared:
            limit = self.share(AGREEMENT, compared + parts)
            run([job for part in compared for job in self.comparisons(part, limit)])
            self.pack()
        for i, part in enumerate(parts):
            science = self.science() if "science" in parts[i + 1 :] else 0.0
            if part == "science":
                limit = self.science() * (1 - KEEPING if self.options.checkpoints else 1)
            else:
                limit = (self.left() - science) * self.weight(part, parts[i:])
            if limit < 3:
                self.faults.append(f"{part}: no time was left for it")
                continue
            longest = limit if part == "science" else limit / 2
            try:
                run([self.job(part, part, limit, longest, "times" if part in compared else "all")])
            finally:  # also when stopped: what ended is packed, and what is small comes first
                self.pack()
                if part == "science" and self.options.checkpoints:
                    self.tried("checkpoints", self.keep_checkpoints)

    # ---- time ----

    def science(self) -> float:
        """Seconds for science."""
        return max(0.0, min(60 * (self.options.science or 0), self.left() - 1))

    def weight(self, part, rest) -> float:
        return PARTS[part][2] / sum(PARTS[one][2] for one in rest)

    def share(self, weight: float, parts) -> float:
        science = self.science() if "science" in parts else 0.0
        return (self.left() - science) * weight / (weight + sum(PARTS[part][2] for part in set(parts)))

    # ---- steps ----

    def runnable(self) -> list[str]:
        """The parts asked for whose packages are there; the others are faults."""
        found = [part for part in PARTS if part in self.options.parts]
        for part in list(found):
            names = NEEDED[""] + NEEDED.get(part, ())
            if missing := [name for name in names if not importlib.util.find_spec(name)]:
                self.faults.append(f"{part}: left out, for {', '.join(missing)} is not installed")
                print(self.faults[-1], flush=True)
                found.remove(part)
        return found

    def build(self) -> None:
        architecture = architecture_here()
        if not built(architecture):
            begun = time.monotonic()
            install(self.work / "build.log", architecture, min(BUILDING, self.left()))
            print(f"built in {time.monotonic() - begun:.0f} s", flush=True)
        if not built(architecture):
            raise RuntimeError("the package was built, but not with CUDA, or not here; see build.log")

    def describe(self) -> None:
        """about.json: what ran, on what."""
        import torch
        import triton

        there = torch.cuda.is_available()
        content = {
            "dry_run": self.options.dry_run,
            "device": torch.cuda.get_device_name() if there else "none",
            "capability": list(torch.cuda.get_device_capability()) if there else None,
            "torch": torch.__version__,
            "triton": triton.__version__,
            "cuda": torch.version.cuda,
            "python": platform.python_version(),
            "processors": os.cpu_count(),
            "sources": digest_of_sources(),
            "command": sys.argv,
            "began": time.strftime("%Y-%m-%d %H:%M:%S"),
        }
        (self.work / "about.json").write_text(json.dumps(content, indent=1))
        print(f"{content['device']}; torch {content['torch']}, triton {content['triton']}", flush=True)

    def comparisons(self, part: str, limit: float) -> list[Job]:
        processes = 1 if self.options.dry_run else PARTS[part][3]  # to start one takes longer than its comparisons
        return [
            self.job(f"{part}-{i}", part, limit, limit / 2, "agreement", f"{i}/{processes}") for i in range(processes)
        ]

    def job(self, name, part, limit, longest, what, share="0/1") -> Job:
        command = [sys.executable, __file__, part, "--here", name, "--what", what, "--share", share]
        command += ["--scratch", self.work]
        for option, value in (("--scale", self.options.scale), ("--science", self.options.science)):
            command += [option, str(value)] if value is not None else []
        environment = os.environ | {"PYTHONUNBUFFERED": "1"}
        if what == "agreement":
            environment |= {"OMP_NUM_THREADS": "2"}  # there are many of them
        if self.options.dry_run:
            command.append("--dry-run")
            environment |= {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        return Job(name, [*map(str, command), "--seconds"], self.work, limit, longest, environment)

    def unpack(self) -> None:
        """Puts the checkpoints of an earlier call, an archive or a folder `science`, where science goes on from."""
        came, there = self.options.resume, self.work / "science"
        if came.resolve() == there.resolve():
            return self.require_runs(came, there)
        if there.exists() and any(there.iterdir()):
            raise ValueError(f"{there} is not empty: go on from it without --resume, or give another --scratch")
        with tempfile.TemporaryDirectory(prefix="science.", dir=self.work) as beside:
            whole = Path(beside) / "science"
            if came.is_dir():
                shutil.copytree(came, whole)
            else:
                with tarfile.open(came) as archive:
                    archive.extractall(whole, filter="data")
            self.require_runs(came, whole)
            whole.rename(there)

    @staticmethod
    def require_runs(came: Path, folder: Path) -> None:
        if not (folder / "runs").is_dir():
            raise ValueError(f"{came} holds no checkpoints: expected runs/ in it")

    def keep_checkpoints(self) -> None:
        """All that a later call goes on from: runs with checkpoints and activations, what was read, the scale.

        ValueError where an archive is there that holds what this one lacks; this one then stands beside it as .new.
        """
        path, science, self.unsaved = self.options.checkpoints, self.work / "science", True
        partial = path.with_name(path.name + ".partial")
        try:
            with tarfile.open(partial, "w") as archive:
                for name in ("science.json", "tables", "runs"):
                    if (science / name).exists():
                        archive.add(
                            science / name, name, filter=lambda one: None if one.name.endswith(".partial") else one
                        )
            new = path.with_name(path.name + ".new") if path.exists() else path
            partial.replace(new)
            self.unsaved = False
            if new != path:
                if lost := kept(path) - kept(new):
                    raise ValueError(f"{path} stays, for it holds {min(lost)}, which this call has not: see {new}")
                new.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        print(f"{path}: {path.stat().st_size / 2**20:,.0f} MiB to go on from with --resume", flush=True)

    # ---- what comes back ----

    def pack(self) -> None:
        """Writes the summary, the archive and results.csv; never raises, so that all three are tried. Rows that a part
        had timed when its process died are among them."""
        self.tried("rows that were kept", gather, self.work / "results.csv")
        self.tried("summary", lambda: (self.work / "summary.txt").write_text(self.summary()))
        self.tried("archive", self.archive)
        if (self.work / "results.csv").exists():
            table = self.files[1]
            self.tried(table.name, shutil.copyfile, self.work / "results.csv", table)

    @property
    def files(self) -> tuple[Path, Path]:
        """The archive and the table, in the folder --out."""
        names = ("worldfast-gpu-dry-run", "dry-run-results") if self.options.dry_run else (ARCHIVE, "results")
        return self.out / f"{names[0]}.tar.gz", self.out / f"{names[1]}.csv"

    def set_aside(self) -> None:
        """Moves what an earlier call wrote to a folder of its own: this call may end with less, or without a GPU."""
        archive, table = self.files
        there = [path for path in (archive, *archive.parent.glob(f"{archive.name}.[0-9][0-9]"), table) if path.exists()]
        if there:
            when = time.strftime("%Y%m%d-%H%M%S-", time.localtime(max(path.stat().st_mtime for path in there)))
            earlier = Path(tempfile.mkdtemp(prefix=f"earlier-{when}", dir=self.out))
            for path in there:
                path.rename(earlier / path.name)
            print(f"what an earlier call wrote is now in {earlier}", flush=True)

    def archive(self) -> None:
        path, _ = self.files
        partial = path.with_name(path.name + ".partial")
        with tarfile.open(partial, "w:gz", compresslevel=5) as archive:
            for file in sorted(self.work.rglob("*")):
                inside = file.relative_to(self.work)
                if file.is_file() and not {"checkpoint", "activations", "lock"} & set(inside.parts):
                    content = file.read_bytes()
                    about = tarfile.TarInfo(f"{ARCHIVE}/{inside}")
                    about.size, about.mtime = len(content), int(file.stat().st_mtime)
                    archive.addfile(about, io.BytesIO(content))
        content = partial.read_bytes()
        size = int(self.options.pieces * 2**20) if self.options.pieces else len(content)
        for old in path.parent.glob(f"{path.name}.[0-9][0-9]"):
            old.unlink()
        if len(content) <= size:
            partial.replace(path)
            return
        path.unlink(missing_ok=True)
        for i in range(0, len(content), size):
            path.with_name(f"{path.name}.{i // size:02d}").write_bytes(content[i : i + size])
        partial.unlink()

    def summary(self) -> str:
        """Faults, peers that were left out, what science found, and times: a line for each case, then its contestants."""
        lines = ["DRY RUN: no GPU, and no figure here is one of a GPU's"] if self.options.dry_run else []
        for path in sorted(self.work.glob("*.jsonl")):
            cases = [line for line in read(self.work, path.stem) if "fault" in line]
            bad = [line for line in cases if line["fault"]]
            spent = sum(line["seconds"] or 0 for line in cases)
            lines.append(f"{path.stem}: {len(cases) - len(bad)} of {len(cases)} cases without a fault, {spent:.0f} s")
            lines += [f"  FAULT: {line['case']}: {line['fault']}"[:200] for line in bad]
        lines += [f"FAULT: {fault}" for fault in self.faults]
        said = "\n".join(path.read_text() for path in sorted(self.work.glob("*.txt")) if path.name != "summary.txt")
        lines += dict.fromkeys(one[:200] for one in re.findall("left out: .*", said))
        if (self.work / "science.txt").exists():
            lines += filter(str.strip, (self.work / "science.txt").read_text().splitlines())
        if (self.work / "results.csv").exists():
            before = None
            with open(self.work / "results.csv", newline="") as file:
                for row in csv.DictReader(file):
                    if row["contestant"].startswith("limit:"):
                        continue
                    if (case := f"{row['benchmark']}: {row['case']}") != before:
                        lines.append(case)
                    share = f", {float(row['limit_share']):.0%} of its limit" if row["limit_share"] else ""
                    lines.append(f"  {row['median']} {row['unit']}{share}: {row['contestant']}")
                    before = case
        return "\n".join(lines) + "\n"

    def shown(self) -> str:
        """The beginning of the summary, which has the faults."""
        lines = self.summary().splitlines()
        sizes = list(itertools.accumulate(len(line) + 1 for line in lines))
        fit = sum(size <= SHOWN for size in sizes)
        more = [f"... and {len(lines) - fit:,} more lines in summary.txt"] if fit < len(lines) else []
        return "\n".join([*lines[:fit], *more]) + "\n"

    def clear(self) -> None:
        """Removes the temporary folder; not where checkpoints are in it alone."""
        if self.temporary and self.unsaved:
            print(f"checkpoints could not be written, and are left in {self.work / 'science'}", flush=True)
        elif self.temporary:
            shutil.rmtree(self.temporary, ignore_errors=True)

    def failed(self) -> bool:
        lines = [line for path in self.work.glob("*.jsonl") for line in read(self.work, path.stem)]
        return bool(self.faults) or any(line.get("fault") for line in lines)


def kept(archive: Path) -> set[str]:
    """Names that an archive of checkpoints must not lose: each file of it, and of each run the latest checkpoint."""
    with tarfile.open(archive) as opened:
        names = [Path(one.name) for one in opened if one.isfile() and Path(one.name).name != "lock"]
    return {str(name.parent if name.parent.name == "checkpoint" else name) for name in names}


def check_options(parser, options) -> None:
    """Ends the call where an option cannot be meant, before anything takes its time."""
    for name in ("minutes", "science", "scale", "pieces"):
        value = getattr(options, name)
        if value is not None and not 0 < value < math.inf:
            parser.error(f"--{name}: expected a number above 0, got {value:g}")
    if options.science and options.science >= options.minutes:
        parser.error(
            f"--science: {options.science:g} minutes are not within the {options.minutes:g} of the whole call: "
            f"give it more, such as --minutes {math.ceil(options.science) + 5}"
        )
    for name in ("resume", "checkpoints"):
        if getattr(options, name) and "science" not in options.parts:
            parser.error(f"--{name}: only the part science has checkpoints: give it too, and --science MINUTES")
    if options.resume and not options.resume.exists():
        parser.error(f"--resume: there is no {options.resume}")
    if options.checkpoints:
        if options.checkpoints.is_dir():
            parser.error(f"--checkpoints: expected a file, got the folder {options.checkpoints}")
        try:
            options.checkpoints.parent.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=options.checkpoints.parent).close()
        except OSError as error:
            parser.error(f"--checkpoints: {options.checkpoints} cannot be written: {first_line(error)}")
    elif "science" in options.parts and not options.scratch:
        print("without --checkpoints no later call can go on: models are not kept, tables and figures are", flush=True)


def here(options) -> None:
    """A part in this process. Exit codes are those of gpu_part."""
    import gpu_device

    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: no part outlives the call
    device = gpu_device.stand_in() if options.dry_run else gpu_device.DEVICE
    [name] = options.parts
    module, function = PARTS[name][:2]
    part = Part(options.scratch, options.here, options.seconds, device, options, options.what, options.share)
    try:
        getattr(importlib.import_module(module), function)(part)
    finally:
        if options.dry_run:
            (options.scratch / f"launches-{options.here}.json").write_text(json.dumps(device.launches, indent=1))
    sys.exit(FAULTS if part.faults else 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    hidden = argparse.SUPPRESS
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "gpu", help="where the archive is written")
    parser.add_argument("--minutes", type=float, default=9.0, help="of all, of wall-clock time")
    parser.add_argument("--science", type=float, help="minutes of these for the paper's canon; none by default")
    parser.add_argument("--scale", type=float, help="of the canon's rows; as fits by default")
    parser.add_argument("--resume", type=Path, help="what --checkpoints wrote, or a folder science/, to go on from")
    parser.add_argument("--checkpoints", type=Path, help="an archive to go on from: 0.5 GB a model")
    parser.add_argument("--scratch", type=Path, help="where parts work; a temporary folder by default")
    parser.add_argument("--pieces", type=float, help="MiB of a piece, in which a larger archive is cut: .00, .01 ...")
    parser.add_argument("--dry-run", action="store_true", help="without a GPU: a stand-in, tiny sizes")
    parser.add_argument("--here", help=hidden)
    parser.add_argument("--what", default="all", choices=("all", "agreement", "times"), help=hidden)
    parser.add_argument("--share", default="0/1", help=hidden)
    parser.add_argument("--seconds", type=float, help=hidden)
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"unknown parts: {', '.join(sorted(unknown))}; known: {', '.join(PARTS)}")
    if options.here:
        return here(options)
    wanted_by_default = [part for part in PARTS if part != "science" or options.science]
    options.parts = options.parts or wanted_by_default
    if "science" in options.parts and not options.science:
        parser.error("science: say with --science how many minutes it may take")
    check_options(parser, options)

    asked = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

    def stop(number, frame):
        for one in asked:
            signal.signal(one, signal.SIG_IGN)  # once is enough: what is there is packed
        raise Stopped(f"stopped by {signal.Signals(number).name}")

    for one in asked:
        signal.signal(one, stop)
    call = Call(options)
    try:
        call.run()
    except Stopped as why:
        call.faults.append(str(why))
    finally:
        for one in asked:
            signal.signal(one, signal.SIG_IGN)
        call.pack()
        print(call.shown(), flush=True)
        failed = call.failed()
        call.clear()
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
