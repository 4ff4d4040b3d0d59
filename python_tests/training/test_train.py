"""Training: against plain PyTorch, alone against together, killed against not, and the ways it can fail."""

import errno
import importlib
import io
import itertools
import json
import math
import os
import re
import signal
import sys
import time
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from qwen import qwen2

from worldfast import checkpoint, files
from worldfast.capture import Capture
from worldfast.models import TransformerSpec
from worldfast.reading import Activations, readout, segment
from worldfast.rows import Shape
from worldfast.run import Run
from worldfast.training import load, member, train
from worldfast.training.step import Lockstep
from worldfast.worlds.cities import Dataset
from worldfast.worlds.cities.components import Component
from worldfast.worlds.cities.evaluate import evaluate
from worldfast.worlds.cities.tasks import TASKS
from worldfast.worlds.cities.world_spec import WorldSpec

training = importlib.import_module("worldfast.training.train")  # the package's own `train` is the function

DATA = {field.name for field in fields(Dataset)}
TINY = TransformerSpec(hidden=16, layers=2, heads=2, intermediate=24)
CAPTURE = Capture(layers=(0, 2), readout={"among": "index < 50"})
BASE = Run(
    Dataset("distance", rows=320),
    seed=7,
    batch=16,
    learning_rate=0.003,
    warmup=5,
    model=TINY,
    checkpoints=4,
    capture=CAPTURE,
)
MIXED = [
    BASE,  # 20 steps
    replace(
        BASE,
        data=replace(BASE.data, tasks=("angle", "inside"), loss="answer", rows=100),
        name="",
        seed=8,
        epochs=2,
        learning_rate=0.01,
    ),  # 26
    replace(
        BASE,
        data=replace(BASE.data, tasks=tuple(TASKS), rows=100),
        name="",
        batch=33,
        clip=0.1,
        weight_decay=0.3,
        betas=(0.8, 0.95),
    ),  # 22
]


def results(folder):
    """What a run left, without clock times: parameters and moments, lines of metrics, activations, how it
    ended."""
    run = json.loads((folder / "spec.json").read_text())["id"]
    last = checkpoint.newest(folder / "checkpoint", run)
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    read = Activations(folder)
    arrays = {(step, layer): read[step, layer].tobytes() for step in read.steps for layer in read.layers}
    done = json.loads((folder / "done").read_text())
    return {
        "step": last.step,
        "tensors": {name: tensor.numpy().tobytes() for name, tensor in last.tensors.items()},
        "metrics": [{key: value for key, value in line.items() if key != "seconds"} for line in metrics],
        "activations": arrays,
        "done": (done["status"], done["step"]),
    }


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """The results of MIXED, uninterrupted."""
    return [results(folder) for folder in train(MIXED, tmp_path_factory.mktemp("mixed"), progress=False)]


# ---- what is learned ----


