"""kpref: the K-P flow of recurrent networks, exactly, as SciPy linear operators."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from kpref._version import __version__

if TYPE_CHECKING:
    from kpref import models
    from kpref.checkpoints import load_checkpoint, save_checkpoint
    from kpref.flow import Flow
    from kpref.operators import TensorOperator
    from kpref.readout import Readout
    from kpref.space import EuclideanSpace, TrajectorySpace
    from kpref.spectra import eigh, kernel_spectrum
    from kpref.threads import get_num_threads, set_num_threads
    from kpref.trials import Trials

# Names are imported when they are first used: `import kpref` itself costs next to nothing.
_HOMES = {
    "Flow": "kpref.flow",
    "TensorOperator": "kpref.operators",
    "Readout": "kpref.readout",
    "EuclideanSpace": "kpref.space",
    "TrajectorySpace": "kpref.space",
    "Trials": "kpref.trials",
    "eigh": "kpref.spectra",
    "kernel_spectrum": "kpref.spectra",
    "get_num_threads": "kpref.threads",
    "load_checkpoint": "kpref.checkpoints",
    "save_checkpoint": "kpref.checkpoints",
    "set_num_threads": "kpref.threads",
}

__all__ = [
    "EuclideanSpace",
    "Flow",
    "Readout",
    "TensorOperator",
    "TrajectorySpace",
    "Trials",
    "__version__",
    "eigh",
    "get_num_threads",
    "kernel_spectrum",
    "load_checkpoint",
    "models",
    "save_checkpoint",
    "set_num_threads",
]


def __getattr__(name: str) -> Any:
    if name == "models":
        return import_module("kpref.models")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'kpref' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
