"""Models: ensembles of one shape, on a CPU or a GPU, and the operations that they are made of."""

from worldfast.models.cpu import CpuTransformer
from worldfast.models.ensemble import Ensemble
from worldfast.models.gpu import GpuTransformer, require_cuda
from worldfast.models.huggingface import import_huggingface
from worldfast.models.plain import PlainTransformer
from worldfast.models.recurrent import RecurrentSpec
from worldfast.models.transformer import TransformerSpec

__all__ = [
    "CpuTransformer",
    "Ensemble",
    "GpuTransformer",
    "PlainTransformer",
    "RecurrentSpec",
    "TransformerSpec",
    "import_huggingface",
    "require_cuda",
]