def test_twenty_steps_are_those_of_plain_pytorch(tmp_path):
    """Losses within 1e-4 of transformers' Qwen2 with torch's AdamW, clipping and schedule on the same
    rows."""
    from transformers import get_linear_schedule_with_warmup

    run = replace(
        BASE, data=replace(BASE.data, tasks=tuple(TASKS), rows=64), name="", learning_rate=0.01, checkpoints=1
    )
    (folder,) = train(run, tmp_path, progress=False)
    assert run.steps == 28
    ensemble = TINY.build(Shape(98, 98))
    ensemble.initialise(0, run.seed)
    model = qwen2(ensemble, pad_token_id=0)
    decayed = [p for p in model.parameters() if p.ndim == 2]
    spared = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": spared, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.999), eps=1e-8)
    schedule = get_linear_schedule_with_warmup(optimizer, 5, run.steps)
    stream, losses = run.stream(), []
    for step in range(run.steps):
        packed = stream.pack(step * 16, 16)
        width = int(np.diff(packed.row_start).max())
        tokens, labels = torch.zeros(16, width, dtype=torch.long), torch.full((16, width), -100)
        for i, (begin, end) in enumerate(zip(packed.row_start[:-1], packed.row_start[1:])):
            tokens[i, : end - begin] = labels[i, : end - begin] = torch.tensor(packed.tokens[begin:end])
        loss = model(tokens, attention_mask=(labels != -100).long(), labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    ours = [line["loss"] for line in results(folder)["metrics"]]
    assert len(ours) == run.steps and losses[-1] < 0.8 * losses[0]
    np.testing.assert_allclose(ours, losses, atol=1e-4)


def test_validation_rows_are_scored_at_checkpoints(tmp_path):
    mixture = (Component("distance", 40), Component("distance", 60, must_include="index < 3"), Component("angle", 9))
    run = replace(
        BASE,
        data=replace(BASE.data, tasks=("distance", "angle"), rows=Dataset.rows, mixture=mixture),
        validation=5,
        name="",
        checkpoints=2,
    )
    (folder,) = train(run, tmp_path, progress=False)
    lines = [line for line in results(folder)["metrics"] if "loss" not in line]
    assert [line["step"] for line in lines] == list(run.checkpoint_steps) and lines[0]["rows"] == 0
    _, ensemble = load(folder)
    for task, must in (("distance", "index < 3"), ("angle", None)):
        score = evaluate(ensemble, 0, run.data.world.build(), task, 5, run.seed, must_include=must, split="validation")
        assert (lines[-1][f"validation/{task}"], lines[-1][f"unparsable/{task}"]) == (score.value, score.unparsable)


def test_the_loss_goes_down_and_lines_say_where(mixed):
    for run, result in zip(MIXED, mixed):
        lines = result["metrics"]
        assert lines[-1]["loss"] < 0.9 * lines[0]["loss"]
        assert [line["step"] for line in lines] == list(range(1, run.steps + 1))
        assert lines[-1]["rows"] == run.epochs * run.epoch_rows
        assert [line["learning_rate"] for line in lines] == [run.learning_rate_at(i) for i in range(run.steps)]
        assert result["step"] == run.steps and result["done"] == ("finished", run.steps)
        assert sorted({step for step, _ in result["activations"]}) == list(run.checkpoint_steps)


def test_activations_are_those_of_the_checkpoint(mixed, tmp_path):
    """The last segment against the hidden states of the weights in the last checkpoint."""
    run = MIXED[1]
    (folder,) = train(run, tmp_path, progress=False)
    last = checkpoint.newest(folder / "checkpoint", run.id)
    ensemble = TINY.build(Shape(98, 98))
    ensemble.parameters[0] = last.tensors["parameters"]
    got = readout.states(run.data.readout(among="index < 50", task="angle"), ensemble, 0, (0, 2))
    for layer in (0, 2):
        assert np.array_equal(got[layer], Activations(folder)[run.steps, layer])
    assert Activations(folder).things.tolist() == list(range(50))


# ---- the same bits ----


@pytest.mark.parametrize("member", range(len(MIXED)))
def test_a_member_is_what_it_is_alone(mixed, member, tmp_path):
    """Different tasks, seeds, batches, lengths, losses in one ensemble: bit for bit the runs alone."""
    (folder,) = train([MIXED[member]], tmp_path, threads=1, progress=False)
    assert results(folder) == mixed[member]


class Killed(BaseException):
    pass


@pytest.mark.parametrize("moment", ["before", "after"])
def test_killed_in_a_save(mixed, tmp_path, monkeypatch, moment):
    """Stopped dead just before or just after every fourth file that is written, each time in a new folder."""
    real = files.write_whole

    def write_whole(path, *content):
        number = next(numbers)  # the activations' thread writes too
        if number == last and moment == "before":
            raise Killed
        real(path, *content)
        if number == last:
            raise Killed

    for last in range(1, 1000, 4):
        numbers = itertools.count(1)
        with monkeypatch.context() as patch:
            for module in (files, checkpoint, segment):
                patch.setattr(module, "write_whole", write_whole)
            try:
                train(MIXED, tmp_path / str(last), progress=False)
                break
            except Killed:
                pass
        assert [results(folder) for folder in train(MIXED, tmp_path / str(last), progress=False)] == mixed
    assert last > 35  # files of an uninterrupted training: 3 x 13


def test_ctrl_c_saves_and_the_same_call_goes_on(mixed, tmp_path, monkeypatch):
    real, calls = Lockstep.step, 0

    def step(lockstep, members):
        nonlocal calls
        calls += 1
        if calls == 4:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)
        real(lockstep, members)

    monkeypatch.setattr(Lockstep, "step", step)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match=r"stopped and saved: .* at step 4 of 20.*goes on from here"):
        train(MIXED, tmp_path, progress=False)
    assert signal.getsignal(signal.SIGINT) is before
    for run in MIXED:
        assert checkpoint.newest(tmp_path / run.folder_name / "checkpoint", run.id).step == 4
    assert [results(folder) for folder in train(MIXED, tmp_path, progress=False)] == mixed


