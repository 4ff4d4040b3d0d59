"""Models: ensembles of one shape, on a CPU or a GPU, and the operations that they are made of."""

from worldfast.models.attention import attention, attention_of_row
from worldfast.models.check import FAMILY_CHECKS, family_of
from worldfast.models.cpu import CpuTransformer
from worldfast.models.cpu_recurrent import CpuRecurrent
from worldfast.models.ensemble import MATMUL_DTYPES, Ensemble
from worldfast.models.footprint import gpu_bytes, places
from worldfast.models.gpt import GPTSpec
from worldfast.models.gpu import GpuTransformer, longest_row, own_stream, require_cuda
from worldfast.models.gpu_learner import GpuLearner
from worldfast.models.heads import AttentionEnsemble, AttentionSpec, attention_weights
from worldfast.models.huggingface import export_metadata, huggingface_config, import_huggingface
from worldfast.models.optimizer import adamw_, gradient_norm
from worldfast.models.plain import PlainTransformer
from worldfast.models.recurrent import RecurrentSpec
from worldfast.models.spec import Spec
from worldfast.models.transformer import TransformerSpec

__all__ = [
    "FAMILY_CHECKS",
    "MATMUL_DTYPES",
    "AttentionEnsemble",
    "AttentionSpec",
    "CpuRecurrent",
    "CpuTransformer",
    "Ensemble",
    "GPTSpec",
    "GpuLearner",
    "GpuTransformer",
    "PlainTransformer",
    "RecurrentSpec",
    "Spec",
    "TransformerSpec",
    "adamw_",
    "attention",
    "attention_of_row",
    "attention_weights",
    "export_metadata",
    "family_of",
    "gpu_bytes",
    "gradient_norm",
    "huggingface_config",
    "import_huggingface",
    "longest_row",
    "own_stream",
    "places",
    "require_cuda",
]
