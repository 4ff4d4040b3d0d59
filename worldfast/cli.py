"""The command line: worldfast demo | sample | train | study | generate | extract | export | verify | doctor."""

from __future__ import annotations

import difflib
import os
import re
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import fields, is_dataclass
from io import TextIOWrapper
from itertools import pairwise
from pathlib import Path
from typing import Annotated, get_type_hints

from tyro.conf import OmitArgPrefixes, arg

from worldfast.classes import load_defined, place_of
from worldfast.dataset import Dataset
from worldfast.display import count
from worldfast.errors import one_of, shown, unknown_name, whole
from worldfast.log import logged_to
from worldfast.options import (
    AnyPath,
    AnyText,
    AnyTexts,
    AnyWhole,
    AnyWholes,
    Files,
    Flag,
    Kept,
    Learning,
    Machine,
    Model,
    Named,
    Number,
    Text,
    Whole,
    ending,
    named,
    runs,
)
from worldfast.rows import require_split, require_stream, rows_from
from worldfast.run import Run
from worldfast.study_cli import STUDY, into, load_files, run_and_publish
from worldfast.training import STOPPED, ended_by_signals
from worldfast.training import load as load_run
from worldfast.training import train as train_runs
from worldfast.worlds import cities

IN_FILE = re.compile(r"(?!-).*\.py(:\w+)?$")
OF_DATA = "A Python file that defines `data`; FILE.py:NAME takes another name."
InFile = Annotated[str, arg(metavar="FILE.py", help=OF_DATA)]
ABOUT = "Train ensembles of tiny models on a world, and read the world back out of them. --version prints the version."


def demo(out: Path = Path("."), scale: Number = 1.0, seed: Whole = 0, threads: AnyWhole = None) -> None:
    """Train three seeds of a small model on the map of the world, teach each Atlantis twice, and show it on a page.

    Run it again to go on where it stopped, or to make the page again.

    Args:
        out: Folder for runs/ and studies/.
        scale: Factor on the rows that each model sees; 0.01 is a quick look, after which no model knows anything.
        seed: First of three seeds for data and initial weights.
        threads: CPU threads; torch's number by default.
    """
    scaled, seeded = f" --scale {scale:g}" if scale != 1 else "", f" --seed {seed}" if seed else ""
    command = f"worldfast demo{scaled}{seeded}{into(out)}"
    run_and_publish(cities.demo(scale, seed), out, command, threads=threads)


def study() -> None:
    """List, plan, run or watch studies: worldfast study list | plan | run | status | report."""
    raise AssertionError("its commands stand in STUDY")


def _data(name: str) -> Dataset:
    """The dataset of FILE.py, or of FILE.py:NAME. Raises what load_defined does."""
    path, colon, given = name.rpartition(":")
    return load_defined(
        path or name, given if colon else "data", Dataset, "Ring(), of a class that derives from Dataset"
    )


def sample(
    task: Annotated[str, arg(metavar="TASK")],
    /,
    n: Whole = 10,
    start: Whole = 0,
    seed: Whole = 42,
    split: Text = "train",
    among: AnyText = None,
    noise: Number = 0.0,
    load: Files = (),
) -> None:
    """Print rows of a task about cities.

    worldfast sample FILE.py prints rows of the dataset `data` of a Python file, which may be of any world.

    Args:
        task: Name of the task, such as distance.
        n: Number of rows.
        start: Index of the first.
        seed: Seed of the rows.
        split: train, validation or test.
        among: Cities that rows may use, such as "region == 'Oceania'"; all by default.
        noise: Probability that a row has another row's answer.
    """
    import worldfast as wf

    load_files(load)
    batch = wf.sample(wf.World.cities(), task, n, seed, start, split, among=among, noise=noise)
    for i in range(n):
        print(batch.text(i))


