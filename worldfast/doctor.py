"""Report on an installation: what is there, what each backend will do here, and what its kernels compute.

Kernels are compared with plain formulas in float64, which share no code with them.
"""

from __future__ import annotations

import importlib.metadata
import locale
import math
import platform
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from worldfast import files, worlds
from worldfast._native import core, instructions, why_no_gpu
from worldfast.analysis import cka
from worldfast.errors import DeviceError
from worldfast.models import RecurrentSpec, TransformerSpec, adamw_, attention, attention_of_row, require_cuda
from worldfast.rows import Rows, Shape

WIDTH = 100
MOST_LINES = 5  # of one message
PACKAGES = (
    ("torch", "numpy", "scipy", "pandas", "scikit-learn", "h5py", "safetensors", "matplotlib", "tyro"),
    ("transformers", "tokenizers", "triton", "ray"),
)
LENGTHS = (5, 1, 17, 40)  # tokens of the rows that kernels are tried on


class Check(NamedTuple):
    """Comparison of a kernel with float64.

    Attributes
    ----------
    name : str
        Name of the kernel.
    compute : callable
        Function of a device that returns pairs of what the kernel computes and what it should.
    allowed : float
        Largest difference, as a share of the largest number.
    gpu : bool
        True if there is such a kernel on a GPU too.
    """

    name: str
    compute: Callable[[torch.device], list[tuple[Tensor, Tensor]]]
    allowed: float
    gpu: bool = True


def examine() -> Iterator[str]:
    """Yield the lines of the report, of at most 100 characters; the last says whether all kernels agree.

    Returns
    -------
    bool
        True if they do.
    """
    for line in _installed():
        yield from _wrapped(line)
    devices = [torch.device("cpu")]
    try:
        devices.append(require_cuda("cuda"))
    except DeviceError:
        pass
    whole = True
    for device in devices:
        begin = time.perf_counter()
        tried = [check for check in CHECKS if check.gpu or device.type == "cpu"]
        wrong = [(check, why) for check in tried if (why := compare(check, device))]
        for check, why in wrong:
            yield from _wrapped(f"DISAGREES on {device}: {check.name}: {why}")
        seconds = time.perf_counter() - begin
        yield f"kernels on {device}: {len(tried) - len(wrong)} of {len(tried)} agree with float64 ({seconds:.1f} s)"
        whole = whole and not wrong
    yield "Put all of this into a bug report" + ("." if whole else ": something above is wrong.")
    return whole


def _wrapped(line: str) -> list[str]:
    """Return lines of at most WIDTH characters: the end of an error is often what says how to mend it."""
    return textwrap.wrap(
        line, WIDTH, subsequent_indent="  ", break_on_hyphens=False, max_lines=MOST_LINES, placeholder=" ..."
    )


# ---- what is there ----


def _version(name: str) -> str:
    try:
        return f"{name} {importlib.metadata.version(name)}"
    except importlib.metadata.PackageNotFoundError:
        return f"{name} is not installed"


