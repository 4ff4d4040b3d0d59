"""The benchmarks' harness does its sums, verifies before it times, and the scripts run."""

import csv
import importlib.util
import math
import os
import re
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import warm
from tiny import TINY

import worldfast as wf
from worldfast.worlds.cities import Dataset

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def load(monkeypatch):
    """Imports a benchmark under a name of its own: a peer is called like one of them."""
    monkeypatch.syspath_prepend(BENCHMARKS)

    def load(name):
        spec = importlib.util.spec_from_file_location(f"benchmark_{name}", BENCHMARKS / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)  # where dataclasses look for it
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture
def harness(load):
    return load("harness")


# ---- measuring ----


def test_contestants_take_turns(harness):
    turns = []
    names = ["a", "b", "limit"]
    contestants = [harness.Contestant(name, lambda name=name: turns.append(name)) for name in names]
    taken = harness.compare(contestants, repeats=3)
    assert turns == names * 3
    assert [len(seconds) for seconds in taken.values()] == [3, 3, 3]


def test_a_sample_stands_for_the_whole(harness):
    sample = harness.Contestant("sample", lambda: None, times=2.5)
    [seconds] = harness.compare([sample], repeats=2, clock=lambda run: 4.0).values()
    assert seconds.tolist() == [10.0, 10.0]


def test_rows_of_the_table(harness):
    wide, narrow = (harness.Contestant(f"limit: {name}", None) for name in ("wide", "narrow"))
    first, second = (harness.Contestant(name, None, limits=(wide, narrow)) for name in ("first", "second"))
    seconds = {first: [4, 2, 6, 8, 10], second: [3] * 5, wide: [1] * 5, narrow: [1.5] * 5}
    taken = {contestant: np.array(values, dtype=float) for contestant, values in seconds.items()}
    found = harness.rows(taken, {first: 1e-3}, harness.MILLISECONDS)
    assert [row.contestant for row in found] == ["first", "second", "limit: wide", "limit: narrow"]
    np.testing.assert_allclose([found[0].median, found[0].p20, found[0].p80], [6000, 3600, 8400])
    assert [row.ratio for row in found] == [1, 0.5, 1 / 6, 0.25]
    assert [row.limit for row in found] == ["limit: narrow", "limit: narrow", "", ""]
    assert [row.share for row in found] == [0.25, 0.5, None, None]
    assert [row.error for row in found] == [1e-3, None, None, None]


def test_a_rate_goes_down_where_seconds_go_up(harness):
    rate = harness.Unit("MB/s", lambda seconds: 12 / seconds)
    contestant = harness.Contestant("only", None)
    [row] = harness.rows({contestant: np.array([1.0, 2, 3, 4, 6, 12])}, {}, rate)
    assert row.p20 < row.median < row.p80
    assert row.p20 == 2


@pytest.mark.parametrize("error", [2.0, math.nan])
def test_a_wrong_answer_is_not_timed(harness, tmp_path, error):
    def clock(run):
        raise NotImplementedError("timed")

    wrong = harness.Contestant("wrong", lambda: 7, error=lambda result: error * result / 7, allowed=1.0)
    options = SimpleNamespace(repeats=1, results=tmp_path / "results.csv")
    with pytest.raises(AssertionError, match="wrong errs by (2|nan).*, allowed 1"):
        harness.run("b", "case", [wrong], options, clock=clock)
    assert not options.results.exists()


def test_a_peer_that_is_wrong_is_left_out_and_named(harness, tmp_path, capsys):
    ours, wrong, right = (
        harness.Contestant(name, lambda: 0, error=lambda result, error=error: error, allowed=1.0)
        for name, error in (("ours", 0.0), ("wrong", math.nan), ("right", 1.0))
    )
    options = SimpleNamespace(repeats=2, results=tmp_path / "results.csv")
    found = harness.run("b", "case", [ours, wrong, right], options, clock=lambda run: 1.0)
    assert [row.contestant for row in found] == ["ours", "right"]
    assert "left out: wrong errs by nan, allowed 1.00e+00" in capsys.readouterr().out
    assert "wrong" not in options.results.read_text()


