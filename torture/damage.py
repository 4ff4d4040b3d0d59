"""Corruption is found: bits flipped, ends cut off, files exchanged and deleted, in every kind of file.

Whoever reads such a file is told, with its name, by an error of damage or of a mismatch; or gets the same answer. An
answer of another step, run or world is never given. Files are damaged and read in forks: nothing that is read may end a
process.
"""

from __future__ import annotations

import hashlib
import io
import os
import random
import shutil
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

import worldfast as wf
from torture.forks import Died, forked
from torture.tally import Tally
from torture.work import differences, left, study, towns, work
from worldfast.studies import standing, tables
from worldfast.studies.analyses import compute, tables_of
from worldfast.training import load
from worldfast.verify import verify
from worldfast.worlds.cities import world_spec

PROMISE = "corruption is found"
TARGET = 10_000  # damaged files
DAMAGES = ("bit flipped", "cut short", "bytes added", "block of zeros", "another's content", "deleted")
EXCHANGED = "layers exchanged"  # of a segment, each whole in itself
KINDS = (
    *(
        "checkpoint",
        "done",
        "exported config.json",
        "exported model.safetensors",
        "metrics.jsonl",
        "segment",
        "spec.json",
    ),
    *("study.json", "table", "table's origin", "world.csv"),
)
OFTEN = 20  # one in so many of what is tried, at least, is a file of each kind
RESUMED = 200  # one in so many is a run that goes on from damaged checkpoints
TOGETHER = 25  # of one fork
SEEDS = (42, 43)


class Subject(NamedTuple):
    """File that is damaged.

    Attributes
    ----------
    kind : str
        Kind of file.
    path : Path
    others : list of Path
        Whole files of its kind: of other steps, runs, studies.
    read : callable
        () -> digest of what a reader gets of it.
    """

    kind: str
    path: Path
    others: list[Path]
    read: Callable[[], str]

    def named_by(self, error: Exception) -> bool:
        """Return True if an error names this file: its whole path, as others have its name and stand in its folder; or,
        of one that is missing, the folder and its name.
        """
        said = str(error)
        if isinstance(error, FileNotFoundError) and f"{self.path.parent} " in said.replace(":", " "):
            return self.path.name in said
        return str(self.path) in said


def digest(*parts) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(np.ascontiguousarray(part).tobytes() if hasattr(part, "dtype") else repr(part).encode())
    return found.hexdigest()


def parameters(folder: Path) -> str:
    run, ensemble = load(folder)
    return digest(run.id, ensemble.parameters.numpy())


def activations(folder: Path, *steps: int) -> str:
    """Digest of these steps, or of the first and the last: the others are read as they are."""
    found = wf.Activations(folder)
    arrays = [found[step, layer] for step in steps or (found.steps[0], found.steps[-1]) for layer in found.layers]
    return digest(found.run, found.steps, found.things, found.attributes, *arrays)


def imported(folder: Path) -> str:
    ensemble = wf.import_huggingface(folder)
    return digest(ensemble.spec, ensemble.shape, ensemble.parameters.numpy())


def everything(folder: Path) -> str:
    return parameters(folder) + activations(folder)


def subjects(places: list[Path], worlds_of: list[Path]) -> list[Subject]:
    """Return the files of the first of two studies, each with the files that could be taken for it."""
    out, other = places
    mine, theirs = (study(world, seed) for world, seed in zip(worlds_of, SEEDS))
    found = []
    for run in mine.runs:
        folder = out / "runs" / run.folder_name

        def like(pattern, folder=folder):
            runs = (one for place in places for one in sorted((place / "runs").iterdir()) if one.is_dir())
            return [path for one in runs for path in sorted(one.glob(pattern))]

        last = sorted((folder / "checkpoint").iterdir())[-1]
        found.append(Subject("checkpoint", last, like("checkpoint/*"), lambda f=folder: parameters(f)))
        for path in sorted((folder / "activations").iterdir()):
            step = int(path.stem[5:])
            found.append(Subject("segment", path, like("activations/*"), partial(activations, folder, step)))
        for name in ("spec.json", "done"):
            found.append(Subject(name, folder / name, like(name), lambda f=folder: everything(f)))
        lines = lambda run=run: digest(*tables.metrics(run, out))  # noqa: E731
        found.append(Subject("metrics.jsonl", folder / "metrics.jsonl", like("metrics.jsonl"), lines))
    for one in tables_of(mine, mine.runs) if (out / "tables").exists() else ():
        alike = [path for place in places for path in sorted((place / "tables").glob(f"{one.kind}-*.csv"))]
        found.append(Subject("table", one.path(out), alike, lambda one=one: digest(compute(one, out).to_csv())))
        about = one.path(out).with_suffix(".json")
        alike = [path.with_suffix(".json") for path in alike]
        found.append(Subject("table's origin", about, alike, lambda one=one: digest(compute(one, out).to_csv())))
    spec = out / "studies" / mine.name / "study.json"
    alike = [other / "studies" / theirs.name / "study.json"]
    if spec.exists():
        found.append(Subject("study.json", spec, alike, lambda: digest(standing.status(spec.parent))))
    for name in ("model.safetensors", "config.json"):
        path = out / "open" / name
        found.append(Subject(f"exported {name}", path, [other / "open" / name], lambda p=path: imported(p.parent)))
    first = out / "runs" / mine.runs[0].folder_name
    found.append(Subject("world.csv", worlds_of[0], worlds_of[1:], lambda: activations(first)))
    return found


