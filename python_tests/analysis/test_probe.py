"""Probes, their tables, generalisation and the mixed view against scikit-learn and planted maps."""

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.metrics import r2_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from worldfast.analysis.generalisation import probe_generalisation
from worldfast.analysis.pca import mixed_over_training
from worldfast.analysis.probe import fit_map, held_out, linear_probe, penalty, probe_over_training, probe_table
from worldfast.worlds.cities.groups import choose_cities

random = np.random.default_rng(17)
N = 240


@pytest.fixture
def xy():
    return random.integers(-900, 900, size=(N, 2))


def planted(xy, d=10, noise=0.1):
    signal = np.concatenate([xy / 500, random.normal(size=(len(xy), d - 2))], axis=1)
    return signal @ np.linalg.qr(random.normal(size=(d, d)))[0] + 3 + noise * random.normal(size=(len(xy), d))


class Recorded:
    """Three checkpoints, two layers, in the dtypes that activations are kept in."""

    steps = (0, 10, 20)

    def __init__(self, xy):
        self.arrays = {
            (step, layer): planted(xy, noise=3 / (1 + step) / layer).astype(np.float16 if layer == 3 else np.float32)
            for step in self.steps
            for layer in (3, 4)
        }

    def __getitem__(self, key):
        return self.arrays[key]


@pytest.mark.parametrize("condition", [1, 1e2, 1e4, 1e5, 1e8])
def test_fit_is_scikit_learns(xy, condition):
    """Far from the origin, and however badly conditioned; of 1e8 what is smallest is cut off."""
    frame, spread = np.linalg.qr(random.normal(size=(12, 12)))[0], np.geomspace(1, 1 / condition, 12)
    X = planted(xy, 12) * spread @ frame + 10
    theirs, ours = LinearRegression().fit(X, xy), fit_map(X, xy)
    assert np.abs(ours.predict(X) - theirs.predict(X)).max() < 1e-8 * np.abs(xy).max()
    assert r2_score(xy, ours.predict(X)) == pytest.approx(r2_score(xy, theirs.predict(X)), abs=1e-10)


def test_fit_of_singular_features_is_the_shortest(xy):
    X = planted(xy, 6)
    for singular in (
        np.concatenate([X, X[:, :2]], axis=1),
        np.concatenate([X, X[:, :2] * (1 + 1e-15)], axis=1),
        np.concatenate([X, np.full((N, 1), 7.0)], axis=1),
        np.concatenate([X, np.full((N, 1), 0.1)], axis=1),  # whose mean rounds
    ):
        theirs, ours = LinearRegression().fit(singular, xy), fit_map(singular, xy)
        assert np.allclose(ours.predict(singular), theirs.predict(singular), atol=1e-6)
        assert np.allclose(ours.predict(singular), fit_map(X, xy).predict(X), atol=1e-6)
        assert np.abs(ours.slope).max() < 1e5


def test_ridge_is_scikit_learns(xy):
    X, test = planted(xy) * np.geomspace(1, 1e3, 10), held_out(N)
    X = np.concatenate([X, np.full((N, 1), 2.0)], axis=1)
    for ridge in (0.1, 10.0):
        theirs = make_pipeline(StandardScaler(), Ridge(ridge)).fit(X[~test], xy[~test]).predict(X)
        assert np.allclose(linear_probe(X, xy, test, ridge).predicted, theirs, atol=1e-3)
    wide = random.normal(size=(N, 400))  # more features than cities
    theirs = make_pipeline(StandardScaler(), Ridge(1.0)).fit(wide[~test], xy[~test]).predict(wide)
    assert np.allclose(linear_probe(wide, xy, test, 1.0).predicted, theirs, atol=1e-2)
    with pytest.raises(ValueError, match="ridge: expected a positive"):
        linear_probe(X, xy, test, 0.0)


def test_probe_table_is_scikit_learns(xy):
    recorded, test = Recorded(xy), held_out(N)
    table = probe_table(recorded, (3, 4), xy, test, rows=(0, 1280, 2560), run="pt")
    assert list(table.columns) == [
        "run",
        "layer",
        "step",
        "rows",
        "r2_x",
        "r2_y",
        "r2",
        "mean_error",
        "median_error",
        "n_fitted",
        "n_held_out",
    ]
    assert [*zip(table["layer"], table["step"])] == [(layer, step) for layer in (3, 4) for step in (0, 10, 20)]
    assert list(table["rows"]) == [0, 1280, 2560] * 2 and (table["run"] == "pt").all()
    assert (table["n_held_out"] == 48).all() and (table["n_fitted"] == 192).all()
    for row in table.itertuples():
        X = recorded[row.step, row.layer].astype(np.float64)
        predicted = LinearRegression().fit(X[~test], xy[~test]).predict(X[test])
        r2 = r2_score(xy[test], predicted, multioutput="raw_values")
        errors = np.linalg.norm(predicted - xy[test], axis=1)
        assert np.allclose([row.r2_x, row.r2_y, row.r2], [*r2, r2.mean()], atol=1e-10)
        assert (row.mean_error, row.median_error) == (pytest.approx(errors.mean()), pytest.approx(np.median(errors)))
    again = probe_over_training(recorded, 4, xy, test)
    assert [probe.mean_error for probe in again] == list(table[table["layer"] == 4]["mean_error"])


