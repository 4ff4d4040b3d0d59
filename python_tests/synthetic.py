"""A study that nobody ran: maps that emerge from noise, for the tests of figures and page."""

import numpy as np

from worldfast.report.figures import group_names
from worldfast.studies import RunResult, StudyResult
from worldfast.worlds.cities.scene import scene_of
from worldfast.worlds.cities.tasks import TASKS
from worldfast.worlds.cities.world import World

SEVEN = ("distance", "trianglearea", "angle", "compass", "inside", "perimeter", "crossing")


def run_result(world: World, tasks=("distance",), seed=0, checkpoints=9, **changes) -> RunResult:
    """A model whose map grows out of noise over `checkpoints` moments; a fifth of the cities is held out."""
    random = np.random.default_rng(seed)
    n, s = len(world), checkpoints
    known = 0.95 * (1 - np.exp(-5 * np.linspace(0, 1, s)))[:, None, None]  # [S, 1, 1]
    middle, spread = world.xy.mean(0), world.xy.std(0) + 1
    truth = (world.xy - middle) / spread  # [N, 2]
    noise = np.cumsum(random.normal(size=(s, n, 3)), axis=0) / np.sqrt(np.arange(1, s + 1))[:, None, None]
    blur = np.sqrt(known * (1 - known) + 0.004)
    predicted = middle + spread * (known * truth + blur * noise[:, :, :2])  # [S, N, 2]
    held_out = np.random.default_rng(99).random(n) < 0.2
    held_out[:2] = True
    apart = predicted[:, held_out] - world.xy[held_out]
    shape = np.concatenate([truth, np.cos(truth[:, :1])], axis=1)  # [N, 3]
    rows = np.arange(s) * 50_000
    values = {
        "name": f"pt-{'+'.join(tasks)}-s{seed}",
        "tasks": tuple(tasks),
        "spec": {"seed": seed, "world": {"source": "cities", "atlantis": 0}, "layers": [1, 2], "note": None},
        "folder": f"runs/pt-s{seed}",
        "seconds": 12.5,
        "loss_rows": np.arange(1, 101) * 4_000,
        "loss": 4 * np.exp(-np.arange(100) / 30) + 1,
        "steps": rows // 100,
        "rows": rows,
        "r2": 1 - (apart**2).mean(1) / world.xy[held_out].var(0),
        "error": np.median(np.linalg.norm(apart, axis=2), axis=1),
        "predicted": predicted.astype(np.float32),
        "held_out": held_out,
        "components": (3 * (known * shape + blur * noise)).astype(np.float32),
        "explained": np.array([0.4, 0.2, 0.1]),
        "scores": {task: 0.5 for task in tasks},
    }
    return RunResult(**{**values, **changes})


def evaluation():
    """What the scores of each task are, as the table "evaluation" says it."""
    import pandas

    rows = [(task.name, "standard", task.metric, task.unit) for task in TASKS.values()]
    return pandas.DataFrame(rows, columns=["task", "group", "metric", "unit"])


def study_result(world: World, runs: list[RunResult], **changes) -> StudyResult:
    m = len(runs)
    new = group_names(changes.get("tables", {}).get("runs", {}))
    values = {
        "name": "demo",
        "world": scene_of(world, [name for name in new if name in world.region]),
        "runs": runs,
        "cka": np.full((m, m), 0.4) + 0.6 * np.eye(m),
        "cka_layer": 2,
        "test_rows": 1000,
        "findings": ["The map is there.", "It comes early."],
        "machine": {"processor": "a processor", "device": "cpu"},
        "seconds": 171.4,
        "command": "worldfast demo --seed 42",
        "version": "0.1.0",
        "commit": "abc1234",
        "date": "2025-01-02",
        "tables": {"evaluation": evaluation()},
    }
    return StudyResult(**{**values, **changes})


# ---- the tables of a study that nobody ran ----

LAYERS = (3, 4, 5, 6)
SHARES = (0.0, 0.05, 0.15, 0.4, 1.0)
MOMENTS = 12
CHOICES = ("compass", "inside", "crossing")
SCALE = {"distance": 800, "trianglearea": 4e5, "angle": 50, "perimeter": 2500}  # error of who knows nothing


def task_sets(size: int, names=SEVEN) -> list[tuple[str, ...]]:
    """The canon's sets of `size` tasks: cyclic, with stride `size`."""
    n = len(names)
    if size == n:
        return [names]
    starts = [(size * i) % n for i in range(n)] if size > 1 else range(n)
    return list(dict.fromkeys(tuple(names[(start + j) % n] for j in range(size)) for start in starts))


