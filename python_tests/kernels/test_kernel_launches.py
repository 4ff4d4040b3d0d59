"""A step of training, answers and attention compile each kernel once, however many tokens and prompts there are.

Kernels are compiled for an H100 that need not be there, and not run."""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("triton")
from ahead_of_time import needs_compiler

COMPILED = """
import importlib, json, pkgutil
import numpy as np
import torch
import triton
from triton.backends.compiler import GPUTarget
import worldfast as wf
from worldfast import kernels
from worldfast.kernels.attention import attention_backward, attention_forward
from worldfast.models import GpuTransformer
from worldfast.rows import Shape
from worldfast.training.gpu_step import GpuLockstep
from worldfast.worlds.cities import Dataset

class Device:
    get_current_device = staticmethod(lambda: 0)
    get_current_stream = staticmethod(lambda device: 0)
    get_current_target = staticmethod(lambda: GPUTarget("cuda", 90, 32))

triton.runtime.driver.set_active(Device())

def compiled():
    names = [m.name for m in pkgutil.iter_modules(kernels.__path__)]
    modules = [importlib.import_module(f"worldfast.kernels.{name}") for name in names]
    all_kernels = [x for m in modules for x in vars(m).values() if isinstance(x, triton.runtime.JITFunction)]
    counts = {f"{k.module}.{k.fn.__name__}": len(k.device_caches[0][0]) for k in all_kernels}
    return {name: count for name, count in counts.items() if count}

found = []
for hidden, matmul_dtype in ((16, "bfloat16"), (24, "float32")):
    spec = wf.TransformerSpec(hidden=hidden, layers=1, heads=hidden // 8, intermediate=40)
    runs = [wf.Run(Dataset(("inside",), rows=48), seed=s, batch=48, model=spec, matmul_dtype=matmul_dtype) for s in (1, 2)]
    ensemble = GpuTransformer(spec, Shape(98, 98), 2, device="cpu", matmul_dtype=matmul_dtype)
    lockstep = GpuLockstep(ensemble, runs)
    assert lockstep._learner.places >= 2048
    for C in (128, 256, 384, 512, 2048):
        with kernels.compiling():
            lockstep._work(C)
        lockstep._at.zero_()
        found.append((f"{matmul_dtype}, {C} places", compiled()))
for n in (1, 5, 16):
    prompts = [(np.full((n, 6), 5), np.full(n, 6))] * 2
    with kernels.compiling():
        ensemble.answer(prompts, 3, end=3)
    found.append((f"answers to {n}", compiled()))
for tokens in (264, 256, 1):  # a multiple of 8, of 16, and the number that Triton makes a constant
    given = *torch.zeros(3, tokens, 1, 16, dtype=torch.float16), torch.zeros(2, dtype=torch.int32), 1e4, 16
    out = torch.zeros(4, tokens, 1, 16, dtype=torch.float16)
    with kernels.compiling():
        attention_forward(*given, out[0])
        attention_backward(out[0], *given, *out[1:])
    found.append((f"attention of {tokens}", compiled()))
print(json.dumps(found))
"""


@needs_compiler
def test_nothing_is_compiled_anew_for_another_number_of_tokens_or_prompts():
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    process = subprocess.run(
        [sys.executable, "-c", COMPILED], capture_output=True, text=True, env=environment, check=False
    )
    assert process.returncode == 0, process.stderr
    groups: dict[str, dict] = {}
    for case, counts in json.loads(process.stdout):
        first = groups.setdefault(case.split()[0], counts)
        assert len(first) >= 10 and counts == first, case
