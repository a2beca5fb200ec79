"""What training does to outputs: the output NTK, and training of the linearised network in closed form."""

from kpref.learning.linearised import LinearisedTraining, linearised_training
from kpref.learning.output_kernel import output_ntk, output_sensitivity, readout_sensitivity

__all__ = [
    "LinearisedTraining",
    "linearised_training",
    "output_ntk",
    "output_sensitivity",
    "readout_sensitivity",
]
