"""Peers that worldfast is timed beside on a GPU; last, since they compile longest."""

from gpu_attention import attention_peers
from gpu_cka import cka_peers
from gpu_training import training_peers


def peers(part):
    attention_peers(part)
    cka_peers(part)
    training_peers(part)
