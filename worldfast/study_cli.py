"""The commands `worldfast study list | plan | run | status | report`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

from worldfast import files, worlds
from worldfast.classes import load_file
from worldfast.log import logged_to
from worldfast.options import AnyNumber, AnyText, AnyWhole, Files, Text, Whole
from worldfast.outcome import outcome
from worldfast.studies import Study, load_study, print_plan, print_status, run_study

Name = Annotated[str, arg(metavar="STUDY")]
Engine = Annotated[Literal["local", "ray"], arg(metavar="TEXT")]
UNDONE = 3  # exit status where runs of a study have not ended


def list_presets() -> None:
    """List the preset studies and the world of each."""
    print("A study is one of these, or a Python file that defines `study` (docs/studies.md).\n")
    for name, make in worlds.presets().items():
        world, _, short = name.partition(".")
        about = (make.__doc__ or "").strip().partition("\n")[0]
        print(f"{short:<13} {world:<10} {about}")


def plan(
    name: Name,
    /,
    device: Text = "cpu",
    gpus: Whole = 1,
    measure: bool = True,
    threads: AnyWhole = None,
    memory: AnyText = None,
    scale: AnyNumber = None,
    load: Files = (),
) -> None:
    """Say what a study takes: runs, rows, memory and disk at once, then the time, as it is measured.

    Args:
        name: A preset of `worldfast study list`, or a Python file that defines `study`.
        device: cpu; or cuda, whose rates are counted where there is none to measure them on.
        gpus: Number of such devices that the study would train on side by side.
        measure: Train a few steps of each kind of model to say how long all will take.
        threads: CPU threads; torch's number by default.
        memory: Memory of each device that training may use, such as 72GiB; 0.9 of what is free by default.
        scale: Factor on the rows that each model of a preset sees; 0.01 is a quick look.
    """
    load_files(load)
    print_plan(_study(name, scale), device=device, gpus=gpus, threads=threads, memory=memory, measure=measure)


def run(
    name: Name,
    /,
    out: Path = Path("."),
    engine: Engine = "local",
    address: Text = "auto",
    device: Text = "auto",
    threads: AnyWhole = None,
    memory: AnyText = None,
    scale: AnyNumber = None,
    load: Files = (),
) -> int:
    """Train the models of a study, analyse them, and write its page.

    What is done is not done again: run it again to go on where it stopped. With Ray, models that fail do not keep the
    others from being trained and analysed; the exit status is then 3.

    Args:
        name: A preset of `worldfast study list`, or a Python file that defines `study`.
        out: Folder for runs/, tables/ and studies/; with Ray, one that all nodes share.
        engine: local: in this process; ray: on a Ray cluster (docs/cluster.md).
        address: Address of the cluster; auto: the one that runs here or that RAY_ADDRESS names; local: starts one.
        device: auto, cpu or cuda.
        threads: CPU threads; torch's number by default.
        memory: Memory that training may use, such as 8GiB; 0.9 of what is free by default.
        scale: Factor on the rows that each model of a preset sees; 0.01 is a quick look.
    """
    load_files(load)
    how = {"engine": engine, "address": address, "device": device, "threads": threads, "memory": memory}
    return run_and_publish(_study(name, scale), out, _command(name, scale, out, load), **how)


def _left_undone(spec: Study, out: Path) -> int:
    """Return UNDONE, and say so on standard error, if runs of a study have not ended; 0 if all have, or start from one
    that has diverged, which is a finding.
    """
    names = [run.name for run in spec.runs if not outcome(run, out / "runs").settled]
    if not names:
        return 0
    listed = ", ".join(names[:5]) + (" ..." if len(names) > 5 else "")
    print(
        f"worldfast: {len(names)} of {len(spec.runs)} runs have not ended: {listed} (see {out / 'runs' / 'failed'}); "
        "the page is of the others, and the same command tries these again",
        file=sys.stderr,
    )
    return UNDONE


def status(name: Name, /, out: Path = Path("."), load: Files = ()) -> None:
    """Say where each run of a study stands, also while it runs.

    Args:
        name: The name of a study below --out, or a Python file that defines `study`.
        out: Folder that holds runs/ and studies/.
    """
    load_files(load)
    folder = out / "studies" / (load_study(name).name if _is_file(name) else name.rpartition(".")[2])
    known = _is_file(name) or name.rpartition(".")[2] in {one.rpartition(".")[2] for one in worlds.presets()}
    try:
        print_status(folder)
    except FileNotFoundError as error:
        if not known or files.there(folder / "study.json"):
            raise
        raise FileNotFoundError(f"{error}; to run it: {_command(name, None, out, load)}") from None


def report(
    name: Name,
    /,
    out: Path = Path("."),
    engine: Engine = "local",
    address: Text = "auto",
    threads: AnyWhole = None,
    scale: AnyNumber = None,
    load: Files = (),
) -> None:
    """Analyse what a study has trained so far and write its page; train nothing.

    Args:
        name: A preset of `worldfast study list`, or a Python file that defines `study`.
        out: Folder that holds runs/, tables/ and studies/.
        engine: local: in this process; ray: on a Ray cluster (docs/cluster.md).
        address: Address of the cluster; auto: the one that runs here or that RAY_ADDRESS names; local: starts one.
        threads: CPU threads; torch's number by default.
        scale: Factor on rows that the study was run with.
    """
    load_files(load)
    how = {"engine": engine, "address": address, "threads": threads, "train_missing": False}
    run_and_publish(_study(name, scale), out, _command(name, scale, out, load), **how)


STUDY = {"list": list_presets, "plan": plan, "run": run, "status": status, "report": report}


def load_files(paths: Iterable[Path]) -> None:
    """Execute the files of --load."""
    for path in paths:
        load_file(path)


def _is_file(name: str) -> bool:
    return name.endswith(".py") or "/" in name or Path(name).is_file()


def _study(name: str, scale: float | None) -> Study:
    """The study of a Python file, or a preset. Raises what load_study and worlds.preset do."""
    if not _is_file(name):
        return worlds.preset(name, **({} if scale is None else {"scale": scale}))
    if scale is not None:
        raise ValueError(f"scale: only presets have one; how many rows a model sees, '{name}' says itself")
    return load_study(name)


def _command(name: str, scale: float | None, out: Path, load: Iterable[Path]) -> str:
    """The command that makes the page of a study again."""
    loads = "".join(f" --load {shlex.quote(str(path))}" for path in load)
    scaled = f" --scale {scale:g}" if scale is not None else ""
    return f"worldfast study run {shlex.quote(name)}{scaled}{into(out)}{loads}"


def into(out: Path) -> str:
    """The option that names the folder of a study, unless it is the one that one is in."""
    return f" --out {shlex.quote(str(out))}" if out != Path(".") else ""


def run_and_publish(spec: Study, out: Path, command: str, *, train_missing: bool = True, **how) -> int:
    """Run a study, write its page and figures, and print what was found; returns the exit status."""
    from worldfast.report import publish

    with logged_to(sys.stderr):
        result = run_study(spec, out, command=command, train_missing=train_missing, **how)
        folder = out / "studies" / result.name
        page = publish(spec, result, folder) if result.runs else None
    print()
    for sentence in result.findings:
        print(sentence)
    print(f"\nThe page: {page}" if page else f"\nThe tables, without films for a page: {folder}")
    return _left_undone(spec, out) if train_missing else 0
