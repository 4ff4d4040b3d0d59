"""Looking back: weights that a run keeps on its way, and what reads a model at an earlier step."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import TINY

import worldfast as wf
from worldfast import checkpoint, cli
from worldfast.folder import require_kept, saved
from worldfast.reading import activation_patching, gradient_agreement
from worldfast.reading.patching import patched_answers
from worldfast.studies import planning
from worldfast.training import audit, load, weights_bytes
from worldfast.training.cluster import Places, training_jobs
from worldfast.training.member import Member
from worldfast.worlds.cities import Dataset, questions_of
from worldfast.worlds.cities.stream import task_stream

RUN = wf.Run(
    Dataset(("distance", "angle"), rows=96, world=wf.WorldSpec(largest=60)),
    seed=3,
    batch=16,
    warmup=2,
    learning_rate=3e-3,
    checkpoints=4,
    model=TINY,
    capture=wf.Capture(layers=(1,)),
    keep="all",
)  # 12 steps, checkpoints at 0, 3, 6, 9, 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return wf.train(RUN, tmp_path_factory.mktemp("kept"), progress=False)[0]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The same run without what it keeps."""
    return wf.train(replace(RUN, keep=()), tmp_path_factory.mktemp("plain"), progress=False)[0]


def test_what_is_kept_is_the_model_of_each_checkpoint(folder):
    assert checkpoint.steps(folder / "weights") == [0, 3, 6, 9, 12]
    activations, states = wf.Activations(folder), []
    for step in RUN.checkpoint_steps:
        run, ensemble = load(folder, step=step)
        assert run == RUN
        states.append(wf.represent(folder, layers=(1,), step=step))
        assert np.array_equal(states[-1][1], activations[step, 1]) and states[-1].about["step"] == step
        assert np.array_equal(wf.represent((run, ensemble), layers=(1,))[1], activations[step, 1])
    assert not np.array_equal(states[0][1], states[1][1])


def test_it_is_no_part_of_the_identity_and_changes_no_bit(folder, plain):
    some = replace(RUN, keep=[9, 3, np.int64(3)])
    assert some.keep == some.kept_steps == (3, 9)
    assert len({RUN.id, some.id, replace(RUN, keep=()).id}) == 1
    assert wf.Run.from_json(RUN.to_json()) == RUN and wf.Run.from_json(some.to_json()) == some
    assert not (plain / "weights").exists()
    for name in ("step-00000009", "step-00000012"):
        ours, theirs = (checkpoint.read(one / "checkpoint" / f"{name}.safetensors", RUN.id) for one in (folder, plain))
        assert all(torch.equal(ours.tensors[name], theirs.tensors[name]) for name in checkpoint.NAMES)


def test_what_it_takes_of_the_disk(folder):
    sizes = [path.stat().st_size for path in checkpoint.paths(folder / "weights")]
    tensors = 5 * weights_bytes(RUN)
    assert tensors < sum(sizes) < 1.2 * tensors
    plans = [
        planning.plan_study(wf.Study("one", [run], layer=1), measure=False) for run in (RUN, replace(RUN, keep=()))
    ]
    (ours,), (theirs,) = plans
    assert ours.disk - theirs.disk == tensors


def test_steps_that_are_not_there(folder, plain):
    with pytest.raises(
        FileNotFoundError, match="no checkpoint of step 3; there: step-00000009, step-00000012; nearest: 9"
    ):
        wf.represent(plain, step=3)
    for step, near in ((4, "nearest: 3 and 6"), (13, "nearest: 12")):
        with pytest.raises(FileNotFoundError, match=f"no checkpoint of step {step}; .*{near}. A run with keep='all'"):
            load(folder, step=step)
    with pytest.raises(ValueError, match="step: expected at least 0, got -1"):
        load(folder, step=-1)
    with pytest.raises(TypeError, match="step: expected an integer, got 3.0"):
        wf.represent(folder, step=3.0)
    with pytest.raises(ValueError, match=r"step: 3 of a run's folder; \(run, ensemble\) has the weights of one step"):
        wf.represent(load(folder), step=3)
    with pytest.raises(ValueError, match="keep: step 4 is not a checkpoint of this run of 12 steps; nearest: 3 and 6"):
        replace(RUN, keep=(3, 4))
    for wrong in ("last", 3):
        with pytest.raises(TypeError, match="keep: expected 'all' or steps of checkpoints, got"):
            replace(RUN, keep=wrong)


def test_a_run_that_kept_less_is_not_taken_for_one_that_kept_all(folder, plain, tmp_path):
    assert wf.train(replace(RUN, keep=(3,)), folder.parent, progress=False) == [folder]
    assert wf.train(replace(RUN, keep=()), folder.parent, progress=False) == [folder]
    message = "at step 12 of 12 and has not kept the weights of step 0, 3, 6 and 2 more; kept: none. Remove the folder"
    with pytest.raises(ValueError, match=message):
        wf.train(RUN, plain.parent, progress=False)
    with pytest.raises(ValueError, match=message):
        training_jobs([RUN], plain.parent, Places("cpu", 1, 1 << 30, 1))
    require_kept(tmp_path / "not begun", RUN)


