"""The command line: worldfast demo | sample | train | study | extract | export | doctor."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

from tyro.conf import OmitArgPrefixes

from worldfast.errors import unknown_name
from worldfast.options import Data, Kept, Learning, Machine, Model, ending, runs
from worldfast.training import train as train_runs
from worldfast.worlds.cities import studies as presets

__all__ = ["main"]


def demo(out: Path = Path("."), scale: float = 1.0, seed: int = 0, threads: int | None = None) -> None:
    """Train three small models on the map of the world, teach one of them Atlantis twice, and show it on a page.

    Run it again to go on where it stopped, or to make the page again.

    Args:
        out: Folder for runs/ and studies/.
        scale: Of the rows that each model sees: 0.01 is a quick look at what happens, and learns nothing.
        seed: Of the data and of the first weights.
        threads: CPU threads; as many as torch uses by default.
    """
    command = "worldfast demo" + (f" --scale {scale:g}" if scale != 1 else "") + (f" --seed {seed}" if seed else "")
    _run(presets.demo(scale, seed), out, command, threads=threads)


def study(
    what: Literal["run", "plan", "status", "report"],
    name: str,
    /,
    out: Path = Path("."),
    engine: str = "local",
    address: str = "auto",
    device: str = "auto",
    threads: int | None = None,
    memory: str | None = None,
    scale: float | None = None,
) -> None:
    """Plan, run or watch a study: demo, mini, paper or width.

    What is done is not done again: run it again to go on where it stopped, or to make the page again.

    Args:
        what: plan: what it will take here. run: train, read, draw, and write its page. status: where it stands, also
            while it runs. report: read and draw what is trained, and train nothing.
        name: demo, mini, paper or width; for status any study below --out.
        out: Folder for runs/, tables/ and studies/; with Ray, one that all nodes share.
        engine: local: in this process; ray: on a cluster (docs/cluster.md).
        address: The cluster's: auto is the one that runs here or that RAY_ADDRESS names; local starts one.
        device: auto, cpu or cuda.
        threads: CPU threads; as many as torch uses by default.
        memory: That training may take, such as 8GiB; most of what is free by default.
        scale: Of the rows that each model sees, of demo, mini and paper: 0.01 is a quick look.
    """
    import torch

    from worldfast.studies.planning import print_plan, print_status

    if what == "status":
        return print_status(out / "studies" / name)
    spec = presets.preset(name, **({} if scale is None else {"scale": scale}))
    if what == "plan":
        return print_plan(spec, threads=threads or torch.get_num_threads(), memory=memory)
    command = f"worldfast study run {name}" + (f" --scale {scale:g}" if scale is not None else "")
    how = {"engine": engine, "address": address, "device": device, "memory": memory, "train_missing": what == "run"}
    _run(spec, out, command, threads=threads, **how)


def _run(spec: presets.Study, out: Path, command: str, **how) -> None:
    """Runs a study, writes its page and figures, and says what was found."""
    from worldfast.report import report
    from worldfast.studies.engine import run_study

    result = run_study(spec, out, command=command, **how)
    page = report.publish(spec, result, out / "studies" / result.name)
    print()
    for sentence in result.findings:
        print(sentence)
    print(f"\nThe page: {page}")


def sample(
    task: str,
    /,
    n: int = 10,
    start: int = 0,
    seed: int = 42,
    split: str = "train",
    among: str | None = None,
    noise: float = 0.0,
) -> None:
    """Print rows of a task.

    Args:
        task: Its name, such as distance.
        n: Rows to print.
        start: The first of them.
        seed: Of the stream.
        split: train, validation or test.
        among: Cities that rows may use, such as "region == 'Oceania'"; all by default.
        noise: Probability that a row has another row's answer.
    """
    import worldfast as wf

    batch = wf.sample(wf.World.cities(), task, n, seed, start, split, among=among, noise=noise)
    for i in range(n):
        print(batch.text(i))


def train(
    data: OmitArgPrefixes[Data],
    learning: OmitArgPrefixes[Learning] = Learning(),
    model: OmitArgPrefixes[Model] = Model(),
    kept: OmitArgPrefixes[Kept] = Kept(),
    machine: OmitArgPrefixes[Machine] = Machine(),
) -> None:
    """Train a model for each seed, all of them together.

    Run it again to go on where it stopped: what is done is not done again. Defaults are those of arXiv
    2602.00533, one epoch of them. Grids of tasks, and rows in other proportions: docs/training.md.
    """
    folders = train_runs(
        runs(data, learning, model, kept),
        machine.out,
        device=machine.device,
        threads=machine.threads,
        memory=machine.memory,
        progress=not machine.quiet,
        log=machine.log,
    )
    for folder in folders:
        print(ending(folder))


def export(run: Path, /, to: str, out: Path | None = None, step: int | None = None) -> None:
    """Write a trained model as a folder that other tools open.

    Args:
        run: The run's folder.
        to: hf, for Hugging Face transformers.
        out: A new folder; <run>/<to> by default.
        step: That of the checkpoint; the newest by default.
    """
    from worldfast.training import export_huggingface

    formats = {"hf": export_huggingface}
    if to not in formats:
        raise unknown_name("format", to, formats)
    print(formats[to](run, out or run / to, step))


def extract(
    run: Path,
    /,
    out: Path,
    prompt: str | None = None,
    layers: tuple[int, ...] | None = None,
    positions: tuple[str, ...] = ("city", "delimiter"),
    cities: str | None = None,
) -> None:
    """Write what a trained model holds of each city to an HDF5 file, for any prompt.

    Args:
        run: The run's folder.
        out: The file.
        prompt: What follows <bos>, with {city} for the city, such as "angle(c_0865,{city},"; that of its task by default.
        layers: 0 the embeddings, the last after the final norm; all by default.
        positions: Tokens to read: city, delimiter, last, or numbers.
        cities: Which, as in "city_id >= 1000"; all by default.
    """
    from worldfast.reading import represent

    places = [int(at) if at.lstrip("-").isdigit() else at for at in positions]
    print(represent(run, layers=layers, prompt=prompt, positions=places, among=cities).save(out))


def doctor() -> None:
    """Say what this installation has and lacks."""
    import importlib.metadata

    import torch

    import worldfast as wf
    from worldfast import files
    from worldfast._native import core, why_no_gpu

    print(f"worldfast {wf.__version__}, native core {'with' if core.cuda else 'without'} CUDA")
    print(f"CUDA device: {torch.cuda.get_device_name() if torch.cuda.is_available() else f'none; {why_no_gpu()}'}")
    print(f"processor: {files.processor('cpu')}; torch uses {torch.get_num_threads()} of them")
    sets = {4: "SSE or NEON", 8: "AVX2", 16: "AVX-512"}
    print(f"vectors: {core.vector_width()} floats ({sets[core.vector_width()]})")
    pairs = "two to an instruction" if core.multiplies_pairs() else "multiplied as float32, no faster than float32"
    print(f"bfloat16 products: {pairs}")
    for name in ("torch", "numpy", "h5py", "safetensors", "scikit-learn", "matplotlib", "tyro", "transformers"):
        try:
            print(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            print(f"{name} is not installed")
    print(f"a row: {wf.sample(wf.World.cities(), 'distance', n=1).text(0)}")


def main(arguments: list[str] | None = None) -> int:
    """The command `worldfast`. Returns the exit status; what a user got wrong is one line, not a traceback."""
    import tyro

    commands = {command.__name__: command for command in (demo, sample, train, study, extract, export, doctor)}
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        if arguments and not arguments[0].startswith("-") and arguments[0] not in commands:
            raise unknown_name("command", arguments[0], commands)
        tyro.extras.subcommand_cli_from_dict(commands, prog="worldfast", args=arguments)
    except KeyboardInterrupt as stopped:
        print(f"\n{stopped}" if str(stopped) else "\nstopped", file=sys.stderr)
        return 130
    except (OSError, ValueError, TypeError, IndexError, RuntimeError, MemoryError) as error:
        print(f"worldfast: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
