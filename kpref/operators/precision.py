"""The same operator with its products in float32: half the memory to read, and twice the numbers in a register.

Coefficients of a linearisation are computed in float64 in any case; those in float32 are these rounded once, as in a
flow of that dtype, and kept as long as the others are. What an operator is made of stays what it was: the factors, the
structure and the spaces.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Protocol, Self, runtime_checkable
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from kpref._foreign import is_ours
from kpref.operators.products import Factor, Leaf, Map, Power, Product, Side, Sum
from kpref.operators.tensor import TensorOperator

__all__ = ["Coefficients", "for_estimates", "in_single"]


@runtime_checkable
class Coefficients(Protocol):
    """What a map of ours is made of, in one precision or another: a linearisation, or those of many shards."""

    def in_precision(self, dtype: npt.DTypeLike) -> Self | None:
        """The same in another precision; None if a number has no place there."""


#: What has been rounded already; None where it cannot be.
_leaves: WeakKeyDictionary[Leaf, Leaf | None] = WeakKeyDictionary()
_coefficients: WeakKeyDictionary[Coefficients, Coefficients] = WeakKeyDictionary()


class _Own(Exception):  # noqa: N818
    """A factor has products in its own precision only."""


def in_single(op: TensorOperator) -> TensorOperator | None:
    """An operator in float32, or None if it is in float32 already, or has products in its own precision only.

    The latter is so where functions of the user's stand in it, or a coefficient has no place in float32.
    """
    if op.dtype == np.float32:
        return None
    try:
        return op.remade(_product)
    except _Own:
        return None


def for_estimates(op: TensorOperator, exact_up_to: int) -> TensorOperator:
    """An operator for random vectors: in float32, at half the price, where sampling leaves more than rounding does.

    `exact_up_to`: size of the space of tensors up to which nothing is sampled. Operators up to that size, and those
    that have products in their own precision only, stay as they are.
    """
    single = in_single(op) if op.space_in.size > exact_up_to else None
    return op if single is None else single


def _product(one: Product) -> Product:
    return replace(one, factors=tuple(map(_factor, one.factors)), dtype=np.dtype(np.float32))


def _factor(factor: Factor) -> Factor:
    if isinstance(factor, Side):
        if factor.leaf not in _leaves:
            _leaves[factor.leaf] = _leaf(factor.leaf)
        leaf = _leaves[factor.leaf]  # one for each: two factors that were the same stay so
        if leaf is None:
            raise _Own
        return replace(factor, leaf=leaf)
    if isinstance(factor, Sum):
        return Sum(tuple(map(_product, factor.terms)))
    if isinstance(factor, Power):
        return replace(factor, base=_product(factor.base))
    return factor  # weights take the precision of what they weigh


def _leaf(leaf: Leaf) -> Leaf | None:
    forward, transpose = _map(leaf.forward), _map(leaf.transpose)
    if forward is None or transpose is None:
        return None
    return replace(leaf, forward=forward, transpose=transpose, dtype=np.dtype(np.float32))


def _map(function: Map) -> Map | None:
    """The map of the coefficients in float32; None if there are none, or the function is not one of ours."""
    if not isinstance(function, partial) or not is_ours(function):
        return None
    arguments = [_rounded(each) if isinstance(each, Coefficients) else each for each in function.args]
    known = [each for each in function.args if isinstance(each, Coefficients)]
    if not known or any(each is None for each in arguments):
        return None
    made: Callable[..., Any] = function.func
    return partial(made, *arguments)


def _rounded(given: Coefficients) -> Coefficients | None:
    if given not in _coefficients:
        with np.errstate(over="ignore"):
            rounded = given.in_precision(np.float32)
        if rounded is None:
            return None
        _coefficients[given] = rounded
    return _coefficients[given]
