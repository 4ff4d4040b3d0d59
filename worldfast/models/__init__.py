"""Models: ensembles of one shape, on the CPU and on a GPU, and what they compute with."""

from worldfast.models.cpu import Ensemble, Rows
from worldfast.models.gpu import GpuEnsemble, require_cuda
from worldfast.models.huggingface import import_huggingface
from worldfast.models.transformer import ModelSpec

__all__ = ["Ensemble", "GpuEnsemble", "ModelSpec", "Rows", "import_huggingface", "require_cuda"]
