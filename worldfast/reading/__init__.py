"""Reading trained models: activations and hidden states, gradients, and activation patching."""

from worldfast.reading.activations import Activations, Writer, segment_path
from worldfast.reading.gradients import gradient_agreement
from worldfast.reading.patching import activation_patching
from worldfast.reading.readout import states
from worldfast.reading.representations import Representations, represent

__all__ = [
    "Activations",
    "Representations",
    "Writer",
    "activation_patching",
    "gradient_agreement",
    "represent",
    "segment_path",
    "states",
]