def test_a_damaged_checkpoint_and_lost_activations_are_made_again(mixed, tmp_path):
    folders = train(MIXED, tmp_path, progress=False)
    for folder in folders:
        (folder / "done").unlink()
    newest = max((folders[0] / "checkpoint").iterdir())
    newest.write_bytes(newest.read_bytes()[:-1])
    segment.segment_path(folders[1], MIXED[1].steps).unlink()
    with pytest.warns(UserWarning, match=f"{newest.name} is damaged"):
        assert [results(folder) for folder in train(MIXED, tmp_path, progress=False)] == mixed


# ---- what is there already ----


def test_what_is_done_is_left_alone(tmp_path, monkeypatch):
    (folder,) = train(BASE, tmp_path, progress=False)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    monkeypatch.setattr(training, "_train_wave", None)  # nothing to train
    assert train(BASE, tmp_path, progress=False) == [folder]
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_a_world_that_has_changed_is_refused(tmp_path):
    csv = tmp_path / "world.csv"
    lines = [f"{x},{x * x % 70}" for x in range(60)]
    csv.write_text("\n".join(["x,y", *lines]))
    run = replace(BASE, data=replace(BASE.data, world=WorldSpec(str(csv)), rows=32))
    (folder,) = train(run, tmp_path / "runs", progress=False)
    (folder / "done").unlink()
    csv.write_text("\n".join(["x,y", *lines[::-1]]))
    with pytest.raises(ValueError, match="spec.json: world_sha256 is .*, but that of this run is"):
        train(run, tmp_path / "runs", progress=False)


def test_out_is_a_file(tmp_path):
    (tmp_path / "runs").write_text("")
    with pytest.raises(FileExistsError, match="out: .* should be a folder"):
        train(BASE, tmp_path / "runs")
    assert (tmp_path / "runs").read_text() == ""


def test_a_full_disk_ends_in_an_error_and_goes_on_later(mixed, tmp_path, monkeypatch):
    real, count = os.fsync, 0

    def fsync(handle):
        nonlocal count
        count += 1
        if count > 25:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="No space left"):
        train(MIXED, tmp_path, progress=False)
    monkeypatch.undo()
    assert not list(tmp_path.rglob("*.partial"))
    assert [results(folder) for folder in train(MIXED, tmp_path, progress=False)] == mixed


# ---- failing, and saying so ----


def test_a_member_that_diverges_is_frozen_and_the_others_go_on(mixed, tmp_path):
    wild = replace(BASE, learning_rate=1e30, warmup=0)
    folders = train([MIXED[0], wild, MIXED[2]], tmp_path, progress=False)
    assert [results(folders[0]), results(folders[2])] == [mixed[0], mixed[2]]
    done = json.loads((folders[1] / "done").read_text())
    lines = [json.loads(line) for line in (folders[1] / "metrics.jsonl").read_text().splitlines()]
    assert done["status"] == "diverged" and done["step"] < 20
    assert lines[-1]["diverged"] and lines[-1]["loss"] is None and lines[-1]["step"] == done["step"] + 1
    assert all(math.isfinite(line["loss"]) for line in lines[:-1])
    assert Activations(folders[1]).steps == [step for step in wild.checkpoint_steps if step <= done["step"]]
    assert checkpoint.newest(folders[1] / "checkpoint", wild.id).tensors["parameters"].isfinite().all()


