"""A large study that nobody ran: a hundred runs, their tables, figures and published numbers, for the tests of the page."""

from dataclasses import replace
from math import nan

import numpy as np
import pandas as pd
from synthetic import SEVEN, evaluation, run_result, study_result

from worldfast.report.figures import Drawn, style
from worldfast.report.figures.catalogue import title
from worldfast.studies import Comparison, RunResult, StudyResult
from worldfast.worlds.cities.world import ATLANTIS, World

LAYER = 2
SECTIONS = {
    "know": "probes-by-layer over-training learned-map pca",
    "alike": "cka cka-trends cka-over-training procrustes mutual-knn dimension",
    "tuning": "improvement improvement-summary deviation deviation-histogram atlantis-maps error-histograms "
    "cka-against-improvement agreement",
    "tasks": "task-drawings world-map",
}
PUBLISHED = [
    Comparison(
        "same-task CKA, layer 5, one task",
        0.812,
        0.021,
        21,
        "",
        0.838,
        nan,
        "arXiv 2602.00533, Fig. 3",
        "The paper printed 0.786: its analysis read wrong cells of the matrix; this is the corrected number.",
        "pair of models",
    ),
    Comparison("one-task fine-tune, trained", 0.861, 0.034, 14, "", 0.838, 0.051, "arXiv 2602.00533, Fig. 5"),
    Comparison("probe error, Atlantis, with distance", 402.4, 31.2, 14, "0.1 degree", 508.3, nan, "arXiv 2602.00533"),
    Comparison("probe error, Atlantis scattered", 95.0, 8.0, 2, "0.1 degree", nan, nan, "", "Ours is the first."),
    Comparison("wide model, one-task fine-tune", nan, nan, 0, "", 0.803, nan, "arXiv 2602.00533"),
]


def taught(world: World, tasks, seed, off, base, checkpoints=9) -> RunResult:
    """A fine-tune whose map of the world stands, and whose Atlantis comes within `off` (0.1 degree) of its place."""
    run = run_result(world, tasks, seed, checkpoints, name=f"ft-{'+'.join(tasks)}-s{seed}")
    random = np.random.default_rng(seed + 50)
    new = world.region == ATLANTIS
    share = np.linspace(0, 1, checkpoints)[:, None, None]
    lost = random.normal(0, 700, (1, new.sum(), 2))
    direction = random.normal(size=(1, new.sum(), 2)) * off + off
    predicted = run.predicted[-1:] * np.ones((checkpoints, 1, 1), dtype=np.float32)
    predicted[:, new] = (1 - share) * lost + share * (world.xy[new] + direction)
    rows = np.arange(checkpoints) * 3_000
    return replace(
        run,
        predicted=predicted.astype(np.float32),
        rows=rows,
        steps=rows // 100,
        loss_rows=np.arange(1, 101) * 240,
        spec=spec(tasks, seed, start={"name": base, "tasks": list(SEVEN)}),
    )


def spec(tasks, seed, **changes) -> dict:
    """A specification as a run has it."""
    return {
        "data": {"tasks": list(tasks), "world": {"source": "cities", "atlantis": 0}, "rows": 300_000},
        "seed": seed,
        "name": "",
        "start": None,
        "learning_rate": 0.005,
        "model": {"hidden": 64, "layers": 2},
        **changes,
    }


