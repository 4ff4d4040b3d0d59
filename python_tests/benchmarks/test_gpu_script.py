"""benchmarks/gpu.py without a GPU: a dry run takes every step, and whatever fails, hangs or is stopped, the rest comes
back in the archive."""

import contextlib
import csv
import gc
import importlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import warm

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
ARCHIVE = "worldfast-gpu-dry-run.tar.gz"
DEVICE = """
class Device:
    dry, launches = True, {"kernel": 2}
    def wait(self):
        pass
DEVICE = Device()
stand_in = lambda: DEVICE
"""
GOOD = """
def {name}(part):
    part.case("one", lambda: (part.out / "{name}-figures.txt").write_text("1"))
"""


def ends(pid, seconds=60):
    """Return True if a process, which has been killed, ends when its turn comes."""
    stat, until = Path(f"/proc/{pid.strip()}/stat"), time.monotonic() + seconds
    while stat.exists() and stat.read_text().split()[2] != "Z":
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


def content(path):
    """File of the archive -> its bytes."""
    with tarfile.open(path) as archive:
        files = {one.name.removeprefix("worldfast-gpu/"): archive.extractfile(one).read() for one in archive}
    assert "summary.txt" in files
    return files


def cases(files, part):
    """Case -> its fault, of a part that is in the archive."""
    lines = [json.loads(line) for line in files[f"{part}.jsonl"].splitlines()]
    return {line["case"]: line["fault"] for line in lines if "fault" in line}