def test_a_member_that_diverges_between_lines_goes_back_to_where_it_was(tmp_path, monkeypatch):
    """Looked at after every step, and only at the end: the same step, line and checkpoint."""
    wild = replace(BASE, learning_rate=1e30, warmup=0, checkpoints=1)
    (often,) = train(wild, tmp_path / "often", progress=False)
    monkeypatch.setattr(member, "METRIC_LINES", 1)
    (once,) = train(wild, tmp_path / "once", progress=False)
    assert results(once)["done"] == results(often)["done"] and results(once)["done"][1] < wild.steps - 1
    assert results(once)["metrics"] == results(often)["metrics"][-1:]
    assert results(once)["tensors"] == results(often)["tensors"]


@pytest.mark.parametrize("matmul_dtype,pairs", [("float32", False), ("bfloat16", False), ("bfloat16", True)])
def test_emulated_products_are_said_to_be_no_faster(tmp_path, capfd, monkeypatch, matmul_dtype, pairs):
    monkeypatch.setattr(training.core, "multiplies_pairs", lambda: pairs)
    train(replace(BASE, matmul_dtype=matmul_dtype), tmp_path)
    (line,) = (line for line in capfd.readouterr().err.splitlines() if line.startswith("training "))
    assert ("no faster than float32" in line) == (matmul_dtype == "bfloat16" and not pairs)


def test_progress_is_plain_lines_where_there_is_no_terminal(tmp_path, capfd):
    train(BASE, tmp_path, device="cpu")
    lines = capfd.readouterr().err.splitlines()
    assert re.fullmatch(r"1 of 1 fit in [0-9.]+ GiB \([0-9.]+ MiB each, [0-9.]+ MiB shared\)", lines[0])
    assert lines[1].startswith("training pt-distance-s7 on the CPU, threads: ")
    assert lines[-1].startswith("320 of 320 rows  ") and "rows/s  loss " in lines[-1] and "0:00 left" in lines[-1]
    assert not any("\r" in line for line in lines)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_is_a_bar_on_a_terminal(tmp_path, monkeypatch):
    """It shows the loss, begins where training goes on from, and is closed where training is stopped."""
    monkeypatch.setattr(sys, "stderr", Terminal())
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training.Interrupt, "requested", signal.SIGTERM, raising=False)
        patch.setattr(training.Interrupt, "__init__", lambda self: setattr(self, "_before", {}))
        train(BASE, tmp_path, device="cpu")
    assert "| 0.00/320 [" in sys.stderr.getvalue() and sys.stderr.getvalue().endswith("\n")
    monkeypatch.setattr(sys, "stderr", Terminal())
    train(BASE, tmp_path, device="cpu")
    *_, first, last = sys.stderr.getvalue().split("\r")
    assert "| 16.0/320 [" in sys.stderr.getvalue()
    assert re.search(r"\| 320/320 \[.* rows/s, loss [0-9.]+\]\n$", last), last


@pytest.mark.parametrize(
    "runs,options,error,message",
    [
        (["distance"], {}, TypeError, "runs: expected worldfast.Run, got 'distance'"),
        (BASE, {"device": "cup"}, ValueError, "unknown device 'cup': did you mean 'cpu'"),
        (BASE, {"device": "cuda:99"}, RuntimeError, "use device='cpu'|counted from 0"),
    ],
)
def test_calls_that_do_not_fit(runs, options, error, message, tmp_path):
    with pytest.raises(error, match=message):
        train(runs, tmp_path / "runs", **options)
    assert not (tmp_path / "runs").exists()


# ---- the spec ----


