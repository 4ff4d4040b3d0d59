"""Exact resume: real `kill -9` while a study is trained, captured, saved, read, exported and drawn; half of them inside
calls that save; SIGTERM and SIGHUP save first. Whatever happened, the final files are those of an undisturbed study.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path

from torture.faults import DEATHS, Child, Nursery, nursery_of
from torture.tally import Tally
from torture.work import PARTS, differences, left, study, towns

PROMISE = "exact resume"
TARGET = 500  # kills
SAVING = ("open", "write", "fsync", "rename", "unlink")
POLITE = 8  # one in so many is asked to end, not killed
MOST = 40  # kills of one study
DEEP = 60  # calls of a kind until one is killed in it, at most


def train_until(world: str, out: str, step: int, number: int) -> None:
    """Train, and send this process a signal at a step: it should save what it has, and end."""
    import worldfast as wf

    def log(run, line):
        if line["step"] == step and "loss" in line:
            os.kill(os.getpid(), number)

    wf.train(study(world).runs[:2], Path(out) / "runs", device="cpu", progress=False, log=log)


def saved_step(out: Path, run) -> int:
    """Return the step of a run's newest checkpoint, -1 if there is none."""
    files = (out / "runs" / run.folder_name / "checkpoint").glob("step-*.safetensors")
    return max((int(path.stem[5:]) for path in files), default=-1)


def ask(tally: Tally, nursery: Nursery, world: str, out: Path, chance: random.Random) -> None:
    """Send SIGTERM or SIGHUP in the middle of training: it ends with a checkpoint of the step that it had reached."""
    run, number = study(world).runs[0], chance.choice((signal.SIGTERM, signal.SIGHUP))
    left_to_do = range(max(saved_step(out, run), 0) + 1, run.steps)
    if not left_to_do:
        return
    step = chance.choice(left_to_do)
    ended = nursery.call("torture.kills:train_until", world, str(out), step, int(number))
    kept = saved_step(out, run)
    tally.expect(
        f"{number.name} saves first", kept >= step, f"at step {step} of {run.steps}, saved was {kept}; {ended}"
    )


def kill(nursery: Nursery, does: str, how: tuple, chance: random.Random, seconds: float) -> tuple[Child, str]:
    """Start the work, and see that it is killed; returns the process and where that was to happen."""
    if chance.random() < 0.5:
        call = chance.choice(SAVING)
        moment = chance.choice([one for one in DEATHS if one != "halfway" or call == "write"])
        number = round(DEEP ** chance.random())
        fault = (call, number, DEATHS[moment], how[1])
        return nursery.start(does, *how, fault), f"in a save: {moment} {call}"
    child = nursery.start(does, *how)
    if child.alive(chance.uniform(0, seconds) * chance.random()):  # often early, so that one study is killed often
        child.signal(signal.SIGKILL)
    return child, "at a random moment"


def run(
    tally: Tally, parts: Sequence[str] = PARTS, does: str = "torture.work:work", there: Nursery | None = None
) -> None:
    """Kill the study until it has finished, compare what it left, and begin again; `does` is what is killed, by forks of
    the nursery that is there, if one is.
    """
    chance, world = random.Random(tally.seed), str(towns(tally.place / "towns.csv"))
    whole = {n: tally.place / f"whole-{n}" for n in range(1, len(parts) + 1)}
    with nursery_of(there, tally.place, ("torture.work:work", world, str(tally.place / "warm"), parts)) as nursery:
        expected, seconds = {}, {}
        for n, out in whole.items():
            began = tally.elapsed
            if (ended := nursery.call("torture.work:work", world, str(out), parts[:n]))["status"]:
                raise RuntimeError(f"an undisturbed study fails: {ended}")
            expected[n], seconds[n] = left(out), tally.elapsed - began
        finished = 0
        while tally.going:
            n, out = chance.randint(1, len(parts)), tally.place / f"killed-{finished}"
            how = (world, str(out), parts[:n])
            kinds, ended = [], {"status": -signal.SIGKILL}
            while ended["status"] == -signal.SIGKILL:
                if chance.randrange(POLITE) == 0:
                    ask(tally, nursery, world, out, chance)
                if tally.going and len(kinds) < MOST:
                    child, kind = kill(nursery, does, how, chance, seconds[n])
                else:
                    child, kind = nursery.start(does, *how), "while it finished"
                ended = child.wait()
                if ended["status"] == -signal.SIGKILL:
                    kinds.append(kind)
            if ended["status"]:
                tally.fail("going on after a kill", f"after {kinds}: {ended.get('text')} {ended.get('trace')}")
            elif kinds:
                said = differences(left(out), expected[n])
                for kind in kinds:
                    tally.expect(kind, not said, f"{said}, after {kinds}")
            shutil.rmtree(out)
            finished += 1
        tally.notes.append(f"{finished} studies were killed, and went on until they had finished")
