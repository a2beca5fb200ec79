"""Floating-point arithmetics that a backend may compute in, and rounding to them.

An arithmetic is a profile: unit roundoffs of numbers that are stored, of the operands that a matrix product rounds to
before it multiplies, of the sums that it accumulates and of the result that it returns; how elementary functions err;
and a range. TensorFloat-32 stores float32, multiplies 11-bit numbers and adds in float32; bfloat16 and float16 as used
on accelerators store and multiply short numbers and add in float32. Mixed precision is as easily said: what autocast to
bfloat16 makes of float32 is ``Arithmetic("autocast", 2**-24, operand=2**-8, result=2**-8)``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from kpref._types import Array
from kpref._validate import short
from kpref.compiled.rounding import to_single

__all__ = ["ARITHMETICS", "ELEMENTARY", "Arithmetic", "Error", "get_arithmetic"]

#: Error of an elementary function: in units of its value, and in units of one; the larger of the two holds.
Error = tuple[float, float]

#: How elementary functions err where nothing else is said, at most. A few roundings of the value, or of one, whichever
#: is larger, for those that level off: ``tanh(a) = 2 sigmoid(2 a) - 1`` loses a unit of one with each rounding of the
#: sigmoid, twice, and one in the difference; ``sigmoid(a) = (1 + tanh(a / 2)) / 2`` and ``(1 - e) / (1 + e)`` less.
ELEMENTARY: dict[str, Error] = {
    "tanh": (4.0, 3.0),
    "sigmoid": (4.0, 3.0),
    "erf": (4.0, 3.0),
    "softplus": (4.0, 3.0),
    "exp": (4.0, 0.0),
    "sin": (4.0, 0.0),
    "cos": (4.0, 0.0),
    "sqrt": (4.0, 0.0),
}

_FLOAT64, _FLOAT32 = np.finfo(np.float64), np.finfo(np.float32)


@dataclass(frozen=True)
class Arithmetic:
    """What rounds where, and the range.

    All units are powers of two: rounding to nearest with a fraction of p bits errs by at most ``2**-p`` relatively.

    Parameters
    ----------
    name : str
    unit : float
        Unit roundoff u of stored numbers: parameters, inputs, and the result of every operation.
    operand : float
        Of the operands of matrix products, where they are rounded beyond storage; 0 where they are used as stored.
    accumulate : float
        Of sums in matrix products; by default u.
    smallest, largest : float
        Smallest positive normal number, below which the error is absolute, and the largest finite one. By default
        those of float32, or of float64 where u is finer than float32's.
    result : float
        Of what matrix products return, where it is rounded beyond storage; 0 where it is not.
    bias : float
        By how much each addition in a matrix product makes a sum smaller on average, relatively: accumulators that
        truncate do.
    states : float
        Of trajectories and of tensors that operators are applied to, where these are kept finer than u; by default u.
    elementary : mapping of str to float or (float, float)
        Largest errors of elementary functions (names in `ELEMENTARY`), in units of their value and in units of one,
        whichever is larger; a single number is both. What is not named errs as `ELEMENTARY` says.
    """

    name: str
    unit: float
    operand: float = 0.0
    accumulate: float = 0.0
    smallest: float = 0.0
    largest: float = 0.0
    result: float = 0.0
    bias: float = 0.0
    states: float = 0.0
    elementary: Mapping[str, Error] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ValueError(f"an arithmetic has a name; got {short(self.name)}")
        self._set("unit", _unit("unit", self.unit))
        wide = _FLOAT64 if self.unit < 2.0**-24 else _FLOAT32
        defaults = {
            "accumulate": self.unit,
            "states": self.unit,
            "smallest": float(wide.smallest_normal),
            "largest": float(wide.max) if self.unit <= 2.0**-24 else _largest(float(wide.max), self.unit),
        }
        for name, value in defaults.items():
            self._set(name, getattr(self, name) or value)
        for name in ("operand", "result", "accumulate", "states"):
            if getattr(self, name):
                self._set(name, _unit(name, getattr(self, name)))
        for name in ("operand", "result"):
            if 0 < getattr(self, name) <= self.unit:
                raise ValueError(
                    f"{name} must be coarser than the unit of stored numbers, {self.unit:g}, or 0 for as stored; "
                    f"got {getattr(self, name):g}"
                )
        if self.states > self.unit:
            raise ValueError(f"states must be kept as fine as the unit {self.unit:g}, or finer; got {self.states:g}")
        if not 0 <= self.bias < 1:
            raise ValueError(f"bias must be a relative error from 0 to 1; got {short(self.bias)}")
        if not 0 < self.smallest < 1 < self.largest <= _FLOAT64.max:
            raise ValueError(
                f"smallest and largest must be positive floats below and above one; got {short(self.smallest)} and "
                f"{short(self.largest)}"
            )
        self._set("elementary", _errors(self.elementary))

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    @property
    def underflow(self) -> float:
        """Absolute error of a number near or below the smallest normal one.

        Accelerators flush such float32 and bfloat16 numbers to zero; the narrow range of float16 they extend gradually.
        """
        return self.smallest * (self.unit if self.largest < 1e30 else 1.0)

    def error_of(self, function: str) -> Error:
        """Largest error of an elementary function, in units of its value and in units of one."""
        return self.elementary.get(function, ELEMENTARY[function])

    def round(self, values: npt.ArrayLike) -> Array:
        """Values rounded to storage, as float64; overflow gives infinity."""
        return self._rounded(values, self.unit)

    def round_state(self, values: npt.ArrayLike) -> Array:
        """Values rounded to what trajectories and tensors are kept in, as float64."""
        return self._rounded(values, self.states)

    def round_operand(self, values: npt.ArrayLike) -> Array:
        """Values rounded to what a matrix product multiplies, as float64."""
        return self._rounded(values, self.operand or self.unit)

    def round_result(self, values: npt.ArrayLike) -> Array:
        """Values rounded to what a matrix product returns, before they are stored, as float64."""
        return self._rounded(values, self.result) if self.result else np.asarray(values, dtype=np.float64)

    def round_sum(self, values: npt.ArrayLike) -> Array:
        """Values rounded to what a matrix product accumulates in, as float64."""
        return self._rounded(values, self.accumulate, wide=True)

    def _rounded(self, values: npt.ArrayLike, unit: float, wide: bool = False) -> Array:
        """Rounded to nearest, ties to even; of a sum, in the range of float32 if that is wider."""
        array = np.asarray(values, dtype=np.float64)
        if unit == 2.0**-53 and (wide or self.largest == _FLOAT64.max):
            return array
        smallest, largest = self.smallest, self.largest
        if wide:
            smallest, largest = float(_FLOAT32.smallest_normal), float(_FLOAT32.max)
        if unit >= 2.0**-24 and smallest == _FLOAT32.smallest_normal and largest > 2.0**127:
            return _to_single(array, unit)
        if (unit, smallest, largest) == _HALF:
            with np.errstate(over="ignore"):
                return array.astype(np.float16).astype(np.float64)
        return _to_fraction(array, unit, smallest, largest)

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it, and as `get_arithmetic` reads it."""
        numbers = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return numbers | {"elementary": {name: list(error) for name, error in self.elementary.items()}}


