"""Principal components of a representation, in one frame over training."""

from dataclasses import dataclass

import numpy as np
import torch

from worldfast.gram import as_tensor

__all__ = ["Components", "leading_components", "pca_over_training"]


@dataclass(frozen=True)
class Components:
    """projected: float32 [S, n, k], every step in one frame; explained: float64 [k], share of variance at the last."""

    projected: np.ndarray
    explained: np.ndarray


def pca_over_training(activations, layer, k=3, fit="last", share=0.6, seed=0):
    """The first k principal components of every step of a run.

    activations  Activations, or anything with .steps and [step, layer] -> [n, d]
    fit          "last": fitted once, at the last step, on a random `share` of the cities (the published way);
                 "each": fitted at every step, and turned onto the step after it by the nearest rotation or
                 reflection, so that the view shows each step's own spread and does not jump
    share, seed  of the cities the components are fitted on

    Returns Components. Raises ValueError for k larger than n or d, or an unknown fit.
    """
    from scipy.linalg import orthogonal_procrustes
    from sklearn.decomposition import PCA

    from worldfast.errors import unknown_name

    if fit not in ("last", "each"):
        raise unknown_name("fit", fit, ("last", "each"))
    steps = list(activations.steps)
    if not steps:
        raise ValueError("activations: expected at least one step, got none")
    last = np.asarray(activations[steps[-1], layer], dtype=np.float64)
    n, d = last.shape
    chosen = np.random.default_rng(seed).permutation(n)[: max(k, round(share * n))]
    if not 1 <= k <= min(len(chosen), d):
        raise ValueError(f"k: expected 1 to {min(len(chosen), d)} components, got {k}")
    pca = PCA(k, svd_solver="covariance_eigh").fit(last[chosen])
    projected = [pca.transform(last)]
    for step in reversed(steps[:-1]):
        X = np.asarray(activations[step, layer], dtype=np.float64)
        if fit == "last":
            projected.append(pca.transform(X))
        else:
            own = PCA(k, svd_solver="covariance_eigh").fit(X[chosen]).transform(X)
            projected.append(own @ orthogonal_procrustes(own, projected[-1])[0])
    return Components(
        np.stack(projected[::-1]).astype(np.float32), pca.explained_variance_ratio_.astype(np.float64)
    )


def leading_components(X, k):
    """The first k principal components of a representation X [n, d]: a float64 tensor [n, k] on its device.

    Raises ValueError for k larger than n or d.
    """
    X = as_tensor(X)
    if X.ndim != 2 or not 1 <= k <= min(X.shape):
        raise ValueError(
            f"expected [n, d] of at least {k} rows and columns for {k} components, got {list(X.shape)}"
        )
    X = X - X.mean(0)
    if len(X) < X.shape[1]:  # the same from the smaller of two matrices
        values, vectors = torch.linalg.eigh(X @ X.T)
        return vectors[:, -k:].flip(1) * values[-k:].flip(0).clamp(min=0).sqrt()
    return X @ torch.linalg.eigh(X.T @ X)[1][:, -k:].flip(1)