def test_an_interrupted_run_keeps_the_rest(plain, folder, tmp_path, monkeypatch):
    """What it passed without keeping is an error, what is before it is kept from then on; bits are the same."""
    save = Member.save

    def stops(member):
        save(member)
        if member.step == 6:
            raise OSError("cut")

    monkeypatch.setattr(Member, "save", stops)
    with pytest.raises(OSError, match="cut"):
        wf.train(replace(RUN, keep=(3,)), tmp_path, progress=False)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="is at step 6 of 12 and has not kept the weights of step 0, 6; kept: 3"):
        wf.train(RUN, tmp_path, progress=False)
    [ours] = wf.train(replace(RUN, keep=(3, 9)), tmp_path, progress=False)
    assert checkpoint.steps(ours / "weights") == [3, 9]
    assert json.loads((ours / "spec.json").read_text())["run"]["keep"] == [3, 9]
    for step in (3, 9):
        assert torch.equal(saved(ours, step)[1].tensors["parameters"], saved(folder, step)[1].tensors["parameters"])


def test_damage_is_found(folder, tmp_path):
    [ours] = wf.train(RUN, tmp_path, progress=False)
    assert all(one.fine for one in audit(ours))
    path = checkpoint.paths(ours / "weights")[1]
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="step-00000003.safetensors is damaged"):
        load(ours, step=3)
    assert [(one.path, one.state) for one in audit(ours) if not one.fine] == [(path, "damaged")]
    path.unlink()
    assert [(one.path.name, one.state) for one in audit(ours) if not one.fine] == [("weights", "missing")]
    path.write_bytes(checkpoint.paths(ours / "checkpoint")[0].read_bytes())
    assert [one.state for one in audit(ours) if not one.fine] == ["mistaken"]


def test_gradients_and_patching_at_any_step(folder):
    streams = {task: task_stream(RUN.data, task, 64, 5) for task in ("distance", "angle")}
    tables = [gradient_agreement(load(folder, step=step), streams, rows=16, repeats=2) for step in (0, 12)]
    assert not np.allclose(tables[0].cosine, tables[1].cosine)
    asked = questions_of(RUN, "distance", rows=8, positions="all")
    early, late = (load(folder, step=step) for step in (0, 12))
    table = activation_patching(early, late, asked, layers=[0, 1])
    assert table.layer.tolist() == [0, 1] and set(table.source) == {f"{RUN.name} (source)"}
    assert set(table.target) == {f"{RUN.name} (target)"}
    alone, patched = (
        patched_answers(giving[1], late[1], asked["distance"], layer, asked["distance"].positions["all"], answer=True)
        for giving, layer in ((late, None), (early, 1))
    )
    assert any(len(a) != len(b) or (a != b).any() for a, b in zip(alone, patched))


def test_every_step_is_exported_with_a_card(folder, tmp_path):
    out = wf.export_huggingface(folder, tmp_path / "all", step="all")
    assert sorted(path.name for path in out.iterdir()) == ["README.md", *(f"step-{s:08d}" for s in (0, 3, 6, 9, 12))]
    for step in (0, 6):
        opened = wf.import_huggingface(out / f"step-{step:08d}")
        assert torch.equal(opened.parameters, load(folder, step=step)[1].parameters)
    card = (out / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlibrary_name: transformers\n") and "| `step-00000006` | 6 | 96 |" in card
    assert RUN.id in card and "--revision step-00000012" in card
    one = wf.export_huggingface(folder, tmp_path / "one", step=6)
    assert torch.equal(wf.import_huggingface(one).parameters, opened.parameters)
    with pytest.raises(FileExistsError, match="folder: .*all' is there already"):
        wf.export_huggingface(folder, out, step="all")


def test_the_command_line(folder, tmp_path, capsys):
    assert cli.main(["extract", str(folder), "--out", str(tmp_path / "3.h5"), "--step", "3"]) == 0
    assert cli.main(["export", str(folder), "--to", "hf", "--out", str(tmp_path / "hf"), "--step", "all"]) == 0
    assert (tmp_path / "hf" / "step-00000009" / "config.json").exists()
    assert cli.main(["export", str(folder), "--to", "hf", "--out", str(tmp_path / "5"), "--step", "5"]) == 1
    assert "no checkpoint of step 5; " in capsys.readouterr().err
    assert cli.main(["extract", str(folder), "--out", str(tmp_path / "4.h5"), "--step", "4"]) == 1
    assert "nearest: 3 and 6" in capsys.readouterr().err
    small = (
        "train --tasks distance --rows 32 --batch 16 --checkpoints 2 --hidden 16 --layers 1 --heads 2 --quiet".split()
    )
    out = ["--capture-layers", "1", "--intermediate", "24", "--out", str(tmp_path / "runs")]
    assert cli.main([*small, *out, "--keep", "0", "2"]) == 0
    [made] = (tmp_path / "runs").glob("pt-*")
    assert checkpoint.steps(made / "weights") == [0, 2]
    assert cli.main([*small, *out, "--keep", "al"]) == 1
    assert "keep: expected all, or steps of checkpoints, got 'al'" in capsys.readouterr().err
