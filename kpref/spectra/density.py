r"""The whole spectrum of a self-adjoint operator: how many eigenvalues lie above x, in a band that holds for every x.

Stochastic Lanczos quadrature (Golub and Meurant, *Matrices, Moments and Quadrature*; Lin, Saad and Yang, SIAM Review
58, 2016) takes p normal vectors, and m products for each. Three things are known of the counting function

    N(x) = number of eigenvalues > x,

each for every x at once:

* *quadrature*: the share of the weight of the vectors above x lies between two numbers that follow from their Lanczos
  matrices (`kpref.spectra.moment_bounds`), with certainty;
* *chance*: the share of the k largest eigenvalues in all weight stays between two numbers for every k, with the
  probability of the band (`kpref.spectra.counting_band`), whatever the spectrum;
* *interlacing*: Ritz values in the span of all bases lie below as many eigenvalues, with certainty (Cauchy).

A count k is left at x if its shares of the second kind meet those of the first kind, and it is no less than the number
of Ritz values above x. Moments that are known in full narrow that down: with eigenvalues above zero,

    tr A = int_0^oo N(x) dx,      |A|_F^2 = int_0^oo 2 x N(x) dx,

of functions that fall: N(x) = k adds to the lower curve all that is below k on [0, x], and takes from the upper one all
that is above k on [x, oo); where that does not leave the moment between the two integrals, it is not k.

**Leading pairs that are known** (the `modes` of `kpref.spectra.eigh`) are counted one by one, and the rest, with Q the
modes, is the spectrum of ``(1 - Q Q^T) A (1 - Q Q^T)``. Modes with residuals of the norm rho are off by little: an
eigenvalue below the last of them by eta is that of the rest to ``2 rho^2 / (eta + (eta^2 + 4 rho^2)^(1/2))`` (Li and
Li, Linear Algebra Appl. 401, 2005), and rounding moves it by some units. The band is widened by both along x.

Of an operator ``A = F F*`` the eigenvalues are those of ``F* F`` and zeros; the smaller of the two is used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from kpref._reprs import short_repr
from kpref._types import Array
from kpref._validate import finite_array, instance, integer, real_number
from kpref.memory import require_memory
from kpref.operators import TensorOperator
from kpref.spectra.bases import append_orthonormal, noise
from kpref.spectra.counting_band import counting_band
from kpref.spectra.eigen import Eigen, check_search
from kpref.spectra.lanczos_runs import LanczosRun, joint_ritz, lanczos_runs
from kpref.spectra.moment_bounds import tail_bounds
from kpref.spectra.symmetric import RectangularForm, SymmetricForm, require_operator, require_self_adjoint
from kpref.threads import serial_blas

__all__ = ["SpectralDensity", "spectral_density"]

Map = Callable[[Array], Array]

#: Points of the band between two neighbouring Ritz values, and below the smallest one.
_BETWEEN = 6
_BELOW = 32
#: Weight, over all of it, that rounding may misplace.
_SLACK = 1e-12
#: Relative error that moments which are known may have, and halvings of an interval of counts.
_KNOWN, _HALVINGS = 1e-9, 50


@dataclass(frozen=True, eq=False)
class SpectralDensity:
    """A counting function, and the band that it lies in.

    Attributes
    ----------
    points : ndarray, shape (g,)
        In ascending order.
    counts : ndarray, shape (g,)
        Estimates of the number of eigenvalues above each point.
    least, most : ndarray of int, shape (g,)
        The band: with probability `level` over the random vectors, no count at any x, between the points too, is
        outside of it.
    level : float
    size : int
        Number of all eigenvalues, zeros among them.
    n_products : int
        Products with the operator that were needed; with a factor F of the operator, products with F.
    n_vectors : int
        Random vectors that they were made with.
    """

    points: Array
    counts: Array
    least: npt.NDArray[np.int64]
    most: npt.NDArray[np.int64]
    level: float
    size: int
    n_products: int
    n_vectors: int

    __repr__ = short_repr

    def above(self, x: npt.ArrayLike) -> Array:
        """Estimated numbers of eigenvalues above x.

        Parameters
        ----------
        x : array_like

        Returns
        -------
        ndarray, of the shape of x
        """
        array = finite_array("x", x)
        place = np.searchsorted(self.points, array, side="right")
        return np.asarray(np.concatenate([[float(self.size)], self.counts])[place])

    def band(self, x: npt.ArrayLike) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The least and the most eigenvalues that there may be above x: true for all x at once, at the level.

        Parameters
        ----------
        x : array_like

        Returns
        -------
        least, most : ndarray of int, of the shape of x
        """
        array = finite_array("x", x)
        # Counts fall: above x there are no more than above the point before it, and no fewer than above the next one.
        most = np.concatenate([[self.size], self.most])[np.searchsorted(self.points, array, side="right")]
        least = np.concatenate([self.least, [0]])[np.searchsorted(self.points, array, side="left")]
        return np.asarray(least), np.asarray(most)