def test_identity_is_content():
    assert BASE.id == replace(BASE, name="another-name").id == Run.from_json(json.loads(json.dumps(BASE.to_json()))).id
    changes = dict(
        seed=1,
        epochs=2,
        batch=17,
        learning_rate=1e-4,
        warmup=6,
        schedule="cosine",
        weight_decay=0.0,
        clip=None,
        betas=(0.9, 0.99),
        eps=1e-7,
        matmul_dtype="bfloat16",
        model=TransformerSpec(),
        checkpoints=5,
        checkpoint_spacing="log",
        validation=1,
        capture=Capture(),
        start=BASE,
    )
    about = dict(
        tasks=("angle",),
        rows=321,
        among="x > 0",
        crossing="reshuffled",
        vocabulary="entity",
        loss="answer",
        world=WorldSpec(atlantis=1),
    )
    assert changes.keys() | {"name", "data", "keep"} == BASE.to_json().keys()
    assert about.keys() | {"class", "content", "mixture"} == BASE.to_json()["data"].keys()
    others = [replace(BASE, **{name: value}) for name, value in changes.items()]
    others += [replace(BASE, data=replace(BASE.data, **{name: value})) for name, value in about.items()]
    assert len({BASE.id, *(run.id for run in others)}) == len(others) + 1
    assert (
        Run(Dataset("distance")).id
        == replace(Run(Dataset(["distance"])), learning_rate=np.float64(3e-4), seed=np.int64(42)).id
    )


def test_names_say_what_a_run_is():
    assert Run(Dataset(("distance", "angle"))).folder_name.startswith("pt-distance+angle-s42-")
    assert Run(Dataset(tuple(TASKS)), seed=3).name == "pt-all-s3"
    assert Run(Dataset("angle"), name="mine").folder_name == f"mine-{Run(Dataset('angle')).id}"


def test_a_run_survives_json():
    for run in (*MIXED, Run(Dataset(tuple(TASKS), among="x > 0"), capture=Capture(layers=None, dtype="float16"))):
        assert Run.from_json(json.loads(json.dumps(run.to_json()))) == run
    content = BASE.to_json()
    with pytest.raises(ValueError, match="unknown field of Run 'seeds': did you mean 'seed'"):
        Run.from_json(content | {"seeds": 3})
    with pytest.raises(ValueError, match="unknown field of TransformerSpec 'head': did you mean 'heads'"):
        Run.from_json(content | {"model": content["model"] | {"head": 3}})
    with pytest.raises(ValueError, match="unknown field of Dataset 'row': did you mean 'rows'"):
        Run.from_json(content | {"data": content["data"] | {"row": 3}})


@pytest.mark.parametrize("tasks,epochs,steps", [(1, 42, 328_146), (2, 21, 328_125), (3, 14, 328_132), (7, 6, 328_128)])
def test_published_numbers_of_steps(tasks, epochs, steps):
    run = Run(Dataset(tuple(TASKS)[:tasks]), epochs=epochs)
    assert run.steps == steps
    assert len(run.checkpoint_steps) == 41 and run.checkpoint_steps[0] == 0 and run.checkpoint_steps[-1] == steps


def test_an_epoch_ends_where_its_rows_do():
    run = Run(Dataset(("angle", "compass"), rows=100), batch=64, epochs=3)
    taken = [run.rows_at(step) for step in range(run.steps)]
    assert taken[:5] == [(0, 64), (64, 64), (128, 64), (192, 8), (200, 64)] and taken[-1] == (592, 8)


def test_the_schedule():
    run = Run(Dataset("angle", rows=1000), batch=10, warmup=50, learning_rate=1.0)
    assert [run.learning_rate_at(step) for step in (0, 25, 50, 75, 99)] == [0.0, 0.5, 1.0, 0.5, 0.02]


