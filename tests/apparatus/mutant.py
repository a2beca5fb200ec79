"""What a mutant is: a defect, where it is planted, and which guesses at it are right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from apparatus.emulation import EmulatedBackend
from kpref.oracle.evaluation import FACTORS

__all__ = ["Mutant", "Plant"]

Plant = Callable[[EmulatedBackend], None]


@dataclass(frozen=True)
class Mutant:
    """A defect.

    Attributes
    ----------
    name : str
        Operator that it is planted in, colon, defect.
    description : str
    classes : tuple of str
        Guesses that are right.
    plant : callable
        Changes a correct backend.
    models : tuple of str
        Networks that it makes sense for, by their names in `kpref.oracle.problem.MODELS`.
    weighted : bool
        Whether it shows only where the measure is not the same everywhere.
    arithmetics : tuple of str
        Those in which it can exist.
    shape, units : (int, int), int, optional
        Trials, steps and units of the problem that it needs to show itself; by default any will do.
    """

    name: str
    description: str
    classes: tuple[str, ...]
    plant: Plant
    models: tuple[str, ...] = ("gru", "rnn", "leaky", "lstm", "low-rank", "stacked-gru")
    weighted: bool = False
    arithmetics: tuple[str, ...] = ("float64", "float32", "tf32", "bfloat16")
    shape: tuple[int, int] | None = None
    units: int | None = None

    @property
    def size(self) -> dict[str, Any]:
        """Of the problem, where it is not any."""
        return {} if self.shape is None else {"shape": self.shape, "units": self.units}

    @property
    def operator(self) -> str:
        """Where it is planted."""
        return self.name.partition(":")[0]

    @property
    def affected(self) -> frozenset[str]:
        """Operators that it may show in: the one it is planted in, and what is made of it."""
        return frozenset({self.operator, *(name for name, factors in FACTORS.items() if self.operator in factors)})