@serial_blas
def spectral_density(
    op: TensorOperator,
    products: int = 64,
    vectors: int = 1,
    modes: Eigen | None = None,
    trace: float | None = None,
    frobenius_squared: float | None = None,
    level: float = 0.95,
    seed: int = 0,
    progress: Callable[[int], object] | None = None,
) -> SpectralDensity:
    """Number of eigenvalues above x of a self-adjoint operator, for all x at once.

    Parameters
    ----------
    op : TensorOperator
        Self-adjoint in the inner product of its space: K, NTK, ``P.gram()``, ...
    products : int
        At most so many with the operator, those for the modes not counted.
    vectors : int
        Random vectors that share them: more say more of counts that are small, fewer resolve more along x.
    modes : Eigen, optional
        Leading eigenpairs that are known, from `eigh`, none missed in between. They take up to three products each.
    trace, frobenius_squared : float, optional
        Exact sums of all eigenvalues and of their squares, in the inner product of the space, where they are known;
        for operators without negative eigenvalues.
    level : float
        Probability of the band, below 1.
    seed : int
        Of the random vectors.
    progress : callable, optional
        Called with the number of products after each call of the operator.

    Returns
    -------
    SpectralDensity

    Raises
    ------
    ValueError
        If the operator is not self-adjoint or maps to what is not finite, modes are those of another operator, moments
        are given of one that may have negative eigenvalues, or contradict what the vectors say, or a number is out of
        range.
    MemoryError
        Before anything is allocated, if the bases would not fit.
    """
    op = require_operator(op)
    require_self_adjoint(op, seed)
    check_search(0.0, seed, progress)
    count = integer("vectors", vectors, 1)
    steps = integer("products", products, 2 * count) // count
    level = real_number("level", level, above=0, below=1)
    form, half = SymmetricForm(op, progress), None
    positive = op.structure.positive or op.factor is not None
    moments = _moments(op, positive, trace, frobenius_squared)
    if op.factor is not None:
        half = RectangularForm(op.factor, progress)
        half = half if half.domain.size < form.size else None
    apply: Map = form if half is None else half.gram
    size = form.size if half is None else half.domain.size
    require_memory(16.0 * size * count * (steps + 3), f"the Lanczos bases of {op.name}")
    known = _known(op, form, half, modes, size)
    rest, rounding = size - len(known.values), noise(op.dtype)
    if not rest:
        raise ValueError(f"modes are all {size} eigenpairs of {op.name}: there is nothing left to estimate")
    runs = lanczos_runs(apply, size, known.basis, count, steps, op.dtype, seed)
    used = form.n_products if half is None else half.n_products
    ritz = [(np.linalg.eigvalsh(run.matrix), 0.0) for run in runs] + [joint_ritz(runs)]
    nodes = np.unique(np.concatenate([known.values, *(values for values, _ in ritz)]))
    points = _grid(nodes, _shift(nodes, known, rounding), positive)
    shift = _shift(points, known, rounding)
    band = counting_band(rest, count, level)
    low, _ = _shares(runs, points + shift, positive)
    _, high = _shares(runs, points - shift, positive)
    certain = np.max([_above(values, points + shift + error) for values, error in ritz], axis=0)
    least = np.maximum(band.least(low), certain) + _above(known.values, points + shift)
    most = np.maximum(band.most(high) + _above(known.values, points - shift), least)
    least, most = _falling(least, most)
    for moment, power in 2 * moments:
        least, most = _falling(*_narrowed(points, least, most, size, moment, power, op.name))
    middle = rest * (low + high) / 2 + _above(known.values, points)
    counts = np.minimum.accumulate(np.clip(middle, least, most))
    return SpectralDensity(points, counts, least, most, level, form.size, used, count)


