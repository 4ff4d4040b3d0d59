"""Is it the same training? Loss curves of worldfast and of transformers with torch's AdamW, on the same rows.

    python benchmarks/parity.py [--steps 2000] [--products float32 bfloat16] [--seeds 42 43 44] [--threads 2]

The paper's shape and schedule, batches of 128 rows of the uniform mix, the loss on all tokens. transformers
begins with the first seed's weights and takes its rows, in float32; worldfast trains that run and those of
the other seeds. Written are the losses (parity.csv, means of --window steps), the figure, and in results.csv

    the largest difference of the first 20 losses from those of transformers; more than 1e-4 of float32 is an
    error
    the distance of curves: the root mean square of the differences of their windows. That from transformers
    stands beside the smallest between two seeds; an error where it is not below

--quick is a small model for 40 steps, which proves nothing of the distance.
"""

import csv
import itertools
import math
import tempfile
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from harness import CORES, Row, arguments, record, show, threads
from training import Together, optimizer, padded, rows_of

import worldfast as wf
from worldfast.huggingface import _config

Curves = dict[tuple[str, int], np.ndarray]
FIRST, ALLOWED = 20, 1e-4
PEER = "transformers, float32"
LINES = {"float32": ("#0072b2", "-"), "bfloat16": ("#d55e00", "--")}  # by products


def with_transformers(run: wf.Run, steps: int, start: dict[str, torch.Tensor]) -> np.ndarray:
    """The losses [steps] of a plain loop: Qwen2ForCausalLM, torch's AdamW, padded batches."""
    import transformers

    vocabulary = len(start["model.embed_tokens.weight"])
    model = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**_config(run.model, vocabulary)))
    model.load_state_dict(start)
    adamw, schedule = optimizer(run, model.parameters())
    losses = []
    for batch in map(padded, rows_of(run, steps)):
        logits = model(batch.tokens).logits.flatten(0, 1)  # causal: no real token sees the padding behind it
        loss = F.cross_entropy(logits[batch.scored], batch.targets)
        adamw.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), run.clip)
        adamw.step()
        schedule.step()
        losses.append(loss.item())
    return np.array(losses)


def curves(runs: list[wf.Run], products: list[str], steps: int, threads: int) -> Curves:
    """Losses [steps] by products and seed, and those of transformers under PEER and the first seed."""
    found = {}
    for name in products:
        of_name = runs if name == "float32" else [replace(run, products=name) for run in runs]
        with tempfile.TemporaryDirectory() as folder:
            together = Together(of_name, steps, threads, Path(folder))
        start = together.ensemble.to_huggingface(0)
        print(f"{steps:,} steps of worldfast, {len(runs)} seeds, {name} products", flush=True)
        found |= {(name, run.seed): losses for run, losses in zip(runs, together())}
    print(f"{steps:,} steps of transformers", flush=True)
    return found | {(PEER, runs[0].seed): with_transformers(runs[0], steps, start)}