def sample_file(
    file: InFile, /, n: Whole = 10, start: Whole = 0, seed: Whole = 42, split: Text = "train", load: Files = ()
) -> None:
    """Print rows of the dataset `data` of a Python file: inputs -> targets, as text if the dataset decodes them.

    Args:
        n: Number of rows.
        start: Index of the first.
        seed: Seed of the rows.
        split: train, validation or test.
    """
    load_files(load)
    data = _data(file)
    stream = require_stream(data.stream(seed, require_split(split)), data)
    rows = rows_from(stream, whole("start", start, 0), whole("n", n, 1))
    shape, ends = data.shape, rows.row_start.tolist()
    answers_are_tokens = not shape.vectors and shape.loss == "cross_entropy" and shape.outputs == shape.inputs
    for first, end in pairwise(ends):
        inputs = rows.inputs[first:end]
        line = _numbers(inputs) if shape.vectors else data.decode(inputs.numpy())
        if rows.targets is not None:
            targets = rows.targets[(first <= rows.scored) & (rows.scored < end)]
            line += " -> " + (data.decode(targets.numpy()) if answers_are_tokens else _numbers(targets))
        print(line)


def _numbers(values) -> str:
    """Numbers of a row, [n] or [n, d], its positions apart."""
    if values.ndim == 1:
        return " ".join(f"{value:.4g}" for value in values.tolist())
    return "; ".join(map(_numbers, values))


def train(
    data: OmitArgPrefixes[cities.Data],
    learning: OmitArgPrefixes[Learning] = Learning(),
    model: OmitArgPrefixes[Model] = Model(),
    kept: OmitArgPrefixes[Kept] = Kept(),
    machine: OmitArgPrefixes[Machine] = Machine(),
) -> None:
    """Train a model of cities for each seed, all of them together.

    Run it again to go on where it stopped: what is done is not done again. Defaults are those of arXiv
    2602.00533, one epoch of them. Grids of tasks, and rows in other proportions: docs/training.md.

    worldfast train FILE.py trains on the dataset `data` of a Python file, which may be of any world.
    """
    load_files(machine.load)
    dataset, readout = cities.asked(data, learning.start)
    _train(runs(dataset, learning, model, kept, readout), machine)


def train_file(
    file: InFile,
    /,
    learning: OmitArgPrefixes[Learning] = Learning(),
    model: OmitArgPrefixes[Model] = Model(),
    kept: OmitArgPrefixes[Kept] = Kept(),
    machine: OmitArgPrefixes[Machine] = Machine(),
) -> None:
    """Train a model for each seed on the dataset `data` of a Python file, all of them together.

    Run it again to go on where it stopped: what is done is not done again. Defaults are those of arXiv
    2602.00533; what rows there are, the file says (docs/worlds.md).
    """
    load_files(machine.load)
    _train(runs(_data(file), learning, model, kept), machine)


def _train(asked: list[Run], machine: Machine) -> None:
    how = {name: getattr(machine, name) for name in ("device", "threads", "memory", "log")}
    with nullcontext() if machine.quiet else logged_to(sys.stderr):
        folders = train_runs(asked, machine.out, progress=not machine.quiet, **how)
    for folder in folders:
        print(ending(folder))


def export(run: Path, /, to: Text, out: AnyPath = None, step: AnyText = None, load: Files = ()) -> None:
    """Write a trained model as a folder that other tools open.

    Args:
        run: Folder of the run.
        to: hf, for Hugging Face transformers.
        out: A new folder; <run>/<to> by default.
        step: Step of the model; the newest by default. all: every one that is there, in a folder each.
    """
    from worldfast.training import export_huggingface

    load_files(load)
    formats = {"hf": export_huggingface}
    print(
        formats[one_of("format", to, formats)](run, out or run / to, int(step) if step and step.isdecimal() else step)
    )


def generate(
    run: Path,
    /,
    n: Whole = 8,
    start: Whole = 0,
    given: AnyWhole = None,
    longest: AnyWhole = None,
    draws: Whole = 1,
    temperature: Number = 1.0,
    top_k: AnyWhole = None,
    seed: Whole = 0,
    split: Text = "test",
    step: AnyWhole = None,
    load: Files = (),
) -> None:
    """Print how a trained model goes on with rows of its own data: what it is given -> what it says.

    What it says of a row is a function of the seed, the row, the draw and the place, whatever is printed beside it.

    Args:
        run: Folder of the run.
        n: Number of rows.
        start: Index of the first.
        given: Tokens of each row that are given; by default, up to the first from which it learned to go on.
        longest: Most tokens that it says; by default, as many as the longest row of its data has left.
        draws: Number of continuations of each row, a line each.
        temperature: Divisor of the logits; 0 takes the likeliest token each time.
        top_k: Number of likeliest tokens that are drawn from; all by default.
        seed: Seed of the rows and of the draws.
        split: train, validation or test.
        step: Step of an earlier model, of a run that kept it (worldfast train --keep); the newest by default.
    """
    from worldfast.reading import continuations

    load_files(load)
    model = load_run(run, step=step)
    options = {"given": given, "longest": longest, "draws": draws, "temperature": temperature, "top_k": top_k}
    for row in continuations(model, n, start, **options, seed=seed, split=split):
        for said in row.drawn:
            print(f"{model[0].data.decode(row.given)} -> {model[0].data.decode(said)}")


