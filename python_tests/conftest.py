"""Where there is no GPU, kernels in Triton are interpreted, and Triton must know that before anything imports it."""

import os

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