def large_study(world: World, seeds=2, drawn=True) -> StudyResult:
    """7 one-task, 7 two-task, 7 three-task and a seven-task run, 28 fine-tunes, at each seed; ten of them as films.

    `world` has Atlantis. drawn: with twenty figures of noise.
    """
    random = np.random.default_rng(0)
    pairs = [(SEVEN[i], SEVEN[j]) for i in range(7) for j in range(i)]
    pretrained = [
        *((task,) for task in SEVEN),
        *((SEVEN[i % 7], SEVEN[(i + 1) % 7]) for i in range(0, 14, 2)),
        *((SEVEN[i % 7], SEVEN[(i + 1) % 7], SEVEN[(i + 2) % 7]) for i in range(0, 21, 3)),
        SEVEN,
    ]
    tuned = [*((task,) for task in SEVEN), *pairs]
    lines, specs = [], {}
    for seed in range(1, seeds + 1):
        for kind, sets in (("pt", pretrained), ("ft", tuned)):
            for tasks in sets:
                name = f"{kind}-{'all' if len(tasks) == 7 else '+'.join(tasks)}-s{seed}"
                base = f"pt-all-s{seed}" if kind == "ft" else ""
                failed = kind == "pt" and tasks == ("crossing",)
                steps = 1500 if kind == "pt" else 300
                lines.append(
                    (
                        name,
                        f"{random.integers(16**12):012x}",
                        kind,
                        "+".join(tasks),
                        len(tasks),
                        seed,
                        base,
                        "Atlantis" if base else "",
                        64,
                        steps,
                        steps * 256,
                        float(random.uniform(30, 90)),
                        "finished",
                        not failed,
                        float(random.uniform(0.5, 1.5)),
                    )
                )
                specs[name] = spec(tasks, seed, **({"start": {"name": base}} if base else {}))
    columns = "run id kind tasks n_tasks seed base group width steps rows seconds status learned loss".split()
    runs = pd.DataFrame(lines, columns=columns)
    shown = [run_result(world, (task,), 1, spec=spec((task,), 1)) for task in SEVEN]
    shown = [replace(run, name=f"pt-{'+'.join(run.tasks)}-s1") for run in shown]
    shown.append(run_result(world, SEVEN, 1, name="pt-all-s1", spec=spec(SEVEN, 1)))
    for tasks, off in ((("angle",), 20), (("angle", "trianglearea"), 25), (("distance",), 400)):
        shown.append(taught(world, tasks, 1, off, "pt-all-s1"))
    shown = [replace(run, mixed=run.components[:, :, ::-1]) for run in shown]
    return study_result(
        world,
        shown,
        name="mini",
        cka_layer=LAYER,
        tables={"runs": runs, "evaluation": evaluation(), **_measured(runs, random)},
        specs=specs,
        figures=[_figure(name, section) for section, names in SECTIONS.items() for name in names.split()]
        if drawn
        else [],
        published=PUBLISHED,
        command="worldfast study run mini",
    )


def _measured(runs, random) -> dict[str, pd.DataFrame]:
    n = len(runs)
    r2 = np.where(runs.learned, random.uniform(0.6, 0.99, n), 0.02)
    probes = pd.concat(
        pd.DataFrame(
            {
                "run": runs.run,
                "layer": layer,
                "step": runs.steps * share,
                "rows": runs.rows * share,
                "r2": r2 * share,
                "median_error": 900 - 850 * r2 * share,
            }
        )
        for layer in (1, LAYER)
        for share in (0, 1)
    )
    tuned = runs[runs.kind == "ft"]
    generalisation = pd.DataFrame(
        [
            (run, LAYER, city, ATLANTIS, 100.0 + 300 * ("distance" in tasks) + city)
            for run, tasks in zip(tuned.run, tuned.tasks, strict=True)
            for city in range(3)
        ],
        columns=["run", "layer", "item", "group", "error"],
    )
    improvement = pd.DataFrame(
        [
            (run, task, 0.9 if task in tasks.split("+") else 0.4, task in tasks.split("+"))
            for run, tasks in zip(tuned.run, tuned.tasks, strict=True)
            for task in SEVEN
        ],
        columns=["run", "task", "improvement", "trained"],
    )
    return {"probes": probes, "generalisation": generalisation, "improvement": improvement}


def _figure(name: str, section: str) -> Drawn:
    return Drawn(name, section, title(name), _noise(name), f"A sentence on what {name} shows, over 7 models.")


def _noise(name: str) -> bytes:
    """A figure of the size that figures have, harder to compress than most."""
    import io

    figure = style.paper(*((9.5, 4.2) if len(name) % 2 else (5.0, 4.2)))
    axes = figure.subplots()
    random = np.random.default_rng(len(name))
    axes.scatter(*random.normal(size=(2, 3000)), s=4, c=random.random(3000))
    axes.set(title=name, xlabel="x", ylabel="y")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=160)
    return buffer.getvalue()
