"""The published widths, and a model 250 times the paper's, take a training step; what that takes of memory."""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from worldfast import checkpoint
from worldfast.activations import Capture
from worldfast.model import Ensemble, ModelSpec
from worldfast.run import Run
from worldfast.tasks import TASKS
from worldfast.train import train

WIDTHS = {64: (256, 2), 256: (1024, 8), 512: (2048, 16)}  # hidden: intermediate, heads
NONE = Capture(layers=())
RUN = Run(tuple(TASKS), rows=3, batch=21, warmup=0, weight_decay=0.0, checkpoints=1, capture=NONE)


@pytest.mark.parametrize("hidden", WIDTHS)
def test_published_widths_take_a_step(hidden, tmp_path):
    """The loss is that of a model that knows nothing, and AdamW's first step moves every parameter that has a
    gradient by the learning rate."""
    intermediate, heads = WIDTHS[hidden]
    run = replace(RUN, model=ModelSpec(hidden=hidden, intermediate=intermediate, heads=heads, init_std=0.02))
    lines = []
    (folder,) = train(run, tmp_path, progress=False, log=lambda _, line: lines.append(line))
    assert [line["step"] for line in lines] == [1]
    assert abs(lines[0]["loss"] - math.log(98)) < 0.3
    ensemble = Ensemble(run.model, 98)
    ensemble.initialise(0, run.seed)
    begin = ensemble.to_huggingface(0)
    ensemble.parameters[0] = checkpoint.newest(folder / "checkpoint", run.id).tensors["parameters"]
    for name, after in ensemble.to_huggingface(0).items():
        moved = (after - begin[name]).abs()
        assert moved.max() < 1.01 * run.learning_rate, name
        # the other tokens' embeddings have no gradient, and biases of keys hardly any: softmax cancels it
        if "k_proj.bias" not in name and "embed" not in name:
            assert moved.median() > 0.9 * run.learning_rate, name


LARGE = """
import json, resource
import torch
import worldfast as wf
from worldfast import layers
from worldfast.model import Ensemble, Rows

spec = wf.ModelSpec(hidden=1024, layers=24, heads=16, intermediate=4096, init_std=0.02)
ensemble = Ensemble(spec, 98)
ensemble.initialise(0, seed=0)
batch = wf.sample(wf.World.cities(), ["distance", "compass"], n=2)
rows = [torch.from_numpy(row[:length].astype("int32")) for row, length in zip(batch.tokens, batch.length)]
starts = torch.tensor([0, *(len(row) - 1 for row in rows)]).cumsum(0)
tokens, targets = (torch.cat([row[part] for row in rows]) for part in (slice(None, -1), slice(1, None)))
rows = Rows(tokens, starts.int(), (0, len(tokens)), torch.arange(len(tokens)), targets.long())
moments = torch.zeros(2, *ensemble.parameters.shape)
losses = ensemble.learn(rows)
layers.adamw_(
    ensemble.parameters, ensemble.gradients, *moments, ensemble.decayed, [1e-4], [1], 0.01, 0.9, 0.999, 1e-8,
    [1 / len(tokens)],
)
losses = torch.cat([losses, ensemble.learn(rows)]) / len(tokens)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"losses": losses.tolist(), "peak": peak, "parameters": ensemble.size}))
"""


LITTLE = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") < 12e9  # bytes


@pytest.mark.skipif(LITTLE, reason="needs a machine of 12 GB")
def test_a_large_model_takes_a_step():
    """403 million parameters. Beside five numbers for each (itself, its gradient, two moments and whether it
    decays) there are 0.7 GB, most of it torch."""
    done = subprocess.run([sys.executable, "-c", LARGE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["parameters"] == pytest.approx(403e6, rel=0.001)
    before, after = found["losses"]
    assert abs(before - math.log(98)) < 0.5 and after < before - 0.1
    assert found["peak"] < 5 * 4 * found["parameters"] + 0.7e9
