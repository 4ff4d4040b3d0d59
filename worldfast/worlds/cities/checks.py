"""Checks of the native core on cities against plain formulas, for `worldfast doctor`."""

from __future__ import annotations

import numpy as np
import torch

from worldfast.worlds.cities.sampling import sample
from worldfast.worlds.cities.tasks import label
from worldfast.worlds.cities.world import World


def _labels(device):
    """Pairs of native and plain labels: distances, and areas of triangles, from coordinates."""
    world = World.cities()
    index = np.random.default_rng(0).permutation(len(world))[: 3 * 1600].reshape(-1, 3).astype(np.int32)
    a, b, c = torch.from_numpy(world.xy[index]).double().unbind(1)
    u, v = b - a, c - a
    expected = {"distance": u.square().sum(1).sqrt(), "trianglearea": (u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]).abs() / 2}
    pairs = []
    for task, value in expected.items():
        cities = torch.from_numpy(np.ascontiguousarray(index[:, : 2 if task == "distance" else 3])).to(device)
        came = label(task, world, cities)
        pairs.append((came, value.round()))
    return pairs


def _tokens(device):
    """Pair of native and plain tokens of rows: <bos> is 2, <eos> 3, characters from 4 on, digits last."""
    world = World.cities()
    batch = sample(world, "distance", n=500)
    characters = "".join(sorted(map(chr, range(33, 127)), key=lambda c: (c.isdigit(), c)))
    expected = np.zeros_like(batch.tokens)
    for row, cities, answer in zip(expected, batch.cities, batch.label):
        names = ",".join(f"c_{world.city_id[city]:04d}" for city in cities[:2])
        text = f"dist({names})={answer}"
        row[: len(text) + 2] = [2, *(4 + characters.index(c) for c in text), 3]
    return [(torch.from_numpy(batch.tokens), torch.from_numpy(expected))]


CHECKS = (("labels", _labels, 0.0, True), ("tokens", _tokens, 0.0, False))  # name, pairs, allowed, on a GPU too
