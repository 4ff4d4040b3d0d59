"""Worlds that several tests ask for. And where there is no GPU, kernels in Triton are interpreted, which Triton must know
before anything imports it."""

import os

import numpy as np
import pytest
import torch

from worldfast.world import World

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(scope="module")
def world() -> World:
    return World.cities()


@pytest.fixture(scope="module")
def small() -> World:
    random = np.random.default_rng(1)
    return World.from_array(
        random.integers(-1500, 1500, (60, 2)).astype(np.int32), region=["Oceania", "Here"] * 30
    )