def _installed() -> Iterator[str]:
    origin = files.origin("cpu")
    commit = (
        f", commit {origin['commit'][:12]}{'-dirty' * origin['commit'].endswith('-dirty')}" if origin["commit"] else ""
    )
    yield f"worldfast {origin['worldfast']}{commit}, native core {'with' if core.cuda else 'without'} CUDA"
    yield f"Python {platform.python_version()}, {platform.system()} {platform.release()} {platform.machine()}"
    yield f"text: {locale.getpreferredencoding(False)} locale, {sys.stdout.encoding} output; files are UTF-8"
    for names in PACKAGES:
        yield ", ".join(map(_version, names[: len(names) // 2 + 1]))
        yield ", ".join(map(_version, names[len(names) // 2 + 1 :]))
    yield f"processor: {files.processor('cpu')}; torch uses {torch.get_num_threads()} of them"
    vectors = f"vectors of {core.vector_width()} floats ({instructions()})"
    pairs = "two to an instruction" if core.multiplies_pairs() else "multiplied as float32, no faster than float32"
    yield f"cpu: transformers of tokens, RNNs and LSTMs by the native core, {vectors}"
    yield f"cpu: bfloat16 products: {pairs}"
    limit = core.attention_row_limit
    yield f"cpu: transformers of vectors, rows of more than {limit:,} tokens and all other models by PyTorch"
    try:
        device = require_cuda("cuda")
        yield f"cuda: {torch.cuda.get_device_name(device)}, kernels by Triton; device='auto' takes it"
    except DeviceError as error:
        found = torch.cuda.get_device_name() if torch.cuda.is_available() else f"none; {why_no_gpu()}"
        yield f"CUDA device: {found}"
        yield f"cuda: not used, {'for the same reason' if found.endswith(error.reason) else error.reason}"


# ---- what kernels compute ----

SINGLE, EXACT, WHOLE = ({"dtype": dtype, "device": "cpu"} for dtype in (torch.float32, torch.float64, torch.int64))


def compare(check: Check, device: torch.device) -> str:
    """Return by how much a kernel errs if that is more than allowed, or the error that it raises; "" if it agrees."""
    try:
        with torch.random.fork_rng([] if device.type == "cpu" else [device]):
            torch.manual_seed(0)
            pairs = check.compute(device)
    except Exception as error:  # whatever a broken installation raises is what the report is for
        return " ".join(f"{type(error).__name__}: {error}".split())
    worst = 0.0
    for came, expected in pairs:
        came, expected = came.detach().cpu().double(), expected.detach().cpu().double()
        error = float((came - expected).abs().max() / expected.abs().max().clamp(min=1e-30))
        worst = error if math.isnan(error) else max(worst, error)
    return "" if worst <= check.allowed else f"off by {worst:.1e} of the largest number, allowed {check.allowed:.0e}"


def _exact_attention(q, k, v, starts, base):
    """Attention within rows, causal, after rotation, by PyTorch in the dtype of its arguments; [L, H, D] each."""
    return torch.cat([attention_of_row(*(x[begin:end] for x in (q, k, v)), base) for begin, end in pairwise(starts)])


def _starts() -> list[int]:
    return [0, *np.cumsum(LENGTHS).tolist()]


def _rows() -> Rows:
    """Rows of random tokens, each of which is answered at its end."""
    starts = _starts()
    scored = torch.tensor([end - 1 for end in starts[1:]], **WHOLE)
    tokens, targets = torch.randint(98, (starts[-1],), **WHOLE), torch.randint(98, (len(scored),), **WHOLE)
    return Rows(tokens.int(), torch.tensor(starts, dtype=torch.int32, device="cpu"), scored, targets)


def _attended(device):
    """Attention of a few rows and its gradients, by the kernel and exactly."""
    starts = _starts()
    values = torch.randn(4, starts[-1], 2, 16, **EXACT)
    ours, exact = values[:3].float().to(device).requires_grad_(), values[:3].float().double().requires_grad_()
    came = attention(*ours, torch.tensor(starts, dtype=torch.int32, device=device), max_seqlen=max(LENGTHS))
    expected = _exact_attention(*exact, starts, 10_000.0)
    (came * values[3].float().to(device)).sum().backward()
    (expected * values[3].float().double()).sum().backward()
    return (came, expected), (ours.grad, exact.grad)


def _model(device, matmul_dtype="float32"):
    """A transformer's outputs and gradients, by the ensemble and exactly."""
    spec = TransformerSpec(hidden=32, layers=2, heads=2, intermediate=48, init_std=0.2)
    ensemble = spec.build(Shape(98, 98), device=device, matmul_dtype=matmul_dtype)
    ensemble.initialise(0, seed=0)
    rows, starts = _rows(), _starts()
    exact = {name: w.cpu().double().clone().requires_grad_() for name, w in ensemble.to_huggingface(0).items()}
    outputs = _exact_outputs(spec, exact, rows.inputs.long(), starts)[rows.scored]
    torch.nn.functional.cross_entropy(outputs, rows.targets, reduction="sum").backward()
    ensemble.learn([rows], [0])
    place = ensemble.offsets()
    ours = torch.cat([ensemble.gradients[0, place[name]].cpu() for name in exact])
    gradient = torch.cat([weight.grad.reshape(-1) for weight in exact.values()])
    return (ensemble.outputs(rows, 0), outputs), (ours, gradient)


def _exact_outputs(spec, weights, tokens, starts):
    def norm(x, name):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + spec.norm_eps) * weights[name]

    def product(x, name):
        return x @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", 0)

    x = weights["model.embed_tokens.weight"][tokens]
    for i in range(spec.layers):
        at = f"model.layers.{i}."
        normed = norm(x, at + "input_layernorm.weight")
        qkv = [product(normed, f"{at}self_attn.{part}_proj").view(len(x), spec.heads, -1) for part in "qkv"]
        x = x + product(_exact_attention(*qkv, starts, spec.rope_base).reshape(x.shape), at + "self_attn.o_proj")
        normed = norm(x, at + "post_attention_layernorm.weight")
        gate = product(normed, at + "mlp.gate_proj")
        x = x + product(gate * gate.sigmoid() * product(normed, at + "mlp.up_proj"), at + "mlp.down_proj")
    return norm(x, "model.norm.weight") @ weights["lm_head.weight"].T


def _recurrent(kind, device):
    """Outputs and gradients of a recurrent network, by the ensemble and by PyTorch's own layers."""
    ensemble = RecurrentSpec(kind, hidden=24, layers=2).build(Shape(98, 98), device=device)
    ensemble.initialise(0, seed=0)
    rows, starts = _rows(), _starts()
    layers = {"rnn": torch.nn.RNN, "lstm": torch.nn.LSTM}[kind](24, 24, 2, batch_first=True, **EXACT)
    parts = {"embed": torch.nn.Embedding(98, 24, **EXACT), "rnn": layers, "head": torch.nn.Linear(24, 98, **EXACT)}
    exact = torch.nn.ModuleDict(parts)
    exact.load_state_dict({name: weight.cpu().double() for name, weight in ensemble.tensors(0).items()})
    last = [layers(exact["embed"](rows.inputs[begin:end])[None])[0][0, -1] for begin, end in pairwise(starts)]
    outputs = exact["head"](torch.stack(last))
    torch.nn.functional.cross_entropy(outputs, rows.targets, reduction="sum").backward()
    came = ensemble.outputs(rows, 0)
    ensemble.learn([rows], [0])
    ensemble.parameters.copy_(ensemble.gradients)  # so that they are read by their names
    named = dict(exact.named_parameters())
    pairs = [(gradient.reshape(-1).cpu(), named[name].grad.flatten()) for name, gradient in ensemble.tensors(0).items()]
    return [(came, outputs), tuple(map(torch.cat, zip(*pairs)))]


def _step(device):
    """Three steps of AdamW, and the formula of arXiv 1711.05101 in float64."""
    weights, gradients = torch.randn(2, 3, 100, **SINGLE).unbind(0)
    ours, moments = weights[:1].clone(), torch.zeros(2, 1, 100, **SINGLE)
    exact, mean, square = weights[:1].double(), *torch.zeros(2, 1, 100, **EXACT)
    for step, gradient in enumerate(gradients, 1):
        adamw_(ours, gradient[None], *moments, torch.ones(100, **SINGLE), [0.01], [step], 0.1, 0.9, 0.99, 1e-8, [1.0])
        mean = 0.9 * mean + 0.1 * gradient.double()
        square = 0.99 * square + 0.01 * gradient.double() ** 2
        moved = mean / (1 - 0.9**step) / ((square / (1 - 0.99**step)).sqrt() + 1e-8)
        exact = (1 - 0.01 * 0.1) * exact - 0.01 * moved
    return [(ours, exact)]


def _alignment(kernel, device):
    """CKA of two representations, from whole Gram matrices."""
    X = torch.randn(200, 24, **SINGLE)
    Y = X @ torch.randn(24, 16, **SINGLE) + torch.randn(200, 16, **SINGLE)
    grams = []
    for Z in (X.double(), Y.double()):
        K = Z @ Z.T
        if kernel == "rbf":
            squared = (K.diag()[:, None] + K.diag() - 2 * K).clamp(min=0)
            distances = squared[~torch.eye(len(Z), dtype=torch.bool, device="cpu")].sqrt()
            K = torch.exp(-squared / (2 * distances.quantile(0.5) ** 2))
        K = K - K.mean(0)
        grams.append(K - K.mean(1, keepdim=True))
    (aa, ab), (_, bb) = [[(K * L).sum() for L in grams] for K in grams]
    return [(torch.tensor([float(cka(X.to(device), Y.to(device), kernel))], **EXACT), (ab / (aa * bb).sqrt())[None])]


CHECKS = (
    *(Check(*one) for own in worlds.handed("CHECKS").values() for one in own),
    Check("attention", lambda device: [_attended(device)[0]], 1e-5),
    Check("attention, gradients", lambda device: [_attended(device)[1]], 1e-5),
    Check("transformer, outputs", lambda device: [_model(device)[0]], 1e-4),
    Check("transformer, gradients", lambda device: [_model(device)[1]], 1e-4),
    Check("transformer, gradients by bfloat16 products", lambda device: [_model(device, "bfloat16")[1]], 0.1),
    Check("RNN, outputs and gradients", lambda device: _recurrent("rnn", device), 1e-4, gpu=False),
    Check("LSTM, outputs and gradients", lambda device: _recurrent("lstm", device), 1e-4, gpu=False),
    Check("AdamW", _step, 1e-5, gpu=False),
    Check("linear CKA", lambda device: _alignment("linear", device), 1e-5),
    Check("RBF CKA", lambda device: _alignment("rbf", device), 1e-4),
)
