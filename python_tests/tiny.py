"""Runs that train in a moment, which tests of folders, audits, starts and steps begin from."""

import worldfast as wf
from worldfast.worlds.cities import Dataset

TINY = wf.TransformerSpec(hidden=16, layers=1, heads=2, intermediate=24)
RUN = wf.Run(
    Dataset("distance", rows=64, world=wf.WorldSpec(largest=60)),
    batch=16,
    checkpoints=2,
    model=TINY,
    capture=wf.Capture(layers=(1,), readout={"among": "index < 9"}),
)  # steps 0, 2, 4
UNREAD = wf.Run(
    Dataset("distance", rows=64),
    seed=7,
    batch=16,
    learning_rate=0.01,
    warmup=0,
    model=TINY,
    checkpoints=1,
    capture=wf.Capture(layers=()),
)  # 4 steps
