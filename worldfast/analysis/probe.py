"""Linear probes: is the map a linear function of the representation?

Ordinary least squares from representations to coordinates, scored on cities the probe has not seen.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

__all__ = ["Probe", "held_out", "linear_probe", "probe_over_training"]


@dataclass(frozen=True)
class Probe:
    """What a linear probe found.

    r2            float64 [2], of x and y, on the held-out cities
    mean_error    mean distance between true and predicted places of held-out cities, in the unit of xy
    median_error  its median
    predicted     float32 [n, 2], every city where the probe places it
    """

    r2: np.ndarray
    mean_error: float
    median_error: float
    predicted: np.ndarray


def held_out(n, share=0.2, seed=0):
    """A random choice, by `seed`, of things to leave out of a fit: bool [n], round(share * n) of them True."""
    if not 0 < share < 1:
        raise ValueError(f"share: expected a number between 0 and 1, got {share}")
    mask = np.zeros(n, dtype=bool)
    mask[np.random.default_rng(seed).permutation(n)[: round(share * n)]] = True
    return mask


def linear_probe(X, xy, test, ridge=None):
    """Fits xy from X on the cities where `test` is False, and scores the others.

    X      [n, d], representations
    xy     [n, 2], coordinates
    test   bool [n], the held-out cities
    ridge  penalty of a ridge regression on standardised features; None: ordinary least squares

    Returns a Probe. Raises ValueError where shapes disagree, X is not finite, or there are no more cities than features
    (ordinary least squares then fits anything).
    Source: the probes of arXiv 2602.00533; scikit-learn's LinearRegression and Ridge.
    """
    from sklearn.linear_model import LinearRegression, Ridge
    from sklearn.metrics import r2_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    X, xy, test = np.asarray(X, dtype=np.float64), np.asarray(xy, dtype=np.float64), np.asarray(test)
    if X.ndim != 2 or xy.shape != (len(X), 2):
        raise ValueError(f"expected X [n, d] and xy [n, 2], got {list(X.shape)} and {list(xy.shape)}")
    if test.dtype != bool or test.shape != (len(X),):
        raise ValueError(f"test: expected a bool mask [{len(X)}], got {test.dtype} {list(test.shape)}")
    if not np.isfinite(X).all():
        raise ValueError("X: holds NaN or infinity")
    fitted = int((~test).sum())
    if test.sum() < 2:
        raise ValueError(f"test: expected at least 2 held-out cities, got {int(test.sum())}")
    if ridge is None and fitted <= X.shape[1] + 1:
        raise ValueError(
            f"a least-squares probe of {X.shape[1]} features needs more than {X.shape[1] + 1} cities, got {fitted}: "
            "pass ridge=1.0 for a penalised fit"
        )
    model = LinearRegression() if ridge is None else make_pipeline(StandardScaler(), Ridge(alpha=ridge))
    predicted = model.fit(X[~test], xy[~test]).predict(X)
    errors = np.linalg.norm(predicted[test] - xy[test], axis=1)
    return Probe(
        r2=r2_score(xy[test], predicted[test], multioutput="raw_values"),
        mean_error=float(errors.mean()),
        median_error=float(np.median(errors)),
        predicted=predicted.astype(np.float32),
    )


def probe_over_training(activations, layer, xy, test, ridge=None):
    """A probe at every step of a run: list of Probe, in the order of activations.steps.

    activations  Activations, or anything with .steps and [step, layer] -> [n, d]

    xy, test and ridge as in `linear_probe`.
    """
    from threadpoolctl import threadpool_limits

    # The products of one probe are too small to share out among threads; probes are not.
    with threadpool_limits(1), ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(lambda step: linear_probe(activations[step, layer], xy, test, ridge), activations.steps))