def test_limits_move_and_multiply_as_much_as_they_say(harness):
    copy = harness.copying(10 * 2**20)
    assert copy.times == 10 * 2**20 / (2 * 2**27)  # 128 MiB are read and as much is written
    product = harness.multiplying(2e9, torch.float64)
    assert product.run().shape == (2048, 2048)
    assert product.times == 2e9 / (2 * 2048**3)
    assert product.name == "limit: 2 GFLOP of float64 products"


@pytest.mark.parametrize("faster", ["core", "torch"])
def test_the_limit_of_products_is_the_faster_of_two(harness, monkeypatch, faster):
    took = []

    def seconds(run):
        took.append(run)
        return {"core": 1.0, "torch": 2.0}["core" if (len(took) <= 3) == (faster == "core") else "torch"]

    monkeypatch.setattr(harness, "seconds", seconds)
    monkeypatch.setattr(harness, "_core_product", lambda x: "core")
    for _ in range(2):
        product = harness.multiplying(2e9, torch.float32)
        assert (product.run == "core") == (faster == "core")
    assert len(took) == 6 and took[:3] == ["core"] * 3  # compared once


def test_lines_say_who_is_at_work(harness, capsys):
    long, short = (harness.Contestant(name, lambda name=name: name) for name in ("long", "short"))
    clock = {"long": 1.5, "short": 0.5}
    harness.run(
        "b", "the case", [long, short], SimpleNamespace(repeats=2, results=None), clock=lambda run: clock[run()]
    )
    lines = capsys.readouterr().out.split("\nthe case\n")[1].splitlines()
    verified = [re.sub(r"\d+\.\d s$", "# s", line.strip()) for line in lines]
    assert verified == [
        "verifying long ... # s",
        "1 of 2: 1.5 s, long",
        "verifying short ... # s",
        "2 of 2: 1.5 s, long",
    ]


@pytest.mark.parametrize("emulated", [False, True])
def test_contestants_that_would_take_minutes_are_left_out(harness, monkeypatch, capsys, emulated):
    """A part that takes 2 s is a hundredth of a call, and there are six calls: 20 minutes."""

    def part():
        return 2.0

    def slow():
        raise NotImplementedError("run")

    monkeypatch.setattr(harness, "emulated", lambda dtype: emulated)
    left = [harness.Contestant(name, slow, part=part, parts=100) for name in ("slow", "slow too")]
    quick = harness.Contestant("quick", lambda: 0.5, part=part, parts=20)  # 4 minutes
    options = SimpleNamespace(repeats=5, results=None, patience=5, quick=False)
    found = harness.run("b", "case", [*left, quick], options, clock=lambda run: run())
    assert [row.contestant for row in found] == ["quick"]
    why = ": no bfloat16 instructions here" if emulated else ""
    said = re.findall("left out: .*", capsys.readouterr().out)
    assert said == [f"left out: {one.name} would take about 20.0 minutes{why}" for one in left]
    options.quick = True
    assert harness.run("b", "case", [*left, quick], options, clock=lambda run: run()) == []


STOPPED = """
import os, signal, sys
from pathlib import Path
import harness
calls = []
def stops():
    calls.append(1)
    if len(calls) == 3:  # verified, timed, and timed again
        os.kill(os.getpid(), int(sys.argv[2]))
options = harness.arguments("", 5, [1]).parse_args(["--repeats", "5"])
options.results = Path(sys.argv[1])
others = [harness.Contestant("first", int), harness.Contestant("stops", stops), harness.Contestant("last", int)]
harness.run("b", "case", others, options)
"""