@pytest.mark.parametrize(
    "options,error,message",
    [
        ({"tasks": "distnace"}, ValueError, "unknown task 'distnace': did you mean 'distance'"),
        ({"tasks": ()}, ValueError, "tasks: expected at least one"),
        ({"tasks": ("angle", "angle")}, ValueError, "tasks: expected at least one, each once"),
        ({"rows": 0}, ValueError, "rows: expected at least 1, got 0"),
        ({"rows": 1e6}, TypeError, "rows: expected an integer, got 1000000.0"),
        ({"batch": True}, TypeError, "batch: expected an integer"),
        ({"seed": -1}, ValueError, "seed: expected at least 0"),
        ({"learning_rate": float("nan")}, ValueError, "learning_rate: expected a finite number, got nan"),
        ({"learning_rate": 0}, ValueError, "learning_rate: expected a number above 0"),
        ({"weight_decay": -0.1}, ValueError, "weight_decay: expected a number of at least 0, got -0.1"),
        ({"clip": "1"}, TypeError, "clip: expected a number, got '1'"),
        ({"betas": (0.9, 1.0)}, ValueError, "betas: expected numbers from 0 to below 1"),
        ({"betas": (0.9,)}, ValueError, "betas: expected two numbers"),
        ({"loss": "answers"}, ValueError, "unknown loss 'answers': did you mean 'answer'"),
        ({"vocabulary": "charcter"}, ValueError, "unknown vocabulary 'charcter': did you mean 'character'"),
        ({"model": "small"}, TypeError, "model: expected a spec of models, such as TransformerSpec.., got 'small'"),
        ({"model": TransformerSpec(outputs=50)}, ValueError, "answers need the 98 characters, got 50"),
        ({"model": TransformerSpec(outputs=98), "vocabulary": "entity"}, ValueError, "use loss='answer'"),
        ({"capture": Capture(layers=(7,))}, IndexError, "capture.layers"),
        ({"name": "../up"}, ValueError, "name: expected letters"),
        ({"among": 3}, TypeError, "among"),
    ],
)
def test_runs_that_do_not_fit(options, error, message):
    options = dict(options)
    with pytest.raises(error, match=message):
        about = {"tasks": "angle"} | {name: options.pop(name) for name in DATA if name in options}
        Run(Dataset(**about), **options)


# ---- schedules, clipping and checkpoints ----


@pytest.mark.parametrize("name", ["linear", "constant", "cosine"])
@pytest.mark.parametrize("warmup", [0, 7])
def test_schedules_are_those_of_transformers(name, warmup):
    from transformers import get_scheduler

    run = Run(Dataset("angle", rows=1000), batch=10, warmup=warmup, learning_rate=1.0, schedule=name)
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    kind = "constant_with_warmup" if name == "constant" else name
    theirs = get_scheduler(kind, optimizer, num_warmup_steps=warmup, num_training_steps=run.steps)
    for step in range(run.steps):
        assert run.learning_rate_at(step) == pytest.approx(theirs.get_last_lr()[0], rel=1e-12, abs=1e-15)
        optimizer.step()
        theirs.step()


@pytest.mark.parametrize(
    "spacing,exact",
    [
        ("even", np.linspace(0, 100_000, 11)),
        ("sqrt", np.linspace(0, 100_000**0.5, 11) ** 2),
        ("log", np.concatenate([[0], np.geomspace(1, 100_000, 10)])),
    ],
)
def test_checkpoints_are_evenly_spaced_on_their_own_scale(spacing, exact):
    run = Run(Dataset("angle", rows=1_000_000), batch=10, checkpoints=10, checkpoint_spacing=spacing)
    steps = run.checkpoint_steps
    assert len(steps) == 11 and steps[-1] == run.steps
    assert np.abs(np.array(steps) - exact).max() <= 0.5


def test_few_steps_have_few_checkpoints():
    for spacing in ("even", "sqrt", "log"):
        run = Run(Dataset("angle", rows=3), batch=1, checkpoints=10, checkpoint_spacing=spacing)
        assert run.checkpoint_steps == (0, 1, 2, 3)
        one = replace(run, checkpoints=1)
        assert one.checkpoint_steps == (0, 3)


def test_without_clipping_a_gradient_stays_as_long_as_it_is(tmp_path):
    """As with a norm that no gradient reaches, and not as with one that all do."""
    tensors = []
    for clip in (None, 1e9, 0.1):
        (folder,) = train(replace(BASE, clip=clip), tmp_path, progress=False)
        tensors.append(results(folder)["tensors"])
    assert tensors[0] == tensors[1] != tensors[2]


def test_a_cosine_is_what_training_takes(tmp_path):
    run = replace(BASE, schedule="cosine", checkpoint_spacing="log")
    (folder,) = train(run, tmp_path, progress=False)
    found = results(folder)
    assert [line["learning_rate"] for line in found["metrics"]] == [run.learning_rate_at(i) for i in range(20)]
    assert sorted({step for step, _ in found["activations"]}) == list(run.checkpoint_steps) == [0, 1, 3, 7, 20]