@pytest.fixture
def script(tmp_path):
    """Starts gpu.py as it is, with parts of the test's own: name -> source of gpu_<name>.py. No torch is imported."""
    place = tmp_path / "benchmarks"
    place.mkdir()
    for name in ("gpu.py", "gpu_build.py", "gpu_jobs.py", "gpu_part.py", "kept_rows.py"):
        shutil.copy(BENCHMARKS / name, place)
    (place / "gpu_device.py").write_text(DEVICE)
    (place / "torch.py").write_text(
        "__version__ = 'none'\nclass version: cuda = None\nclass cuda: is_available = lambda: False\n"
    )
    (place / "triton.py").write_text("__version__ = 'none'\n")
    (place / "threadpoolctl.py").write_text("")

    def start(parts, *options):
        for name in ("labels", "attention", "cka", "peers", "science"):
            (place / f"gpu_{name}.py").write_text(parts.get(name, GOOD.format(name=name)))
        both = [parts.get(name, GOOD.format(name=name)) for name in ("training", "answering")]
        (place / "gpu_training.py").write_text("\n".join(both))
        command = [sys.executable, place / "gpu.py", "--dry-run", "--out", tmp_path / "out"]
        return subprocess.Popen(
            list(map(str, [*command, *options])), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    return start


def test_a_case_that_fails_and_a_part_that_raises(script, tmp_path):
    parts = {
        "labels": """
def labels(part):
    part.agrees("before", lambda: 1)
    part.agrees("bad", lambda: 1 / 0)
    part.case("after", lambda: print("a figure"))
    (part.out / "results.csv").write_text("date,benchmark,case,contestant,median,unit,limit_share\\n")
""",
        "cka": "def cka(part):\n    raise RuntimeError('no way in')",
    }
    process = script(parts)
    printed, _ = process.communicate(timeout=60)
    files = content(tmp_path / "out" / ARCHIVE)
    assert process.returncode == 1
    assert cases(files, "labels") == {"before": "", "bad": "ZeroDivisionError: division by zero", "after": ""}
    assert cases(files, "cka") == {"all of it": "its process ended with exit code 1: RuntimeError: no way in"}
    assert b"a figure" in files["labels.txt"] and b"ZeroDivisionError" in files["labels.log"]
    for part in ("attention", "training", "answering", "peers"):
        assert cases(files, part) == {"one": ""} and files[f"{part}-figures.txt"] == b"1"
    assert "FAULT: bad: ZeroDivisionError" in printed and "FAULT: all of it: its process" in printed
    assert (tmp_path / "out" / "dry-run-results.csv").exists() and not (tmp_path / "out" / "results.csv").exists()
    assert json.loads(files["launches-labels.json"]) == {"kernel": 2}


def test_without_faults(script, tmp_path):
    process = script({})
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert set(cases(content(tmp_path / "out" / ARCHIVE), "peers").values()) == {""}


def test_a_process_that_dies_goes_on_after_the_case(script, tmp_path):
    """Killed in one case, whose times come back; and its device lost in another, behind which no case of that process
    can run."""
    parts = {
        "attention": """
import os
def attention(part):
    part.case("first", lambda: 1)
    kept = part.out / f"results.csv.{os.getpid()}"  # as the harness keeps what it has timed of a case
    rows = "benchmark,case,contestant,median,unit,limit_share\\nattention,killed,ours,1,ms,\\n"
    part.case("killed", lambda: (kept.write_text(rows), os.kill(os.getpid(), 9)))
    part.case("last", lambda: 1)
""",
        "cka": """
def cka(part):
    def lost():
        def wait():
            raise RuntimeError("an illegal memory access was encountered")
        part.device.wait = wait
        raise RuntimeError("an illegal memory access was encountered")
    part.case("lost", lost)
    part.case("last", part.device.wait)
""",
    }
    process = script(parts)
    process.communicate(timeout=60)
    assert process.returncode == 1
    files = content(tmp_path / "out" / ARCHIVE)
    assert cases(files, "attention") == {"first": "", "killed": "its process ended with signal 9", "last": ""}
    assert "attention,killed,ours,1" in (tmp_path / "out" / "dry-run-results.csv").read_text()
    assert b"attention: killed\n  1 ms: ours\n" in files["summary.txt"]
    assert cases(files, "cka") == {"lost": "RuntimeError: an illegal memory access was encountered", "last": ""}
    assert cases(files, "peers") == {"one": ""}


def test_a_part_over_its_time_is_ended(script, tmp_path):
    """Each case has half of what its part has, in which a process that it started is ended too."""
    parts = {
        "labels": """
import subprocess, sys, time
def labels(part):
    part.case("first", lambda: (part.out / "kept.txt").write_text("kept"))
    def hang():
        other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        (part.out / "pid.txt").write_text(str(other.pid))
        time.sleep(600)
    part.case("hangs", hang)
    part.case("last", lambda: 1)
"""
    }
    begun = time.monotonic()
    process = script(parts, "--minutes", "0.7", "labels", "cka")
    process.communicate(timeout=60)
    assert process.returncode == 1
    assert time.monotonic() - begun < 0.7 * 60
    files = content(tmp_path / "out" / ARCHIVE)
    found = cases(files, "labels")
    assert found["first"] == found["last"] == "" and found["hangs"].startswith("ended after ")
    assert files["kept.txt"] == b"kept" and cases(files, "cka") == {"one": ""}
    assert ends(files["pid.txt"].decode())


def test_sigterm_in_the_middle(script, tmp_path):
    parts = {"training": "import time\ndef training(part):\n    part.case('long', time.sleep, 600)\n", "answering": ""}
    process = script(parts, "--scratch", tmp_path / "scratch", "labels", "attention", "training", "peers")
    begun = tmp_path / "scratch" / "dry-run" / "training.jsonl"
    for _ in range(300):
        if begun.exists():
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    printed, _ = process.communicate(timeout=30)
    assert process.returncode == 1
    files = content(tmp_path / "out" / ARCHIVE)
    assert cases(files, "labels") == cases(files, "attention") == {"one": ""}
    assert json.loads(files["training.jsonl"]) == {"case": "long", "begun": True}
    assert "FAULT: stopped by SIGTERM" in printed and "peers.jsonl" not in files


def test_what_ended_is_there_when_the_call_is_killed(script, tmp_path):
    """An archive after each part: nothing that comes after a limit of the machine's own can write one."""
    kills = "import os\ndef cka(part):\n    part.case('kills', os.kill, os.getppid(), 9)\n"
    table = "date,benchmark,case,contestant,median,unit,limit_share\n"
    labels = f"def labels(part):\n    part.case('one', lambda: (part.out / 'results.csv').write_text({table!r}))\n"
    process = script({"labels": labels, "cka": kills}, "--scratch", tmp_path / "scratch")
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    files = content(tmp_path / "out" / ARCHIVE)
    assert cases(files, "labels") == cases(files, "attention") == {"one": ""}
    assert (tmp_path / "out" / "dry-run-results.csv").read_text() == table


def test_sigterm_in_science_keeps_its_checkpoints(script, tmp_path):
    source = """
import time
def science(part):
    (part.out / "science" / "runs" / "one").mkdir(parents=True)
    (part.out / "science" / "runs" / "one" / "done").write_text("{}")
    part.case("long", time.sleep, 600)
"""
    kept = tmp_path / "checkpoints.tar"
    options = "--scratch", tmp_path / "scratch", "--science", 5, "--checkpoints", kept, "science", "peers"
    process = script({"science": source}, *options)
    begun = tmp_path / "scratch" / "dry-run" / "science.jsonl"
    for _ in range(300):
        if begun.exists():
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    printed, _ = process.communicate(timeout=30)
    assert process.returncode == 1 and "FAULT: stopped by SIGTERM" in printed
    with tarfile.open(kept) as archive:
        assert "runs/one/done" in archive.getnames()
    files = content(tmp_path / "out" / ARCHIVE)
    assert json.loads(files["science.jsonl"]) == {"case": "long", "begun": True} and "peers.jsonl" not in files


def test_a_package_that_is_missing_is_said(script, tmp_path):
    (tmp_path / "benchmarks" / "pandas.py").write_text("raise ImportError")  # there, but not for find_spec:
    hidden = (
        "import importlib.util as u\nfind = u.find_spec\nu.find_spec = lambda n: None if n == 'h5py' else find(n)\n"
    )
    source = (tmp_path / "benchmarks" / "gpu.py").read_text()
    (tmp_path / "benchmarks" / "gpu.py").write_text(source.replace("import io\n", hidden + "import io\n", 1))
    process = script({}, "--science", "1", "cka", "science")
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 1 and "science: left out, for h5py is not installed" in printed
    assert cases(content(tmp_path / "out" / ARCHIVE), "cka") == {"one": ""}


def test_a_large_archive_comes_in_pieces(script, tmp_path):
    noise = "import os\ndef labels(part):\n    part.case('one', lambda: (part.out / 'a.bin').write_bytes(os.urandom(300_000)))\n"
    script({"labels": noise}, "--pieces", "0.125", "labels").communicate(timeout=60)
    pieces = sorted((tmp_path / "out").glob(f"{ARCHIVE}.*"))
    assert [piece.suffix for piece in pieces] == [".00", ".01", ".02"] and not (tmp_path / "out" / ARCHIVE).exists()
    whole = io.BytesIO(b"".join(piece.read_bytes() for piece in pieces))
    with tarfile.open(fileobj=whole) as archive:
        assert archive.getmember("worldfast-gpu/a.bin").size == 300_000


def test_what_an_earlier_call_wrote_is_kept(script, tmp_path):
    """That of a call with a GPU, by one that finds none; pieces and the table with it."""
    out = tmp_path / "out"
    out.mkdir()
    earlier = {name: os.urandom(8) for name in ("worldfast-gpu.tar.gz", "worldfast-gpu.tar.gz.00", "results.csv")}
    earlier |= {ARCHIVE: b"of a dry run", "dry-run-results.csv": b"a table"}
    for name, bytes_ in earlier.items():
        (out / name).write_bytes(bytes_)

    def kept():
        found = {path.name: path.read_bytes() for path in out.glob("earlier-*/*")}
        return found | {path.name: path.read_bytes() for path in out.glob("*.*") if path.name not in found}

    command = script({}, "labels")
    command.communicate(timeout=60)
    assert command.returncode == 0 and kept() == earlier
    real = [one for one in command.args if one != "--dry-run"]
    done = subprocess.run(real, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1 and "torch finds no CUDA device" in done.stdout
    assert kept() == earlier
    files = content(out / "worldfast-gpu.tar.gz")
    assert b"torch finds no CUDA device: torch none was built without CUDA" in files["summary.txt"]
    assert json.loads(files["about.json"])["device"] == "none"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--minutes", "0"], "--minutes: expected a number above 0, got 0"),
        (["--scale", "nan"], "--scale: expected a number above 0, got nan"),
        (["--pieces", "-1"], "--pieces: expected a number above 0, got -1"),
        (
            ["--science", "50"],
            "--science: 50 minutes are not within the 9 of the whole call: give it more, such as --minutes 55",
        ),
        (["--science", "1", "--checkpoints", "."], "--checkpoints: expected a file, got the folder ."),
        (["--science", "1", "--checkpoints", "file/c.tar"], "--checkpoints: file/c.tar cannot be written: "),
        (["--checkpoints", "new/c.tar"], "--checkpoints: only the part science has checkpoints: give it too, and "),
        (["cka", "--science", "1", "--resume", "file"], "--resume: only the part science has checkpoints: give it too"),
        (["--science", "1", "--resume", "c.tar"], "--resume: there is no c.tar"),
        (["science"], "science: say with --science how many minutes it may take"),
    ],
)
def test_options_are_refused_before_anything_takes_its_time(gpu, tmp_path, monkeypatch, capsys, options, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--out", "out", *options])
    with pytest.raises(SystemExit) as ended:
        gpu.main()
    assert ended.value.code == 2 and said in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_faults_are_printed_however_many_times_there_are(gpu, tmp_path):
    """So is what was left out and what was found; each time comes with the whole name of what took it."""
    options = {"minutes": 1, "scratch": tmp_path, "dry_run": False, "out": tmp_path}
    call = gpu.Call(SimpleNamespace(**options))
    (call.work / "labels.jsonl").write_text('{"case": "bad", "seconds": 1, "fault": "off"}\n')
    (call.work / "peers.txt").write_text("verifying a ... left out: a: no\nverifying a ... left out: a: no\n")
    (call.work / "science.txt").write_text("3 of 4 runs have ended\n\nA finding.\n")
    lines = [
        f"attention,{'case ' * 30}{i},{who},1,ms,{share}"
        for i in range(200)
        for who, share in (("ours", 0.5), ("b", ""))
    ]
    (call.work / "results.csv").write_text("\n".join(["benchmark,case,contestant,median,unit,limit_share", *lines]))
    shown, whole = call.shown().splitlines(), call.summary().splitlines()
    first = ["labels: 0 of 1 cases without a fault, 1 s", "  FAULT: bad: off", "left out: a: no"]
    assert shown[:5] == [*first, "3 of 4 runs have ended", "A finding."] and len(call.shown()) < 12_000
    assert shown[:-1] == whole[: len(shown) - 1]
    assert shown[-1] == f"... and {len(whole) - len(shown) + 1} more lines in summary.txt"
    assert whole[-3].endswith("case 199") and whole[-2:] == ["  1 ms, 50% of its limit: ours", "  1 ms: b"]


# ---- who compares what ----


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("gpu")


def test_comparisons_are_shared_out(gpu, tmp_path):
    """Each case that compares is some process's, and those that are timed are of none."""
    seen = []
    for name, what, share in [
        ("a", "agreement", "0/3"),
        ("b", "agreement", "1/3"),
        ("c", "agreement", "2/3"),
        ("d", "times", "0/1"),
    ]:
        part = gpu.Part(tmp_path, name, 10, None, None, what, share)
        for i in range(7):
            part.agrees(str(i), seen.append, (name, i))
        part.case("timed", seen.append, (name, "timed"))
    assert sorted(i for name, i in seen if name != "d") == list(range(7))
    assert [one for one in seen if one[0] == "d"] == [("d", "timed")]


def test_comparisons_run_side_by_side_before_anything_is_timed(gpu, script, tmp_path, monkeypatch):
    """As on a GPU: all of a part's processes wait here until the last of them is there."""
    compares = """
import time
def {name}(part):
    def meet():
        name, _, _ = part.name.partition("-")
        for _ in range(200):
            if len(list(part.out.glob(name + "-*.jsonl"))) == {processes}:
                return
            time.sleep(0.05)
        raise RuntimeError("alone")
    for i in range({processes}):
        part.agrees(str(i), meet)
    part.case("timed", lambda: 1)
"""
    counts = {"labels": 2, "attention": 6}
    parts = {name: compares.format(name=name, processes=count) for name, count in counts.items()}
    script(parts, "--minutes", "0.01", "peers").communicate(timeout=60)  # writes the parts
    monkeypatch.setattr(gpu, "__file__", str(tmp_path / "benchmarks" / "gpu.py"))
    asked = []
    monkeypatch.setattr(gpu, "built", lambda architecture: bool(asked))
    monkeypatch.setattr(gpu, "install", lambda log, architecture, limit: asked.append((architecture, limit)))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a device in the CPU's place")
    options = {"dry_run": False, "minutes": 2, "scratch": tmp_path / "real", "resume": None, "checkpoints": None}
    options |= {"out": tmp_path / "real-out", "parts": ["labels", "attention", "peers"], "pieces": None}
    call = gpu.Call(SimpleNamespace(**options, science=None, scale=None))
    call.run()
    [(architecture, limit)] = asked
    assert architecture == "90-real" and 0 < limit <= 2 * 60
    assert not call.failed(), call.summary()
    files = content(tmp_path / "real-out" / "worldfast-gpu.tar.gz")
    for part, count in counts.items():
        compared = [cases(files, f"{part}-{i}") for i in range(count)]
        assert sorted(case for found in compared for case in found) == [str(i) for i in range(count)]
        assert cases(files, part) == {"timed": ""}
    assert cases(files, "peers") == {"one": ""}


@pytest.mark.parametrize("what", ["outputs", "states of layer 1", "the loss", "gradients", None])
def test_what_is_read_or_learned_is_compared(gpu, monkeypatch, what):
    training = importlib.import_module("gpu_training")
    [(_, [run])] = training.tiny_cases()
    run = training.wf.Run.from_json(run.to_json() | {"matmul_dtype": "float32"})
    lockstep_of = training.lockstep_of

    class Off:
        """The CPU's ensemble, of which one thing is off by a thousandth."""

        def __init__(self, ensemble):
            self.ensemble, self.gradients = ensemble, None

        def outputs(self, *rows):
            return self.ensemble.outputs(*rows) * (1.001 if what == "outputs" else 1)

        def states(self, *rows):
            first, second = self.ensemble.states(*rows)
            return first, second * (1.001 if what == "states of layer 1" else 1)

        def learn(self, *rows):
            losses = self.ensemble.learn(*rows) * (1.001 if what == "the loss" else 1)
            self.gradients = self.ensemble.gradients * (1.001 if what == "gradients" else 1)
            return losses

    def made(runs, device):
        ensemble = lockstep_of(runs, "cpu").ensemble
        return SimpleNamespace(ensemble=ensemble if device == "cpu" else Off(ensemble))

    monkeypatch.setattr(training, "lockstep_of", made)
    if what is None:
        return training.verify_reading(run)
    with pytest.raises(AssertionError, match=f"^{what}: 1.0e-03 from the CPU's$"):
        training.verify_reading(run)


def test_what_doctor_finds_is_a_fault(gpu, monkeypatch):
    """Kernels that disagree, and a GPU that is there and not used."""
    training = importlib.import_module("gpu_training")
    lines = ["cuda: a device, kernels by Triton", "kernels on cpu: 2 of 2 agree", "kernels on cuda:0: 2 of 2 agree"]
    monkeypatch.setattr(training, "examine", lambda: iter(lines))
    training.verify_installation()
    lines[2:] = []
    with pytest.raises(AssertionError, match="cuda: a device"):
        training.verify_installation()
    lines += ["DISAGREES on cuda:0: labels: off", "kernels on cuda:0: 1 of 2 agree"]
    with pytest.raises(AssertionError, match="^DISAGREES on cuda:0: labels: off$"):
        training.verify_installation()


def test_a_recorded_call_has_a_stream_of_its_own(gpu, monkeypatch):
    """Warmed up and captured there, without a collection of garbage in the capture; free again with the recording."""
    device, seen, streams = importlib.import_module("gpu_device"), [], iter(range(100))

    class Stream(int):
        def wait_stream(self, other):
            pass

    class Graph:
        def replay(self):
            seen.append("replayed")

    @contextlib.contextmanager
    def on(stream):
        seen.append(stream)
        yield
        seen.append("left")

    capture = lambda graph, stream: on(("captured", stream, gc.isenabled()))  # noqa: E731
    monkeypatch.setattr(gc, "collect", lambda: None)  # which takes its time
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream(next(streams) % 32))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: Stream(-1))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "stream", on)
    monkeypatch.setattr(torch.cuda, "graph", capture)
    replays = [device.Gpu().recorded(lambda: seen.append("called"), warm=2) for _ in range(2)]
    (first, second), each = [one for one in seen if isinstance(one, Stream)], ["called", "called", "left"]
    assert first != second
    calls = [[one, *each, ("captured", one, False), "called", "left"] for one in (first, second)]
    assert seen == sum(calls, []) and gc.isenabled()
    replays[0]()
    assert seen[-1] == "replayed"
    replays.clear()
    for _ in range(40):  # more than there are streams
        device.Gpu().recorded(lambda: None)


