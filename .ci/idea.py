"""A model of the demo and what it becomes, on a hundredth of the rows: `worldfast study run .ci/idea.py` takes half a minute."""

from worldfast.worlds.cities import Study, demo

first, *others = demo(0.01).runs
tuned = next(run for run in others if run.start == first)
study = Study("idea", [first, tuned], layer=1, test_rows=50)