def tables(world: World, seeds=(0, 1), names=SEVEN, group="Atlantis") -> dict:
    """Every table of a study of these tasks, by name: 22 pretrained task sets and 28 fine-tunes, at each of `seeds`.

    Numbers are like the published ones: crossing alone does not learn, fine-tunes with distance put the region that
    they were taught, `group`, far off.
    """
    import pandas

    random = np.random.default_rng(5)
    runs = runs_table(seeds, names, group)
    pretrained, tuned = runs[runs.kind == "pt"], runs[runs.kind == "ft"]
    found = {"runs": runs}
    found |= over_training_tables(pretrained, random)
    found |= similarity_tables(pretrained, random)
    found |= fine_tuning_tables(tuned, random, names, group)
    found["generalisation"] = generalisation_table(world, runs, random, names, group)
    pairs = [(base, a, b) for base in tuned.base.unique() for a in names for b in names]
    found["agreement"] = pandas.DataFrame(
        {
            "base": [base for base, _, _ in pairs],
            "task": [a for _, a, _ in pairs],
            "other": [b for _, _, b in pairs],
            "cosine": [
                0.9 if a == b else (-0.1 if "distance" in (a, b) else 0.3) + 0.05 * random.normal() for _, a, b in pairs
            ],
        }
    )
    return found


def runs_table(seeds, names, group):
    import pandas

    rows = []
    for seed in seeds:
        sets = [("pt", tasks) for size in (1, 2, 3, len(names)) for tasks in task_sets(size, names)]
        pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
        sets += [("ft", tasks) for tasks in [(task,) for task in names] + pairs]
        for kind, tasks in sets:
            joined = "+".join(tasks)
            learned = not (kind == "pt" and (tasks == ("crossing",) or (tasks == ("inside",) and seed == 1)))
            rows.append(
                {
                    "run": f"{kind}-{'all' if tasks == names else joined}-s{seed}",
                    "id": f"{len(rows):08x}",
                    "kind": kind,
                    "tasks": joined,
                    "n_tasks": len(tasks),
                    "seed": seed,
                    "base": "" if kind == "pt" else f"pt-all-s{seed}",
                    "group": "" if kind == "pt" else group,
                    "width": 128,
                    "steps": 4000,
                    "rows": 512_000,
                    "seconds": 61.5,
                    "status": "finished",
                    "learned": learned,
                    "loss": 0.4,
                    "comparable": names == SEVEN and group == "Atlantis",
                }
            )
    return pandas.DataFrame(rows)


def over_training_tables(runs, random):
    import pandas

    curves, validation, probes, dimension = [], [], [], []
    for run in runs.itertuples():
        ability = 0.93 + 0.05 * random.random() if run.learned else 0.02
        pace = 4 + 4 * random.random()
        for i in range(60):
            level = 3 * np.exp(-pace * i / 60) + (0.35 if run.learned else 1.1)
            row = {"run": run.run, "step": (i + 1) * 66, "rows": (i + 1) * 8448, "loss": level}
            curves.append(row | {"loss": level + 0.08 * random.normal()})
        for i in range(MOMENTS):
            known = ability * (1 - np.exp(-pace * i / (MOMENTS - 1)))
            at = {"run": run.run, "step": i * 363, "rows": i * 46_464}
            for task in run.tasks.split("+"):
                choice = task in CHOICES
                guess = 1 / 8 if task == "compass" else 0.5
                value = guess + (1 - guess) * known if choice else SCALE.get(task, 300) * (1 - known) ** 1.5
                validation.append(
                    at
                    | {
                        "task": task,
                        "metric": "accuracy" if choice else "absolute error",
                        "value": value,
                        "unparsable": 0,
                    }
                )
            for layer in LAYERS:
                r2 = known * (0.7 + 0.06 * layer if layer < 6 else 0.97)
                probes.append(
                    at
                    | {
                        "layer": layer,
                        "r2_x": min(1, r2 + 0.01),
                        "r2_y": r2 - 0.01,
                        "r2": r2,
                        "mean_error": 700 * np.sqrt(1 - r2),
                        "median_error": 600 * np.sqrt(1 - r2),
                        "n_fitted": 4000,
                        "n_held_out": 1075,
                    }
                )
        for layer in LAYERS:
            dimension.append(
                {
                    "run": run.run,
                    "layer": layer,
                    "participation_ratio": 14 - 2.2 * run.n_tasks**0.5 - layer + random.random(),
                    "two_nn": 5.5 - 0.4 * layer - 0.3 * run.n_tasks**0.5 + 0.2 * random.random(),
                }
            )
    named = {"curves": curves, "validation": validation, "probes": probes, "dimension": dimension}
    return {name: pandas.DataFrame(rows) for name, rows in named.items()}