def contestants_of(path):
    """[(contestant, repeats)] of a table of results."""
    with open(path, newline="") as file:
        return [(line["contestant"], line["repeats"]) for line in csv.DictReader(file)]


def test_a_benchmark_that_is_stopped_keeps_what_was_timed(tmp_path):
    done = script(STOPPED, tmp_path / "results.csv", signal.SIGTERM.value)
    assert done.returncode == 128 + 15, done.stderr
    assert contestants_of(tmp_path / "results.csv") == [("first", "2"), ("stops", "1"), ("last", "1")]
    assert [path.name for path in tmp_path.iterdir()] == ["results.csv"]


def test_a_benchmark_that_is_killed_keeps_what_was_timed(harness, tmp_path, capsys):
    """Its rows stand beside the results at once, and the next case of any benchmark puts them among its own."""
    path = tmp_path / "results.csv"
    done = script(STOPPED, path, signal.SIGKILL.value)
    assert done.returncode == -signal.SIGKILL, done.stderr
    [kept] = tmp_path.iterdir()
    killed = [("first", "2"), ("stops", "1"), ("last", "1")]
    assert contestants_of(kept) == killed
    living = path.with_name(f"results.csv.{os.getppid()}")
    living.write_bytes(kept.read_bytes())
    harness.run("b", "next", [harness.Contestant("ours", int)], SimpleNamespace(repeats=1, results=path))
    assert contestants_of(path) == [*killed, ("ours", "1")]
    assert f"3 rows of a benchmark that was killed are now in {path}" in capsys.readouterr().out
    assert {path, living} == set(tmp_path.iterdir())


def test_rows_that_were_kept_are_in_the_results_once(load, tmp_path):
    """A process that dies between writing them into the results and removing its own has left them twice."""
    kept_rows, path = load("kept_rows"), tmp_path / "results.csv"
    path.write_bytes(b"a,b\r\n1,2\r\n")
    ended = warm.python("-c", "import os; print(os.getpid())").stdout.strip()
    path.with_name(f"results.csv.{ended}").write_bytes(b"a,b\r\n1,2\r\n3,4\r\n")
    path.with_name(f"results.csv.{ended}.partial").write_bytes(b"a,b\r\n1,")
    assert kept_rows.gather(path) == 1
    assert path.read_bytes() == b"a,b\r\n1,2\r\n3,4\r\n"
    assert kept_rows.gather(path) == 0
    assert [*tmp_path.iterdir()] == [path]


def test_results_with_other_columns_are_refused_before_anything_is_timed(harness, tmp_path):
    path = tmp_path / "results.csv"
    path.write_text("date,commit\n")
    ours = harness.Contestant("ours", lambda: pytest.fail("it ran"))
    with pytest.raises(ValueError, match="expected the columns"):
        harness.run("b", "case", [ours], SimpleNamespace(repeats=1, results=path))


def script(text, *arguments, **environment):
    """Runs a Python script beside the benchmarks."""
    path = f"{BENCHMARKS}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    return warm.python("-c", text, *arguments, PYTHONPATH=path, **environment)


# ---- the processor ----


@pytest.mark.parametrize(
    "lines,model,sets",
    [
        (
            "vendor_id : AuthenticAMD\ncpu family : 25\nmodel : 1\nmodel name : AMD EPYC\nflags : fpu fma avx avx2",
            "AuthenticAMD, family 25, model 1, AMD EPYC",
            "AVX2 FMA",
        ),
        (
            "vendor_id : GenuineIntel\ncpu family : 6\nmodel : 143\nflags : fma avx2 avx512f avx512_bf16 amx_bf16",
            "GenuineIntel, family 6, model 143",
            "AVX2 FMA AVX-512 AVX512-BF16 AMX-BF16",
        ),
        (
            "Features : fp asimd bf16\nCPU implementer : 0x41\nCPU part : 0xd4f",
            "implementer 0x41, part 0xd4f",
            "NEON BF16",
        ),
        ("", "", ""),
    ],
)
def test_the_processor(harness, tmp_path, monkeypatch, lines, model, sets):
    (tmp_path / "cpuinfo").write_text(lines + "\n\nprocessor : 1\nflags : amx_bf16\n")
    monkeypatch.setattr(harness.platform, "machine", lambda: "x86_64")
    assert harness.processor(tmp_path / "cpuinfo") == (model, sets)
    assert harness.processor(tmp_path / "none")[1] == ""
    monkeypatch.setattr(harness.platform, "machine", lambda: "arm64")
    assert harness.processor(tmp_path / "not-there")[1] == "NEON"