def test_probe_table_of_some_steps(xy):
    table = probe_table(Recorded(xy), (4,), xy, held_out(N), steps=(20,), rows=(0, 1, 2))
    assert "run" not in table.columns and list(table["step"]) == [20] and list(table["rows"]) == [2]
    with pytest.raises(ValueError, match="steps: 15 is not among"):
        probe_table(Recorded(xy), (4,), xy, held_out(N), steps=(15,))
    with pytest.raises(ValueError, match="rows: expected 3"):
        probe_table(Recorded(xy), (4,), xy, held_out(N), rows=(0, 1))
    with pytest.raises(ValueError, match="ridge"):
        probe_table(Recorded(xy[:12]), (4,), xy[:12], held_out(12))


def test_generalisation_is_a_probe_of_the_fitted_cities(xy):
    X, new = planted(xy), np.arange(N) >= N - 30
    X[new] += 2  # put elsewhere than the map says
    fit_on, groups = choose_cities(new, held_out=20)
    assert fit_on.sum() == round((N - 30) * 4000 / 5075) and groups["held out"].sum() == 20
    assert np.array_equal(groups["Atlantis"], new) and not (fit_on & (new | groups["held out"])).any()
    cities = np.arange(N) + 1000
    table = probe_generalisation(X, xy, fit_on, groups, items=cities, run="ft", layer=5)
    assert list(table.columns) == ["run", "layer", "item", "group", "x", "y", "predicted_x", "predicted_y", "error"]
    expected = LinearRegression().fit(X[fit_on], xy[fit_on]).predict(X)
    for name, mask in ({"fitted": fit_on} | groups).items():
        part = table[table["group"] == name]
        assert np.array_equal(part["item"], cities[mask])
        assert np.array_equal(part[["x", "y"]], xy[mask])
        assert np.allclose(part[["predicted_x", "predicted_y"]], expected[mask], atol=1e-6)
        assert np.allclose(part["error"], np.hypot(*(expected[mask] - xy[mask]).T), atol=1e-6)
    errors = table.groupby("group", sort=False)["error"].agg(["mean", "size"])
    assert errors["mean"]["Atlantis"] > 3 * errors["mean"]["held out"]
    assert list(errors["size"]) == [fit_on.sum(), 20, 30]


def test_the_published_world_has_the_published_split():
    new = np.arange(5175) >= 5075
    fit_on, groups = choose_cities(new)
    assert (fit_on.sum(), groups["held out"].sum(), groups["Atlantis"].sum()) == (4000, 100, 100)
    again = choose_cities(new)
    assert np.array_equal(again[0], fit_on) and not np.array_equal(choose_cities(new, seed=1)[0], fit_on)
    use = np.arange(5175) % 2 == 0
    some, groups = choose_cities(new, use=use)
    assert not (some & ~use).any() and all(not (mask & ~use).any() for mask in groups.values())
    assert set(choose_cities(np.zeros(50, dtype=bool))[1]) == {"held out"}
    assert choose_cities(np.zeros(50, dtype=bool))[1]["held out"].sum() == 50 - 39