def _unit(name: str, value: Any) -> float:
    """A unit roundoff: a power of two."""
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not number or not 2.0**-53 <= value <= 0.5 or np.frexp(value)[0] != 0.5:
        raise ValueError(
            f"{name} must be a unit roundoff, a power of two from 2**-53 to 2**-1 such as 2**-24 for float32; "
            f"got {short(value)}"
        )
    return float(value)


def _errors(given: Any) -> dict[str, Error]:
    """Errors of elementary functions as pairs."""
    if not isinstance(given, Mapping):
        raise TypeError(f"elementary must be a mapping of functions to errors in units; got {short(given)}")
    found: dict[str, Error] = {}
    for name, error in given.items():
        if name not in ELEMENTARY:
            raise ValueError(f"elementary functions are {', '.join(ELEMENTARY)}; got {short(name)}")
        try:
            pair = np.broadcast_to(np.asarray(error, dtype=float), 2)
        except (TypeError, ValueError):
            pair = np.full(2, np.nan)
        if not (np.isfinite(pair).all() and (pair >= 0).all() and pair.any()):
            raise ValueError(
                f"the error of {name} must be a positive number of units, or a pair, of its value and of one; "
                f"got {short(error)}"
            )
        found[name] = float(pair[0]), float(pair[1])
    return found


def _largest(limit: float, unit: float) -> float:
    """The largest number with a fraction of this unit in the range of `limit`."""
    return float(2.0 ** np.floor(np.log2(limit)) * (2 - 2 * unit))


def _to_single(values: Array, unit: float) -> Array:
    """Round to float32, and that to nearest even with the last bits of the fraction dropped, as hardware does."""
    out, single = np.empty(values.shape), np.empty(values.size, np.float32)
    to_single(values.reshape(-1), 24 + round(math.log2(unit)), single, out.reshape(-1))
    return out


def _to_fraction(values: Array, unit: float, smallest: float, largest: float) -> Array:
    """Round to nearest even with any unit and range, gradually below the smallest normal number."""
    _, exponent = np.frexp(np.maximum(np.abs(values), smallest))
    quantum = np.ldexp(2 * unit, exponent - 1)  # distance of neighbours: 2 u from 1 to 2
    rounded = np.rint(values / quantum) * quantum
    return np.where(np.abs(rounded) > largest, np.copysign(np.inf, rounded), rounded)


_HALF = 2.0**-11, 2.0**-14, 65504.0

#: The arithmetics by name.
ARITHMETICS: dict[str, Arithmetic] = {
    arithmetic.name: arithmetic
    for arithmetic in (
        Arithmetic("float64", 2.0**-53),
        Arithmetic("float32", 2.0**-24),
        Arithmetic("tf32", 2.0**-24, operand=2.0**-11),
        Arithmetic("bfloat16", 2.0**-8, accumulate=2.0**-24),
        Arithmetic("float16", 2.0**-11, accumulate=2.0**-24, smallest=_HALF[1], largest=_HALF[2]),
    )
}


def get_arithmetic(name: str | Arithmetic | Mapping[str, Any]) -> Arithmetic:
    """The arithmetic of this name, one that is given in full, or one as `Arithmetic.to_dict` writes it.

    Raises ValueError if there is none.
    """
    if isinstance(name, Arithmetic):
        return name
    if isinstance(name, Mapping):
        try:
            return Arithmetic(**name)
        except TypeError as error:
            raise ValueError(f"the description of an arithmetic is incomplete or of another kind: {error}") from error
    if not isinstance(name, str) or name not in ARITHMETICS:
        raise ValueError(
            f"arithmetic must be one of {', '.join(ARITHMETICS)}, or a kpref.oracle.Arithmetic; got {short(name)}"
        )
    return ARITHMETICS[name]
