"""Parts of a backend: what a law says of one operator needs no answers of the others, and no metrics."""

from types import SimpleNamespace
from typing import Any


def offering(backend: Any, *operators: str) -> Any:
    """A backend that offers its states and these operators, and nothing else."""
    names = [name for name in ("dtype", "arithmetic", "states", *operators) if hasattr(backend, name)]
    return SimpleNamespace(**{name: getattr(backend, name) for name in names})
