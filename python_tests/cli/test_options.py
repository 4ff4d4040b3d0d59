"""`worldfast train`: every field of a run by name, what is said at the end, and the nearest right one for
what is wrong.
"""

import os
import re
import runpy
import signal
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from stand_ins import OWN
from tiny import TINY

import worldfast as wf
from worldfast import classes, cli, files, options, study_cli
from worldfast.capture import Capture
from worldfast.training.step import Lockstep
from worldfast.worlds import cities
from worldfast.worlds.cities import Dataset, tasks
from worldfast.worlds.cities.world_spec import WorldSpec

SMALL = "--rows 32 --batch 16 --hidden 16 --layers 1 --heads 2 --intermediate 24".split()
SMALL += "--checkpoints 2 --capture-layers 1".split()


def call(*arguments):
    return cli.main(["train", *map(str, arguments)])


def test_every_field_has_an_option():
    """By its own name, but for those that the command line says otherwise."""
    known = {f.name for group in (cities.Data, options.Learning, options.Model, options.Kept) for f in fields(group)}
    of_run = {f.name for f in fields(wf.Run)} - {"data", "seed", "name", "model", "capture"}
    of_data = {f.name for f in fields(Dataset)} - {"world", "mixture", "own"}
    of_world = {f.name for f in fields(WorldSpec)} - {"source"}
    of_capture = {"capture_layers", "capture_dtype", "capture_among", "capture_task", "readout"}
    of_model = {f.name for kind in (wf.TransformerSpec, wf.RecurrentSpec) for f in fields(kind)}
    assert known == of_run | of_data | of_world | of_capture | of_model | {"seeds", "world"}


def test_defaults_are_those_of_a_run():
    data, readout = cities.asked(cities.Data(("distance",)), None)
    asked = options.runs(data, options.Learning(), options.Model(), options.Kept(), readout)
    assert asked == [wf.Run(Dataset("distance"))]


@pytest.mark.parametrize(
    "group,kinds",
    [
        (cities.Data, (WorldSpec, Dataset)),
        (options.Learning, (wf.Run,)),
        (options.Kept, (wf.Run,)),
        (options.Model, (wf.RecurrentSpec, wf.TransformerSpec)),
    ],
)
def test_a_default_is_that_of_the_field(group, kinds):
    """Of the field of that name; but for those that have a meaning of their own on the command line."""
    known = {f.name: f.default for kind in kinds for f in fields(kind)}
    own = {"tasks", "world", "start", "kind", "hidden", "layers"}
    shared = [f for f in fields(group) if f.name in known.keys() - own]
    assert len(shared) > 2 and all(f.default == known[f.name] for f in shared)


def test_options_reach_the_run(tmp_path, capsys):
    csv = tmp_path / "towns.csv"
    csv.write_text("x,y,population\n" + "\n".join(f"{i},{i * i % 70},{99 - i}" for i in range(60)))
    words = dict(
        seeds="3 4", rows=20, epochs=2, vocabulary="entity", among="x<50", crossing="reshuffled", world=csv,
        atlantis=9, layout="scattered", atlantis_seed=5, largest=59, validation=3, loss="answer", batch=16, learning_rate=1e-3,
        warmup=2, schedule="cosine", checkpoint_spacing="log", weight_decay=0.1, clip=2, betas="0.8 0.9", eps=1e-7, hidden=32, layers=1, heads=2,
        intermediate=24, outputs=98, rope_base=500, norm_eps=1e-5, init_std=0.2, checkpoints=2,
        capture_layers="0 1", capture_among="x>3", capture_task="inside", capture_dtype="float16",
    )  # fmt: skip
    given = [word for name, value in words.items() for word in ("--" + name.replace("_", "-"), *str(value).split())]
    assert call("--tasks", "all", *given, "--out", tmp_path, "--threads", 1, "--memory", "2GiB", "--quiet") == 0
    expected = [
        wf.Run(
            Dataset(
                tuple(wf.TASKS),
                rows=20,
                vocabulary="entity",
                among="x<50",
                crossing="reshuffled",
                loss="answer",
                world=WorldSpec(str(csv), 9, "scattered", 5, 59),
            ),
            seed=seed,
            epochs=2,
            batch=16,
            learning_rate=1e-3,
            warmup=2,
            schedule="cosine",
            weight_decay=0.1,
            clip=2,
            betas=(0.8, 0.9),
            eps=1e-7,
            model=wf.TransformerSpec(32, 1, 2, 24, 500.0, 1e-5, 0.2, 98),
            checkpoints=2,
            checkpoint_spacing="log",
            validation=3,
            capture=Capture((0, 1), "float16", {"among": "x>3", "task": "inside"}),
        )
        for seed in (3, 4)
    ]
    out, err = capsys.readouterr()
    ended = [
        re.escape(str(tmp_path / run.folder_name)) + r"  finished at step 18, loss \d\.\d{4}, \d s" for run in expected
    ]
    assert re.fullmatch("\n".join(ended), out.strip()) and err == ""


