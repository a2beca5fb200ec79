"""Judges of somebody else's operators, and of linearisations, that know nothing of how these were derived.

`verify` holds a backend against the reference along a flow and needs no tolerance; `kpref.oracle.backend` says what a
backend is, `kpref.oracle.adapters` makes some. ``kpref verify`` does the same on the command line, ``kpref golden``
for backends in another language, and ``pytest --kpref-backend`` in a backend's own repository.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kpref.oracle.adapters import flow_backend, jax_backend, kpflow_backend, torch_backend
    from kpref.oracle.finite_difference import (
        DotTest,
        FiniteDifference,
        TaylorTest,
        complex_step,
        dot_test,
        finite_difference,
        taylor_test,
    )
    from kpref.oracle.golden import check_golden, export_golden, folder_backend
    from kpref.oracle.verdict import Check, Place, Report
    from kpref.oracle.verify import verify

# Names are imported when they are first used: the pytest plugin lives here, and everybody's test runs import it.
_HOMES = {
    "Check": "verdict",
    "DotTest": "finite_difference",
    "FiniteDifference": "finite_difference",
    "Place": "verdict",
    "Report": "verdict",
    "TaylorTest": "finite_difference",
    "check_golden": "golden",
    "complex_step": "finite_difference",
    "dot_test": "finite_difference",
    "export_golden": "golden",
    "finite_difference": "finite_difference",
    "flow_backend": "adapters",
    "folder_backend": "golden",
    "jax_backend": "adapters",
    "kpflow_backend": "adapters",
    "taylor_test": "finite_difference",
    "torch_backend": "adapters",
    "verify": "verify",
}

__all__ = [
    "Check",
    "DotTest",
    "FiniteDifference",
    "Place",
    "Report",
    "TaylorTest",
    "check_golden",
    "complex_step",
    "dot_test",
    "export_golden",
    "finite_difference",
    "flow_backend",
    "folder_backend",
    "jax_backend",
    "kpflow_backend",
    "taylor_test",
    "torch_backend",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'kpref.oracle' has no attribute {name!r}")
    return getattr(import_module(f"kpref.oracle.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)


class _Package(ModuleType):
    """Keeps `verify` and `finite_difference` functions: importing the modules of these names would take their place."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