def _moments(op: TensorOperator, positive: bool, trace: float | None, square: float | None) -> list[tuple[float, int]]:
    """Known sums of powers of the eigenvalues, and the powers."""
    given = [("trace", trace, 1), ("frobenius_squared", square, 2)]
    found = [(real_number(name, value, least=0), power) for name, value, power in given if value is not None]
    if found and not positive:
        raise ValueError(
            f"moments narrow the spectrum of an operator without negative eigenvalues; {op.name} is not known to have "
            "none: say so in its Structure, or leave them out"
        )
    return found


class _Known(NamedTuple):
    """Eigenpairs that are counted one by one."""

    values: Array  # (k,)
    basis: Array  # (k, n)
    error: float  # norm of A Q - Q diag(values)


def _known(
    op: TensorOperator, form: SymmetricForm, half: RectangularForm | None, modes: Eigen | None, size: int
) -> _Known:
    if modes is None:
        return _Known(np.empty(0), np.empty((0, size)), 0.0)
    instance("modes", modes, Eigen, "eigenpairs from kpref.eigh")
    tensors = finite_array("the vectors of modes", modes.vectors, shape=("k", *op.shape_in))
    rows = form.coordinates.to_vectors(tensors.astype(np.float64))
    rows = rows if half is None else half.transpose(rows[modes.values > 0])
    basis, generator = np.empty((len(rows), size)), np.random.default_rng(0)
    for index, row in enumerate(rows):
        append_orthonormal(basis, index, row, generator)
    images = np.asarray(form(basis) if half is None else half.gram(basis), np.float64)
    values, turn = np.linalg.eigh(basis @ images.T)
    basis, images = turn.T @ basis, turn.T @ images
    error = float(np.linalg.norm(images - values[:, None] * basis))
    return _Known(values, basis, error)


def _grid(nodes: Array, shifts: Array, positive: bool) -> Array:
    """Points between Ritz values, right beside them, and beyond them; of positive ones above what rounding leaves."""
    largest = float(np.abs(nodes).max()) or 1.0
    if positive:
        there = nodes > 8 * shifts
        nodes, shifts = nodes[there], shifts[there]
        if not len(nodes):
            return np.array([largest])
    beside = np.concatenate([nodes - 3 * shifts, nodes + 3 * shifts])
    if positive:
        between = [np.geomspace(a, b, _BETWEEN, endpoint=False)[1:] for a, b in zip(nodes, nodes[1:], strict=False)]
        ends = [
            np.geomspace(4 * shifts[0], nodes[0], _BELOW, endpoint=False),
            nodes[-1] * np.geomspace(1, 2, _BELOW)[1:],
        ]
    else:
        between = [np.linspace(a, b, _BETWEEN, endpoint=False)[1:] for a, b in zip(nodes, nodes[1:], strict=False)]
        margin = np.linspace(0, largest / 5, _BELOW)[1:]
        ends = [nodes[0] - margin, nodes[-1] + margin]
    return np.unique(np.concatenate([beside, *between, *ends]))


