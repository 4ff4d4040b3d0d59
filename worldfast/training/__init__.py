"""Training: runs in lockstep, in their folders, on one machine or a cluster."""

from worldfast.folder import load, opened
from worldfast.training.audit import OF_A_RUN, Checked, audit, checked, listed, others, tried
from worldfast.training.check import check_family
from worldfast.training.cluster import connected, run_jobs, train_on_cluster
from worldfast.training.export import export_huggingface
from worldfast.training.jobs import Job, read_failures
from worldfast.training.memory import captured_bytes, checkpoint_bytes, limit_of, plan, weights_bytes
from worldfast.training.packing import pack
from worldfast.training.progress import STOPPED, ended_by_signals
from worldfast.training.schedule import base_of, levels
from worldfast.training.train import lockstep_of, train

__all__ = [
    "OF_A_RUN",
    "STOPPED",
    "Checked",
    "Job",
    "audit",
    "checked",
    "base_of",
    "captured_bytes",
    "check_family",
    "checkpoint_bytes",
    "connected",
    "ended_by_signals",
    "export_huggingface",
    "levels",
    "limit_of",
    "listed",
    "load",
    "lockstep_of",
    "opened",
    "others",
    "pack",
    "plan",
    "read_failures",
    "run_jobs",
    "train",
    "train_on_cluster",
    "tried",
    "weights_bytes",
]
