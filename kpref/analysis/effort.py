"""How much work goes into a report: a first look, the usual, or everything.

What is exact stays exact, and iterations converge to the same residuals. Effort decides how many trials and modes there
are, how many random vectors stand behind an estimate, on how many trials Schmidt ranks are taken, and where the search
for fixed points begins.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kpref._validate import flag

__all__ = ["DEFAULT", "FAST", "THOROUGH", "Effort", "chosen_effort"]


@dataclass(frozen=True)
class Effort:
    """Sizes of a report that time depends on."""

    name: str  # as it is asked for
    modes: int  # leading eigenpairs of each operator
    trials: int | None  # at most; None for all
    probes: int  # random vectors beside the leading modes
    schmidt: int  # times the usual work for Schmidt ranks, 0 for none
    starts: int  # of the search for fixed points, at most; 0 for none


FAST = Effort("fast", modes=3, trials=16, probes=14, schmidt=0, starts=0)
DEFAULT = Effort("default", modes=10, trials=None, probes=18, schmidt=1, starts=32)
#: Standard errors fall with the root of the number of vectors: to half.
THOROUGH = Effort("thorough", modes=20, trials=None, probes=72, schmidt=4, starts=256)


def chosen_effort(fast: object, thorough: object, spell: Callable[[str], str] = str) -> Effort:
    """One of the three from two flags, which `spell` tells the names of; ValueError if both are raised."""
    names = spell("fast"), spell("thorough")
    raised = flag(names[0], fast), flag(names[1], thorough)
    if all(raised):
        raise ValueError(f"{names[0]} and {names[1]} cannot both be asked for: one is less than usual, one more")
    return FAST if raised[0] else THOROUGH if raised[1] else DEFAULT