def _shift(points: Array, known: _Known, rounding: float) -> Array:
    """How far eigenvalues near some points may lie from those of the rest."""
    largest = float(np.abs(np.concatenate([points, known.values])).max())
    if not len(known.values):
        return np.full(len(points), rounding * largest)
    gaps = np.maximum(known.values[0] - points, 0.0)
    squared = known.error**2
    with np.errstate(invalid="ignore"):
        coupling = np.nan_to_num(2 * squared / (gaps + np.sqrt(gaps**2 + 4 * squared)))
    return coupling + rounding * largest


def _above(values: Array, points: Array) -> npt.NDArray[np.int64]:
    """How many of some values lie above each of some points."""
    return np.asarray(len(values) - np.searchsorted(np.sort(values), points, side="right"))


def _shares(runs: list[LanczosRun], points: Array, positive: bool) -> tuple[Array, Array]:
    """The least and the most share of the weight of all vectors above some points."""
    bounds = [tail_bounds(run.alphas, run.betas, points, positive) for run in runs]
    low, high = np.average(bounds, axis=0, weights=[run.weight for run in runs])
    return np.where(low <= _SLACK, 0.0, low - _SLACK), np.where(high <= _SLACK, 0.0, np.minimum(high + _SLACK, 1.0))


def _falling(
    least: npt.NDArray[np.int64], most: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The band of a function that falls."""
    return np.maximum.accumulate(least[::-1])[::-1], np.minimum.accumulate(most)


def _narrowed(
    points: Array, least: Array, most: Array, size: int, moment: float, power: int, name: str
) -> tuple[Array, Array]:
    """The band of functions whose integral over ``power x^(power - 1)`` is known: see the module's head.

    The band is wide where the integrals of its ends leave room for it: at least ``least[g]`` and at most
    ``most[g - 1]`` on the interval g, from one point to the next. `size`: what is never exceeded.
    """
    ends = np.concatenate([[0.0], points**power])
    upper, widths = np.concatenate([[size], most[:-1]]).astype(float), np.diff(ends)
    lower = least.astype(float)
    below, above = (np.concatenate([[0.0], np.cumsum(each * widths)]) for each in (lower, upper))
    place = np.arange(1, len(points) + 1)

    def at_least(counts: Array) -> Array:
        """The least moment of a function with these counts at the points."""
        inside = np.minimum(len(lower) - np.searchsorted(lower[::-1], counts, side="left"), place)
        return below[inside] + counts * (ends[place] - ends[inside]) + below[-1] - below[place]

    def at_most(counts: Array) -> Array:
        """The most."""
        inside = np.maximum(len(upper) - np.searchsorted(upper[::-1], counts, side="right"), place)
        return above[place] + counts * (ends[inside] - ends[place]) + above[-1] - above[inside]

    known, bounded = (moment * (1 - _KNOWN), moment * (1 + _KNOWN)), most[-1] == 0
    if below[-1] > known[1] or (bounded and above[-1] < known[0]):
        raise ValueError(
            f"{'trace' if power == 1 else 'frobenius_squared'} = {moment:g} is not that of {name}: no spectrum in the "
            "band has it; leave it out, or compute it in the inner product of the operator's space"
        )
    narrow_most = np.floor(_largest(lambda counts: at_least(counts) <= known[1], lower, most.astype(float)))
    narrow_least = least.astype(float)
    if bounded:  # otherwise what lies beyond the last point may be as large as it likes
        narrow_least = np.ceil(-_largest(lambda counts: at_most(-counts) >= known[0], -most.astype(float), -lower))
    return narrow_least.astype(np.int64), narrow_most.astype(np.int64)


def _largest(holds: Callable[[Array], Array], low: Array, high: Array) -> Array:
    """The largest numbers between two for which something holds, if it holds at the lower one and up to them."""
    everywhere = holds(high)
    low, top = low.copy(), high.copy()
    for _ in range(_HALVINGS):
        middle = (low + top) / 2
        kept = holds(middle)
        low, top = np.where(kept, middle, low), np.where(kept, top, middle)
    return np.where(everywhere, high, top)
