"""Trials a second time: in NumPy and SciPy, a row after the other. Nothing is shared with the native core but the words
of its generator, SplitMix64.
"""

import numpy as np
from scipy.special import ndtr, ndtri
from splitmix import MASK, words


def encoded(x, layers, square):
    for at in range(0, len(layers), 2):
        weight, bias = (np.asarray(one, np.float64) for one in layers[at : at + 2])
        x = x[..., : len(weight)] @ weight + bias
        if at < 4:
            x = x**2 if square else np.maximum(x, 0)
    return x


def trial(
    key, row, *, dims, steps, sigma, noise, correlation, layers, square, channels, boundary, threshold, free, block
):
    """Return (inputs [T, width], targets [T, N] before they are truncated, latents [D]) in float64."""
    word = words(key, row)
    uniform = lambda: ((next(word) >> 12) + 0.5) / 2**52  # noqa: E731
    u = np.array([((next(word) >> 41) + 0.5) / 2**23 for _ in range(dims)])
    if correlation:
        z = ndtri(u)
        u[1] = ndtr(correlation * z[0] + np.sqrt(1 - correlation**2) * z[1])
    x = u - 0.5
    drawn = np.zeros((steps, dims))
    if noise != "encoded":
        share = np.array([[uniform() for _ in range(dims)] for _ in range(steps)])
        drawn = -np.log(-np.log(share)) if noise == "gumbel" else ndtri(share)
    if noise == "ar1":
        for t in range(1, steps):
            drawn[t] = 0.7 * drawn[t - 1] + np.sqrt(0.51) * drawn[t]
    scale = sigma * np.array([1, 2 if noise == "anisotropic" else 1, *[1] * dims])[:dims]
    X = x + drawn * scale
    seen = encoded(X, layers, square)[:, :channels]
    rest = encoded(np.zeros(dims), layers, square)[:channels]
    if noise == "encoded":
        seen = seen + sigma * ndtri([[uniform() for _ in range(channels)] for _ in range(steps)])
    if threshold[0] >= 0:
        y = np.array([all(c * x > 0) and abs(x.prod()) > theta for c, theta in zip(boundary, threshold)])
    else:
        y = boundary @ x > 0
    if free:
        inputs, targets = seen, np.zeros((steps, len(boundary)))
        total = np.zeros(len(boundary))
        for t in range(steps):
            going = abs(total) < 5
            total = np.where(going, np.clip(total + boundary @ X[t], -5, 5), total)
            targets[t] = total
    else:
        inputs = np.vstack([rest, seen, rest])
        inputs = np.column_stack([np.arange(steps + 2) < steps + 1, inputs])
        targets = np.full((steps + 2, len(boundary)), 0.5)
        targets[-1] = y
    if block:
        rule = next(words(key ^ MASK, row // block)) * 2 >> 64
        inputs = np.column_stack([inputs, np.eye(2)[[rule] * len(inputs)]])
    return inputs, targets, x