@pytest.mark.parametrize("dies", ["models that have learned a little", "answers of the CPU"])
def test_times_of_answers_after_the_process_died(gpu, tmp_path, monkeypatch, dies):
    """The models are made again in the process that goes on, unless it was they who killed the first."""
    training = importlib.import_module("gpu_training")

    class Models:
        def __init__(self, part):
            if dies.startswith("models"):
                raise SystemExit(1)

        def compare_with_cpu(self):
            raise SystemExit(1)

        def time(self, out):
            (out / "timed").touch()

    monkeypatch.setattr(training, "Answering", Models)

    def part():
        return gpu.Part(tmp_path, "answering", 10, SimpleNamespace(dry=False))

    with pytest.raises(SystemExit):
        training.answering(part())
    with open(tmp_path / "answering.jsonl", "a") as file:  # as the call that looks after it writes
        file.write(json.dumps({"case": dies, "seconds": None, "fault": "its process ended"}) + "\n")
    training.answering(part())
    assert (tmp_path / "timed").exists() == (dies == "answers of the CPU")


# ---- the build ----


@pytest.fixture
def gpu_build(gpu):
    return importlib.import_module("gpu_build")


def test_a_build_is_of_these_sources(gpu_build, tmp_path, monkeypatch):
    """What counts is what the sources hold, not when they were written; and for which GPU, torch and CUDA it is."""
    monkeypatch.delenv("CMAKE_ARGS", raising=False)
    monkeypatch.setattr(gpu_build, "ROOT", tmp_path)
    (tmp_path / "csrc" / "deep").mkdir(parents=True)
    source = tmp_path / "csrc" / "deep" / "a.cu"
    source.write_text("1")
    answer = SimpleNamespace(returncode=0, stdout=str(tmp_path / "worldfast" / "_core.so"))
    monkeypatch.setattr(gpu_build.subprocess, "run", lambda *_, **how: answer if how["timeout"] else None)
    started = []

    class Pip:
        pid = 0

        def __init__(self, command, **how):
            started.append((command, how["env"]))

        def wait(self, limit):
            return 0

    monkeypatch.setattr(gpu_build.subprocess, "Popen", Pip)
    monkeypatch.setattr(gpu_build, "end", lambda process: None)
    assert not gpu_build.built("90-real")
    gpu_build.install(tmp_path / "build.log", "90-real", 60)
    [(command, environment)] = started
    assert "--disable-pip-version-check" in command and "--no-build-isolation" in command
    assert environment["CMAKE_ARGS"].endswith("-DCMAKE_CUDA_ARCHITECTURES=90-real")
    assert environment["WORLDFAST_CUDA"] == "ON"
    assert gpu_build.built("90-real") and not gpu_build.built("80-real")
    for owner, name, other in (
        (torch, "__version__", "9.9"),
        (torch.version, "cuda", "99.9"),
        (os, "environ", os.environ | {"CMAKE_ARGS": "-DCMAKE_BUILD_TYPE=Debug"}),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(owner, name, other)
            assert not gpu_build.built("90-real"), name
    os.utime(source, (time.time() + 100,) * 2)
    assert gpu_build.built("90-real")
    source.write_text("2")
    assert not gpu_build.built("90-real")
    answer.stdout = ""  # not built with CUDA
    source.write_text("1")
    assert not gpu_build.built("90-real")


def test_a_build_that_hangs_is_ended_and_counts_as_none(gpu_build, tmp_path, monkeypatch):
    """With what it started, as ninja and nvcc are."""
    monkeypatch.setattr(gpu_build, "ROOT", tmp_path)
    pip = tmp_path / "pip"
    pip.write_text("#!/bin/sh\nsleep 600 &\necho $! > started\nwait\n")
    pip.chmod(0o755)
    monkeypatch.setattr(gpu_build.sys, "executable", str(pip))
    with pytest.raises(subprocess.TimeoutExpired):
        gpu_build.install(tmp_path / "build.log", "90-real", 0.3)
    assert ends((tmp_path / "started").read_text())
    assert not gpu_build.digest_file().exists()


def test_a_build_that_fails_says_why(gpu_build, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_build, "ROOT", tmp_path)
    pip = tmp_path / "pip"
    log = "error: subprocess-exited-with-error\nCMake Error at CMakeLists.txt:9: No CUDA compiler\nmore\n"
    pip.write_text(f"#!/bin/sh\nprintf '{log}'\nexit 1\n")
    pip.chmod(0o755)
    monkeypatch.setattr(gpu_build.sys, "executable", str(pip))
    why = "^pip ended with 1: CMake Error at CMakeLists.txt:9: No CUDA compiler; see build.log$"
    with pytest.raises(RuntimeError, match=why):
        gpu_build.install(tmp_path / "build.log", "90-real", 60)
    assert not gpu_build.digest_file().exists()
    for text, first in (
        ("ModuleNotFoundError: pybind11\n", "ModuleNotFoundError: pybind11"),
        ("a\nb\n\n", "b"),
        ("", "it said nothing"),
    ):
        (tmp_path / "build.log").write_text(text)
        assert gpu_build.first_error(tmp_path / "build.log") == first


def test_a_gpu_that_cannot_be_used_is_said_before_anything_is_built(gpu_build, monkeypatch):
    def too_old():
        raise RuntimeError("The NVIDIA driver on your system is too old\n(found version 11040)")

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "init", too_old)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    why = r"no CUDA device: The NVIDIA driver on your system is too old \(found version 11040\), CUDA_VISIBLE_DEVICES is ''; --dry-run"
    with pytest.raises(RuntimeError, match=why):
        gpu_build.architecture_here()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Quadro T1000")
    for capability, name in (((9, 0), "90-real"), ((12, 0), "120-real"), ((8, 0), "80-real")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda found=capability: found)
        assert gpu_build.architecture_here() == name
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    with pytest.raises(RuntimeError, match="Quadro T1000 has compute capability 7.5, but 8.0 or later is needed"):
        gpu_build.architecture_here()


