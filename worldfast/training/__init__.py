"""Training: runs in lockstep, in their folders, on one machine or a cluster."""

from worldfast.folder import load, opened
from worldfast.training.export import export_huggingface
from worldfast.training.schedule import levels
from worldfast.training.train import train

__all__ = ["export_huggingface", "levels", "load", "opened", "train"]
