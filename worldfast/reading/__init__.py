"""Reading trained models: activations, hidden states, answers, heads, continued rows, gradients, and patching."""

from worldfast.reading.activations import Activations, Writer
from worldfast.reading.continuations import Continued, continuations
from worldfast.reading.gradients import gradient_agreement
from worldfast.reading.heads import induction, lines_of_heads, scores_of_heads
from worldfast.reading.patching import Questions, activation_patching
from worldfast.reading.readout import shares, states
from worldfast.reading.representations import Representations, represent
from worldfast.reading.segment import check as check_segment
from worldfast.reading.segment import expected_by, segment_path

__all__ = [
    "Activations",
    "Continued",
    "Questions",
    "Representations",
    "Writer",
    "activation_patching",
    "check_segment",
    "continuations",
    "expected_by",
    "gradient_agreement",
    "induction",
    "lines_of_heads",
    "represent",
    "scores_of_heads",
    "segment_path",
    "shares",
    "states",
]
