"""Reading trained models: activations and hidden states, gradients, and activation patching."""

from worldfast.reading.activations import Activations, Writer
from worldfast.reading.readout import states
from worldfast.reading.representations import Representations, represent

__all__ = ["Activations", "Representations", "Writer", "represent", "states"]