# ---- science ----


@pytest.fixture
def science(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("gpu_science")


def test_waves_are_the_canon_and_bases_come_first(science):
    study = science.paper()
    waves = science.waves(study)
    runs = [run for wave in waves for run in wave]
    assert sorted(run.id for run in runs) == sorted(run.id for run in study.canon)
    assert [len(wave) for wave in waves] == [8, 14, 28, 3, 84, 42]
    there = set()
    for wave in waves:
        assert all(run.start is None or run.start.id in there for run in wave)
        there |= {run.id for run in wave}


def test_a_rate_is_not_that_of_steps_that_record_a_graph(science, monkeypatch):
    """Steps of 1 ms, but the first eight and three later ones, which take 300."""
    now, steps = [0.0], []

    def step(members):
        steps.append(members)
        now[0] += 0.3 if len(steps) <= 8 or len(steps) in (9, 30, 31) else 1e-3

    monkeypatch.setattr(science, "lockstep_of", lambda runs, device: SimpleNamespace(step=step))
    monkeypatch.setattr(science.GPU, "wait", lambda: None, raising=False)
    monkeypatch.setattr(science.time, "perf_counter", lambda: now[0])
    assert science.measured([1, 2]) == pytest.approx(1e-3)
    assert steps == [[0, 1]] * 80


def test_the_scale_is_what_fits(science, monkeypatch):
    """Eight models and fourteen of 328,000 steps each, at 1 ms for eight: 328 s and 574 s."""
    monkeypatch.setattr(science, "measured", lambda runs: 1e-3)
    whole = 328.13 + 574.2
    assert science.chosen_scale(whole * 0.401) == 0.4
    assert science.chosen_scale(whole * 0.399) == 0.2
    assert science.chosen_scale(60) == 0.05
    assert science.chosen_scale(0.1) == 0.005


def test_science_goes_on_from_an_archive_where_it_was_stopped(gpu, science, tmp_path, monkeypatch):
    """Weights are those of a call that was not stopped; what was done is not done again."""

    def call(name, **options):
        options = {"minutes": 1, "scratch": tmp_path / name, "dry_run": True, "resume": None} | options
        made = gpu.Call(SimpleNamespace(out=tmp_path / name, **options))
        part = gpu.Part(made.work, "science", 1e3, SimpleNamespace(dry=True), SimpleNamespace(scale=None))
        (made.work / "science").mkdir(exist_ok=True)
        return made, part, made.work / "science"

    study = science.tiny_study()
    _, part, whole = call("whole")
    science.train(part, study, whole)

    steps, train = [], science.wf.train

    def interrupted(runs, out, **how):
        if len(steps) == 1:  # in the second wave
            how["log"] = lambda run, line: os.kill(os.getpid(), signal.SIGALRM) if line["step"] == 1 else None
        steps.append([run.name for run in runs])
        return train(runs, out, progress=False, **how)

    monkeypatch.setattr(science.wf, "train", interrupted)
    first, part, stopped = call("first", checkpoints=tmp_path / "checkpoints.tar")
    science.train(part, study, stopped)
    assert len(steps) == 2
    ended = [run for run in study.canon if science.ended(run, stopped)]
    assert 0 < len(ended) < len(study.canon)
    first.keep_checkpoints()
    shutil.rmtree(first.work)

    second, part, there = call("second", resume=tmp_path / "checkpoints.tar")
    second.unpack()
    before = {run.id: (there / "runs" / run.folder_name / "done").stat().st_mtime_ns for run in ended}
    science.train(part, study, there)
    from worldfast.training import load

    for run in study.canon:
        found, right = (load(out / "runs" / run.folder_name)[1].parameters for out in (there, whole))
        assert torch.equal(found, right), run.name
    assert before == {run.id: (there / "runs" / run.folder_name / "done").stat().st_mtime_ns for run in ended}


def test_science_reads_what_ended_before_its_process_died(gpu, science, tmp_path, monkeypatch):
    study, read = science.tiny_study(), []

    def dies(*_):
        raise SystemExit(1)

    def part():
        return gpu.Part(tmp_path, "science", 1e3, SimpleNamespace(dry=True), SimpleNamespace(scale=None))

    monkeypatch.setattr(science, "study_of", lambda part, out: study)
    monkeypatch.setattr(science, "train", dies)
    monkeypatch.setattr(science, "ended", lambda run, out: run == study.canon[0])
    monkeypatch.setattr(science, "read", lambda part, study, out: read.append([run.name for run in study.canon]))
    with pytest.raises(SystemExit):
        science.science(part())
    assert read == []
    science.science(part())  # goes on after the case in which it died
    assert read == [[study.canon[0].name]]


@pytest.mark.parametrize("fails", [False, True])
def test_science_draws_what_was_read_in_time(science, tmp_path, monkeypatch, fails):
    """The second run's table takes too long, or cannot be made; the others' are there, and a fine-tune of it is not drawn."""
    study, there, drawn, pools = science.tiny_study(), set(), [], []
    both = study.canon[2]
    tables = [SimpleNamespace(runs=(run,)) for run in study.canon] + [SimpleNamespace(runs=tuple(study.canon))]
    late = threading.Event()

    def make(table, out):
        if table.runs == (both,):
            assert not fails, "no such file"
            late.wait(20)
        else:
            there.add(table.runs)

    def in_threads(*_):
        pools.append(ThreadPoolExecutor(2))
        return pools[0]

    monkeypatch.setattr(science, "ProcessPoolExecutor", in_threads)
    monkeypatch.setattr(science, "make", make)
    monkeypatch.setattr(science, "made", lambda table, out: table.runs in there)
    monkeypatch.setattr(science, "tables_of", lambda study, runs: tables)
    monkeypatch.setattr(
        science, "run_study", lambda study, *_, **how: drawn.append(study) or SimpleNamespace(findings=[])
    )
    monkeypatch.setattr(science.report, "publish", lambda *_: tmp_path / "report.html")
    part = SimpleNamespace(dry=True, out=tmp_path, left=lambda: 0.5)
    try:
        with pytest.raises(AssertionError, match="no such file") if fails else contextlib.nullcontext():
            science.read(part, study, tmp_path)
    finally:
        late.set()
    assert [run.name for run in drawn[0].canon] == [run.name for run in study.canon[:2]]


def test_cases_of_a_call_before_are_not_this_ones(gpu, tmp_path):
    """A scratch folder that was used: science goes on, all else is done anew, also with --resume."""
    options = {"minutes": 1, "scratch": tmp_path / "scratch", "dry_run": True}
    before = gpu.Call(SimpleNamespace(out=tmp_path / "a", resume=None, **options))
    (before.work / "science.jsonl").write_text('{"case": "training", "begun": true}\n')
    (before.work / "science" / "runs").mkdir(parents=True)
    again = gpu.Call(SimpleNamespace(out=tmp_path / "b", resume=tmp_path / "checkpoints.tar", **options))
    assert not (again.work / "science.jsonl").exists() and (again.work / "science" / "runs").is_dir()


SCIENCE = """
def science(part):
    runs = part.out / "science" / "runs"
    one = runs / "one" / "checkpoint"
    for path in one.glob("*"):
        path.unlink()
    one.mkdir(parents=True, exist_ok=True)
    (one / "step-2.safetensors").write_text("2")
    {more}
"""


def archive_of(path, files):
    with tarfile.open(path, "w") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text))
    return path