def windows(losses: np.ndarray, length: int) -> np.ndarray:
    """Means over `length` steps, without what is left over at the end."""
    return losses[: len(losses) // length * length].reshape(-1, length).mean(1)


def distance(a: np.ndarray, b: np.ndarray) -> float:
    return math.sqrt(np.mean((a - b) ** 2))


def compare(found: Curves, window: int) -> dict[str, float]:
    """What the losses say, by name, in nats."""
    [(peer, seed)] = [key for key in found if key[0] == PEER]
    smooth = {key: windows(losses, window) for key, losses in found.items()}
    said = {}
    for name in dict.fromkeys(products for products, _ in found if products != PEER):
        apart = np.abs(found[name, seed] - found[peer, seed])
        said[f"worldfast, {name}: largest difference of the first {FIRST} losses"] = apart[:FIRST].max()
        from_peer = distance(smooth[name, seed], smooth[peer, seed])
        said[f"worldfast, {name}: distance from transformers"] = from_peer
        seeds = [curve for (products, _), curve in smooth.items() if products == name]
        pairs = [distance(a, b) for a, b in itertools.combinations(seeds, 2)]
        said[f"worldfast, {name}: smallest distance of two seeds"] = min(pairs)
    return said


def check(said: dict[str, float], quick: bool) -> None:
    """AssertionError for the first that shows that the trainings are not the same."""
    for what, value in said.items():
        name, _, measure = what.partition(": ")
        if "float32" in name and "first" in measure and not value <= ALLOWED:
            raise AssertionError(f"{what} is {value:.2e}, allowed {ALLOWED:.0e}")
        between = said[f"{name}: smallest distance of two seeds"]
        if "from transformers" in measure and not quick and not value < between:
            raise AssertionError(f"{what} is {value:.2e}, but {between:.2e} is the smallest of two seeds")


# ---- what is left ----


def write(found: Curves, window: int, path: Path) -> None:
    """A column for each curve, a line for the mean over each `window` steps."""
    smooth = [windows(losses, window) for losses in found.values()]
    with open(path, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["steps", *(f"{name}, seed {seed}" for name, seed in found)])
        for i, values in enumerate(zip(*smooth)):
            writer.writerow([(i + 1) * window, *(f"{value:.6f}" for value in values)])


def draw(found: Curves, window: int, path: Path) -> None:
    """Left the curves; right how far they are from that of transformers, beside how far seeds are apart."""
    from matplotlib.figure import Figure

    [(peer, seed)] = [key for key in found if key[0] == PEER]
    smooth = {key: windows(losses, window) for key, losses in found.items()}
    steps = (np.arange(len(smooth[peer, seed])) + 0.5) * window
    figure = Figure(figsize=(7.2, 2.7), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(steps, smooth[peer, seed], color="#9aa0a6", linewidth=4, label="transformers, torch AdamW")
    for (name, of_seed), curve in smooth.items():
        if name == PEER:
            continue
        colour, line = LINES[name]
        if of_seed == seed:
            left.plot(steps, curve, color=colour, linestyle=line, linewidth=1.2, label=f"worldfast, {name}")
            right.plot(
                steps, np.abs(curve - smooth[peer, seed]), color=colour, linestyle=line, linewidth=1.2,
                label=f"worldfast, {name}, from transformers",
            )  # fmt: skip
        elif name == "float32":
            seeds_named = "seeds, from one another" in right.get_legend_handles_labels()[1]
            right.plot(
                steps, np.abs(curve - smooth[name, seed]), color="#23272d", linestyle=":", linewidth=1,
                label="_" if seeds_named else "seeds, from one another",
            )  # fmt: skip
    left.set(xlabel="step", ylabel="loss (nats a token)")
    right.set(xlabel="step", ylabel="difference of losses", yscale="log")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=160)


def main():
    here = Path(__file__).parent
    parser = arguments(__doc__, repeats=1, threads=[CORES])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--window", type=int, default=50, help="steps that a point of a curve is the mean of")
    parser.add_argument("--products", nargs="+", default=list(LINES), choices=LINES)
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44])
    parser.add_argument("--curves", type=Path, default=here / "parity.csv")
    parser.add_argument("--figure", type=Path, default=here.parent / "docs" / "parity.png")
    options = parser.parse_args()
    paper = wf.Run(tuple(wf.TASKS), epochs=6)
    if options.quick:
        small = wf.ModelSpec(hidden=32, layers=2, heads=2, intermediate=64)
        paper, options.steps, options.window = replace(paper, batch=16, model=small), 40, 4
    runs = [replace(paper, seed=seed, name="") for seed in options.seeds]
    if "products" not in {field.name for field in fields(wf.Run)}:
        options.products = ["float32"]
        print("bfloat16 is left out: runs have no products to choose")
    count = options.threads[0]
    with threads(count):
        found = curves(runs, options.products, options.steps, count)
    said = compare(found, options.window)
    rows = [Row(what, value, value, value, 1) for what, value in said.items()]
    case = f"batches of {paper.batch}, {options.steps} steps, {len(runs)} seeds"
    show(case, rows, "nats")
    check(said, options.quick)
    write(found, options.window, options.curves)
    draw(found, options.window, options.figure)
    record(options.results, "parity", case, rows, "nats")


if __name__ == "__main__":
    main()