WIDTH = "import harness, torch; harness.arguments('', 1, [1]); print(harness.vector_width(), torch.backends.cpu.get_cpu_capability())"


def test_a_narrower_width_holds_for_everyone(harness, monkeypatch):
    if harness.WIDEST == 4:
        pytest.skip("the processor has no wider vectors")
    narrow = script(WIDTH, WIDTH="4")
    assert narrow.stdout.split() == ["4", "DEFAULT"], narrow.stderr
    monkeypatch.setenv("WIDTH", "")
    assert harness.vector_width() == harness.WIDEST
    for width in ("5", "32"):
        monkeypatch.setenv("WIDTH", width)
        with pytest.raises(ValueError, match=f"WIDTH: expected 4, 8 or 16, .*got {width}"):
            harness.vector_width()
        with pytest.raises(SystemExit, match=f"^WIDTH: expected 4, 8 or 16, .*got {width}$"):
            harness.limit_peers()


# ---- results ----


def test_results_are_appended_below_one_header(harness, tmp_path):
    path = tmp_path / "results.csv"
    limit = harness.Contestant("limit: all", lambda: None)
    contestant = harness.Contestant("a, b", lambda: 1, error=lambda _: 0.125, allowed=1, limits=(limit,))
    options = SimpleNamespace(repeats=2, results=path)
    for _ in range(2):
        harness.run("benchmark", "case", [contestant], options, clock=lambda run: 0.5)
    with open(path, newline="") as file:
        lines = list(csv.DictReader(file))
    assert path.read_text().count("date,commit") == 1
    assert [line["contestant"] for line in lines] == ["a, b", "limit: all"] * 2
    expected = {"benchmark": "benchmark", "case": "case", "median": "500", "p20": "500", "p80": "500", "unit": "ms"}
    expected |= {"repeats": "2", "error": "0.12", "limit": "limit: all", "limit_share": "1.000"}
    model, instructions = harness.processor()
    expected |= {"processor": model, "instructions": instructions, "vector_width": str(harness.vector_width())}
    assert expected.items() <= lines[0].items()
    of_gpu = tmp_path / "gpu.csv"
    harness.record(of_gpu, "b", "c", [harness.Row("a", 1, 1, 1, 1)], "ms", device="NVIDIA H100")
    assert of_gpu.read_text().splitlines()[1].endswith(",ms,1,,,,,,"), "not the processor's"


def test_results_with_other_columns_are_left_alone(harness, tmp_path):
    path = tmp_path / "results.csv"
    path.write_text("date,commit\n2026-01-01,abc\n")
    with pytest.raises(ValueError, match="expected the columns"):
        harness.record(path, "b", "c", [], "ms")
    assert path.read_text() == "date,commit\n2026-01-01,abc\n"


def test_the_results_that_are_kept_can_be_read(harness):
    with open(harness.RESULTS, newline="") as file:
        reader = csv.DictReader(file)
        assert reader.fieldnames == harness.COLUMNS
        for line in reader:
            assert None not in line, "a line has more fields than the header"
            assert float(line["p20"]) <= float(line["median"]) <= float(line["p80"])
            assert int(line["repeats"]) >= 1


# ---- the scripts ----