def files_of(path):
    with tarfile.open(path) as archive:
        return {one.name: archive.extractfile(one).read() for one in archive if one.isfile()}


BEFORE = {"runs/one/checkpoint/step-1.safetensors": b"1", "runs/two/done": b"{}", "science.json": b"{}"}


@pytest.mark.parametrize("came", ["cut", "no runs"])
def test_a_call_that_cannot_resume_leaves_checkpoints_alone(script, tmp_path, came):
    """It has no science, and does all else."""
    kept = tmp_path / "checkpoints.tar"
    if came == "cut":
        whole = archive_of(kept, BEFORE | {"runs/three/activations": bytes(100_000)}).read_bytes()
        kept.write_bytes(whole[: len(whole) // 2])
    else:
        archive_of(kept, {"science.json": b"{}"})
    before = kept.read_bytes()
    scratch = tmp_path / "scratch"
    options = "--resume", kept, "--checkpoints", kept, "--scratch", scratch, "--science", 1, "cka", "science"
    process = script({"science": SCIENCE.format(more="")}, *options)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 1 and "FAULT: resume: " in printed
    assert kept.read_bytes() == before
    assert [path.name for path in tmp_path.glob("checkpoints*")] == ["checkpoints.tar"]
    files = content(tmp_path / "out" / ARCHIVE)
    assert cases(files, "cka") == {"one": ""} and "science.jsonl" not in files
    assert not list((scratch / "dry-run").glob("science*"))


def test_checkpoints_are_replaced_by_what_holds_them(script, tmp_path):
    """Given to --resume and --checkpoints; a later checkpoint is in an earlier one's place."""
    kept = archive_of(tmp_path / "checkpoints.tar", BEFORE)
    process = script(
        {"science": SCIENCE.format(more="")}, "--resume", kept, "--checkpoints", kept, "--science", 1, "science"
    )
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 0, printed
    later = {"runs/one/checkpoint/step-2.safetensors": b"2", "runs/two/done": b"{}", "science.json": b"{}"}
    assert files_of(kept) == later
    assert [path.name for path in tmp_path.glob("checkpoints*")] == ["checkpoints.tar"]


@pytest.mark.parametrize("resumes", [True, False])
def test_checkpoints_are_not_replaced_by_fewer(script, tmp_path, resumes):
    """Of a call that lost some of them, and of one that did not go on from them."""
    kept = archive_of(tmp_path / "checkpoints.tar", BEFORE)
    before = kept.read_bytes()
    more = "import shutil; shutil.rmtree(runs / 'two')" if resumes else ""
    options = ["--checkpoints", kept, "--science", 1, "science"] + ["--resume", kept] * resumes
    process = script({"science": SCIENCE.format(more=more)}, *options)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 1 and "FAULT: checkpoints: ValueError" in printed
    assert kept.read_bytes() == before
    new = files_of(tmp_path / "checkpoints.tar.new")
    assert new["runs/one/checkpoint/step-2.safetensors"] == b"2" and "runs/two/done" not in new


def test_checkpoints_that_cannot_be_written_are_left_where_they_are(script, tmp_path):
    """The disk is full, say: here a folder is in the archive's way. Nothing that was trained is lost."""
    kept = tmp_path / "there" / "checkpoints.tar"
    more = f"import pathlib; pathlib.Path({str(kept) + '.partial'!r}).mkdir()"
    process = script({"science": SCIENCE.format(more=more)}, "--checkpoints", kept, "--science", 1, "science")
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 1 and "FAULT: checkpoints: IsADirectoryError" in printed
    [left] = re.findall("checkpoints could not be written, and are left in (.*)", printed)
    assert (Path(left) / "runs" / "one" / "checkpoint" / "step-2.safetensors").read_text() == "2"
    shutil.rmtree(Path(left).parents[1])


def test_what_is_no_archive_of_checkpoints(gpu, tmp_path):
    (tmp_path / "empty").mkdir()
    options = {"minutes": 1, "scratch": tmp_path, "dry_run": True, "resume": tmp_path / "empty"}
    call = gpu.Call(SimpleNamespace(out=tmp_path, **options))
    assert not call.tried("resume", call.unpack)
    assert "holds no checkpoints" in call.faults[0] and call.failed()


# ---- all of it ----


def test_a_dry_run_writes_the_whole_archive(tmp_path, tmp_path_factory):
    pytest.importorskip("triton")
    import interpreted

    before = (BENCHMARKS / "results.csv").read_bytes()
    start = tmp_path_factory.mktemp("start")
    # in the processes of parts too; and a bare machine has no tyro
    (start / "sitecustomize.py").write_text("import interpreted, sys\nsys.modules['tyro'] = None")
    path = [str(start), str(Path(interpreted.__file__).parent), os.environ.get("PYTHONPATH")]
    options = ["--dry-run", "--out", tmp_path, "--minutes", 120, "--science", 20]  # no part is ended on a busy machine
    done = warm.python(BENCHMARKS / "gpu.py", *options, PYTHONPATH=os.pathsep.join(filter(None, path)))
    assert done.returncode == 0, done.stdout + done.stderr
    assert (BENCHMARKS / "results.csv").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dry-run-results.csv", ARCHIVE]
    files = content(tmp_path / ARCHIVE)
    assert done.stdout.endswith(files["summary.txt"].decode() + "\n") and len(done.stdout) < 12_000
    assert files["summary.txt"].startswith(b"DRY RUN: no GPU")
    assert json.loads(files["about.json"])["dry_run"]
    lines = list(csv.DictReader(io.StringIO(files["results.csv"].decode())))
    assert {line["machine"] for line in lines} == {"DRY RUN, no GPU"}
    assert {line["benchmark"] for line in lines} == {
        f"dry run: {name}" for name in ("labels", "attention", "cka", "training", "evaluation")
    }
    assert {line["case"].split(",")[0] for line in lines if line["benchmark"] == "dry run: attention"} == {
        "1 rows of 3",
        "1 rows of 34",  # which take a launch of their own
    }
    timed = [line for line in lines if not line["contestant"].startswith("limit")]
    ours = [line["contestant"].startswith("worldfast") for line in timed]
    # before any peer all of ours; those beside peers are timed once more
    case = lambda line: (line["benchmark"], line["case"].replace(", beside peers", ""))  # noqa: E731
    before = {(case(line), line["contestant"]) for line in timed[: ours.index(False)]}
    assert {(case(line), line["contestant"]) for line, our in zip(timed, ours) if our} == before
    assert {case(line) for line in timed} == {found for found, _ in before}
    assert all(line["limit_share"] for line in lines if not line["contestant"].startswith("limit"))
    for part, kernels in {
        "attention": {"_forward", "_backward"},
        "cka": {"_tile_products", "_gram_tiles"},
        "training": {"_take_rows", "_block", "_block_backward", "_project", "_cross_entropy", "_adamw"},
        "answering": {"_forward"},
        "peers": {"_forward", "_gram_tiles", "_block_backward"},
    }.items():
        assert kernels <= set(json.loads(files[f"launches-{part}.json"])), part
    tables = {Path(name).stem for name in files if name.startswith("science/studies/paper/") and name.endswith(".csv")}
    assert {"runs", "probes", "cka", "evaluation", "curves"} <= tables
    assert files["science/studies/paper/report.html"].startswith(b"<!")
    assert any(name.startswith("science/studies/paper/figures/map-") for name in files)
    assert not any("checkpoint" in Path(name).parts or "activations" in Path(name).parts for name in files)
    assert {"training-profile-1.txt", "training-profile-2.txt"} <= set(files)
