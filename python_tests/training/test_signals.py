"""SIGTERM and SIGHUP, as Ctrl-C: training saves at a step, says so, and goes on to the same bytes."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from tiny import TINY

import worldfast as wf
from worldfast import checkpoint
from worldfast.training import load, train
from worldfast.training.progress import SIGNALS, Interrupt
from worldfast.worlds.cities import Dataset

RUN = wf.Run(
    Dataset("distance", rows=64), batch=16, checkpoints=1, model=TINY, capture=wf.Capture(layers=())
)  # 4 steps, saved at 0 and 4 only


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("times", [1, 2])
def test_a_signal_saves_and_the_same_call_goes_on(tmp_path, number, times):
    """A second SIGTERM or SIGHUP is the same request; a second Ctrl-C is in earnest."""

    def send(run, line):
        if line["step"] == 2:
            for _ in range(times if number != signal.SIGINT else 1):
                os.kill(os.getpid(), number)

    (whole,) = train(RUN, tmp_path / "whole", device="cpu", progress=False)
    before = [signal.getsignal(one) for one in SIGNALS]
    with pytest.raises(KeyboardInterrupt, match="stopped and saved: .* at step [23] of 4") as caught:
        train(RUN, tmp_path, device="cpu", progress=False, log=send)
    assert caught.value.signum == number and [signal.getsignal(one) for one in SIGNALS] == before
    assert checkpoint.newest(tmp_path / RUN.folder_name / "checkpoint", RUN.id).step in (2, 3)
    (folder,) = train(RUN, tmp_path, device="cpu", progress=False)
    assert (load(folder)[1].parameters == load(whole)[1].parameters).all()


def test_a_signal_that_is_ignored_stays_ignored():
    """As below nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupt() as interrupt:
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            os.kill(os.getpid(), signal.SIGHUP)
        assert not interrupt.requested and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_command_line_ends_as_shells_expect(tmp_path):
    """A real SIGTERM to a real process: it saves, says how far it came, and exits with 128 + 15."""
    command = [
        sys.executable,
        "-m",
        "worldfast.cli",
        "train",
        "--tasks",
        "distance",
        "--rows",
        "1000000",
        "--hidden",
        "16",
    ]
    command += ["--layers", "1", "--heads", "2", "--intermediate", "24", "--capture-layers", "0", "--device", "cpu"]
    process = subprocess.Popen([*command, "--out", str(tmp_path)], stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 120
    while process.poll() is None and not list(tmp_path.glob("*/checkpoint/step-*.safetensors")):
        assert time.monotonic() < until
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM and "stopped and saved: pt-distance-s42 at step" in said
    assert not list(tmp_path.glob("*/done")) and load(next(tmp_path.iterdir()))[0].data == replace(
        RUN.data, rows=1_000_000
    )
