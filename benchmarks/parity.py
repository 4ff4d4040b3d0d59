"""Comparison of what worldfast and transformers' Qwen2 learn: the same rows from the same weights, step by step.

    python benchmarks/parity.py [--steps 2000] [--seeds 42 1 2] [--threads 2] [--figure docs/parity.png]

One model of the paper's shape, all seven tasks, loss on all tokens. transformers trains the first seed in float32
with torch's AdamW. Says how far the first 20 losses are apart, and how far curves smoothed over 50 steps are, beside
what the same curves differ by between seeds. Curves go to parity.csv beside this file.
"""

import argparse
import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from harness import CORES, machine, threads
from training import Together, optimizer, padded, qwen2, rows_of

import worldfast as wf
from worldfast.files import origin
from worldfast.worlds.cities import Dataset
from worldfast.worlds.cities.tokens import PAD

FIRST, SMOOTHED = 20, 50  # steps
CURVES = Path(__file__).with_name("parity.csv")


def with_transformers(run: wf.Run, start: dict[str, torch.Tensor], steps: int) -> np.ndarray:
    """The losses [steps] of a plain loop around Qwen2ForCausalLM."""
    model = qwen2(run.model, len(start["model.embed_tokens.weight"]))
    model.load_state_dict(start)
    adamw, schedule = optimizer(run, model.parameters())
    losses = []
    for batch in map(padded, rows_of(run, steps)):
        logits = model(batch.tokens, attention_mask=(batch.tokens != PAD).long()).logits  # [R, T, V]
        loss = F.cross_entropy(logits.flatten(0, 1)[batch.scored], batch.targets)
        adamw.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), run.clip)
        adamw.step()
        schedule.step()
        losses.append(loss.item())
    return np.array(losses)


def smooth(losses: np.ndarray, window: int) -> np.ndarray:
    """Means of `window` steps each: [..., steps // window]."""
    whole = losses.shape[-1] // window * window
    return losses[..., :whole].reshape(*losses.shape[:-1], -1, window).mean(-1)


def findings(curves: dict[str, np.ndarray], reference: str, others: np.ndarray, window: int) -> list[str]:
    """Sentences on each curve [steps] beside the reference's, given those of other seeds [seeds, steps]."""
    exact = curves[reference]
    between = np.abs(smooth(others, window) - smooth(exact, window))  # [seeds, parts]
    said = [
        f"between seeds, smoothed over {window} steps: {between.mean():.4f} on average, {between.max():.4f} at most"
    ]
    for name, losses in curves.items():
        if name == reference:
            continue
        first = np.abs(losses - exact)[:FIRST].max()
        apart = np.abs(smooth(losses, window) - smooth(exact, window))
        said.append(
            f"{name}: the first {FIRST} losses within {first:.1e} of {reference}; smoothed: {apart.mean():.4f} on "
            f"average, {apart.max():.4f} at most; at the end {smooth(losses, window)[-1]:.4f} and "
            f"{smooth(exact, window)[-1]:.4f}"
        )
    return said


def draw(curves: dict[str, np.ndarray], path: Path, window: int) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (above, below) = plt.subplots(2, sharex=True, figsize=(6.5, 5), height_ratios=(2, 1), layout="constrained")
    styles = {
        "transformers": ("#000000", "-", 3.0),
        "float32": ("#E69F00", "-", 1.4),
        "bfloat16": ("#0072B2", "--", 1.4),
    }
    exact = smooth(next(iter(curves.values())), window)
    for name, losses in curves.items():
        style = next((s for key, s in styles.items() if key in name and "seed" not in name), ("#999999", ":", 1.2))
        y = smooth(losses, window)
        known = min(len(y), len(exact))
        for axes, value in ((above, y), (below, np.abs(y[:known] - exact[:known]))):
            if value.any():  # the reference does not differ from itself
                x = (np.arange(len(value)) + 0.5) * window
                axes.plot(x, value, style[1], color=style[0], linewidth=style[2], label=name)
    above.set_ylabel(f"loss, mean of {window} steps")
    above.legend(frameon=False)
    below.set_ylabel("difference")
    below.set_yscale("log")
    below.set_xlabel("step")
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 1, 2], help="the first is compared")
    parser.add_argument("--matmul-dtype", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--threads", type=int, default=CORES)
    parser.add_argument("--figure", type=Path, help="where to draw the curves")
    parser.add_argument("--quick", action="store_true", help="a small model: does it run")
    parser.add_argument("--no-record", action="store_true")
    options = parser.parse_args()
    steps = 25 if options.quick else options.steps
    window = min(SMOOTHED, steps // 5)
    run = wf.Run(Dataset(tuple(wf.TASKS), rows=-(-steps * 128 // 7)), seed=options.seeds[0])
    if options.quick:
        run = replace(
            run,
            batch=8,
            data=replace(run.data, rows=-(-steps * 8 // 7)),
            model=wf.TransformerSpec(hidden=32, layers=2, heads=2, intermediate=64),
        )
    curves = {}
    with threads(options.threads):
        for matmul_dtype in options.matmul_dtype:
            seeds = options.seeds if matmul_dtype == options.matmul_dtype[0] else options.seeds[:1]
            runs = [replace(run, seed=seed, matmul_dtype=matmul_dtype) for seed in seeds]
            together = Together(runs, steps, options.threads)
            start = together.ensemble.to_huggingface(0)
            for seed, losses in zip(seeds, together()):
                curves[f"worldfast, {matmul_dtype}" + ("" if seed == run.seed else f", seed {seed}")] = losses
        curves = {"transformers": with_transformers(run, start, steps)} | curves
    others = np.array([losses for name, losses in curves.items() if "seed" in name])
    compared = {name: losses for name, losses in curves.items() if "seed" not in name}
    print(f"{steps:,} steps of {run.batch} rows, {machine()}, commit {origin('cpu')['commit'][:12]}")
    print("\n".join(findings(compared, "transformers", others, window)))
    if options.figure:
        draw(curves, options.figure, window)
    if not (options.no_record or options.quick):
        with open(CURVES, "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["step", *curves])
            for step, losses in enumerate(zip(*curves.values())):
                writer.writerow([step, *(f"{loss:.6f}" for loss in losses)])


if __name__ == "__main__":
    main()