def test_generalisation_refuses(xy):
    X, new = planted(xy), np.arange(N) >= N - 30
    fit_on, groups = choose_cities(new)
    for arguments, match in (
        ((X, xy[:-1], fit_on, groups), r"xy \[n, 2\]"),
        ((X * np.nan, xy, fit_on, groups), "NaN"),
        ((X, xy, fit_on.astype(int), groups), "fit_on: expected a bool mask"),
        ((X, xy, fit_on, {"none": fit_on & ~fit_on}), r"groups\['none'\]: selects no item"),
        ((X, xy, fit_on, {"all": ~new}), r"groups\['all'\]: 166 of its items are among those of the fit"),
        ((X, xy, fit_on, {"fitted": new}), "choose another"),
        ((random.normal(size=(N, 200)), xy, fit_on, groups), "ridge=1.0"),
    ):
        with pytest.raises(ValueError, match=match):
            probe_generalisation(*arguments)
    assert len(probe_generalisation(random.normal(size=(N, 200)), xy, fit_on, groups, ridge=1.0)) == N
    few = random.normal(size=(30, 32))
    with pytest.raises(ValueError, match="32 features needs more than 33 items, got 24: pass ridge=1.0"):
        linear_probe(few, xy[:30], np.arange(30) >= 24)
    assert np.isfinite(linear_probe(few, xy[:30], np.arange(30) >= 24, ridge=penalty(24, 32)).r2).all()
    assert penalty(34, 32) is None and penalty(33, 32) == 1
    with pytest.raises(ValueError, match="items: expected"):
        probe_generalisation(X, xy, fit_on, groups, items=[1, 2])
    with pytest.raises(ValueError, match="fit: expected 1 to 209 of the 210"):
        choose_cities(new, fit=210)
    with pytest.raises(ValueError, match="held_out"):
        choose_cities(new, held_out=0)
    with pytest.raises(ValueError, match="new: expected a bool mask"):
        choose_cities(np.arange(4))


class Mixture:
    """x, y and a third thing along three directions that lean to one another; an earlier step without the map."""

    steps = (0, 9)

    def __init__(self, xy, third):
        self.frame = np.linalg.qr(random.normal(size=(7, 7)))[0]
        self.frame[1] += 0.7 * self.frame[0]
        self.frame[2] += 0.3 * self.frame[0]
        signal = np.concatenate([xy / 100, third[:, None], 0.1 * random.normal(size=(len(xy), 4))], axis=1)
        self.last = signal @ self.frame + 5
        self.first = random.normal(size=self.last.shape) + 5

    def __getitem__(self, key):
        assert key[1] == 5
        return self.first if key[0] == 0 else self.last


def test_mixed_view_finds_planted_directions(xy):
    third = 4 * random.normal(size=N)
    planted = Mixture(xy, third)
    view = mixed_over_training(planted, 5, xy)
    assert view.projected.shape == (2, N, 3) and view.projected.dtype == np.float32
    assert np.allclose(np.linalg.norm(view.directions, axis=1), 1)
    read = np.linalg.inv(planted.frame)[:, :2]  # along which x grows and nothing else does; y
    assert np.allclose(view.directions[:2], (read / np.linalg.norm(read, axis=0)).T, atol=1e-2)
    assert abs(view.directions[0] @ view.directions[1]) > 0.4
    assert np.allclose(view.directions[2] @ view.directions[:2].T, 0, atol=1e-9)
    assert np.abs(view.directions[2]).max() == view.directions[2].max()
    for i in range(2):  # the map is not mirrored
        assert np.corrcoef(view.projected[1, :, i], xy[:, i])[0, 1] > 0.999
    centred = planted.last - planted.last.mean(0)
    assert np.allclose(view.projected[1], centred @ view.directions.T, atol=1e-4)
    assert np.allclose(view.projected[0], (planted.first - planted.last.mean(0)) @ view.directions.T, atol=1e-4)
    assert np.allclose(view.explained, np.var(centred @ view.directions.T, axis=0) / np.var(centred, axis=0).sum())
    # what is left, its first component
    slope = LinearRegression().fit(planted.last, xy).coef_
    plane = np.linalg.qr(slope.T)[0]
    first = PCA(1).fit(centred - centred @ plane @ plane.T).components_[0]
    assert abs(first @ view.directions[2]) == pytest.approx(1)


def test_mixed_view_of_some_cities(xy):
    planted = Mixture(xy, 4 * random.normal(size=N))
    fit_on = held_out(N, 0.6)
    some = mixed_over_training(planted, 5, xy, fit_on)
    planted.last[~fit_on] += 100 * random.normal(size=(int((~fit_on).sum()), 7))
    assert np.allclose(mixed_over_training(planted, 5, xy, fit_on).directions, some.directions)
    for arguments, match in (
        ((xy[:-1],), "xy: expected"),
        ((xy, fit_on.astype(int)), "fit_on: expected a bool mask"),
        ((np.stack([xy[:, 0], np.ones(N)], axis=1),), "constant"),
        ((xy, np.arange(N) < 5), "ridge"),
    ):
        with pytest.raises(ValueError, match=match):
            mixed_over_training(planted, 5, *arguments)
    planted.last = xy / 100.0
    with pytest.raises(ValueError, match="nothing is left"):
        mixed_over_training(planted, 5, xy)
