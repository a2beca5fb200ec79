"""Spaces that the operators act between, and their inner products.

States, forcings and errors are tensors ``(trials, time, units)`` with the inner product

    <p, q>_X = sum_{b,n} mu[b,n] p[b,n] . q[b,n],

a discrete version of the expectation over trials and time of Hazelden et al. (arXiv:2507.06381). Parameters
and initial states live in plain Euclidean spaces. A space knows its shape and its weights; the adjoint of an
operator between two of them follows from these (`TensorOperator.star`).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from kpref._frozen import Frozen
from kpref._validate import finite_array, numeric_array, short
from kpref.memory import require_memory

__all__ = ["EuclideanSpace", "TrajectorySpace"]

Array = npt.NDArray[np.floating]

#: Entries that an inner product of vectors adds up in one go.
_ROW = 256


class EuclideanSpace(Frozen):
    """Tensors of one shape with the Euclidean inner product.

    Parameters
    ----------
    shape : tuple of int
        Shape of a tensor of the space; flattened in C order where a vector is asked for.

    Raises
    ------
    ValueError
        If an axis is not an integer, or negative.
    """

    #: Weight of each entry in the inner product, broadcastable to `shape` and constant along its last axis; None for
    #: all ones.
    weights: Array | None = None

    def __init__(self, shape: Sequence[int]) -> None:
        try:
            self.shape: tuple[int, ...] = tuple(operator.index(axis) for axis in shape)
        except TypeError:
            self.shape = (-1,)
        if any(axis < 0 for axis in self.shape):
            raise ValueError(
                f"a space needs a shape of axes of a whole number of entries, at least 0; got shape {short(shape)}"
            )

    @property
    def size(self) -> int:
        """Number of entries of a tensor."""
        return math.prod(self.shape)

    @property
    def uniform_weight(self) -> float | None:
        """The weight, if it is the same for all entries."""
        if self.weights is None:
            return 1.0
        first = float(self.weights.flat[0])
        return first if np.all(self.weights == first) else None

    def inner(self, p: npt.ArrayLike, q: npt.ArrayLike) -> float:
        """Inner product of two tensors of this space, in float64.

        The order of the sum is fixed by the shape, so that its bits depend on nothing else: over the last axis entry
        by entry, over the others by pairs.
        """
        p, q = np.atleast_1d(self.tensor("p", p)), np.atleast_1d(self.tensor("q", q))
        if self.weights is None:  # a vector, of parameters: cut into rows for the sum by pairs
            whole = p.size - p.size % _ROW
            rows = [part.reshape(-1)[:whole].reshape(-1, _ROW) for part in (p, q)]
            rest = np.einsum("i,i->", *(part.reshape(-1)[whole:] for part in (p, q)), dtype=np.float64)
            return float(np.einsum("ij,ij->i", *rows, dtype=np.float64).sum() + rest)
        points = np.einsum("...i,...i->...", p, q, dtype=np.float64)
        return float((self.weights[..., 0] * points).sum())

    def norm(self, q: npt.ArrayLike) -> float:
        """Norm ``sqrt(<q, q>)``."""
        return math.sqrt(self.inner(q, q))

    def tensor(self, name: str, value: npt.ArrayLike) -> Array:
        """`value` as an array of this space's shape.

        Raises
        ------
        ValueError
            If the shape differs; the message names `name`, the expected and the given shape.
        """
        array = numeric_array(name, value, "biuf")
        if array.shape != self.shape:
            raise ValueError(f"{name} must have shape {self.shape}; got {array.shape}")
        return array

    def weigh(self, batch: Array) -> Array:
        """``W q`` for a tensor or a batch of tensors, W the diagonal of the weights."""
        return batch if self.weights is None else batch * self.weights.astype(batch.dtype, copy=False)

    def unweigh(self, batch: Array) -> Array:
        """``W^+ q``: division by the weights, and zero where the weight is zero (the space is restricted there)."""
        if self.weights is None:
            return batch
        inverse = np.divide(1.0, self.weights, out=np.zeros_like(self.weights), where=self.weights > 0)
        return batch * inverse.astype(batch.dtype, copy=False)

    def scale(self, batch: Array, power: float, out: Array | None = None) -> Array:
        """``W^power q`` on the support of the weights, zero off it; used to symmetrise self-adjoint operators."""
        if self.weights is None:
            return batch
        factor = np.power(self.weights, power, out=np.zeros_like(self.weights), where=self.weights > 0)
        return np.multiply(batch, factor.astype(batch.dtype, copy=False), out=out)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, EuclideanSpace) or self.shape != other.shape:
            return False
        mine, theirs = self.weights, other.weights
        return mine is theirs or (mine is not None and theirs is not None and np.array_equal(mine, theirs))

    def __hash__(self) -> int:
        return hash((self.shape, None if self.weights is None else self.weights.tobytes()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(shape={self.shape})"


class TrajectorySpace(EuclideanSpace):
    """Tensors (trials, time, units) with an inner product weighted over trials and time.

    Parameters
    ----------
    shape : tuple of int
        ``(B, T, H)``: trials, time points, state size; each at least 1.
    measure : {"mean", "sum"} or array_like
        ``"mean"``: weights that sum to one, ``1/(B T)``, or, if `times` is given, the trapezoid rule over `times`
        divided by the duration (and by B). ``"sum"``: all ones, the convention of automatic differentiation.
        An array broadcastable to ``(B, T)`` is taken as it is; it must be finite, non-negative and not all zero;
        zero masks a time or a trial out.
    times : array_like, optional
        Shape (T,), increasing: the time grid of a continuous-time flow.

    Attributes
    ----------
    mu : ndarray, shape (B, T), float64
        The weights.

    Raises
    ------
    ValueError
        For an empty axis, an unknown measure, or weights that are not as said above.
    """

    def __init__(
        self,
        shape: Sequence[int],
        measure: str | npt.ArrayLike = "mean",
        times: npt.ArrayLike | None = None,
    ) -> None:
        super().__init__(shape)
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise ValueError(
                f"a trajectory space needs a shape (trials, time, units) without empty axes; got {short(shape)}"
            )
        require_memory(8.0 * self.shape[0] * self.shape[1], f"a measure for the shape {self.shape}")
        self.mu: Array = _weights(self.shape[:2], measure, times)
        self.mu.flags.writeable = False
        self.measure: str = measure if isinstance(measure, str) else "weights"
        self.weights = self.mu[:, :, None]

    def __repr__(self) -> str:
        return f"TrajectorySpace(shape={self.shape}, measure={self.measure!r})"


def _weights(shape: tuple[int, ...], measure: str | npt.ArrayLike, times: npt.ArrayLike | None) -> Array:
    trials, steps = shape
    if isinstance(measure, str):
        if measure == "sum":
            return np.ones(shape)
        if measure == "mean":
            return np.broadcast_to(_time_weights(steps, times) / trials, shape).copy()
        raise ValueError(f'measure must be "mean", "sum" or an array of weights; got {measure!r}')
    mu = finite_array("measure", measure)
    try:
        mu = np.broadcast_to(mu, shape).copy()
    except ValueError:
        raise ValueError(
            f"measure must be broadcastable to (trials, time) = {tuple(shape)}; got shape {mu.shape}"
        ) from None
    if (mu < 0).any():
        trial, step = np.argwhere(mu < 0)[0]
        raise ValueError(f"measure must not be negative; got {mu[trial, step]} at trial {trial}, step {step}")
    if not mu.any():
        raise ValueError("measure must not be zero everywhere")
    return mu


def _time_weights(steps: int, times: npt.ArrayLike | None) -> Array:
    """Weights over time that sum to one: equal for a map, the trapezoid rule for a time grid."""
    if times is None:
        return np.full(steps, 1.0 / steps)
    grid = finite_array("times", times, shape=(steps,))
    gaps = np.diff(grid)
    if steps < 2 or (gaps <= 0).any():
        raise ValueError("times must be at least two increasing numbers")
    return (np.append(gaps, 0.0) + np.append(0.0, gaps)) / (2.0 * (grid[-1] - grid[0]))
