"""kpref: the K-P flow of recurrent networks, exactly, as SciPy linear operators."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from kpref._version import __version__

if TYPE_CHECKING:
    from kpref import (
        course,
        data,
        distributed,
        learning,
        models,
        oracle,
        plots,
        rules,
        spectra,
        sweeps,
        tasks,
        training,
    )
    from kpref.analysis.api import analyze
    from kpref.checkpoints import load_checkpoint, save_checkpoint
    from kpref.equilibria import FixedPoints, fixed_points
    from kpref.flow import Flow
    from kpref.operators import TensorOperator, average, partial_trace, submatrix
    from kpref.readout import Readout
    from kpref.space import EuclideanSpace, TrajectorySpace
    from kpref.spectra import (
        Estimate,
        alignment,
        diagonal,
        effective_dimension,
        eigh,
        inverse,
        kernel_spectrum,
        lyapunov_exponents,
        operator_norm,
        principal_angles,
        schmidt_spectrum,
        spectral_density,
        svd,
        task_alignment,
        trace,
    )
    from kpref.threads import get_num_threads, set_num_threads
    from kpref.training import train
    from kpref.trials import Trials

# Names are imported when they are first used: `import kpref` itself costs next to nothing.
_HOMES = {
    "analyze": "kpref.analysis.api",
    "load_checkpoint": "kpref.checkpoints",
    "save_checkpoint": "kpref.checkpoints",
    "FixedPoints": "kpref.equilibria",
    "fixed_points": "kpref.equilibria",
    "Flow": "kpref.flow",
    "TensorOperator": "kpref.operators",
    "average": "kpref.operators",
    "partial_trace": "kpref.operators",
    "submatrix": "kpref.operators",
    "Readout": "kpref.readout",
    "EuclideanSpace": "kpref.space",
    "TrajectorySpace": "kpref.space",
    "Estimate": "kpref.spectra",
    "alignment": "kpref.spectra",
    "diagonal": "kpref.spectra",
    "effective_dimension": "kpref.spectra",
    "eigh": "kpref.spectra",
    "inverse": "kpref.spectra",
    "kernel_spectrum": "kpref.spectra",
    "lyapunov_exponents": "kpref.spectra",
    "operator_norm": "kpref.spectra",
    "principal_angles": "kpref.spectra",
    "schmidt_spectrum": "kpref.spectra",
    "spectral_density": "kpref.spectra",
    "svd": "kpref.spectra",
    "task_alignment": "kpref.spectra",
    "trace": "kpref.spectra",
    "train": "kpref.training",
    "get_num_threads": "kpref.threads",
    "set_num_threads": "kpref.threads",
    "Trials": "kpref.trials",
}

_PACKAGES = (
    "course",
    "data",
    "distributed",
    "learning",
    "models",
    "oracle",
    "plots",
    "rules",
    "spectra",
    "sweeps",
    "tasks",
    "training",
)

__all__ = [
    "Estimate",
    "EuclideanSpace",
    "FixedPoints",
    "Flow",
    "Readout",
    "TensorOperator",
    "TrajectorySpace",
    "Trials",
    "__version__",
    "alignment",
    "analyze",
    "average",
    "course",
    "data",
    "diagonal",
    "distributed",
    "effective_dimension",
    "eigh",
    "fixed_points",
    "get_num_threads",
    "inverse",
    "kernel_spectrum",
    "learning",
    "load_checkpoint",
    "lyapunov_exponents",
    "models",
    "operator_norm",
    "oracle",
    "partial_trace",
    "plots",
    "principal_angles",
    "rules",
    "save_checkpoint",
    "schmidt_spectrum",
    "set_num_threads",
    "spectra",
    "spectral_density",
    "submatrix",
    "svd",
    "sweeps",
    "task_alignment",
    "tasks",
    "trace",
    "train",
    "training",
]


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return import_module(f"kpref.{name}")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'kpref' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
