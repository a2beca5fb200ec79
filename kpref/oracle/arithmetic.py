"""Floating-point arithmetics that a backend may compute in, and rounding to them.

An arithmetic here is three unit roundoffs: of numbers that are stored, of the operands that a matrix product rounds to
before it multiplies, and of the sums that it accumulates. TensorFloat-32 stores float32, multiplies 11-bit numbers and
adds in float32; bfloat16 and float16 as used on accelerators store and multiply short numbers and add in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kpref._validate import short

__all__ = ["ARITHMETICS", "Arithmetic", "get_arithmetic"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Arithmetic:
    """Unit roundoffs and range of an arithmetic.

    Attributes
    ----------
    name : str
    unit : float
        Unit roundoff u of stored numbers: rounding to nearest errs by at most u relatively.
    operand : float
        Unit roundoff of the operands of matrix products beyond that of storage; 0 where they are used as stored.
    accumulate : float
        Unit roundoff of sums in matrix products.
    smallest : float
        Smallest positive normal number; below it the error is absolute, at most ``unit * smallest``.
    largest : float
        Largest finite number.
    """

    name: str
    unit: float
    operand: float
    accumulate: float
    smallest: float
    largest: float

    @property
    def underflow(self) -> float:
        """Absolute error of a number near or below the smallest normal one.

        Accelerators flush such float32 and bfloat16 numbers to zero; the narrow range of float16 they extend gradually.
        """
        return self.smallest * (self.unit if self.largest < 1e30 else 1.0)

    def round(self, values: npt.ArrayLike) -> Array:
        """Values rounded to storage, as float64; overflow gives infinity."""
        return _STORE[self.name](np.asarray(values, dtype=np.float64))

    def round_operand(self, values: npt.ArrayLike) -> Array:
        """Values rounded to what a matrix product multiplies, as float64."""
        stored = self.round(values)
        return _to_tf32(stored) if self.operand else stored

    def round_sum(self, values: npt.ArrayLike) -> Array:
        """Values rounded to what a matrix product accumulates in, as float64."""
        array = np.asarray(values, dtype=np.float64)
        return array if self.accumulate == ARITHMETICS["float64"].accumulate else _to_float32(array)


def _single(values: Array) -> Array:
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


def _to_float32(values: Array) -> Array:
    return _single(values).astype(np.float64)


def _to_float16(values: Array) -> Array:
    with np.errstate(over="ignore"):
        return values.astype(np.float16).astype(np.float64)


def _to_short(values: Array, dropped: int) -> Array:
    """Round float32 numbers to nearest even with the last bits of the fraction dropped."""
    single = _single(values)
    bits, last, half = single.view(np.uint32), np.uint32(dropped), np.uint32((1 << (dropped - 1)) - 1)
    bits = bits + (half + ((bits >> last) & np.uint32(1)))  # a carry into the exponent is right, also to infinity
    rounded = ((bits >> last) << last).view(np.float32)
    finite = np.isfinite(single)
    return np.asarray(rounded if finite.all() else np.where(finite, rounded, single), np.float64)


def _to_tf32(values: Array) -> Array:
    return _to_short(values, 13)


def _to_bfloat16(values: Array) -> Array:
    return _to_short(values, 16)


_SINGLE = float(np.finfo(np.float32).smallest_normal), float(np.finfo(np.float32).max)

#: The arithmetics by name.
ARITHMETICS: dict[str, Arithmetic] = {
    arithmetic.name: arithmetic
    for arithmetic in (
        Arithmetic(
            "float64", 2.0**-53, 0.0, 2.0**-53, float(np.finfo(float).smallest_normal), float(np.finfo(float).max)
        ),
        Arithmetic("float32", 2.0**-24, 0.0, 2.0**-24, *_SINGLE),
        Arithmetic("tf32", 2.0**-24, 2.0**-11, 2.0**-24, *_SINGLE),
        Arithmetic("bfloat16", 2.0**-8, 0.0, 2.0**-24, _SINGLE[0], float(2.0**127 * (2 - 2.0**-7))),
        Arithmetic("float16", 2.0**-11, 0.0, 2.0**-24, 2.0**-14, 65504.0),
    )
}

_STORE: dict[str, Callable[[Array], Array]] = {
    "float64": lambda values: values,
    "float32": _to_float32,
    "tf32": _to_float32,
    "bfloat16": _to_bfloat16,
    "float16": _to_float16,
}


def get_arithmetic(name: str | Arithmetic) -> Arithmetic:
    """The arithmetic of this name.

    Raises
    ------
    ValueError
        If there is none.
    """
    if isinstance(name, Arithmetic):
        return name
    if not isinstance(name, str) or name not in ARITHMETICS:
        raise ValueError(f"arithmetic must be one of {', '.join(ARITHMETICS)}; got {short(name)}")
    return ARITHMETICS[name]
