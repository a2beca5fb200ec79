"""What gradient descent does to the states of a trained network: the numbers, the figures, and ``kpref analyze``."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kpref.analysis.numbers import Analysis, analyze_checkpoint
    from kpref.analysis.settings import Integration, Objective

# Names are imported when they are first used: `kpref analyze --help` needs none of them.
_HOMES = {
    "Analysis": "kpref.analysis.numbers",
    "analyze_checkpoint": "kpref.analysis.numbers",
    "Integration": "kpref.analysis.settings",
    "Objective": "kpref.analysis.settings",
}

__all__ = ["Analysis", "Integration", "Objective", "analyze_checkpoint"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'kpref.analysis' has no attribute {name!r}")
