"""Spaces that the operators act between, and their inner products.

States, forcings and errors are tensors ``(trials, time, units)`` with the inner product

    <p, q>_X = sum_{b,n} mu[b,n] p[b,n] . q[b,n],

a discrete version of the expectation over trials and time of Hazelden et al. (arXiv:2507.06381). Parameters
and initial states live in plain Euclidean spaces. A space knows its shape and its weights; the adjoint of an
operator between two of them follows from these (`TensorOperator.star`).

**Two kinds of zero.** Where trials end early (`lengths`), the points after their end do not exist: tensors of the space
are zero there, and operators between spaces see to that, so that every number equals that of the shorter trial. A
weight that is zero at a point that exists only takes the point out of sums; the dynamics run on through it.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt

from kpref._frozen import Frozen
from kpref._validate import finite_array, instance, numeric_array, short
from kpref.lengths import check_lengths, points
from kpref.memory import require_memory

__all__ = ["EuclideanSpace", "TrajectorySpace", "require_space", "require_trajectories"]

Array = npt.NDArray[np.floating]

#: Entries that an inner product of vectors adds up in one go.
_ROW = 256


class EuclideanSpace(Frozen):
    """Tensors of one shape with the Euclidean inner product.

    Parameters
    ----------
    shape : tuple of int
        Shape of a tensor of the space; flattened in C order where a vector is asked for.
    lengths : array_like of int, shape (shape[0],), optional
        How many entries along axis 1 exist for each index of axis 0, at least 1; by default all.

    Attributes
    ----------
    lengths : ndarray of int, shape (shape[0],), or None
        None if all entries exist.

    Raises
    ------
    ValueError
        If an axis is not an integer, or negative, or the lengths do not fit.
    """

    #: Weight of each entry in the inner product, broadcastable to `shape` and constant along its last axis; None for
    #: all ones.
    weights: Array | None = None
    lengths: npt.NDArray[np.int64] | None = None
    #: Places of what does not exist, flat over axes 0 and 1.
    _absent: npt.NDArray[np.intp]

    def __init__(self, shape: Sequence[int], lengths: npt.ArrayLike | None = None) -> None:
        try:
            self.shape: tuple[int, ...] = tuple(operator.index(axis) for axis in shape)
        except TypeError:
            self.shape = (-1,)
        if any(axis < 0 for axis in self.shape):
            raise ValueError(
                f"a space needs a shape of axes of a whole number of entries, at least 0; got shape {short(shape)}"
            )
        if lengths is None:
            return
        if len(self.shape) < 2:
            raise ValueError(f"lengths count entries along the second axis; got shape {self.shape}")
        checked = check_lengths(lengths, *self.shape[:2])
        if (checked < self.shape[1]).any():
            exist = points(checked, self.shape[1])
            self.lengths, self._absent = checked, np.flatnonzero(~exist)
            self.weights = exist.astype(float).reshape(*exist.shape, *(1 for _ in self.shape[2:]))

    @property
    def size(self) -> int:
        """Number of entries of a tensor."""
        return math.prod(self.shape)

    @cached_property
    def uniform_weight(self) -> float | None:
        """The weight, if it is positive and the same for all entries that exist."""
        if self.weights is None:
            return 1.0
        first, last = float(self._known.min()), float(self._known.max())
        return first if first == last > 0 else None

    @property
    def restricted(self) -> bool:
        """Whether the weight of an entry that exists is zero."""
        return self.weights is not None and not self._known.all()

    @property
    def _known(self) -> Array:
        """The weights of what exists."""
        assert self.weights is not None
        return self.weights.reshape(-1) if self.lengths is None else np.delete(self.weights.reshape(-1), self._absent)

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

    def clear(self, batch: Array, overwrite: bool = False) -> Array:
        """A tensor, or a batch of them, with zeros where nothing exists; itself if it has them already.

        With `overwrite`, zeros are written into `batch`.
        """
        if self.lengths is None:
            return batch
        flat = batch.reshape(-1, self.shape[0] * self.shape[1], math.prod(self.shape[2:]))
        if not overwrite:
            if not flat[:, self._absent].any():
                return batch
            flat = flat.copy()
        flat[:, self._absent] = 0
        return flat.reshape(batch.shape)

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
        pairs = ((self.weights, other.weights), (self.lengths, other.lengths))
        return all(a is b or (a is not None and b is not None and np.array_equal(a, b)) for a, b in pairs)

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
    lengths : array_like of int, shape (B,), optional
        How many of the T points of each trial exist; at least 2 on a time grid. The weights of the others are zero,
        whatever the measure. Of ``"mean"`` those of the points that exist sum to one: all equal, or on a time grid the
        trapezoid rule over each trial's own times divided by the sum of all durations.

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
        lengths: npt.ArrayLike | None = None,
    ) -> None:
        super().__init__(shape, lengths)
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise ValueError(
                f"a trajectory space needs a shape (trials, time, units) without empty axes; got {short(shape)}"
            )
        require_memory(8.0 * self.shape[0] * self.shape[1], f"a measure for the shape {self.shape}")
        if times is not None and self.lengths is not None and self.lengths.min() < 2:
            raise ValueError(
                f"a trial in continuous time needs at least two times; got a length of 1 at trial "
                f"{int(np.argmin(self.lengths))}"
            )
        self.mu: Array = _weights(self.shape[:2], measure, times, self.lengths)
        self.mu.flags.writeable = False
        self.measure: str = measure if isinstance(measure, str) else "weights"
        self.weights = self.mu[:, :, None]

    @property
    def n_points(self) -> int:
        """Number of points, of trials and times, that exist."""
        return self.shape[0] * self.shape[1] if self.lengths is None else int(self.lengths.sum())

    def __repr__(self) -> str:
        return f"TrajectorySpace(shape={self.shape}, measure={self.measure!r})"


def require_space(name: str, space: object) -> EuclideanSpace:
    """A space as it is, or TypeError."""
    instance(name, space, EuclideanSpace, "an EuclideanSpace or a TrajectorySpace")
    assert isinstance(space, EuclideanSpace)
    return space


def require_trajectories(space: object, shape: tuple[int, int, int]) -> None:
    """Raise TypeError or ValueError unless this is the space of trajectories of a shape."""
    instance("space", space, TrajectorySpace, "a TrajectorySpace, such as flow.space")
    assert isinstance(space, TrajectorySpace)
    if space.shape != shape:
        raise ValueError(f"space must be of trajectories (trials, time, units) = {shape}; got {space}")


def _weights(
    shape: tuple[int, ...],
    measure: str | npt.ArrayLike,
    times: npt.ArrayLike | None,
    lengths: npt.NDArray[np.int64] | None,
) -> Array:
    trials, steps = shape
    exist = np.ones(shape) if lengths is None else points(lengths, steps).astype(float)
    if isinstance(measure, str):
        if measure == "sum":
            return exist
        if measure == "mean":
            return _mean_weights(exist, times)
        raise ValueError(f'measure must be "mean", "sum" or an array of weights; got {measure!r}')
    mu = finite_array("measure", measure)
    try:
        mu = np.broadcast_to(mu, shape) * exist
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


def _mean_weights(exist: Array, times: npt.ArrayLike | None) -> Array:
    """Weights (B, T) that sum to one over the points that exist: equal for a map, the trapezoid rule on a time grid.

    They are divided by the mean over trials and then by their number, so that trials that all end early have the
    weights of shorter arrays to the last bit.
    """
    trials, steps = exist.shape
    if times is None:
        shares, sizes = exist, exist.sum(axis=1)
    else:
        grid = finite_array("times", times, shape=(steps,))
        gaps = np.diff(grid)
        if steps < 2 or (gaps <= 0).any():
            raise ValueError("times must be at least two increasing numbers")
        both = exist[:, 1:] * gaps  # intervals, both ends of which exist
        ends = grid[exist.sum(axis=1).astype(int) - 1]
        shares, sizes = np.pad(both, [(0, 0), (0, 1)]) + np.pad(both, [(0, 0), (1, 0)]), 2.0 * (ends - grid[0])
    mean = sizes[0] if (sizes == sizes[0]).all() else sizes.mean()
    return np.asarray(shares / mean / trials)