def similarity_tables(runs, random):
    import pandas

    cka, procrustes, mutual_knn = [], [], []
    kinds = [("linear", False, 0), ("linear", True, 0), ("rbf", False, 0), ("linear", False, 3)]
    for n, group in runs.groupby("n_tasks"):
        listed = list(group.itertuples())
        for i, one in enumerate(listed):
            for other in listed[i + 1 :]:
                same = one.tasks == other.tasks
                level = (0.83 if same else 0.68) if n == 1 else (0.93 if same else 0.87)
                level -= 0.15 * (("distance" in one.tasks) != ("distance" in other.tasks)) / n
                level = level if one.learned and other.learned else 0.05
                pair = {"run": one.run, "other": other.run}
                for layer in LAYERS:
                    here = level * (0.6 + 0.08 * min(layer, 5)) + 0.02 * random.normal()
                    for kernel, debiased, components in kinds:
                        shift = {"rbf": -0.06}.get(kernel, 0) - 0.01 * debiased + 0.03 * (components > 0)
                        row = {
                            "layer": layer,
                            "step_share": 1.0,
                            "kernel": kernel,
                            "debiased": debiased,
                            "components": components,
                        }
                        cka.append(row | pair | {"value": np.clip(here + shift, 0, 1)})
                    for share in SHARES[:-1]:
                        row = {
                            "layer": layer,
                            "step_share": share,
                            "kernel": "linear",
                            "debiased": False,
                            "components": 0,
                        }
                        early = 0.9 - (0.9 - here) * (1 - np.exp(-20 * share))
                        cka.append(row | pair | {"value": np.clip(early, 0, 1)})
                    procrustes.append({"layer": layer, "components": 3} | pair | {"disparity": np.clip(1 - here, 0, 1)})
                    mutual_knn.append({"layer": layer, "k": 10} | pair | {"value": 0.6 * np.clip(here, 0, 1)})
    trends = [
        {
            "what": what,
            "layer": layer,
            "n_tasks": n,
            "mean": (top - 0.02 * (5 - layer) ** 2) * (1 if n > 1 else 0.88),
            "standard_error": 0.03 / n,
            "n": 7,
            "unit": "task set",
        }
        for layer in LAYERS
        for what, top in (("same task", 0.91), ("cross task", 0.86), ("disjoint tasks", 0.84))
        for n in (1, 2, 3)
    ]
    named = {"cka": cka, "procrustes": procrustes, "mutual_knn": mutual_knn, "trends": trends}
    return {name: pandas.DataFrame(rows) for name, rows in named.items()}


def fine_tuning_tables(runs, random, names, group):
    import pandas

    improvement, deviation, evaluation = [], [], []
    for run in runs.itertuples():
        tasks = run.tasks.split("+")
        for task in names:
            trained, far = task in tasks, "distance" in tasks
            level = 0.86 if trained else 0.2 if tasks == ["distance"] else 0.5 + 0.2 * (run.n_tasks - 1)
            level = np.clip(level + 0.12 * random.normal(), 0, 1.5)
            key = {"run": run.run, "tasks": run.tasks, "seed": run.seed, "task": task, "trained": trained}
            base = {"value": 0.8, "base_group": 0.3, "base_standard": 0.95}
            improvement.append(key | base | {"improvement": level})
            for rows in ("standard", group):
                evaluation.append(
                    {
                        "run": run.run,
                        "task": task,
                        "group": rows,
                        "metric": "accuracy" if task in CHOICES else "absolute error",
                        "unit": "" if task in CHOICES else "0.1 degree",
                        "value": 0.8,
                        "n": 500,
                        "unparsable": 0,
                    }
                )
            if run.n_tasks == 2:
                apart = (-0.2 if far and not trained else 0.08) + 0.1 * random.normal()
                expected = level - apart
                deviation.append(key | {"actual": level, "expected": expected, "deviation": apart, "distance": far})
    named = {"improvement": improvement, "deviation": deviation, "evaluation": evaluation}
    return {name: pandas.DataFrame(rows) for name, rows in named.items()}


def generalisation_table(world: World, runs, random, names, taught):
    """All fine-tunes and the models of all tasks at layer 5: 200 cities fitted, 100 held out, what was taught."""
    import pandas

    new = np.flatnonzero(world.region == taught)
    old = random.permutation(np.flatnonzero(world.region != taught))[:300]
    city = np.concatenate([old, new])
    group = np.array(["fitted"] * 200 + ["held out"] * (len(old) - 200) + [taught] * len(new))
    frames = []
    for run in runs[(runs.kind == "ft") | (runs.n_tasks == len(names))].itertuples():
        if run.kind == "pt":
            keep = group != taught
        else:
            keep = np.ones(len(city), dtype=bool)
        at = world.xy[city].astype(float)
        spread = np.where(group == taught, 60, 15)
        placed = at + spread[:, None] * random.normal(size=at.shape)
        if "distance" in run.tasks.split("+"):
            middle = np.array([150 + 60 * random.normal(), -100.0])
            placed[group == taught] = middle + 0.4 * (placed - at.mean(0))[group == taught]
        frames.append(
            pandas.DataFrame(
                {
                    "run": run.run,
                    "layer": 5,
                    "item": city[keep],
                    "group": group[keep],
                    "x": at[keep, 0],
                    "y": at[keep, 1],
                    "predicted_x": placed[keep, 0],
                    "predicted_y": placed[keep, 1],
                    "error": np.linalg.norm(placed - at, axis=1)[keep],
                }
            )
        )
    return pandas.concat(frames, ignore_index=True)
