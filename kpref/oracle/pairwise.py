"""Sets of cases in which every two choices meet: few cases that cover what two options together can break.

Most defects that need a certain choice of options need one or two of them (Kuhn, Wallace, Gallo, IEEE Trans. Softw.
Eng. 30 (2004)). A covering set holds each pair of levels of any two factors that can occur together, in about as many
cases as the two largest factors have pairs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

__all__ = ["covering", "pairs"]

Pair = tuple[tuple[str, Any], tuple[str, Any]]
Case = dict[str, Any]


def covering(
    factors: Mapping[str, Sequence[Any]], allowed: Callable[[Mapping[str, Any]], bool] = lambda case: True
) -> list[Case]:
    """Cases, one level of each factor, in which all pairs of levels occur that can.

    Each case begins with the first pair that is missing, and takes level after level that adds most of what is missing;
    of equals, one that was taken least often, and the first of these. The same factors give the same cases.

    Parameters
    ----------
    factors : mapping of str to sequence
        Levels of each factor, hashable.
    allowed : callable
        Whether a case, of some of the factors or of all, is one; one that is not stays so with more factors.

    Returns
    -------
    list of dict
    """
    missing = dict.fromkeys(
        pair
        for one, other in combinations(factors, 2)
        for pair in (((one, first), (other, second)) for first in factors[one] for second in factors[other])
    )
    cases: list[Case] = []
    taken: Counter[tuple[str, Any]] = Counter()

    def order(case: Case, name: str) -> list[Any]:
        """The levels of a factor, the best for this case first."""
        position = list(factors).index

        def gain(level: Any) -> tuple[int, int]:
            own = (name, level)
            met = ((own, other) if position(name) < position(other[0]) else (other, own) for other in case.items())
            return sum(pair in missing for pair in met), -taken[own]

        return sorted(factors[name], key=gain, reverse=True)  # stable

    while missing:
        seed = next(iter(missing))
        case = _completed(dict(seed), list(factors), allowed, order)
        if case is None:  # the two levels exclude each other
            del missing[seed]
            continue
        cases.append(case)
        taken.update(case.items())
        for pair in pairs(case):
            missing.pop(pair, None)
    return cases


def pairs(case: Mapping[str, Any]) -> Iterator[Pair]:
    """All pairs of factors with their levels."""
    return combinations(case.items(), 2)


def _completed(
    case: Case,
    names: Sequence[str],
    allowed: Callable[[Mapping[str, Any]], bool],
    order: Callable[[Case, str], Sequence[Any]],
) -> Case | None:
    """The case with a level of every factor, in the order of the factors; None if there is none."""
    if not allowed(case):
        return None
    name = next((name for name in names if name not in case), None)
    if name is None:
        return {name: case[name] for name in names}
    tries = (_completed({**case, name: level}, names, allowed, order) for level in order(case, name))
    return next((completed for completed in tries if completed is not None), None)
