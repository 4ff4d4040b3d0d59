"""As much of the paper's canon as fits in some minutes: trained at full shape and vocabulary on fewer rows, read,
and drawn.

    science/  runs/ tables/ studies/paper/ (tables, figures, the page)  science.json (its scale)

Runs train in waves, those that say most first. Where time is up, the wave that trains is saved and what has ended is
read, and drawn as far as it was read; the next call in the same folder goes on there, as does `worldfast study run
paper --scale <its scale>`.
"""

import json
import os
import signal
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import gpu_device
import torch
from gpu_part import first_line, require
from gpu_training import TINY, lockstep_of

import worldfast as wf
from worldfast.outcome import outcome
from worldfast.report import report
from worldfast.run import Run
from worldfast.studies.analyses import made, make, tables_of
from worldfast.studies.engine import run_study
from worldfast.worlds.cities import Dataset
from worldfast.worlds.cities.recipe import world_update
from worldfast.worlds.cities.studies import SEEDS, Study, paper
from worldfast.worlds.cities.world import OLD

GPU = gpu_device.DEVICE
SCALES = (0.4, 0.2, 0.1, 0.05, 0.025, 0.0125, 0.005)  # so that two machines of about one speed train the same runs
TRAINED = 0.6  # share of the time that training may take; the rest is for reading
TABLED = 0.6  # share of what is then left that tables may take; the rest is for drawing
FIRST = 0.6  # share of it that the first two waves should take, as measured
TEST_ROWS = 500  # of each task and group; 10,000 take minutes a model
PIECES, STEPS = 9, 8  # in which a rate is measured, and steps of each


def tiny_study() -> Study:
    """A dry run's: two models of one task, one of two, and a fine-tune of that."""
    one = Run(
        Dataset(
            ("distance",),
            world=wf.WorldSpec(atlantis=20, largest=60),
            rows=64,
            loss="answer",
            among=OLD,
            vocabulary="entity",
        ),
        batch=32,
        model=wf.TransformerSpec(**TINY),
        checkpoints=2,
        validation=2,
        capture=wf.Capture(layers=(1,)),
    )
    base = replace(one, data=replace(one.data, tasks=("distance", "angle")), name="")
    few = {"standard": 8, "included": 40, "alive": 4, "epochs": 1, "learning_rate": 1e-3}
    runs = (
        one,
        replace(one, data=replace(one.data, tasks=("angle",)), name=""),
        base,
        world_update(base, "distance", **few),
    )
    return Study("paper", runs, layer=1, test_rows=4, shown=[run.name for run in runs[2:]])


def waves(study: Study) -> list[list[Run]]:
    """The canon in the order in which it is trained: of the first seed each task and all of them, then two and three
    tasks, then fine-tunes of the first base; then the other bases, fine-tunes and seeds."""
    first, pretrained = SEEDS[0], [run for run in study.canon if run.start is None]
    few = lambda run: len(run.data.tasks) in (1, 7)  # noqa: E731
    tuned = [run for run in study.canon if run.start is not None]
    found = [
        [run for run in pretrained if run.seed == first and few(run)],
        [run for run in pretrained if run.seed == first and not few(run)],
        [run for run in tuned if run.seed == first],
        [run for run in pretrained if run.seed != first and len(run.data.tasks) == 7],
        [run for run in tuned if run.seed != first],
        [run for run in pretrained if run.seed != first and len(run.data.tasks) < 7],
    ]
    return [wave for wave in found if wave]


def measured(runs, steps: int = STEPS, pieces: int = PIECES) -> float:
    """Seconds of a step of these runs together: the median of pieces after the first. A step that records a graph takes
    as long as a hundred others, and does so once for a number of places."""
    lockstep, members, taken = lockstep_of(runs, GPU.place + ":0"), list(range(len(runs))), []
    for _ in range(1 + pieces):
        begun = time.perf_counter()
        for _ in range(steps):
            lockstep.step(members)
        GPU.wait()
        taken.append((time.perf_counter() - begun) / steps)
    return median(taken[1:])


def chosen_scale(seconds: float) -> float:
    """The largest of SCALES at which the first two waves take no longer, by the rate of the first measured here."""
    first, second = waves(paper())[:2]
    step = measured(first)
    taken = step * first[0].steps + step * len(second) / len(first) * second[0].steps
    print(
        f"a step of {len(first)} models takes {step * 1e3:.2f} ms: at full scale two waves {taken:,.0f} s", flush=True
    )
    return next((scale for scale in SCALES if scale * taken <= seconds), SCALES[-1])


