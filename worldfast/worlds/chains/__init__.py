"""Walks through Markov chains, to be looked up or inferred from context: arXiv 2412.01003."""

from worldfast.worlds.chains.dataset import Dataset, Walks

__all__ = ["Dataset", "Walks"]
