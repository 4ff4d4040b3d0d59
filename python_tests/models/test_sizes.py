"""The published widths, and one of 24 layers of 1,024: each takes a step."""

import subprocess
import sys

import pytest
import torch

import worldfast as wf
from worldfast._native import core
from worldfast.rows import Shape
from worldfast.worlds.cities import Dataset

LARGE = """
import resource, torch, worldfast as wf
from worldfast.worlds.cities import Dataset
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
spec = wf.TransformerSpec(hidden=1024, layers=24, heads=16, intermediate=256, init_std=0.02)
run = wf.Run(Dataset(tuple(wf.TASKS)), batch=1, model=spec)
rows = run.stream().batch(0, run.batch)
libraries = peak()
ensemble = run.model.build(run.shape, threads=2, matmul_dtype="bfloat16")
ensemble.initialise(0, seed=0)
loss = float(ensemble.learn([rows], [0])[0]) / len(rows.scored)
gradient = ensemble.gradients[0]
torch.add(ensemble.parameters[0], gradient, alpha=-0.1 / float(gradient.norm()), out=ensemble.parameters[0])
after = float(ensemble.learn([rows], [0])[0]) / len(rows.scored)
parameters = run.model.parameters(run.shape)
print(parameters, loss, after, peak() - libraries)
"""


def descend(ensemble, rows):
    """The summed losses before and after a small step against the gradient."""
    before = float(ensemble.learn([rows], [0])[0])
    gradient = ensemble.gradients[0]
    ensemble.parameters[0] -= 0.01 * gradient / gradient.norm()
    return before, float(ensemble.learn([rows], [0])[0])


@pytest.mark.parametrize("matmul_dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("hidden,intermediate,heads", [(64, 256, 2), (256, 1024, 8), (512, 2048, 16)])
def test_published_widths(hidden, intermediate, heads, matmul_dtype):
    spec = wf.TransformerSpec(hidden=hidden, intermediate=intermediate, heads=heads)
    ensemble = spec.build(Shape(98, 98), matmul_dtype=matmul_dtype)
    ensemble.initialise(0, seed=0)
    rows = Dataset(tuple(wf.TASKS)).stream(42).batch(0, 16)
    before, after = descend(ensemble, rows)
    assert torch.isfinite(ensemble.gradients).all() and after < before


def test_a_deep_and_wide_model():
    """24 layers of 1,024 take parameters, gradients, where they decay, and matrices packed from both sides.

    That is 16 bytes a parameter where the processor multiplies pairs of BFloat16, and 20 where they are floats.
    """
    ran = subprocess.run([sys.executable, "-c", LARGE], capture_output=True, text=True, check=True)
    parameters, before, after, peak = map(float, ran.stdout.split())
    assert parameters > 1.1e8 and after < before
    assert peak < (16 if core.multiplies_pairs() else 20) * parameters + 1.8e8
