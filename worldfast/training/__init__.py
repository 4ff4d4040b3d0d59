"""Training: runs in lockstep, in their folders, on one machine or a cluster."""

from worldfast.folder import load, opened
from worldfast.training.export import export_huggingface
from worldfast.training.packing import pack
from worldfast.training.schedule import base_of, levels
from worldfast.training.train import lockstep_of, train

__all__ = ["base_of", "export_huggingface", "levels", "load", "lockstep_of", "opened", "pack", "train"]