def test_make_bench_runs_every_script_that_the_guide_names():
    root = BENCHMARKS.parent
    named = set(re.findall(r"`python benchmarks/(\w+)\.py`", (root / "docs" / "performance.md").read_text()))
    bench = re.search(r"^bench:.*\n((?:\t.*\n)+)", (root / "Makefile").read_text(), re.MULTILINE)[1]
    assert len(named) > 9 and named <= set(re.findall(r"benchmarks/(\w+)\.py", bench))


def test_gains_of_threads(load):
    """In the order of its contestants: new arrays, and arrays that are there, on 1 and on 2 threads."""
    harness, labels = load("harness"), load("labels")
    names = [one.name for one in labels.contestants(wf.World.cities(), ["inside"], 10, [1, 2])]
    assert ["there" in name for name in names] == [False, True, False, True]
    medians = dict(zip([*names, "limit: memory"], (8.0, 6.0, 5.0, 3.0, 1.0)))
    rows = [harness.Row(name, median, 0, 0, 1) for name, median in medians.items()]
    assert labels.gains(rows, [1, 2]) == "2 threads are 1.60x as fast as 1, 2.00x into arrays that are there"
    assert labels.gains(rows[:2], [1]) == ""


@pytest.mark.parametrize(
    "script",
    [
        *("labels", "walks", "python_tasks", "products", "attention", "cka", "activations", "evaluation", "training"),
        "recurrent",
    ],
)
def test_scripts_run(script, harness, tmp_path):
    before = harness.RESULTS.read_bytes()
    command = [BENCHMARKS / f"{script}.py", "--quick", "--no-record", "--repeats", "1"]
    if script == "activations":
        command += ["--folder", tmp_path]
    if script in ("evaluation", "training", "recurrent"):  # more threads than cores wait for each other
        command += ["--threads", "1"]
    done = warm.python(*command)
    assert done.returncode == 0, done.stderr
    assert "worldfast" in done.stdout
    assert "limit: " in done.stdout
    assert harness.RESULTS.read_bytes() == before


