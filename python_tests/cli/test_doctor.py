"""`worldfast doctor`: one screen, and a kernel that is wrong is named."""

import numpy as np
import pytest
import torch

from worldfast import cli, doctor
from worldfast.errors import DeviceError
from worldfast.models import CpuRecurrent
from worldfast.worlds.cities import checks

CPU = torch.device("cpu")


def test_one_screen_for_a_bug_report(capsys):
    assert cli.main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 24 and max(map(len, lines)) <= 100
    text = "\n".join(lines)
    for word in (
        "worldfast 0",
        "Python 3",
        "torch 2",
        "h5py",
        "transformers ",
        "ray ",
        "triton ",
        "bfloat16",
        "CUDA device:",
    ):
        assert word in text
    assert f"kernels on cpu: {len(doctor.CHECKS)} of {len(doctor.CHECKS)} agree with float64" in text
    assert lines[-1] == "Put all of this into a bug report."


@pytest.mark.parametrize("there", [False, True])
def test_a_gpu_that_is_not_used_is_said_with_the_reason(monkeypatch, capsys, there):
    """One that is not there, as with an empty CUDA_VISIBLE_DEVICES, and one on which kernels do not run."""
    reason = "the driver is older than the build" if there else "torch finds no CUDA device"

    def refuses(device):
        raise DeviceError(device, reason)

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Quadro T1000")
    monkeypatch.setattr(doctor, "require_cuda", refuses)
    monkeypatch.setattr(doctor, "CHECKS", doctor.CHECKS[:1])
    assert cli.main(["doctor"]) == 0, "a GPU that is not used is no fault"
    lines = capsys.readouterr().out.splitlines()
    found = "Quadro T1000" if there else "none; torch finds no CUDA device (CUDA_VISIBLE_DEVICES is '')"
    assert f"CUDA device: {found}" in lines and f"cuda: not used, {reason}" in lines
    assert [line for line in lines if line.startswith("kernels on")][0].startswith("kernels on cpu: 1 of 1 agree")


@pytest.mark.parametrize("words", [1, 12, 300])
def test_a_long_reason_goes_on_in_the_next_lines(monkeypatch, words):
    """What a driver says of itself fills some lines; how to mend it comes last."""
    reason = " ".join(f"word{i}" for i in range(words))

    def refuses(device):
        raise DeviceError(device, reason)

    monkeypatch.setattr(doctor, "require_cuda", refuses)
    monkeypatch.setattr(doctor, "CHECKS", doctor.CHECKS[:1])
    monkeypatch.setattr(doctor, "compare", lambda *_: reason)
    lines = list(doctor.examine())
    assert max(map(len, lines)) <= 100
    for begin in ("cuda: not used, ", "DISAGREES on cpu: labels: "):
        at = next(i for i, line in enumerate(lines) if line.startswith(begin))
        rest = [line for line in lines[at + 1 : at + 5] if line.startswith("  ")]
        said = " ".join([lines[at].removeprefix(begin), *map(str.strip, rest)])
        assert said == reason or words == 300 and len(rest) == 4 and said.endswith(" ...") and said[:-4] in reason


def _half_a_percent_off(name):
    def wrong(*arguments, **options):
        found = getattr(doctor, name + "_kept")(*arguments, **options)
        return found * 1.005 if isinstance(found, torch.Tensor | float) else found

    return wrong


@pytest.mark.parametrize(
    ("name", "checks"), [("attention", ["attention", "attention, gradients"]), ("cka", ["linear CKA", "RBF CKA"])]
)
def test_a_kernel_that_is_wrong_is_named(name, checks, monkeypatch, capsys):
    monkeypatch.setattr(doctor, name + "_kept", getattr(doctor, name), raising=False)
    monkeypatch.setattr(doctor, name, _half_a_percent_off(name))
    assert cli.main(["doctor"]) == 1
    lines = capsys.readouterr().out.splitlines()
    wrong = [line.split(": ")[1] for line in lines if line.startswith("DISAGREES on cpu: ")]
    assert wrong == checks
    assert any(f"{len(doctor.CHECKS) - len(checks)} of {len(doctor.CHECKS)} agree" in line for line in lines)
    assert lines[-1].endswith("something above is wrong.")


def test_labels_tokens_and_steps_that_are_wrong(monkeypatch):
    """Each by one unit in one place; a step that is not taken; what is not a number; an error."""
    by_name = {check.name: check for check in doctor.CHECKS}
    label, sample = checks.label, checks.sample
    assert all(doctor.compare(by_name[name], CPU) == "" for name in ("labels", "tokens", "AdamW"))

    def one_off(*arguments):
        found = label(*arguments)
        found[7] += 1
        return found

    def other_token(*arguments, **options):
        found = sample(*arguments, **options)
        found.tokens[9, 3] += 1
        return found

    monkeypatch.setattr(checks, "label", one_off)
    monkeypatch.setattr(checks, "sample", other_token)
    monkeypatch.setattr(doctor, "adamw_", lambda *arguments: None)
    assert all(doctor.compare(by_name[name], CPU).startswith("off by") for name in ("labels", "tokens", "AdamW"))
    monkeypatch.setattr(doctor, "cka", lambda *arguments: np.nan)
    assert doctor.compare(by_name["linear CKA"], CPU).startswith("off by nan")

    def broken(*arguments):
        raise RuntimeError("no\nkernel")

    monkeypatch.setattr(doctor, "cka", broken)
    assert doctor.compare(by_name["RBF CKA"], CPU) == "RuntimeError: no kernel"


def test_a_model_with_another_weight_is_wrong(monkeypatch):
    by_name = {check.name: check for check in doctor.CHECKS}
    exact = doctor._exact_outputs

    def other(spec, weights, tokens, starts):
        return exact(spec, weights | {"model.norm.weight": weights["model.norm.weight"] * 1.01}, tokens, starts)

    monkeypatch.setattr(doctor, "_exact_outputs", other)
    for name in ("transformer, outputs", "transformer, gradients"):
        assert doctor.compare(by_name[name], CPU).startswith("off by")


@pytest.mark.parametrize("kind", ["rnn", "lstm"])
@pytest.mark.parametrize("method", ["outputs", "learn"])
def test_a_recurrent_network_that_is_wrong(kind, method, monkeypatch):
    check = next(one for one in doctor.CHECKS if one.name == f"{kind.upper()}, outputs and gradients")
    assert doctor.compare(check, CPU) == ""
    real = getattr(CpuRecurrent, method)

    def wrong(self, *arguments):
        found = real(self, *arguments)
        (found if method == "outputs" else self.gradients).mul_(1.001)
        return found

    monkeypatch.setattr(CpuRecurrent, method, wrong)
    assert doctor.compare(check, CPU).startswith("off by 1.0e-03")
