"""Worlds and widths of vectors that several tests ask for. A worker of several (pytest -n) computes with one thread where a test asks for no
number, so that workers do not wait for each other. And where there is no GPU, kernels in Triton are interpreted, which
Triton must know before anything imports it."""

import os
from importlib.util import find_spec

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch and NumPy start their threads
    os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pytest
import torch
from vectors import WIDTHS, vectors_of

from worldfast.worlds.cities import tasks
from worldfast.worlds.cities.world import World

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
    if find_spec("triton"):
        import interpreted  # noqa: F401


# What takes half a minute and more begins first, the longest before all, so that workers end together.
LONG = (
    "test_gpu_script.py::test_a_dry_run",
    "test_memory.py::test_the_plan",
    "test_cluster.py",
    "test_engine.py",
    "test_notebooks.py",
    "test_benchmarks.py::test_scripts_run",
    "::test_instructions_and_registers",
)


def pytest_collection_modifyitems(items):
    def place(item):
        return next((i for i, name in enumerate(LONG) if name in item.nodeid), len(LONG))

    items.sort(key=place)


def pytest_collectreport(report):
    forget()


def forget():
    """Forget tasks that are made in Python: those of one test, or file, are not there for others."""
    for name in set(tasks.TASKS) - set(tasks.BUILT_IN):
        del tasks._by_name[name]


@pytest.fixture(autouse=True)
def forgotten():
    yield
    forget()


@pytest.fixture(scope="module")
def world() -> World:
    return World.cities()


@pytest.fixture(params=WIDTHS)
def vector_width(request):
    """Each width of the core's vectors that this processor has, in turn."""
    with vectors_of(request.param) as width:
        yield width


@pytest.fixture(scope="module")
def small() -> World:
    random = np.random.default_rng(1)
    return World.from_array(random.integers(-1500, 1500, (60, 2)).astype(np.int32), region=["Oceania", "Here"] * 30)
