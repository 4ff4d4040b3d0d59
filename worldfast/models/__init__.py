"""Models: ensembles of one shape, on the CPU and on a GPU, and what they compute with."""

from worldfast.models.cpu import Ensemble, Rows
from worldfast.models.gpu import GpuTransformer, require_cuda
from worldfast.models.huggingface import import_huggingface
from worldfast.models.transformer import TransformerSpec

__all__ = ["Ensemble", "GpuTransformer", "TransformerSpec", "Rows", "import_huggingface", "require_cuda"]