def test_capture(tmp_path):
    command = [BENCHMARKS / "capture.py", "--quick", "--no-record", "--repeats", "2", "--threads", "1"]
    done = warm.python(*command, "--folder", tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("overhead of 41 checkpoints in ") == done.stdout.count(" are below 3% from ") == 2


def test_overheads_of_checkpoints(load):
    """A step takes 0.1 s and a checkpoint 0.3 s: in 400 steps that is one in ten."""
    run = wf.Run(Dataset("distance", rows=400), batch=1, checkpoints=40)
    without, behind = np.array([0.9, 1.0, 1.2]), np.array([1.2, 1.3, 1.6])
    [row], words = load("capture").overheads(without, behind, steps=10, run=run)
    np.testing.assert_allclose([row.median, row.p20], 30)
    assert row.p80 > 30 and row.contestant == "overhead of 41 checkpoints in 400 steps"
    assert words.startswith("a checkpoint takes 300 ms, 3.0 steps of 100 ms") and "from 4,000 steps on" in words


def test_parity(tmp_path):
    """Twenty losses within 1e-4 of transformers; the figure is there."""
    figure = tmp_path / "parity.png"
    command = [BENCHMARKS / "parity.py", "--quick", "--no-record", "--threads", "1", "--figure", figure]
    done = warm.python(*command)
    assert done.returncode == 0, done.stderr
    [apart] = re.findall(r"worldfast, float32: the first 20 losses within (\S+) of transformers", done.stdout)
    assert float(apart) < 1e-4
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_demo():
    """Its time, and each of six fine-tunes at two prompts; of one whose first task is perimeter both would be one."""
    done = warm.python(BENCHMARKS / "demo.py", "--quick", "--no-record", "--threads", "1", "--seeds", "5")
    assert done.returncode == 0, done.stderr
    assert "worldfast demo" in done.stdout.split("seeds 5 to 7, 1 threads")[1]
    found = re.findall(r"^ +([\d.]+) .*   (ft-\S+-s[567]), at (.*)$", done.stdout, re.MULTILINE)
    assert len({(run, prompt) for _, run, prompt in found}) == len(found) == 12
    assert len({error for error, *_ in found}) > 6


def test_findings_of_parity(load):
    theirs = np.linspace(4, 2, 40)
    seeds = np.stack([theirs + 0.1, theirs + 0.3])
    late = theirs + (np.arange(40) > 29) * 0.5 + (np.arange(40) == 19) * 2e-4
    between, ours = load("parity").findings({"transformers": theirs, "ours": late}, "transformers", seeds, 10)
    assert "0.2000 on average, 0.3000 at most" in between
    assert "the first 20 losses within 2.0e-04" in ours and "0.1250 on average, 0.5000 at most" in ours


def test_peers_that_are_missing_are_left_out(load, capsys):
    assert load("cka").installed("no_such_peer") is None
    assert "no_such_peer is not installed and left out: pip install '.[peers]'" in capsys.readouterr().out


def test_a_peer_is_not_the_benchmark_of_its_name(load):
    peer = load("cka").installed("cka")
    if peer is None:
        pytest.skip("pytorch-cka is not installed")
    assert Path(peer.__file__).parent != BENCHMARKS
    assert peer.hsic_cross


# ---- the GPU's ----


@pytest.mark.parametrize(
    "fault", ["", "differ from those of the CPU", "two runs differ", "going on from a checkpoint differs"]
)
def test_faults_of_training_are_found(load, monkeypatch, fault):
    """The checks of a GPU's training, interpreted, with a fault put in."""
    pytest.importorskip("triton")
    gpu = load("gpu_training")
    shape = TINY
    runs = [wf.Run(Dataset("distance", rows=2), batch=1, seed=seed, model=shape, warmup=0) for seed in (1, 2)]
    made = []

    class Faulty(gpu.GpuLockstep):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            made.append(self)

        def step(self, members):
            super().step(members)
            match fault:
                case "differ from those of the CPU":
                    self.ensemble.parameters *= 1.01
                case "two runs differ":
                    self.ensemble.parameters += 1e-7 * len(made)

        def resume(self, member, tally):
            super().resume(member, tally)
            if fault == "going on from a checkpoint differs":
                self.moments[:, member] = 0

    monkeypatch.setattr(gpu, "DEVICE", "cpu")
    monkeypatch.setattr(gpu, "GpuLockstep", Faulty)
    found, beside, apart = gpu.verify_training(runs, 2)
    assert len(made) == 5
    assert any(fault in one for one in found) if fault else not found
    assert fault or max(beside, apart) < 1e-4


@pytest.mark.parametrize("fault", ["", "errs by", "differs between two runs", "changes with NaN in the first"])
def test_faults_of_attention_are_found(load, monkeypatch, fault):
    """The checks of the GPU's kernel, on the CPU, of PyTorch's own attention with a fault put in."""
    gpu = load("gpu_attention")
    calls = []

    def attention(q, k, v, cu_seqlens, max_seqlen):
        calls.append(max_seqlen)
        out = gpu.plain_attention(q, k, v, cu_seqlens)
        match fault:
            case "errs by":
                return out * 1.001
            case "differs between two runs":
                return out * (1 + 1e-7 * len(calls))
            case "changes with NaN in the first":
                return out + 0 * out.sum()
        return out

    monkeypatch.setattr(gpu, "DEVICE", "cpu")
    monkeypatch.setattr(wf, "attention", attention)
    faults, worst = gpu.verify_attention(torch.float32, 32, [3, 1, 5])
    assert calls == [5, 5, 5]
    assert not fault or any(fault in found for found in faults)
    assert bool(faults) == bool(fault)
    assert worst > 100 if fault == "errs by" else worst < 3
