"""All figures of a study of cities: each stands with `@figure` at its function."""

from worldfast.report import Tasks
from worldfast.report.figures import Catalogue, LacksRuns, dimension, over_training, pretrained, probes_by_layer

CATALOGUE = Catalogue()
figure = CATALOGUE.figure


def is_comparable(runs) -> bool:
    """Return True if the table of runs says of each that published numbers may stand beside it."""
    return "comparable" in runs and bool(runs["comparable"].all())


def by_size(runs, sizes) -> dict[str, dict]:
    """Variants of a figure by number of tasks: "one-task", "two-tasks", "all-tasks" to its option."""
    tasks = Tasks(runs["tasks"])
    name = {n: "all-tasks" if 3 < n == len(tasks.names) else tasks.count(n).replace(" ", "-") for n in sizes}
    return {name[n]: {"n_tasks": n} for n in sizes}


def first_and_last(given, _) -> dict[str, dict]:
    """The least and the most tasks that models were pretrained on."""
    sizes = sorted(pretrained(given["runs"])["n_tasks"].unique())
    return by_size(given["runs"], [sizes[0], sizes[-1]])


def compared(given, _) -> dict[str, dict]:
    """Numbers of tasks of which there are several sets to compare, or several runs where one set is all there is."""
    counts = pretrained(given["runs"]).groupby("n_tasks")["tasks"].agg(["nunique", "size"])
    sizes = counts.index[counts["nunique"] > 1]
    sizes = sizes if len(sizes) else counts.index[counts["size"] > 1]
    if not len(sizes):
        raise LacksRuns("no two pretrained runs of the study have as many tasks")
    return by_size(given["runs"], sizes)


def taught(given, _) -> dict[str, dict]:
    """Numbers of tasks that models were fine-tuned on."""
    return by_size(given["runs"], sorted((given["improvement"]["tasks"].str.count(r"\+") + 1).unique()))


figure("training", "know", "curves validation probes runs", first_and_last)(over_training)
figure("probes-by-layer", "know", "probes runs")(probes_by_layer)
figure("dimension", "know", "dimension runs")(dimension)
