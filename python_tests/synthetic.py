"""A study that nobody ran: maps that emerge from noise, for the tests of figures and page."""

import numpy as np

from worldfast.results import RunResult, StudyResult
from worldfast.world import World

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


def study_result(world: World, runs: list[RunResult], **changes) -> StudyResult:
    m = len(runs)
    values = {
        "name": "demo",
        "world": world,
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
    }
    return StudyResult(**{**values, **changes})