def extract(
    run: Path,
    /,
    out: Path,
    prompt: AnyText = None,
    layers: AnyWholes = None,
    positions: AnyTexts = None,
    among: AnyText = None,
    step: AnyWhole = None,
    readout: Named = (),
    load: Files = (),
) -> None:
    """Write a trained model's hidden states for each thing of its world to an HDF5 file; for cities, for any prompt.

    The options prompt, positions and among are those of cities; those of another world are given to --readout.

    Args:
        run: Folder of the run.
        out: The file.
        prompt: Text after <bos>, with {city} for the city, such as "angle(c_0865,{city},"; its task's by default.
        layers: Layers: 0 is the embeddings, the last is after the final norm; all by default.
        positions: Tokens to read: city, delimiter, last, or numbers; city and delimiter by default.
        among: Cities to read, such as "city_id >= 1000"; all by default.
        step: Step of an earlier model, of a run that kept it (worldfast train --keep); the newest by default.
        readout: Options of the readout of the run's dataset; its own by default.
    """
    from worldfast.reading import represent

    load_files(load)
    places = positions and [int(at) if at.lstrip("-").isdigit() else at for at in positions]
    options = {"prompt": prompt, "positions": places, "among": among}
    given = {name: value for name, value in options.items() if value is not None}
    print(represent(run, layers=layers, step=step, **given, **named("readout", readout)).save(out))


def verify(folder: Path, /, quiet: Flag = False, load: Files = ()) -> int:
    """Check the files of a run, a study or a folder of them, a line each; the status is 0 if all are whole, else 1.

    Args:
        folder: Folder of a run, of a study, of several, or one with runs/, tables/ and studies/.
        quiet: Print only the lines of files that are not whole, and of those that something is said of.
    """
    from worldfast.verify import verify as checks

    load_files(load)
    files = wrong = unchecked = 0
    for one in checks(folder):
        files, unchecked = files + (one.state != "other"), unchecked + (one.state == "unchecked")
        wrong += not (one.fine or one.state == "unchecked")
        if one.why or not (one.fine and quiet):
            print(shown(f"{one.state:10} {one.path}" + (f": {one.why}" if one.why else "")))
    if not quiet or wrong or unchecked:
        found = [f"{n} of them {what}" for n, what in ((wrong, "not whole"), (unchecked, "not checked")) if n]
        print(f"{count(files, 'file')}, {', '.join(found) or 'all whole'}")
    return int(wrong + unchecked > 0)


def doctor() -> int:
    """Say what is installed and what computes here, and try each kernel; the status is 1 if one of them is wrong."""
    from worldfast.doctor import examine

    lines = examine()
    while True:
        try:
            print(next(lines), flush=True)
        except StopIteration as ended:
            return int(not ended.value)


COMMANDS = {one.__name__: one for one in (demo, sample, train, study, generate, extract, export, verify, doctor)}
OF_FILE = {"sample": sample_file, "train": train_file}  # of a dataset in a Python file
ERRORS = (OSError, ValueError, TypeError, IndexError, RuntimeError, MemoryError, ImportError, SyntaxError)


