"""Input signals: from samples on a time grid to a value at any time."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import ArrayLike

if TYPE_CHECKING:
    from scipy.interpolate import CubicSpline

from kpref._foreign import returned
from kpref._frozen import MadeOfFunctions
from kpref._types import FloatArray
from kpref._validate import finite_array, numeric_array, short

__all__ = ["InputKind", "InputSignal", "check_times"]

InputKind: TypeAlias = Literal["hold", "linear", "cubic"]


def check_times(times: ArrayLike) -> FloatArray:
    """A time grid as a read-only float64 vector.

    Parameters
    ----------
    times : array_like, shape (N+1,)
        At least two finite, strictly increasing times.

    Returns
    -------
    ndarray, shape (N+1,)

    Raises
    ------
    ValueError
        If there are fewer than two times, or one is not finite or not larger than the one before it; names it.
    """
    grid = np.array(numeric_array("times", times, "iuf"), dtype=np.float64)
    if grid.ndim != 1 or len(grid) < 2:
        raise ValueError(f"times must be a vector of at least two times, got shape {grid.shape}")
    for n in np.flatnonzero(~np.isfinite(grid)):
        raise ValueError(f"times must be finite, got times[{n}] = {grid[n]}")
    for n in np.flatnonzero(np.diff(grid) <= 0.0):
        raise ValueError(
            f"times must increase strictly, got times[{n + 1}] = {grid[n + 1]} after times[{n}] = {grid[n]}"
        )
    grid.setflags(write=False)
    return grid


class InputSignal(MadeOfFunctions):
    """An input x(t) to all trials, from samples on the grid or from a function.

    Parameters
    ----------
    times : array_like, shape (N+1,)
        The time grid t[0..N]; interval n is [t[n], t[n+1]].
    source : array_like of shape (B, N+1, n_in), or callable
        Samples at the grid times, or a function from a time t to the inputs of shape (B, n_in). A function that
        jumps is taken to be continuous from the right.
    kind : {"hold", "linear", "cubic"}, default "hold"
        How samples extend to other times: `hold` keeps x[n] on the whole of interval n, its right end included (the
        last sample is not used); `linear` joins the samples by straight lines; `cubic` is the twice continuously
        differentiable cubic spline through them with not-a-knot ends. For a function it is not used.

    Attributes
    ----------
    times : ndarray, shape (N+1,)
    n_trials, n_inputs : int
        B and n_in.

    Raises
    ------
    ValueError
        If the times do not increase, the shape does not fit them, a sample is not finite, or the kind is unknown.
    """

    def __init__(
        self, times: ArrayLike, source: ArrayLike | Callable[[float], ArrayLike], kind: InputKind = "hold"
    ) -> None:
        self.times = check_times(times)
        self._function: Callable[[float], ArrayLike] | None = None
        self._samples: FloatArray | None = None
        self._spline: CubicSpline | None = None
        if not isinstance(kind, str) or kind not in get_args(InputKind):
            raise ValueError(f"input_kind must be one of {', '.join(get_args(InputKind))}, got {short(kind)}")
        self._kind = kind
        if callable(source):
            self._function = source
            self.n_trials, self.n_inputs = self._value(float(self.times[0])).shape
        else:
            self._samples = self._check_samples(source)
            self.n_trials, _, self.n_inputs = self._samples.shape
            if kind == "cubic":
                # Imported here because it takes longer than the whole of this package.
                from scipy.interpolate import CubicSpline

                self._spline = CubicSpline(self.times, self._samples, axis=1)

    def _check_samples(self, source: ArrayLike) -> FloatArray:
        return finite_array("inputs", source, shape=("B", len(self.times), "n_in"), axes=("trial", "time", "channel"))

    def _value(self, time: float, shape: tuple[int, int] | None = None) -> FloatArray:
        """The function at one time: a copy, as it may fill the same array at each call."""
        assert self._function is not None
        value = self._function(time)
        if shape is None:
            first = np.shape(value)
            if len(first) != 2:
                raise ValueError(f"the input function must return shape (B, n_in), got {first} at t = {time}")
            shape = first
        checked = returned(
            "the input function", value, shape, axes=("trial", "channel"), where=f" at t = {time}", finite=True
        )
        return checked.astype(np.float64, copy=False)

    @property
    def is_function(self) -> bool:
        """Whether x is a Python function of the user's."""
        return self._function is not None

    @property
    def jumps(self) -> FloatArray:
        """Times inside the grid at which x jumps: where held samples change. Those of a function are not known."""
        if self._samples is None or self._kind != "hold":
            return np.empty(0)
        changes = np.any(self._samples[:, 1:-1] != self._samples[:, :-2], axis=(0, 2))
        return self.times[1:-1][changes]

    def __call__(self, t: ArrayLike, interval: ArrayLike) -> FloatArray:
        """The inputs at given times.

        Parameters
        ----------
        t : float or array_like, shape (m,)
            Times.
        interval : int or array_like, shape (m,)
            The grid interval that each time belongs to, which decides the value of a held input at a grid time.

        Returns
        -------
        ndarray, shape (B, n_in) or (B, m, n_in)
        """
        t, interval = np.asarray(t, dtype=np.float64), np.asarray(interval)
        if self._function is not None:
            values = [self._value(float(time), (self.n_trials, self.n_inputs)) for time in t.flat]
            return np.stack(values, axis=1).reshape(self.n_trials, *t.shape, self.n_inputs)
        assert self._samples is not None
        if self._spline is not None:
            return self._spline(t)
        left = self._samples[:, interval]
        if self._kind == "hold":
            return left
        start, end = self.times[interval], self.times[interval + 1]
        theta = ((t - start) / (end - start))[..., None]
        # This form, unlike left + theta (right - left), returns the samples themselves at both ends.
        return (1.0 - theta) * left + theta * self._samples[:, interval + 1]

    def __repr__(self) -> str:
        kind = "function" if self.is_function else self._kind
        return f"InputSignal({kind}, {self.n_trials} trials, {len(self.times)} times, {self.n_inputs} inputs)"
