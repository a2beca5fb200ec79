"""Judges of somebody else's operators, and of linearisations, that know nothing of how these were derived.

`verify` holds a backend against the reference along a flow and needs no tolerance; `kpref.oracle.backend` says what a
backend is, `kpref.oracle.adapters` makes some. `Arithmetic` is what a backend declares, `measure_profile` finds what it
computes in. `verify_exact` asks for every bit, on problems of whole numbers. ``kpref verify`` does the same on the
command line, ``kpref golden`` for backends in another language, and ``pytest --kpref-backend`` in a backend's own
repository.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kpref.differences import (
        DotTest,
        FiniteDifference,
        TaylorTest,
        complex_step,
        dot_test,
        finite_difference,
        taylor_test,
    )
    from kpref.oracle.adapters import (
        diffrax_backend,
        flow_backend,
        jax_backend,
        kpflow_backend,
        torch_backend,
        torchdiffeq_backend,
    )
    from kpref.oracle.arithmetic import Arithmetic
    from kpref.oracle.convergence import verify_convergence
    from kpref.oracle.exact import verify_exact
    from kpref.oracle.golden_files import check_golden, export_golden, folder_backend
    from kpref.oracle.integers import NotExact, integer_flow
    from kpref.oracle.measured import Profile
    from kpref.oracle.measurement import measure_profile
    from kpref.oracle.verdict import Check, Place, Report
    from kpref.oracle.verification import verify

# Names are imported when they are first used: the pytest plugin lives here, and everybody's test runs import it.
_HOMES = {
    "Arithmetic": "kpref.oracle.arithmetic",
    "Check": "kpref.oracle.verdict",
    "DotTest": "kpref.differences",
    "FiniteDifference": "kpref.differences",
    "NotExact": "kpref.oracle.integers",
    "Place": "kpref.oracle.verdict",
    "Profile": "kpref.oracle.measured",
    "Report": "kpref.oracle.verdict",
    "TaylorTest": "kpref.differences",
    "check_golden": "kpref.oracle.golden_files",
    "complex_step": "kpref.differences",
    "diffrax_backend": "kpref.oracle.adapters",
    "dot_test": "kpref.differences",
    "export_golden": "kpref.oracle.golden_files",
    "finite_difference": "kpref.differences",
    "flow_backend": "kpref.oracle.adapters",
    "folder_backend": "kpref.oracle.golden_files",
    "integer_flow": "kpref.oracle.integers",
    "jax_backend": "kpref.oracle.adapters",
    "kpflow_backend": "kpref.oracle.adapters",
    "measure_profile": "kpref.oracle.measurement",
    "taylor_test": "kpref.differences",
    "torch_backend": "kpref.oracle.adapters",
    "torchdiffeq_backend": "kpref.oracle.adapters",
    "verify": "kpref.oracle.verification",
    "verify_convergence": "kpref.oracle.convergence",
    "verify_exact": "kpref.oracle.exact",
}

__all__ = [
    "Arithmetic",
    "Check",
    "DotTest",
    "FiniteDifference",
    "NotExact",
    "Place",
    "Profile",
    "Report",
    "TaylorTest",
    "check_golden",
    "complex_step",
    "diffrax_backend",
    "dot_test",
    "export_golden",
    "finite_difference",
    "flow_backend",
    "folder_backend",
    "integer_flow",
    "jax_backend",
    "kpflow_backend",
    "measure_profile",
    "taylor_test",
    "torch_backend",
    "torchdiffeq_backend",
    "verify",
    "verify_convergence",
    "verify_exact",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'kpref.oracle' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