class TimeIsUp:
    """Ctrl-C for whatever runs inside, once so many seconds are gone; what that raises ends here. `came`: it did."""

    def __init__(self, seconds: float):
        self.seconds, self.came = seconds, False

    def __enter__(self):
        self._before = signal.signal(signal.SIGALRM, self._stop)
        signal.setitimer(signal.ITIMER_REAL, max(0.01, self.seconds))
        return self

    def _stop(self, *_):
        self.came = True
        os.kill(os.getpid(), signal.SIGINT)

    def __exit__(self, kind, error, trace):
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self._before)
        if self.came and isinstance(error, KeyboardInterrupt):
            print(error or "stopped", flush=True)
            return True
        return False


def science(part):
    """Trains, reads and draws, in the folder `science` of the part's."""
    out = part.out / "science"
    out.mkdir(exist_ok=True)
    study = part.anew("its scale", study_of, part, out)
    if study is None:
        return
    part.case("training", train, part, study, out)
    finished = [run for run in study.canon if ended(run, out)]
    print(f"{len(finished)} of {len(study.canon)} runs have ended", flush=True)
    if finished:
        part.case("reading and drawing", read, part, replace_runs(study, finished), out)


def study_of(part, out: Path) -> Study:
    """The paper's study at the scale asked for, at that of the call before, or at one that fits."""
    if part.dry:
        study = tiny_study()
        with GPU.results_unread():
            measured(study.canon[:2], 1, 1)
        return study
    about = out / "science.json"
    before = json.loads(about.read_text())["scale"] if about.exists() else None
    scale = before or part.options.scale or chosen_scale(part.left() * TRAINED * FIRST)
    if part.options.scale not in (None, scale):
        raise ValueError(f"scale: {part.options.scale} was asked for, but {about} has {scale}: resume without --scale")
    about.write_text(json.dumps({"study": "paper", "scale": scale}))
    print(f"scale {scale:g}: `worldfast study run paper --scale {scale:g} --out {out}` goes on from here", flush=True)
    return replace(paper(scale), test_rows=TEST_ROWS)


def train(part, study: Study, out: Path) -> None:
    """Trains wave after wave until its share of the time is gone."""
    device = "cpu" if part.dry else "cuda"
    with TimeIsUp(part.left() * TRAINED):
        for wave in waves(study):
            wf.train(wave, out / "runs", device=device)
            print(f"{len(wave)} runs, {wave[0].name} to {wave[-1].name}, have ended", flush=True)


def ended(run: Run, out: Path) -> bool:
    return outcome(run, out / "runs").finished


def replace_runs(study: Study, runs: list[Run]) -> Study:
    """The study of some of its canon, without its extensions."""
    names = {run.name for run in runs}
    shown = [name for name in study.shown if name in names]
    patched = study.patched if set(study.patched) <= names else ()
    return replace(study, canon=runs, extensions=(), shown=shown, patched=patched)


def read(part, study: Study, out: Path) -> None:
    """Makes the tables, then the figures and the page of those runs whose own tables were made in time."""
    faults = make_tables(part, study, out)
    left = [table for table in tables_of(study, study.runs) if not made(table, out)]
    unread = {run.name for table in left if len(table.runs) == 1 for run in table.runs}
    drawn = [run for run in study.canon if not unread & {run.name, run.start and run.start.name}]
    print(f"{len(left)} tables are not made; drawn: {len(drawn)} of {len(study.canon)} runs", flush=True)
    study = replace_runs(study, drawn or study.canon[:1])
    scale = "" if part.dry else f" --scale {json.loads((out / 'science.json').read_text())['scale']:g}"
    result = run_study(study, out, command=f"worldfast study run paper{scale}", train_missing=False)
    page = report.publish(study, result, out / "studies" / study.name)
    print("\n".join(["", *result.findings, "", f"The page: {page.relative_to(part.out)}"]), flush=True)
    require(faults)


def make_tables(part, study: Study, out: Path) -> list[str]:
    """Makes tables side by side in processes until their share of the time is gone, run after run, those of several
    runs last. Gives the faults of those that could not be made."""
    order, faults = {run.name: i for i, run in enumerate(study.canon)}, []
    missing = [table for table in tables_of(study, study.runs) if not made(table, out)]
    missing.sort(key=lambda table: (len(table.runs) > 1, max(order[run.name] for run in table.runs)))
    workers = 1 if part.dry else max(1, len(os.sched_getaffinity(0)) - 1)
    pool = ProcessPoolExecutor(workers, get_context("spawn"), torch.set_num_threads, (1,))
    with TimeIsUp(part.left() * TABLED):
        for done in as_completed([pool.submit(make, table, out) for table in missing]):
            if error := done.exception():
                faults.append(first_line(error))
    pool.shutdown(wait=False, cancel_futures=True)
    return faults
