"""Does an error look like rounding? If no hypothesis explains an answer, the way in which it is wrong still says much.

Rounding errors follow no law that the operator has: what is left of f(p + q) - f(p) - f(q) is as large as they are. The
product with wrong numbers, such as those of other parameters, other states or other inputs, is linear to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from kpref._types import Array
from kpref.oracle.claimed_errors import Comparison

__all__ = ["alike", "like_rounding", "not_additive"]

#: What is left of additivity, in parts of the error, of a product with wrong numbers in a short format.
_ADDITIVE = 0.2

#: Cosine of the angle to the right answer, above which a wrong one is of the same kind.
_ALIKE = 0.2


def not_additive(tensor: Array, round_: Callable[[Array], Array], compare: Callable[[Array], Comparison]) -> bool:
    """Whether the error of the answer to a sum is not the sum of the errors: rounding, or another law.

    `compare` gives the certificate of the answer to a tensor, `round_` makes one that the arithmetic holds. The second
    summand is the tensor with each entry times a random number: multiples by powers of two would be rounded alike. That
    the sum is rounded changes its answer by what the error makes of a rounding, which is of second order.
    """
    other = round_(np.random.default_rng(0).uniform(-1.0, 1.0, tensor.shape) * tensor)
    first, second, both = (compare(part).error for part in (tensor, other, round_(tensor + other)))
    return float(np.linalg.norm(both - first - second)) > _ADDITIVE * float(np.linalg.norm(both))


def alike(found: Array, right: Array) -> bool:
    """Whether an answer is of the kind of the right one: points in about the same direction."""
    size = float(np.linalg.norm(found) * np.linalg.norm(right))
    return size > 0 and float(np.vdot(found, right)) > _ALIKE * size


def like_rounding(comparison: Comparison) -> bool:
    """Whether errors (B, T, H), given the deviations of an arithmetic, are as those of rounding in it.

    They are of its size, less than a deviation on average as roundings to nearest are, and about as large in each trial
    and unit. Weights that are rounded once err alike at all steps, so that nothing follows from a sign that stays.
    """
    squares = np.square(comparison.ratio())
    size = float(squares.mean())
    if not 0.05**2 < size < 0.8**2:
        return False
    return all(squares.mean(axis=axes).max() <= 16 * size for axes in ((0, 1), (1, 2)))
