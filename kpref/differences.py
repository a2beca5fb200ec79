"""Derivatives from values alone: complex steps, central differences with an error estimate, and tests of derivatives.

All of these take a function as it is and differentiate it without knowing it. They are slow, and they are the last
court: a hand-derived derivative that disagrees with them is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.sparse.linalg import LinearOperator

from kpref._reprs import short_repr
from kpref._types import Array
from kpref._validate import finite_array, first_index, integer, numeric_array, short
from kpref._validate import function as require_function
from kpref.threads import serial_blas

__all__ = [
    "DotTest",
    "FiniteDifference",
    "TaylorTest",
    "complex_step",
    "dot_test",
    "finite_difference",
    "taylor_test",
]

Function = Callable[[Array], npt.ArrayLike]

#: A power of two, so that to divide by it is exact; its square is nothing beside the rounding of any double.
_COMPLEX_STEP = 2.0**-100

#: Steps of the central differences, each half the one before: from a coarse look to 6e-5.
_STEPS = 2.0 ** -np.arange(3, 15)

#: Steps over which a smooth function is a line but for its roundings; thirds, as multiples of its unit may hide them.
_TINY_STEPS = 2.0 ** -np.arange(18, 21) / 3

#: Extrapolations of one difference: order 12. More of them gain nothing over rounding.
_MOST_EXTRAPOLATIONS = 5

_TAYLOR_STEPS = tuple(2.0**-power for power in range(4, 12))


class FiniteDifference(NamedTuple):
    """A derivative by differences, and how far off it may be.

    Attributes
    ----------
    value : ndarray
    error : ndarray, same shape
        Estimated absolute error of each entry, short by a factor of a few at worst.
    """

    value: Array
    error: Array


@dataclass(frozen=True)
class DotTest:
    """Outcome of `dot_test`.

    Attributes
    ----------
    forward : float or complex
        ``<w, A v>``.
    backward : float or complex
        ``<A^H w, v>``.
    error : float
        Their distance over the larger of the two sums of absolute products: of the order of the roundings of the
        operator if its adjoint is right, of order one (over the root of its size) if it is not.
    """

    forward: complex
    backward: complex
    error: float


@dataclass(frozen=True)
class TaylorTest:
    """Outcome of `taylor_test`.

    Attributes
    ----------
    steps : ndarray, shape (k,)
        Step sizes h.
    errors : ndarray, shape (k,)
        ``|f(x + h d) - f(x) - h f'(x) d|``.
    slope : float
        Fitted exponent of h: 2 (or more, where the second derivative vanishes) for a right derivative and 1 for a
        wrong one. Infinite if the remainder is below rounding at all steps but one, as for an affine function.
    """

    steps: Array
    errors: Array
    slope: float

    __repr__ = short_repr


@serial_blas
def complex_step(function: Function, point: npt.ArrayLike, direction: npt.ArrayLike | None = None) -> Array:
    """Derivative of an analytic function, ``Im f(x + i h d) / h`` with h = 2**-100.

    There is no cancellation and no truncation that float64 could hold: the result is off by roundings alone.

    Parameters
    ----------
    function : callable
        From an array of the shape of `point` to an array of any shape; takes complex numbers and is analytic (of
        what NumPy has, ``abs``, ``real``, ``conj`` and ``angle`` are not).
    point : array_like
        x, real.
    direction : array_like, same shape as `point`, optional
        d. By default all coordinate directions, one after the other.

    Returns
    -------
    ndarray
        Shape of f(x) with a direction, otherwise the Jacobian, shape (\\*shape of f(x), \\*shape of x).

    Raises
    ------
    ValueError
        If `point` or `direction` is not a finite real array, or the shapes differ.
    TypeError
        If the function returns real numbers for a complex point: its derivative is lost.

    References
    ----------
    Squire, Trapp, Using complex variables to estimate derivatives of real functions, SIAM Review 40 (1998).
    """
    require_function("function", function, "an array")
    x, directions = _arguments(point, direction)
    columns = []
    for d in directions:
        value = numeric_array("the value of the function", function(x + 1j * (_COMPLEX_STEP * d)), "biufc")
        if value.dtype.kind != "c":
            raise TypeError(
                f"complex steps need a function that returns complex numbers for a complex point; got {value.dtype}: "
                "it is not analytic, or does not depend on the point; use finite_difference"
            )
        columns.append(value.imag / _COMPLEX_STEP)
    return columns[0] if direction is not None else _as_jacobian(columns, x.shape)


@serial_blas
def finite_difference(
    function: Function, point: npt.ArrayLike, direction: npt.ArrayLike | None = None
) -> FiniteDifference:
    """Derivative by central differences, ``(f(x + h d) - f(x - h d)) / 2h``, with Richardson extrapolation.

    h runs through 2**-3, ..., 2**-14. The expansion of the difference has even powers of h only, so the difference
    T[i,0] at step i is extrapolated by ``T[i,j] = T[i,j-1] + (T[i,j-1] - T[i-1,j-1]) / (4**j - 1)``. Each entry
    takes the T[i,j] whose error estimate is least: the largest of its distances to the two values it is made of and
    to its predecessor T[i-1,j] (that all agree by chance is unlikely), plus what the roundings of f amount to, which
    tiny steps show where they are larger than those of its dtype.
    Steps that lead out of the domain of f, where it is not finite, are not used. A kink at the point itself escapes
    central differences: they return the mean of both slopes.

    Parameters
    ----------
    function : callable
        From a real array of the shape of `point` to a real array of any shape. Where it has a jump the estimated
        error is as large as the jump over h.
    point : array_like
        x.
    direction : array_like, same shape as `point`, optional
        d, of such length that the function is smooth over a part of it. By default all coordinate directions,
        entry x_k being moved by h max(1, \\|x_k\\|).

    Returns
    -------
    FiniteDifference
        Shape of f(x) with a direction, otherwise that of the Jacobian, (\\*shape of f(x), \\*shape of x).

    Raises
    ------
    ValueError
        If `point` or `direction` is not a finite real array, or the shapes differ; or if an entry of the function is
        not finite at any three steps.

    References
    ----------
    Ridders, Accurate computation of F'(x) and F'(x) F''(x), Advances in Engineering Software 4 (1982).
    """
    require_function("function", function, "an array")
    x, directions = _arguments(point, direction)
    if direction is not None:
        return _central(function, x, next(directions))
    scale = np.maximum(1.0, np.abs(x))
    columns = [_central(function, x, d * scale) for d in directions]
    value = _as_jacobian([column.value for column in columns], x.shape)
    error = _as_jacobian([column.error for column in columns], x.shape)
    return FiniteDifference(value / scale, error / scale)


@serial_blas
def dot_test(operator: LinearOperator, seed: int = 0) -> DotTest:
    """Whether two halves of a linear operator are adjoint: ``<w, A v> = <A^H w, v>`` for random v and w.

    Parameters
    ----------
    operator : LinearOperator
        Of any kind, real or complex; the inner products are Euclidean.
    seed : int
        Seed of v and w, which are standard normal.

    Returns
    -------
    DotTest
    """
    if not isinstance(operator, LinearOperator):
        raise TypeError(f"operator must be a LinearOperator; got {short(operator)}")
    rng = np.random.default_rng(integer("seed", seed, 0))
    rows, columns = operator.shape
    v, w = rng.normal(size=columns), rng.normal(size=rows)
    if np.dtype(operator.dtype).kind == "c":
        v, w = v + 1j * rng.normal(size=columns), w + 1j * rng.normal(size=rows)
    dtype = operator.dtype
    v, w = v.astype(dtype), w.astype(dtype)
    # The sums are taken in double, so that they add nothing to the roundings of a single-precision operator.
    wide = np.result_type(dtype, np.float64)
    ahead = w.conj() * np.asarray(operator.matvec(v)).astype(wide)
    back = np.asarray(operator.rmatvec(w)).astype(wide).conj() * v
    scale = max(float(np.abs(ahead).sum()), float(np.abs(back).sum()))
    distance = float(abs(ahead.sum() - back.sum()))
    return DotTest(ahead.sum().item(), back.sum().item(), distance / scale if scale else 0.0)


@serial_blas
def taylor_test(
    function: Function,
    derivative: Function,
    point: npt.ArrayLike,
    direction: npt.ArrayLike,
    steps: npt.ArrayLike = _TAYLOR_STEPS,
) -> TaylorTest:
    """Whether a derivative is right: the remainder ``f(x + h d) - f(x) - h f'(x) d`` must fall as h squared.

    Parameters
    ----------
    function : callable
        f, from an array of the shape of `point` to an array of any shape.
    derivative : callable
        ``d -> f'(x) d``, such as a `TensorOperator`; called once, with `direction`.
    point, direction : array_like, same shape
        x and d.
    steps : array_like, shape (k,)
        Positive step sizes h, at least two. The slope is fitted where the remainder exceeds a thousand roundings of
        f, so they should not be smaller than 1e-6.

    Returns
    -------
    TaylorTest

    Raises
    ------
    ValueError
        If an argument is not as described, the derivative has another shape than f, or a value is not finite.
    """
    require_function("function", function, "an array")
    require_function("derivative", derivative, "an array")
    x, directions = _arguments(point, direction)
    d = next(directions)
    h = finite_array("steps", steps, ndim=1)
    if len(h) < 2 or (h <= 0).any():
        raise ValueError(f"steps must be at least two positive numbers; got {h}")
    start = np.array(numeric_array("the value of function", function(x), "biuf"))
    slope = np.array(numeric_array("the value of derivative", derivative(d), "biuf"))
    if slope.shape != start.shape:
        raise ValueError(f"derivative must return the shape of the function, {start.shape}; got {slope.shape}")
    errors = np.array([np.linalg.norm(np.ravel(function(x + step * d) - start - step * slope)) for step in h])
    if not np.isfinite(errors).all():
        raise ValueError(f"the remainder is not finite at step {h[int(np.argmin(np.isfinite(errors)))]}")
    rounding = np.finfo(np.result_type(start, np.float32)).eps * np.linalg.norm(np.ravel(start))
    seen = errors > 1000 * rounding
    fitted = float(np.polyfit(np.log(h[seen]), np.log(errors[seen]), 1)[0]) if seen.sum() > 1 else np.inf
    return TaylorTest(h, errors, fitted)


def _arguments(point: npt.ArrayLike, direction: npt.ArrayLike | None) -> tuple[Array, Iterator[Array]]:
    """The point, and the directions to differentiate along."""
    x = finite_array("point", point)
    if x.size == 0:
        raise ValueError(f"point must have at least one entry; got shape {x.shape}")
    if direction is not None:
        return x, iter([finite_array("direction", direction, shape=x.shape)])
    return x, _basis(x.shape)


def _basis(shape: tuple[int, ...]) -> Iterator[Array]:
    for index in np.ndindex(shape):
        d = np.zeros(shape)
        d[index] = 1.0
        yield d


def _as_jacobian(columns: list[Array], shape: tuple[int, ...]) -> Array:
    return np.stack(columns, axis=-1).reshape((*columns[0].shape, *shape))


def _central(function: Function, x: Array, d: Array) -> FiniteDifference:
    """Extrapolated central differences along one direction.

    The roundings of f are first taken for those of its dtype. Where over the tiny steps f departs further from the line
    that was found, it is not that exact (it may compute in float32 inside, or lose digits to cancellation), and the
    values are weighed again.
    """
    table: list[list[Array]] = []
    roundings: list[Array] = []
    for h in _STEPS:
        ahead, behind = _on_both_sides(function, x, h * d)
        shape = table[0][0].shape if table else ahead.shape
        for other in (ahead.shape, behind.shape):
            if other != shape:
                raise ValueError(f"the function must return one shape around the point; got {shape} and {other}")
        with np.errstate(invalid="ignore", over="ignore"):
            roundings.append(4 * np.finfo(ahead.dtype).eps * np.maximum(np.abs(ahead), np.abs(behind)))
            row = [np.asarray((ahead - 1.0 * behind) / (2 * h))]
            for j, previous in enumerate(table[-1][:_MOST_EXTRAPOLATIONS] if table else [], start=1):
                row.append(row[-1] + (row[-1] - previous) / (4.0**j - 1.0))
        table.append(row)
    with np.errstate(invalid="ignore", over="ignore"):
        value, error = _best(table, roundings)
        for h in _TINY_STEPS:
            ahead, behind = _on_both_sides(function, x, h * d)
            noise = 2 * np.abs((ahead - 1.0 * behind) - 2 * h * value)
            roundings = [np.fmax(rounding, noise) for rounding in roundings]
        value, error = _best(table, roundings)
    if not np.isfinite(error).all():
        index = first_index(~np.isfinite(error))
        raise ValueError(f"the function is not finite around the point, at any step: entry {index} of its value")
    return FiniteDifference(value, error)


def _on_both_sides(function: Function, x: Array, step: Array) -> tuple[Array, Array]:
    """``f(x + step)`` and ``f(x - step)``, in floating point: copies, as f may fill the same array at each call."""
    ahead, behind = (
        np.array(array, dtype=np.result_type(array, np.float32 if array.dtype.kind == "f" else np.float64))
        for array in (numeric_array("the value of the function", function(x + s), "biuf") for s in (step, -step))
    )
    return ahead, behind


def _best(table: list[list[Array]], roundings: list[Array]) -> tuple[Array, Array]:
    """Of each entry the value of least error in a table, given the roundings of f at each step."""
    value, error = np.zeros(()), np.full((), np.inf)
    for above, row, h, rounding in zip(table, table[1:], _STEPS[1:], roundings[1:], strict=False):
        for j in range(1, min(len(row), len(above))):
            others = (row[j - 1], above[j - 1], above[j])
            estimate = rounding / h + np.max([np.abs(row[j] - other) for other in others], axis=0)
            better = estimate < error  # False where the estimate is not a number
            value, error = np.where(better, row[j], value), np.where(better, estimate, error)
    return value, error