@pytest.mark.parametrize(
    "words,expected",
    [
        ("", wf.TransformerSpec()),
        ("--kind transformer --hidden 64 --heads 8", wf.TransformerSpec(hidden=64, heads=8)),
        ("--rope-base None", wf.TransformerSpec(rope_base=None)),
        ("--kind lstm", wf.RecurrentSpec("lstm")),
        ("--kind rnn --hidden 128 --layers 6", wf.RecurrentSpec("rnn", 128, 6)),
        (
            "--kind rnn --nonlinearity relu --leak 0.5 --bias False --init fan_in --outputs 98",
            wf.RecurrentSpec("rnn", nonlinearity="relu", leak=0.5, bias=False, init="fan_in", outputs=98),
        ),
    ],
)
def test_a_model_of_any_kind(words, expected, monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(cli, "train_runs", lambda runs, out, **how: asked.extend(runs) or [])
    assert call("--tasks", "angle", *words.split(), "--out", tmp_path) == 0
    assert [run.model for run in asked] == [expected]


def test_files_of_ones_own_are_loaded(tmp_path, capsys, monkeypatch):
    """A task by its name, and a run's folder whose dataset is a class of such a file; named again where they are
    unknown, with what to say.
    """
    monkeypatch.setattr(classes, "LOADED", {})
    own = tmp_path / "own_of_mine.py"
    own.write_text(OWN)
    assert cli.main(["sample", "west", "--n", "2", "--load", str(own)]) == 0
    assert re.fullmatch(r"(west\(c_\d+,c_\d+\)=(NO|YES)\n){2}", capsys.readouterr().out)
    towns = sys.modules["own_of_mine"].Towns
    model = TINY
    run = wf.Run(towns("west", rows=32, world=WorldSpec(largest=50)), batch=16, checkpoints=1, model=model)
    assert run.to_json()["data"]["class"] == "own_of_mine.Towns"
    [folder] = wf.train(run, tmp_path, device="cpu", progress=False)
    extract = ["extract", str(folder), "--out", str(tmp_path / "states.h5")]
    assert cli.main(extract) == 0
    monkeypatch.delitem(sys.modules, "own_of_mine")
    assert cli.main(extract) == 1
    said = "class 'own_of_mine.Towns': own_of_mine is not imported: import it first, then read its runs; "
    assert said + "on the command line, --load own_of_mine.py" in capsys.readouterr().err
    classes.LOADED.clear(), tasks._by_name.pop("west")
    other = tmp_path / "nothing_of_mine.py"
    other.write_text("x = 1")
    assert cli.main(["verify", str(folder)]) == 1 and "damaged" not in capsys.readouterr().out
    assert cli.main([*extract, "--load", str(other), "--load", str(own)]) == 0
    assert cli.main(["verify", str(folder), "--quiet", "--load", str(own)]) == 0
    assert {"west"} <= set(wf.TASKS) and sys.modules["own_of_mine"].Towns is not towns
    for name in ("own_of_mine", "nothing_of_mine"):
        monkeypatch.delitem(sys.modules, name)
    tasks._by_name.pop("west")


def test_a_task_of_a_file_that_is_not_loaded(tmp_path, capsys):
    made = wf.task("eastern", cities=1, choices=("NO", "YES"), version="1")(lambda xy: xy[:, 0, 0] > 0)
    run = wf.Run(Dataset(made, rows=32), batch=16, checkpoints=1, model=wf.RecurrentSpec(hidden=8))
    [folder] = wf.train(run, tmp_path, device="cpu", progress=False)
    tasks._by_name.pop("eastern")
    assert cli.main(["extract", str(folder), "--out", str(tmp_path / "states.h5")]) == 1
    assert "on the command line, --load its file" in capsys.readouterr().err
    assert cli.main(["verify", str(folder), "--quiet"]) == 1
    *lines, last = capsys.readouterr().out.splitlines()
    assert "spec.json" in lines[0] and "on the command line, --load its file" in lines[0]
    assert {line.split()[0] for line in lines} == {"unchecked"} and last.endswith(f" {len(lines)} of them not checked")


@pytest.mark.parametrize(
    "name,content,said",
    [
        ("mine.toml", "", "load: expected a Python file, got '"),
        ("gone.py", None, "load: there is no file '"),
        ("numpy.py", "", "has the name of the module numpy, which is imported: rename the file"),
        ("fails.py", "raise OSError('no such thing')", "no such thing"),
    ],
)
def test_files_that_cannot_be_loaded(name, content, said, tmp_path, capsys):
    if content is not None:
        (tmp_path / name).write_text(content)
    assert cli.main(["sample", "distance", "--load", str(tmp_path / name)]) == 1
    assert said in capsys.readouterr().err
    assert sys.modules["numpy"] is np and "fails" not in sys.modules and "gone" not in sys.modules


def test_a_start_brings_its_model_and_vocabulary(tmp_path, capsys):
    assert (
        call("--tasks", "angle", *SMALL, "--vocabulary", "entity", "--loss", "answer", "--out", tmp_path, "--quiet")
        == 0
    )
    base = capsys.readouterr().out.split()[0]
    again = ["--tasks", "distance", "--rows", 32, "--loss", "answer", "--start", base, "--out", tmp_path, "--quiet"]
    assert call(*again) == 0
    (folder,) = tmp_path.glob("ft-distance-s42-*")
    spec = wf.Run.from_json(options.spec_of(folder).to_json())
    assert (spec.model, spec.data.vocabulary) == (
        spec.start.model,
        "entity",
    ) and spec.start.folder_name == os.path.basename(base)
    assert call(*again, "--hidden", 64) == 1
    assert "start: 'pt-angle-s42' has model.hidden 16, this run 64" in capsys.readouterr().err
    assert call(*again[:-4], tmp_path, "--quiet") == 1
    assert f"{tmp_path} is not a run's folder" in capsys.readouterr().err


def test_one_that_diverges_is_said_to(tmp_path, capsys):
    assert call("--tasks", "angle", *SMALL, "--learning-rate", 1e30, "--warmup", 0, "--out", tmp_path, "--quiet") == 0
    assert re.search(r"pt-angle-s42-\w+  diverged at step 1, loss \d+\.\d+, \d s\n", capsys.readouterr().out)


def test_ctrl_c_and_again(tmp_path, capsys, monkeypatch):
    real = Lockstep.step

    def step(lockstep, members):
        os.kill(os.getpid(), signal.SIGINT)
        real(lockstep, members)

    monkeypatch.setattr(Lockstep, "step", step)
    words = ["--tasks", "angle", *SMALL, "--out", tmp_path, "--quiet"]
    assert call(*words) == 130
    out, err = capsys.readouterr()
    assert out == "" and "stopped and saved: pt-angle-s42 at step 1 of 2. The same call or command goes on" in err
    monkeypatch.undo()
    assert call(*words) == 0
    assert "finished at step 2" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words,said",
    [
        ("--tasks distnace", "unknown task 'distnace': did you mean 'distance'"),
        ("--tasks angle --loss anser", "unknown loss 'anser': did you mean 'answer'"),
        ("--tasks angle --vocabulary entities", "unknown vocabulary 'entities': did you mean 'entity'"),
        ("--tasks angle --crossing balancd", "unknown crossing 'balancd': did you mean 'balanced'"),
        ("--tasks angle --layout scatered", "unknown layout 'scatered': did you mean 'scattered'"),
        ("--tasks angle --capture-dtype float64", "unknown capture.dtype 'float64': did you mean 'float16'"),
        ("--tasks angle --device cpuu", "unknown device 'cpuu': did you mean 'cpu'"),
        ("--tasks angle --log wanb", "unknown log 'wanb': did you mean 'wandb'"),
        ("--tasks angle --learning-rate nan", "learning_rate: expected a finite number, got nan"),
        ("--tasks angle --kind ltsm", "unknown kind 'ltsm': did you mean 'lstm'"),
        (
            "--tasks angle --kind lstm --heads 8",
            "heads: the kind 'lstm' has no such option; it has kind, hidden, layers",
        ),
        ("--tasks angle --leak 0.5", "leak: the kind 'transformer' has no such option"),
        ("--tasks angle --rows 0", "rows: expected at least 1, got 0"),
        ("--tasks angle --heads 3", "model.heads: hidden / heads must be a multiple of 8"),
        ("--tasks angle --capture-layers 7", "capture.layers: a model of 6 layers has 0 to 6, got 7"),
        ("--tasks angle --readout index", "readout: expected NAME=VALUE, got 'index'"),
        ("--tasks angle --readout amongst=x>3", "unknown option of capture.readout 'amongst': did you mean 'among'?"),
        ("--tasks angle --capture-among index<0", "capture.readout: among: 'index<0' selects none of 5,075 cities"),
        ("--tasks angle --seeds 1 2 1", "runs: 2 is 0 again, 'pt-angle-s1' with the id"),
        ("--tasks angle --seeds", "seeds: expected at least one"),
        ("--tasks", "tasks: expected at least one"),
        ("none.py", "data: there is no file 'none.py'"),
        (
            "own.py",
            "data: 'own.py' defines no `data`, such as data = Ring(), of a class that derives from Dataset; 'few' is one: ",
        ),
        ("own.py:more", "more: that of 'own.py' should be a Dataset, it is of type int"),
        ("own.py:few --readout among=index<0", "capture.readout: among: 'index<0' selects none of 5,075 cities"),
        ("--tasks angle --threads 0", "threads: expected at least 1, got 0"),
        ("--tasks angle --memory 8GB", "memory: expected bytes or a text such as '8GiB'"),
        ("--tasks angle --memory 1MiB", "memory: 'pt-angle-s42' alone needs"),
        ("--tasks angle --among x>9999", "among: 'x>9999' selects none of 5,075 cities"),
        ("--tasks angle --among index<2", "task angle needs 3 cities, rows may use 2, which among='index<2' selects"),
        (
            "--tasks angle --among name=='toky'",
            "selects none of 5,075 cities; no name is 'toky': did you mean 'Tokyo'?",
        ),
        ("--tasks angle --world none.csv", "world source: there is no file 'none.csv' in '"),
        ("--tasks distance --rows 99000000", "the train split of these cities holds"),
    ],
)
def test_values_that_are_wrong(words, said, tmp_path, monkeypatch, capsys):
    """One line that says what, and status 1; nothing has begun."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(classes, "LOADED", {})
    monkeypatch.setitem(sys.modules, "own", None)
    Path("own.py").write_text("from worldfast.worlds import cities\nfew = cities.Dataset('angle')\nmore = 3")
    assert call(*words.split(), "--out", tmp_path / "runs") == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("worldfast: ") and said in err and err.count("\n") == 1
    assert not list(tmp_path.glob("runs/*"))


TOWNS = """
from dataclasses import dataclass
import numpy as np
import worldfast as wf
from worldfast.rows import require_split
from worldfast.worlds import cities
@dataclass(frozen=True)
class Towns(cities.Dataset):
    def stream(self, seed, split="train"):
        {fault}
        return super().stream(seed, split)
    @property
    def epoch_rows(self):
        return 32
{loads}
data = Towns("angle", rows=32)
"""
STUDY = """
import worldfast as wf
from towns import data
study = wf.Study("mine", [wf.Run(data)])
"""
RUN = ["sample towns.py", "train towns.py --out runs", "study plan study.py", "sample distance --load study.py"]


@pytest.mark.parametrize("command", RUN)
@pytest.mark.parametrize(
    "change,said",
    [
        ({"fault": "raise ValueError('mine')"}, "mine (towns.py:10 in stream)"),
        ({"fault": "1 / 0"}, "ZeroDivisionError('division by zero') (towns.py:10 in stream)"),
        ({"fault": "assert not seed"}, "AssertionError() (towns.py:10 in stream)"),
        ({"fault": "np.linalg.inv(np.zeros((2, 2)))"}, "Singular matrix (towns.py:10 in stream)"),
        (
            {"fault": "require_split('tets')"},
            "unknown split 'tets': did you mean 'test'? known: train, validation, test",
        ),
        ({"loads": "{}['x']"}, "KeyError('x') (towns.py:15)"),
        ({"loads": "data ="}, "invalid syntax (towns.py, line 15)"),
    ],
)
def test_an_error_in_a_file_of_ones_own_comes_with_its_place(command, change, said, tmp_path, monkeypatch, capsys):
    """In one line, whatever its kind, also of a file that the given one imports; not where worldfast says what it is."""
    monkeypatch.chdir(tmp_path)
    for name, value in (("LOADED", {}), ("GIVEN", set())):
        monkeypatch.setattr(classes, name, value)
    for name in ("towns", "study"):
        monkeypatch.setitem(sys.modules, name, None)  # which is undone, whatever the command imports
        del sys.modules[name]
    filled = {"fault": "pass", "loads": ""} | change
    Path("towns.py").write_text(re.sub(r"{(fault|loads)}", lambda found: filled[found[1]], TOWNS))
    Path("study.py").write_text(STUDY)
    assert cli.main(command.split()) == 1
    assert capsys.readouterr().err == f"worldfast: {said}\n" and not list(tmp_path.glob("runs/*"))


@pytest.mark.parametrize(
    "words,said",
    [
        (["--tasks", "angle", "--lerning-rate", "3"], "--learning-rate X"),
        (["--tasks", "angle", "--learning-rate", "fast"], "--learning-rate X"),
        (["--task", "angle"], "--tasks TASK"),
        (
            ["--tasks", "angle", "--lerning-rate", "3"],
            "unknown option '--lerning-rate': did you mean '--learning-rate'?",
        ),
        (["--task", "angle"], "unknown option '--task': did you mean '--tasks'?"),
        (["--tasks", "angle", "--lr", "1"], "unknown option '--lr': did you mean '--learning-rate'?"),
        (["--tasks", "angle", "--xyz=1"], "unknown option '--xyz'\n"),
        ([], "--tasks TASK"),
        (["distance"], "worldfast: tasks are an option: say --tasks distance\n"),
        (["distnace", "--rows", "32"], "say --tasks distance\n"),
        (["--rows", "32", "compass", "angel"], "say --tasks compass angle\n"),
        (["all"], "say --tasks all\n"),
        (
            ["own.py", "--tasks", "angle"],
            "unknown option '--tasks': it is one of cities; what rows there are, own.py says\n",
        ),
        (["own.py", "--lr", "1"], "unknown option '--lr': did you mean '--learning-rate'?"),
    ],
)
def test_options_that_are_wrong(words, said, capsys):
    with pytest.raises(SystemExit) as ended:
        call(*words)
    assert ended.value.code == 2 and said in capsys.readouterr().err


def test_a_command_that_is_wrong(capsys):
    assert cli.main(["trian"]) == 2
    assert capsys.readouterr().err == (
        "worldfast: unknown command 'trian': did you mean 'train'? "
        "known: demo, sample, train, study, generate, extract, export, verify, doctor\n"
    )


def test_a_study_command_that_is_wrong(capsys):
    assert (
        cli.main(["study", "rnu"]) == 2
        and "unknown study command 'rnu': did you mean 'run'?" in capsys.readouterr().err
    )


def test_the_package_is_a_command(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["worldfast", "--version"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("worldfast", run_name="__main__")
    assert ended.value.code == 0 and capsys.readouterr().out == f"worldfast {wf.__version__}\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_outside_of_training(number, tmp_path, monkeypatch, capsys):
    """While tables are made: a sentence, the status of the signal, and no half-written file; twice is once."""

    def interrupted(*_, **how):
        try:
            files.write_whole(tmp_path / "table.csv", b"half")
        finally:
            if number != signal.SIGINT:
                os.kill(os.getpid(), number)

    monkeypatch.setattr(os, "fsync", lambda _: os.kill(os.getpid(), number))  # where a file stands half written
    monkeypatch.setattr(study_cli, "run_study", interrupted)
    before = signal.getsignal(number)
    assert cli.main(["demo", "--out", str(tmp_path)]) == 128 + number
    out, err = capsys.readouterr()
    assert out == "" and err == "\nstopped: what is finished stays. The same command goes on from here.\n"
    assert not list(tmp_path.iterdir()) and signal.getsignal(number) == before


def written_to(monkeypatch, handle, *words):
    """Exit status of a command whose output goes to a descriptor, and what the interpreter's own last flush raises."""
    with open(handle, "w", encoding="utf-8") as output:
        monkeypatch.setattr(sys, "stdout", output)
        return cli.main(list(words))  # the file is closed, and so written, after it


