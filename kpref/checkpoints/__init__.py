"""Trained networks from files, mappings and modules, and into files.

From the source to the network: `sources` makes one flat mapping of names to arrays of it, `composed` puts together
weights that are kept in parts, `recurrent` finds the recurrent layer by PyTorch's names, `foreign` by those of other
libraries, `own_names` by kpref's own, `heads` finds the readout, and `load` sees that every array is accounted for.
"""

from kpref.checkpoints.load import Checkpoint, load_checkpoint
from kpref.checkpoints.save import save_checkpoint

__all__ = ["Checkpoint", "load_checkpoint", "save_checkpoint"]
