"""Nothing follows torch's default dtype or device: a caller may have set them for models of their own."""

import ast
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import TINY

import worldfast as wf
from worldfast.training import load
from worldfast.worlds.cities import Dataset

ROOT = Path(wf.__file__).parent
SOURCES = [*ROOT.rglob("*.py"), *(ROOT / "kernels").glob("*.py")]  # `kernels` may be a link, which rglob leaves out
# of torch, that make a tensor of the default device, and of the default dtype unless they are given one or an array
FACTORIES = set(
    "arange asarray as_tensor empty empty_strided eye full linspace logspace ones rand randint randn randperm range "
    "scalar_tensor tensor tril_indices triu_indices zeros".split()
)
OF_AN_ARRAY = {"asarray", "as_tensor"}


def factories(path):
    """(line, name, names of the arguments) of every call that makes a tensor of nothing."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in FACTORIES:
            if isinstance(node.func.value, ast.Name) and node.func.value.id == "torch":
                yield node.lineno, node.func.attr, {keyword.arg for keyword in node.keywords}


def test_every_tensor_made_of_nothing_names_its_dtype_and_device():
    silent, seen = [], 0
    for path in SOURCES:
        for line, name, given in factories(path):
            seen += 1
            asked = {"device"} if name in OF_AN_ARRAY else {"dtype", "device"}
            if None not in given and asked - given:  # None: **kind
                silent.append(f"{path.relative_to(ROOT)}:{line} torch.{name}: {', '.join(sorted(asked - given))}")
    assert not silent and seen >= 40


@contextmanager
def defaults(dtype, device):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(before)


def everything(out, model):
    """Bits of what training, an export, an import, activations, hidden states and CKA give."""
    run = wf.Run(
        Dataset("distance", rows=64, world=wf.WorldSpec(largest=60)),
        batch=16,
        checkpoints=1,
        validation=2,
        model=model,
        capture=wf.Capture(layers=(1,)),
    )
    (folder,) = wf.train(run, out / "runs", device="cpu", progress=False)
    found = [load(folder)[1].parameters]
    if isinstance(model, wf.TransformerSpec):
        found.append(wf.import_huggingface(wf.export_huggingface(folder, out / "open")).parameters)
    activations = wf.Activations(folder)
    read = wf.represent(folder)
    found += [activations[run.steps, 1], *(read[layer] for layer in read.layers)]
    found.append(
        np.array([wf.cka(activations[0, 1], activations[run.steps, 1], kernel) for kernel in ("linear", "rbf")])
    )
    return [(str(array.dtype), np.asarray(array).tobytes()) for array in found]


MODELS = [TINY, wf.TransformerSpec(hidden=16, layers=1, heads=2, intermediate=24, engine="plain")]
MODELS += [wf.RecurrentSpec(kind="lstm", hidden=8, layers=1)]


@pytest.mark.parametrize("model", MODELS, ids=["native", "plain", "lstm"])
def test_the_same_bits_under_any_default(tmp_path, model):
    expected = everything(tmp_path / "usual", model)
    for dtype, device in ((torch.bfloat16, "cpu"), (torch.float64, "meta")):
        with defaults(dtype, device):
            assert everything(tmp_path / device, model) == expected