def harm(subject: Subject, damage: str, content: bytes, chance: random.Random) -> bool:
    """Damage a file; returns False if it is as it was."""
    now = bytearray(content)
    if damage == "deleted":
        subject.path.unlink()
        return True
    if damage == EXCHANGED:
        now[:] = with_layers_exchanged(content, chance)
    elif damage == "bit flipped":
        now[chance.randrange(len(now))] ^= 1 << chance.randrange(8)
    elif damage == "cut short":
        del now[chance.randrange(len(now)) :]
    elif damage == "bytes added":
        now += bytes(chance.randrange(256) for _ in range(chance.randint(1, 40)))
    elif damage == "block of zeros":
        begin = chance.randrange(len(now))
        now[begin : begin + 512] = bytes(len(now[begin : begin + 512]))
    else:
        now[:] = chance.choice(subject.others).read_bytes()
    put(subject.path, bytes(now))
    return now != content


def with_layers_exchanged(content: bytes, chance: random.Random) -> bytes:
    """Return a segment of which two layers stand in each other's places."""
    image = io.BytesIO(content)
    with h5py.File(image, "r+") as file:
        a, b = chance.sample([name for name in file if name.startswith("layer")], 2)
        file.move(a, "meanwhile")
        file.move(b, a)
        file.move("meanwhile", b)
    return image.getvalue()


def put(path: Path, content: bytes) -> None:
    """Write a file anew, as an editor would: with another inode."""
    beside = path.with_name(f"{path.name}.new")
    beside.write_bytes(content)
    os.replace(beside, path)


def verdict(subject: Subject, expected: str, damage: str) -> tuple[bool, str, str]:
    """Read a damaged file: did it hold, in one word, and in many."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            answer = subject.read()
        except FileNotFoundError as error:
            named = subject.named_by(error)
            return damage == "deleted" and named, "missing, named" if named else "missing, not named", str(error)
        except ValueError as error:
            named = subject.named_by(error)
            return named, "named" if named else "not named", f"{type(error).__name__}: {error}"
        except Exception as error:
            return False, f"reported as {type(error).__name__}", str(error)
    if answer == expected:
        return True, "without effect", ""
    told = "; ".join(str(one.message) for one in warned)
    return False, "another answer, with a warning" if told else "ANOTHER ANSWER", told


def resume(world: Path, place: Path, out: Path, seed: int) -> tuple[str, str]:
    """Damage the newest checkpoint of a run that has not ended: it goes on from the one before, and ends the same;
    returns the damage and what differs.
    """
    chance = random.Random(seed)
    shutil.copytree(place / "runs", out / "runs")
    expected = left(out)
    run = study(world).runs[0]
    folder = out / "runs" / run.folder_name
    (folder / "done").unlink()
    (out / "runs" / study(world).runs[2].folder_name / "done").unlink()
    path = sorted((folder / "checkpoint").iterdir())[-1]
    damage = chance.choice(DAMAGES[:4])
    harm(Subject("", path, [], lambda: ""), damage, path.read_bytes(), chance)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            work(str(world), str(out), ("train",))
            said = differences(left(out), expected)
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
    shutil.rmtree(out)
    return damage, said


def attempt(subject: Subject, damage: str, expected: str, seed: int) -> tuple[bool, str, str] | None:
    """Damage a file, read it, and put it back; None if the damage left it as it was."""
    content = subject.path.read_bytes()
    of_world = subject.kind == "world.csv"
    try:
        if not harm(subject, damage, content, random.Random(seed)):
            return None
        if of_world:
            world_spec._build.cache_clear()
        return verdict(subject, expected, damage)
    finally:
        put(subject.path, content)
        if of_world:
            world_spec._build.cache_clear()


def exchanged(ours: Path, theirs: Path, chance: random.Random) -> tuple[str, set[str]]:
    """Change the folder of a run by what is whole in itself; returns how, and the files that must be blamed for it."""
    checkpoints = sorted(path.name for path in (ours / "checkpoint").iterdir())
    last, segments = f"checkpoint/{checkpoints[-1]}", sorted((ours / "activations").iterdir())
    how = chance.choice(("a whole folder", "done", "spec.json", "the last checkpoint", "a link", "two deleted"))
    if how == "a whole folder":
        shutil.rmtree(ours)
        shutil.copytree(theirs, ours)
        return how, {"spec.json", "done", *(f"checkpoint/{path.name}" for path in (ours / "checkpoint").iterdir())}
    if how in ("done", "spec.json"):
        shutil.copy(theirs / how, ours / how)
        return how, {how}
    if how == "the last checkpoint":
        shutil.copy(sorted((theirs / "checkpoint").iterdir())[-1], ours / last)
        return how, {last}
    if how == "a link":
        name = chance.choice(("checkpoint", "activations"))
        (ours / name).rename(ours.with_name("elsewhere"))
        (ours / name).symlink_to(ours.with_name("elsewhere"))
        return f"{how} for {name}", {name}
    gone = chance.sample([last, "metrics.jsonl", f"activations/{segments[0].name}"], 2)
    for name in gone:
        (ours / name).unlink()
    return how, set(gone)


def blame(place: Path, out: Path, seed: int) -> tuple[str, str]:
    """Exchange or delete files of one run, in a copy, and compare what `verify` says with what was done: returns how it
    was done, and what differs.
    """
    chance = random.Random(f"blame {seed}")  # alike seeds that are numbers begin alike
    shutil.copytree(place / "runs", out / "runs")
    ours, theirs = chance.sample([path for path in sorted((out / "runs").iterdir()) if path.is_dir()], 2)
    how, expected = exchanged(ours, theirs, chance)
    try:
        wrong = [one for one in verify(out) if not one.fine and one.state != "unchecked"]
        named = [
            one.path.relative_to(ours).as_posix() if one.path.is_relative_to(ours) else str(one.path) for one in wrong
        ]
        said = "" if sorted(named) == sorted(expected) else f"blamed {sorted(named)}, expected {sorted(expected)}"
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
    shutil.rmtree(out)
    return how, said


def made(place: Path, parts: Sequence[str] = ("train", "export", "read")) -> tuple[list[Path], list[Path]]:
    """Do these parts of the work for each seed below a folder; returns the studies' folders and their worlds."""
    worlds_of = [towns(place / f"world-{seed}.csv", seed) for seed in SEEDS]
    places = [place / f"study-{seed}" for seed in SEEDS]
    for world, out, seed in zip(worlds_of, places, SEEDS):
        work(str(world), str(out), parts, seed=seed)
    return places, worlds_of


