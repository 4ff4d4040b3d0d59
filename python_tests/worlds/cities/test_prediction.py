"""Agreement of gradients against what fine-tunes did: planted answers."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import pearsonr

from worldfast.worlds.cities import prediction
from worldfast.worlds.cities.tasks import BUILT_IN

NAMES = list(BUILT_IN)


def agreement(rng, models=2):
    pairs = [(a, b) for i, a in enumerate(NAMES) for b in NAMES[i:]]
    return pd.DataFrame(
        [(f"m{k}", a, b, rng.normal()) for k in range(models) for a, b in pairs],
        columns=["base", "task", "other", "cosine"],
    )


def test_the_mean_over_models_both_ways():
    table = agreement(np.random.default_rng(0))
    found = prediction.square(table)
    rows = table[(table.task == "distance") & (table.other == "angle")]
    assert found.loc["angle", "distance"] == found.loc["distance", "angle"] == pytest.approx(rows.cosine.mean())
    assert found.index.tolist() == NAMES and found.notna().all(axis=None)


def test_a_planted_line_is_found():
    rng = np.random.default_rng(1)
    cosines = prediction.square(agreement(rng))
    rows = [
        (f"{a}+{b}", task, 2 * cosines.loc[a, b] + 1 + noise)
        for a, b in combinations(NAMES, 2)
        for task, noise in (("distance", 0.5), ("angle", -0.5))  # gone in the mean
    ]
    deviation = pd.DataFrame([*rows, ("distance", "angle", 99.0)], columns=["tasks", "task", "deviation"])
    table = prediction.prediction(cosines, {"deviation": prediction.of_pairs(deviation, "deviation")})
    assert table.predicted.tolist() == ["deviation"] * 2 and table.what.tolist() == ["all tasks", "without distance"]
    assert table.r.to_numpy() == pytest.approx([1, 1]) and table.n.tolist() == [21, 15]
    assert (table.p < 0.01).all()


def test_noise_is_not():
    rng = np.random.default_rng(2)
    cosines = prediction.square(agreement(rng))
    other = prediction.square(agreement(rng))
    table = prediction.prediction(cosines, {"noise": other})
    upper = np.triu_indices(7, 1)
    assert table.r[0] == pytest.approx(pearsonr(cosines.to_numpy()[upper], other.to_numpy()[upper])[0])
    assert table.p[0] > 0.05
    with pytest.raises(ValueError, match="cosine"):
        prediction.square(pd.DataFrame({"task": [], "other": []}))