def main(arguments: list[str] | None = None) -> int:
    """The command `worldfast`. Returns the exit status (docs/errors.md).

    What a user got wrong is one line, not a traceback; an error in a file of the user's own comes with its place.
    """
    import worldfast

    arguments = sys.argv[1:] if arguments is None else arguments
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(
                errors="backslashreplace"
            )  # a city's name ends no program in a locale without its letters
    try:
        with ended_by_signals():
            if arguments[:1] == ["--version"]:
                print(f"worldfast {worldfast.__version__}")
                status = 0
            elif arguments[:1] == ["study"]:
                status = _call(STUDY, "worldfast study", "study command", arguments[1:]) or 0
            else:
                in_file = any(IN_FILE.match(word) and before != "--load" for before, word in pairwise(arguments))
                commands = COMMANDS | OF_FILE if in_file else COMMANDS
                status = _call(commands, "worldfast", "command", arguments) or 0
            print(end="", flush=True)  # here, where output that cannot be written is an error like any other
            return status
    except KeyboardInterrupt as stopped:
        print(f"\n{str(stopped) or STOPPED}", file=sys.stderr)
        return 128 + getattr(stopped, "signum", signal.SIGINT)  # as shells count
    except BrokenPipeError:
        return 128 + signal.SIGPIPE
    except Exception as error:
        place, known = place_of(error), isinstance(error, ERRORS)
        if not (place or known):
            raise
        what = (known and str(error)) or repr(error)
        print(f"worldfast: {what}" + (f" ({place})" if place else ""), file=sys.stderr)
        return 1
    finally:
        _let_go_of_output()


def _let_go_of_output() -> None:
    """Send output that cannot be written to nowhere.

    The interpreter writes what is left of it once more as it ends, and would print an error and change the exit status.
    """
    try:
        print(end="", flush=True)
    except (OSError, ValueError):
        with suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())


def _call(commands: Mapping[str, Callable], program: str, kind: str, arguments: list[str]) -> int | None:
    """Calls the command that the arguments name, and returns its status: 2 if there is none of the name.

    SystemExit as of tyro, after a line with the option meant.
    """
    import tyro

    first = arguments[0] if arguments else "-"
    if not first.startswith("-") and first not in commands:
        print(f"worldfast: {unknown_name(kind, first, commands)}", file=sys.stderr)
        return 2
    about = (study.__doc__ if commands is STUDY else ABOUT).strip()
    try:
        return tyro.extras.subcommand_cli_from_dict(commands, prog=program, args=arguments, description=about)
    except SystemExit as ended:
        if ended.code and first in commands:
            for line in _meant(commands[first], arguments[1:]):
                print(f"{program}: {line}", file=sys.stderr)
        raise


def _meant(command: Callable, arguments: list[str]) -> list[str]:
    """A line for each unknown option: its nearest name, or the one that it begins or abbreviates (--lr); and one for
    tasks without the option that takes them.
    """
    known = _options(command)
    short = {"--" + "".join(part[0] for part in name[2:].split("-")): name for name in reversed(known)}
    lines = _tasks_meant(arguments) if command is train else []
    of_cities = [name for one, other in OF_FILE.items() if command is other for name in _options(COMMANDS[one])]
    for given in (word.partition("=")[0].replace("_", "-") for word in arguments if word.startswith("--")):
        if given not in known and given in of_cities:
            file = next(word for word in arguments if IN_FILE.match(word))
            lines.append(f"unknown option '{given}': it is one of cities; what rows there are, {file} says")
        elif given not in known:
            begins = [name for name in known if name.startswith(given)]
            near = [short[given]] if given in short else begins or difflib.get_close_matches(given, known, n=1)
            lines.append(f"unknown option '{given}'" + (f": did you mean '{near[0]}'?" if near else ""))
    return lines


def _options(command: Callable) -> list[str]:
    """Options of a command as they are written, "--capture-layers"."""
    known = ["--help"]
    for name, kind in get_type_hints(command).items():
        names = [field.name for field in fields(kind)] if is_dataclass(kind) else [name]
        known += ["--" + one.replace("_", "-") for one in names if one != "return"]
    return known + [name.replace("--", "--no-", 1) for name in known]


def _tasks_meant(arguments: list[str]) -> list[str]:
    """A line with --tasks before the words that are or resemble tasks and are no option's, if there are some."""
    left = [
        word for before, word in pairwise(["", *arguments]) if not word.startswith("-") and not before.startswith("-")
    ]
    near = [difflib.get_close_matches(word, ("all", *cities.TASKS), n=1) for word in left]
    if "--tasks" in arguments or not any(near):
        return []
    return [f"tasks are an option: say --tasks {' '.join(name for names in near for name in names)}"]


if __name__ == "__main__":
    sys.exit(main())
