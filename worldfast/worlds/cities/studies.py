"""Studies of cities, and the presets: lists of runs, made by comprehensions over task names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

import numpy as np

from worldfast import studies
from worldfast.capture import Capture
from worldfast.errors import one_of, positive, several, typed, whole
from worldfast.models import TransformerSpec
from worldfast.run import Run
from worldfast.studies import Analysis, Scene, Subject
from worldfast.worlds.cities.doses import DOSES, NOISE, SHARES, grid
from worldfast.worlds.cities.groups import groups_of
from worldfast.worlds.cities.prompts import prompt_of
from worldfast.worlds.cities.recipe import Recipe
from worldfast.worlds.cities.sampling import sample
from worldfast.worlds.cities.tasks import BUILT_IN, Task
from worldfast.worlds.cities.tokens import Vocabulary
from worldfast.worlds.cities.world import NEW, OLD
from worldfast.worlds.cities.world_spec import WorldSpec

__all__ = ["PRESETS", "Study", "cyclic", "demo", "integration", "mini", "paper", "width"]


def draw(tables: Mapping, scene: Scene, layer: int) -> list:
    """Draw the figures of a study of cities, and return them with captions."""
    from worldfast.worlds.cities.figures import draw_study  # imports matplotlib, so only for drawing

    return draw_study(tables, scene.world, layer)


@dataclass(frozen=True)
class Study(studies.Study):
    """Study of cities.

    Attributes
    ----------
    cities : str
        Cities on which representations are compared, an expression for World.select; by default those that pretraining
        may hold and that no fine-tune is taught.
    test_rows : int
        Rows of each task, and of each with what is taught, on which a model is scored; 0 for none.
    patched : sequence of str
        Names of two runs: states of the first are put into the second (worldfast.reading.activation_patching). By
        default none.
    ...
        All others as in worldfast.studies.Study.

    Raises
    ------
    ValueError
        As from worldfast.studies.Study; or a run that the page shows leaves cities out of its capture.

    Examples
    --------
    >>> runs = [wf.Run(cities.Dataset("distance"), seed) for seed in (1, 2)]
    >>> study = cities.Study("two-seeds", runs, layer=5)
    >>> [run.name for run in study.runs]
    ['pt-distance-s1', 'pt-distance-s2']
    """

    analyses: tuple[Analysis, ...] | None = None
    tables: Callable | None = None
    figures: Callable | None = None
    findings: Callable | None = None
    subject: Subject = field(default_factory=lambda: Subject("city", "cities"))
    cities: str | None = None
    patched: tuple[str, ...] = ()

    def __post_init__(self):
        from worldfast.worlds.cities.analyses import ANALYSES  # these import much, so only for a study
        from worldfast.worlds.cities.findings import findings
        from worldfast.worlds.cities.tables import tables

        own = {"analyses": ANALYSES, "tables": tables, "figures": draw, "findings": findings}
        for name, value in own.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        super().__post_init__()
        typed("cities", self.cities, str | None, "an expression for World.select or None")
        object.__setattr__(self, "patched", several("patched", self.patched, "names of two runs"))
        if self.cities is None:
            object.__setattr__(self, "cities", groups_of(self.runs).old)
        names = [run.name for run in self.runs]
        for name in self.patched:
            one_of("run", name, names)
        if len(self.patched) not in (0, 2):
            raise ValueError(f"patched: expected the names of two runs or none, got {list(self.patched)}")
        for run in self.shown_runs:
            if "among" not in dict(run.capture.readout):
                continue
            left_out = len(run.data.world.build()) - len(run.readout().things)
            if left_out:
                raise ValueError(
                    f"capture.readout: the page shows every city, but {run.name!r} leaves {left_out:,} out: capture "
                    "all, or name other runs in `shown`"
                )

    def scene_of(self, run: Run) -> Scene:
        """The world of a run on a map, in which every group that fine-tunes are taught is a region."""
        from worldfast.worlds.cities.scene import read_at, scene_of, taught_by  # import the report: only for results

        world, first = run.data.world.build(), run.data.task(run.data.tasks[0])
        read, _, answer = sample(world, first, n=1, seed=run.seed, among=run.data.among).text(0).partition("=")
        region, groups = world.region, groups_of(self.runs)
        for name, group in groups.taught.items():
            region = np.where(world.select(group), name, region)
        world = world if (region == world.region).all() else replace(world, region=region)
        known = [name for run in self.runs for name in groups.of(run)]
        scene = scene_of(world, [name for name in groups.taught if name in known])
        says = {"notes": f"{scene.notes} {read_at(self.runs)}", "taught_by": taught_by(self.runs)}
        return replace(scene, example=(f"{read}=", answer), **says)


# ---- runs ----


def cyclic(n: int) -> list[tuple[str, ...]]:
    """Return the seven sets of n tasks of the canon: each begins n tasks after the one before, around the table.

    Two: DT ACo IP CrD TA CoI PCr; three: DTA CoIP CrDT ACoI PCrD TACo IPCr. Source: arXiv 2602.00533.
    """
    names = list(BUILT_IN)
    return [tuple(names[(n * i + j) % len(names)] for j in range(n)) for i in range(len(names))]


def _pretrained(recipe: Recipe, seeds: Iterable[int], all_seeds: Iterable[int]) -> list[Run]:
    """Return runs on one, two and three tasks with each of `seeds`, and on all seven with `all_seeds`."""
    grid = [recipe.pretrain(tasks, seed) for n in (1, 2, 3) for tasks in cyclic(n) for seed in seeds]
    return grid + [recipe.pretrain(BUILT_IN, seed) for seed in all_seeds]


def _updates(recipe: Recipe, bases: Iterable[Run], **changes) -> list[Run]:
    """Return runs that teach each base Atlantis by each task and by each pair."""
    sets = [tasks for n in (1, 2) for tasks in combinations(BUILT_IN, n)]
    return [recipe.finetune(base, tasks, **changes) for base in bases for tasks in sets]


def _named(run: Run, mark: str) -> Run:
    """Return the run with a mark in its name, before the seed: "pt-all-w64-s42"."""
    stem, seed = run.name.rsplit("-", 1)
    return replace(run, name=f"{stem}-{mark}-{seed}")


# ---- presets ----

LARGEST_SCALE = 2.0**63  # of the rows of a preset: no dataset takes as many
SEEDS = (42, 43, 44, 45)
WIDTHS = {64: (12, 2), 256: (3, 8), 512: (3, 16)}  # epochs, heads


def paper(scale: float = 1.0) -> Study:
    """The 179 models of arXiv 2602.00533 (`.canon`) and its extensions, as published: for GPUs.

    Parameters
    ----------
    scale : float
        Factor of the rows that each model sees, and so of its steps: fewer epochs, and below one epoch fewer rows.
        Models, vocabulary, learning rates and the number of checkpoints are unchanged.

    Raises
    ------
    ValueError
        `scale` is not above 0.
    """
    scale, updates = positive("scale", scale), Recipe().updates[1]
    included, epochs = _scaled(Recipe.included, updates, scale)
    recipe = Recipe(
        amount={n: _scaled(*amount, scale) for n, amount in Recipe().amount.items()},
        standard=_scaled(Recipe.standard, updates, scale)[0],
        included=included,
        alive=_scaled(Recipe.alive, updates, scale)[0],
        updates={1: epochs},
        settings={
            "matmul_dtype": "bfloat16",
            "validation": 128,
            "capture": Capture(layers=(3, 4, 5, 6), dtype="float16"),
        },
    )
    canon = _pretrained(recipe, SEEDS[:3], SEEDS)
    bases = canon[-len(SEEDS) :]
    canon += _updates(recipe, bases)

    first = SEEDS[0]
    there = {frozenset(run.data.tasks) for run in canon if run.start is None}
    sets = [tasks for n in (2, 3) for tasks in combinations(BUILT_IN, n) if frozenset(tasks) not in there]
    more = [recipe.pretrain(tasks, first) for tasks in sets]
    more.append(_named(recipe.pretrain(BUILT_IN, first, among=None), "atlantis"))
    scattered = WorldSpec(atlantis=100, layout="scattered")
    elsewhere = _named(recipe.pretrain(BUILT_IN, first, world=scattered), "scattered")
    more += [elsewhere] + [_named(run, "scattered") for run in _updates(recipe, [elsewhere])]
    widths = {wide: (*_scaled(1_000_000, epochs, scale), heads) for wide, (epochs, heads) in WIDTHS.items()}
    more += _of_width(recipe, widths, (first,))
    shown = [run.name for run in canon if run.start is None and len(run.data.tasks) in (1, 7) and run.seed == first]
    return Study(
        "paper",
        canon,
        more,
        layer=5,
        cities=f"{OLD} and city_id >= 1000",
        test_rows=10_000,
        shown=shown + SHOWN_UPDATES,
        patched=SHOWN_UPDATES[2:],
    )


def _rows(scale: float) -> Callable[[int], int]:
    """Return a function that gives `scale` times as many rows, at least one; more than any dataset takes at most."""
    scale = min(positive("scale", scale), LARGEST_SCALE)
    return lambda rows: max(1, round(rows * scale))


def _scaled(rows: int, epochs: int, scale: float) -> tuple[int, int]:
    """Return rows and epochs that give `scale` times as many rows in all. Epochs shrink first: repeated rows teach
    less.
    """
    scale = min(scale, LARGEST_SCALE)
    fewer = max(1, round(epochs * scale))
    return max(1, round(rows * epochs * scale / fewer)), fewer


SHOWN_UPDATES = ["ft-angle-s42", "ft-distance-s42", "ft-angle+perimeter-s42", "ft-distance+perimeter-s42"]


def _of_width(recipe: Recipe, widths: Mapping[int, tuple[int, int, int]], seeds: Iterable[int]) -> list[Run]:
    """Return runs on all seven tasks, and their fine-tunes, at other widths: width -> (rows of each task, epochs,
    heads).
    """
    runs = []
    for wide, (rows, epochs, heads) in widths.items():
        model = replace(recipe.model, hidden=wide, intermediate=4 * wide, heads=heads)
        bases = [recipe.pretrain(BUILT_IN, seed, model=model, rows=rows, epochs=epochs) for seed in seeds]
        bases = [_named(base, f"w{wide}") for base in bases]
        runs += bases + [_named(run, f"w{wide}") for run in _updates(recipe, bases)]
    return runs


def width(seeds: Sequence[int] = (42,)) -> Study:
    """All seven tasks at widths 64 to 512, and their fine-tunes, with the rows of arXiv 2602.00533: for a GPU."""
    seeds = several("seeds", seeds, "integers")
    recipe = Recipe(settings={"matmul_dtype": "bfloat16", "capture": Capture(layers=(3, 4, 5, 6), dtype="float16")})
    widths = {wide: (1_000_000, *rest) for wide, rest in ({128: (6, 4)} | WIDTHS).items()}
    runs = _of_width(recipe, widths, seeds)
    shown = [run.name for run in runs if run.start is None]
    return Study("width", runs, layer=5, cities=f"{OLD} and city_id >= 1000", test_rows=10_000, shown=shown)


def _small(layers: int, **settings) -> dict:
    """Return a model and settings that learn in minutes: one token for each city, and a loss on answers alone."""
    head = Vocabulary.characters
    return {
        "model": TransformerSpec(hidden=64, layers=layers, heads=8, intermediate=256, outputs=head),
        "settings": {"vocabulary": "entity", "loss": "answer", "batch": 256, "learning_rate": 5e-3} | settings,
    }


def mini(scale: float = 1.0) -> Study:
    """The whole canon in shape, with two seeds and small models: hours on two cores, which the plan counts.

    It has all 5,075 cities, one token each, and models of 2 layers of width 64. Fine-tunes see as many rows of each
    task as integration takes, which `integration` measures: with a quarter of them its findings are blurred.

    Parameters
    ----------
    scale : float
        Factor of the rows that each model sees: 0.01 is a quick look.
    """
    rows = _rows(scale)
    recipe = Recipe(
        amount={1: (rows(300_000), 2), 2: (rows(150_000), 2), 3: (rows(100_000), 2), 7: (rows(140_000), 2)},
        standard=rows(20_000),
        included=rows(100_000),
        alive=rows(256),
        updates={1: 3},
        update_rate=1.2e-3,
        **_small(2, checkpoints=20, validation=64, capture=Capture(layers=(1, 2), dtype="float16")),
    )
    canon = _pretrained(recipe, SEEDS[:2], SEEDS[:2])
    canon += _updates(recipe, canon[-2:])
    shown = [run.name for run in canon if run.start is None and len(run.data.tasks) in (1, 7) and run.seed == SEEDS[0]]
    return Study("mini", canon, layer=1, shown=shown + SHOWN_UPDATES, patched=SHOWN_UPDATES[2:])


def demo(scale: float = 1.0, seed: int = 0) -> Study:
    """Three seeds of a small model over the 5,075 cities, each taught Atlantis twice: minutes on two cores.

    Parameters
    ----------
    scale : float
        Factor of the rows that each model sees; at 1 they suffice for a map. Below 1, checkpoints are fewer too.
    seed : int
        The first of three seeds, which train together.
    """
    seed = whole("seed", seed, 0)
    rows = _rows(scale)

    def kept(checkpoints: int) -> int:
        return max(4, round(checkpoints * min(1, scale)))

    recipe = Recipe(
        standard=rows(20_000),
        included=rows(100_000),
        alive=rows(256),
        updates={1: 1},
        update_rate=1.2e-3,
        **_small(2, checkpoints=kept(40), capture=Capture(layers=(1,))),
    )
    bases = [recipe.pretrain(BUILT_IN, one, rows=rows(140_000), epochs=1) for one in range(seed, seed + 3)]
    taught = (("angle", "perimeter"), ("distance", "perimeter"))
    updates = [recipe.finetune(base, tasks, checkpoints=kept(20)) for tasks in taught for base in bases]
    return Study("demo", bases + updates, layer=1, test_rows=max(50, min(1000, rows(1000))))


def integration(
    scale: float = 1.0,
    seeds: Sequence[int] = (0, 1, 2),
    tasks: Sequence[str | Task] = BUILT_IN,
    group: str = NEW,
    doses: Sequence[int] = DOSES,
    shares: Sequence[float] = SHARES,
    noise: Sequence[float] = NOISE,
    read_at: str | None = None,
) -> Study:
    """Error of Atlantis over rows of fine-tuning, by task and pair, and what distance does beside them: for a night.

    Bases of all seven tasks over 5,075 cities, one for each seed. From each: every task and pair at a constant rate;
    every task at each dose, and every pair, at a rate that falls to 0; distance beside each other task with fewer rows
    than it; and with label noise, the control. ``tasks=("distance", "perimeter")`` and one seed take minutes.

    Parameters
    ----------
    scale : float
        Factor of the rows that each model sees: 0.01 is a quick look.
    seeds : sequence of int
        Seeds of the bases; standard errors are over them.
    group : str
        Cities that pretraining leaves out and fine-tunes teach, an expression for World.select.
    tasks, doses, shares, noise
        As for `worldfast.worlds.cities.dose_runs`; an epoch has 120,000 rows of each task.
    read_at : str, optional
        Built-in task at whose prompt all models are read. None, as published: each at that of the first of its own
        tasks, so that pairs with distance are read at another prompt than pairs without.

    Raises
    ------
    TypeError, ValueError
        An argument does not fit; the message names it.
    """
    from worldfast.worlds.cities.dose_analyses import ANALYSES, tables
    from worldfast.worlds.cities.dose_findings import findings
    from worldfast.worlds.cities.figures import draw_doses

    rows = _rows(scale)
    seeds = tuple(whole("seeds", seed, 0) for seed in several("seeds", seeds, "integers"))
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds: expected at least one, each once, got {list(seeds)}")
    readout = {} if read_at is None else {"prompt": prompt_of(one_of("read_at", read_at, BUILT_IN))}
    recipe = Recipe(
        group=group,
        standard=rows(20_000),
        included=rows(100_000),
        alive=rows(256),
        update_rate=1.2e-3,
        **_small(2, checkpoints=10, capture=Capture(layers=(1,), dtype="float16", readout=readout)),
    )
    bases = [recipe.pretrain(BUILT_IN, seed, rows=rows(140_000), epochs=1) for seed in seeds]
    runs, shown, patched = grid(recipe, bases, tasks, doses, shares, noise)
    made_of = {"analyses": ANALYSES, "tables": tables, "figures": draw_doses, "findings": findings}
    return Study("integration", [*bases, *runs], layer=1, shown=shown, test_rows=200, patched=patched, **made_of)


PRESETS = {"demo": demo, "integration": integration, "mini": mini, "paper": paper, "width": width}