def test_output_that_nobody_reads_ends_the_command_in_silence(monkeypatch, capsys):
    """As of `worldfast sample distance | head -1`."""
    read, write = os.pipe()
    os.close(read)
    assert written_to(monkeypatch, write, "sample", "distance", "--n", "3") == 128 + signal.SIGPIPE
    assert capsys.readouterr().err == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_output_that_does_not_fit_is_an_error(monkeypatch, capsys):
    assert written_to(monkeypatch, "/dev/full", "sample", "distance", "--n", "3") == 1
    assert capsys.readouterr().err == "worldfast: [Errno 28] No space left on device\n"


def test_a_tracker_that_is_not_installed(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert call("--tasks", "distance", "--rows", "32", "--log", "wandb", "--out", tmp_path) == 1
    assert "log='wandb' needs wandb, which is not installed: pip install wandb\n" in capsys.readouterr().err


def test_a_scale_beyond_all_rows(capsys):
    for name in ("mini", "paper"):
        assert cli.main(["study", "plan", name, "--scale", "1e306"]) == 1
        assert ": expected at most " in capsys.readouterr().err


def test_the_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"worldfast {wf.__version__}\n"


COMMANDS = [[name, "own.py"] for name in cli.OF_FILE]
COMMANDS += [[name] for name in cli.COMMANDS] + [["study", name] for name in cli.STUDY]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_says_no_python(words, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main([*words, "--help"])
    out = capsys.readouterr().out
    assert ended.value.code == 0 and "usage: worldfast" in out and "{None}" not in out and "default: None" not in out
    metavars = out.replace("{list,plan,run,status,report}", "").replace("{city}", "").replace("{city},", "")
    assert not re.search(r"\b(STR|INT|FLOAT|BOOL)\b|[{}]", metavars), "expected N, X, TEXT, PATH or the name of a thing"


@pytest.mark.parametrize("name", cli.OF_FILE)
def test_help_says_what_a_file_is(name, capsys):
    with pytest.raises(SystemExit):
        cli.main([name, "--help", "own.py"])
    assert re.search(r"FILE\.py +A Python file that defines `data`", capsys.readouterr().out)


def test_help_is_a_line_an_option(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "110")
    with pytest.raises(SystemExit):
        call("--help")
    printed = capsys.readouterr().out.splitlines()
    lines = [line.strip() for line in printed if line.startswith(" ") and line.strip()]
    titles = [line.split()[0] for line in lines if line.endswith(" options")]
    assert titles == "data learning model kept machine".split()
    groups = (cities.Data, options.Learning, options.Model, options.Kept, options.Machine)
    said = [line.split()[0] for line in lines if re.match(r"-{1,2}\w", line)]
    assert said == ["-h,", *("--" + f.name.replace("_", "-") for group in groups for f in fields(group))]
    assert len(lines) == len(said) + 2 * (len(groups) + 1)  # a title and a rule for each


def test_doctor_says_what_computes_and_why_no_gpu_does(capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.version.cuda", None)
    monkeypatch.setattr("worldfast.files.processor", lambda device: "a processor, 3 threads")
    assert cli.main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert f"CUDA device: none; torch {torch.__version__} was built without CUDA\n" in said
    assert "processor: a processor, 3 threads; " in said and re.search(r"floats \((SSE or NEON|AVX2|AVX-512)\)", said)