def run(tally: Tally, there: tuple[list[Path], list[Path]] | None = None, kinds: Sequence[str] = KINDS) -> None:
    """Damage one file after another, each alone, of the studies that are there, or of ones made for it. All `kinds` must be
    among them, and each damaged often enough.
    """
    chance = random.Random(tally.seed)
    places, worlds_of = there or made(tally.place)
    everyone = [one for one in subjects(places, worlds_of) if one.path.exists()]
    found = {one.kind for one in everyone}
    for kind in sorted(found ^ set(kinds)):
        tally.fail("kinds of files", f"{kind}: {'not expected' if kind in found else 'not there'}")
    kinds = [kind for kind in kinds if kind in found]
    expected = {one.path: one.read() for one in everyone}
    number = 0
    while tally.going:
        drawn = []
        for _ in range(min(TOGETHER, tally.target - tally.tried)):
            number += 1
            kind = kinds[number % len(kinds)]
            subject = chance.choice([one for one in everyone if one.kind == kind])
            damages = (*DAMAGES, EXCHANGED) if kind == "segment" else DAMAGES
            drawn.append((subject, chance.choice(damages), expected[subject.path], chance.randrange(1 << 30)))
        kept = {subject.path: subject.path.read_bytes() for subject, *_ in drawn}
        for (subject, damage, *_), told in zip(drawn, forked([partial(attempt, *one) for one in drawn]), strict=True):
            if isinstance(told, Died):
                put(subject.path, kept[subject.path])
                told = (False, told, "")
            if told:
                held, word, said = told
                tally.expect(f"{subject.kind}, {damage}: {word}", held, f"{subject.path.name}: {said}")
        if number % RESUMED < TOGETHER:
            out = tally.place / f"resumed-{number}"
            for told in forked([partial(resume, worlds_of[0], places[0], out, number)]):
                damage, said = ("", told) if isinstance(told, Died) else told
                tally.expect("resumed from the checkpoint before", not said, f"{damage}: {said}")
        out = tally.place / f"blamed-{number}"
        for told in forked([partial(blame, places[0], out, number)]):
            how, said = ("", told) if isinstance(told, Died) else told
            tally.expect(f"verify blames what was done: {how}", not said, said)
    counts = tally.held + tally.failed
    times = {kind: sum(n for one, n in counts.items() if one.startswith(f"{kind}, ")) for kind in kinds}
    least = tally.tried // OFTEN
    for kind in (kind for kind in kinds if times[kind] < least):
        tally.fail("kinds of files", f"{kind}: damaged {times[kind]} times, expected {least} at least")
    tally.notes.append("kinds of files, and times: " + ", ".join(f"{kind} {n:,}" for kind, n in times.items()))
