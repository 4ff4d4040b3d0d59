"""The CUDA driver gives the bits of the CPU driver. Skipped where there is no GPU; that it compiles is tested by the build."""

import numpy as np
import pytest
import torch

import worldfast as wf
from worldfast._native import core

needs_gpu = pytest.mark.skipif(not (core.cuda and torch.cuda.is_available()), reason="no GPU, or built without CUDA")


@needs_gpu
@pytest.mark.parametrize("task", wf.TASKS)
@pytest.mark.parametrize("vocabulary", ["character", "entity"])
@pytest.mark.parametrize("options", [{}, {"must_include": "region == 'Atlantis'"}, {"crossing": "reshuffled"}])
def test_rows_are_those_of_the_cpu(task, vocabulary, options):
    world = wf.World.cities().with_atlantis()
    cpu = wf.sample(world, task, n=10_001, start=5, vocabulary=vocabulary, **options)
    gpu = wf.sample(world, task, n=10_001, start=5, vocabulary=vocabulary, device="cuda", **options)
    for name in ("tokens", "length", "answer_start", "cities", "label", "task"):
        assert np.array_equal(getattr(cpu, name), getattr(gpu, name).cpu().numpy()), name
    assert torch.equal(wf.label(task, world, gpu.cities), gpu.label)
    assert gpu.text(7) == cpu.text(7)


@needs_gpu
def test_bad_rows_are_found_on_the_gpu():
    world = wf.World.cities()
    cities = torch.tensor([[0, 1], [3, 3]], dtype=torch.int32, device="cuda")
    with pytest.raises(ValueError, match="city 3 is repeated in row 1"):
        wf.label("distance", world, cities)
    with pytest.raises(ValueError, match="device"):
        wf.label("distance", world, cities, out=torch.empty(2, dtype=torch.int64))


@pytest.mark.skipif(core.cuda and torch.cuda.is_available(), reason="there is a GPU")
def test_asked_for_and_not_there():
    with pytest.raises(RuntimeError, match="CUDA"):
        wf.sample(wf.World.cities(), "distance", n=1, device="cuda")
