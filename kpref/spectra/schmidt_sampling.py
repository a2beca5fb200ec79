"""Schmidt values and their effective rank for any operator on tensors (..., units), sampled.

R is the realigned operator of `kpref.spectra.schmidt`, which also says in which form it is taken. For vectors g, g'
over a = (trial, time) with ``E g g^T = E g' g'^T = I``, independent,

    Y = sum_{a,a'} g_a g'_a' A[(a, .), (a', .)] = R^T (g (x) g'),    E vec(Y) vec(Y)^T = R^T R.

From independent probes j, each with S_j such that ``E S_j = R^T R``,

    (sum s^2)^2 = E tr(S_j) tr(S_l),    sum s^4 = E <S_j, S_l>_F,    j != l,

are averaged over all pairs: both are unbiased (U-statistics).

**Control.** Most of the noise comes from the leading modes of A, and is the same for ``A_1 = A Q^T Q``, Q (k, B T H)
orthonormal rows of a Krylov space of ``A* A``. With W = A Q^T as tensors, so that ``R_1 = sum_i W_i (x) Q_i``,

    sum s_1^2 = |W|_F^2,    sum s_1^4 = sum_{ijkl} <W_i^T W_j, W_k^T W_l>_F <Q_i^T Q_j, Q_k^T Q_l>_F

exactly, W_i and Q_i being B T x H matrices; and the same probes see Y_1 without any product,
``Y_1 = sum_i (W_i^T g) (Q_i^T g')^T``. The exact sums plus the differences of the estimates for A and A_1 are unbiased,
with the noise of what A_1 leaves out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import eigvalsh, svdvals

from kpref._reprs import short_repr
from kpref._types import Array
from kpref._validate import integer, within_floats
from kpref.memory import require_memory
from kpref.operators import TensorOperator
from kpref.spectra.bases import append_orthonormal
from kpref.spectra.estimate import Estimate
from kpref.spectra.paired_probes import (
    estimate_of,
    exponential,
    jackknife,
    pair_residuals,
    require_settled,
    rounding,
    second_order,
    without_excess,
)
from kpref.spectra.quadratic_forms import Mean
from kpref.spectra.symmetric import RectangularForm, require_operator
from kpref.threads import run_blocks, serial_blas

__all__ = ["DENSE_SIZE", "SchmidtSketch", "effective_schmidt_rank", "schmidt_sketch"]

#: Operators up to this size are realigned as they are.
DENSE_SIZE = 600
#: Most vectors over (trials, time) that each probe is contracted with; they cost no products.
_ROWS_PER_PROBE = 32
#: Dimension of the range in which the operator serves as its own control.
_CONTROL = 32
#: Terms are of the second order in the squares of the control's rest, which a few modes carry: sum s^4, in the
#: denominator, is skewed like a chi-square with four degrees, and its scatter tells a third less of its variance.
_TAIL_SKEWNESS, _TAIL_DEGREES = -(2**0.5), 2 / 3
#: Entries of the batch of tensors that a probe sends through the operator at once.
_BATCH_ENTRIES = 1 << 21


@dataclass(frozen=True, eq=False)
class SchmidtSketch:
    """Leading Schmidt values of an operator, estimated.

    Attributes
    ----------
    values, standard_errors : ndarray, shape (k,)
        Descending; the errors are zero where the values are exact. Elsewhere they are the jackknife's, and say how far
        the values scatter, not where the Schmidt values lie with a given probability: values close to each other push
        each other apart by more than that.
    n_products : int
        Products with the operator.
    """

    values: Array
    standard_errors: Array
    n_products: int

    __repr__ = short_repr


@serial_blas
def effective_schmidt_rank(op: TensorOperator, probes: int = 16, seed: int = 0) -> Estimate:
    """Effective Schmidt rank of any operator on tensors (..., units): P, K, NTK, ``P.gram()``, ...

    Sampled as in the module's docstring. The jackknife over the probes removes the bias of first order of the
    logarithm of the ratio, and gives its standard error, less what it counts twice of pairs. A rank is at least one,
    and so are the estimate and its interval.

    Parameters
    ----------
    op : TensorOperator
        On one space whose last axis is that of units. It need not be self-adjoint.
    probes : int
        At least 4.
    seed : int

    Returns
    -------
    Estimate
        Exact up to 600 states.

    Raises
    ------
    TypeError
        If `op` is no TensorOperator, or `probes` no integer.
    ValueError
        If the operator maps between two spaces, the space has fewer than two axes, or for fewer than 4 probes.
    RuntimeError
        If so many probes do not tell the rank to a factor of e.

    Notes
    -----
    H products with the operator a probe, and 64 for the control. Memory: 32 H^2 numbers a probe, and a few batches of
    16 MiB or of one tensor.
    """
    probes, seed = _check(op, probes), integer("seed", seed, 0)
    if op.space_in.size <= DENSE_SIZE:
        values = svdvals(within_floats(op.name, _realigned(op)))
        total, square = np.square(values).sum(), (values**4).sum()
        return Estimate(float(total**2 / square) if square else 0.0, 0.0, op.space_in.size, "exact")
    control = _control(op, seed)
    samples, shadows = _samples(op, probes, seed, control)
    products = probes * op.shape_in[-1] + 2 * len(control.basis)
    method = "random vectors, the leading modes for control"
    if not samples.any():
        return Estimate(0.0, 0.0, products, method)
    lengths = np.square(samples).sum(axis=(1, 2)) - np.square(shadows).sum(axis=(1, 2)) + control.squares
    totals = np.outer(lengths, lengths)
    fourths = _pair_overlaps(samples) - _pair_overlaps(shadows) + control.fourths
    for matrix in (totals, fourths):
        np.fill_diagonal(matrix, 0.0)  # of one probe with itself: not independent

    def logarithm(without: float) -> Array:
        sums = [np.asarray(matrix.sum() - without * 2 * matrix.sum(axis=0)) for matrix in (totals, fourths)]
        if min(each.min() for each in sums) <= 0:
            raise RuntimeError(
                f"{probes} probes are too few to tell the effective Schmidt rank of {op.name}: noise is larger than "
                f"what is sought; take {4 * probes} (probes=...) or more"
            )
        return np.log(sums[0]) - np.log(sums[1])

    logs, error = jackknife(float(logarithm(0.0)[0]), logarithm(1.0))
    pairs = probes * (probes - 1) * (totals / totals.sum() - fourths / fourths.sum())
    residuals = pair_residuals(pairs)
    error = without_excess(error, residuals)
    spread = Mean(0.0, error, _degrees(error**2, second_order(residuals), probes), _TAIL_SKEWNESS / probes**0.5)
    found, floor = exponential(logs, spread), rounding(op.dtype, op.space_in.size)
    return require_settled(
        estimate_of(found, floor * found.value, products, method, least=1.0), f"the effective Schmidt rank of {op.name}"
    )


@serial_blas
def schmidt_sketch(op: TensorOperator, k: int, probes: int = 16, seed: int = 0) -> SchmidtSketch:
    """The k leading Schmidt values of any operator on tensors (..., units).

    They are the singular values of ``Omega^T R``, Omega of random Kronecker products g (x) g': a subspace embedding
    (Woodruff, *Sketching as a tool for numerical linear algebra*, 2014). These have a bias of relative order (effective
    rank) / probes, which lifts the leading ones and which the jackknife over probes removes to first order. Among
    values closer to each other than their errors some of it stays: take more probes until the values stay.

    Parameters
    ----------
    op : TensorOperator
        On one space whose last axis is that of units.
    k : int
        From 1 to min(H^2, probes).
    probes : int
        At least 3.
    seed : int

    Returns
    -------
    SchmidtSketch
        Exact up to 600 states.

    Raises
    ------
    TypeError
        If `op` is no TensorOperator, or k or `probes` no integer.
    ValueError
        If the operator maps between two spaces, the space has fewer than two axes, or k or `probes` is out of range.

    Notes
    -----
    H products with the operator a probe, and singular values of ``probes`` matrices (32 probes) x H^2.
    """
    probes, seed = _check(op, probes), integer("seed", seed, 0)
    k = integer("k", k, 1, min(op.shape_in[-1] ** 2, probes))
    if op.space_in.size <= DENSE_SIZE:
        exact = svdvals(within_floats(op.name, _realigned(op)))[:k]
        return SchmidtSketch(np.pad(exact, (0, k - len(exact))), np.zeros(k), op.space_in.size)
    samples, _ = _samples(op, probes, seed)
    flat = samples.reshape(-1, samples.shape[2])
    gram = flat @ flat.T if len(flat) < flat.shape[1] else None

    def leading(kept: Array) -> Array:
        """Values from the rows of some probes, by whichever Gram matrix is smaller."""
        small = flat[kept].T @ flat[kept] if gram is None else gram[np.ix_(kept, kept)]
        size = len(small)
        squares = eigvalsh(small, subset_by_index=(max(0, size - k), size - 1))[::-1]
        values = np.zeros(k)
        values[: len(squares)] = np.sqrt(np.maximum(squares, 0.0) * samples.shape[1] / kept.sum())
        return values

    owner = np.repeat(np.arange(probes), samples.shape[1])
    found = np.empty((probes + 1, k))

    def task(probe: int) -> None:
        found[probe] = leading(owner != probe)  # the last one leaves nobody out

    run_blocks(task, probes + 1)
    values, errors = jackknife(found[-1], found[:-1])
    values = np.maximum(values, 0.0)
    order = np.argsort(-values, kind="stable")
    return SchmidtSketch(values[order], errors[order], probes * op.shape_in[-1])


def _degrees(variance: float, second: float, probes: int) -> float:
    """Of the sum of a part of first order and of one of second, which more pairs tell (Satterthwaite)."""
    if not variance:
        return float(probes - 1)
    first, share = 1 - second / variance, second / variance
    return 1 / (first**2 / (_TAIL_DEGREES * (probes - 1)) + 2 * share**2 / (probes * (probes - 3)))


def _check(op: TensorOperator, probes: int) -> int:
    require_operator(op)
    if op.space_in != op.space_out or len(op.shape_in) < 2:
        raise ValueError(
            f"{op.name} maps {op.space_in} to {op.space_out}; a Schmidt spectrum needs an operator on one space of "
            "tensors (..., units)"
        )
    return integer("probes", probes, 4)


@dataclass(frozen=True, eq=False)
class _Control:
    """``A_1 = A Q^T Q``: basis Q and images A Q^T, (k, points, units), and its ``sum s^2`` and ``sum s^4``."""

    basis: Array
    images: Array
    squares: float
    fourths: float


def _control(op: TensorOperator, seed: int) -> _Control:
    """From a Krylov space of ``A* A``."""
    form, units = RectangularForm(op), op.shape_in[-1]
    size, generator = form.domain.size, np.random.default_rng([seed, 1])
    count = min(_CONTROL, size)
    basis, images = np.empty((2, count, size), op.dtype)
    vector = generator.standard_normal(size).astype(op.dtype)
    for index in range(count):
        append_orthonormal(basis, index, vector, generator)
        images[index] = form(basis[index : index + 1])[0]
        vector = form.transpose(images[index : index + 1])[0]
    rows, values = (
        coordinates.embed(vectors).reshape(count, -1, units)
        for coordinates, vectors in ((form.domain, basis), (form.codomain, images))
    )
    # Sums in the precision of the operator: they round no more than its products do.
    fourths = sum(float(np.vdot(*both)) for both in zip(*map(_pair_grams, (rows, values)), strict=True))
    rows, values = rows.astype(np.float64), values.astype(np.float64)
    return _Control(rows, values, float(np.vdot(values, values)), fourths)


def _pair_grams(matrices: Array) -> tuple[Array, Array]:
    """Gram matrix of all ``X_ij = W_i^T W_j``, (k, points, units) being W, as its two blocks in another basis of pairs.

    As ``X_ji = X_ij^T``, these are ``(X_ij + X_ji) / 2^(1/2)`` and ``(X_ij - X_ji) / 2^(1/2)`` for i < j, with X_ii
    among the first: symmetric matrices, which are orthogonal to the others, and half of their entries tell all. As
    <W_i^T W_j, W_k^T W_l> = <W_i W_k^T, W_j W_l^T>, whichever of the two matrices are smaller may stand for X.
    """
    each = matrices if matrices.shape[2] <= matrices.shape[1] else matrices.swapaxes(1, 2)
    count, _, units = each.shape
    row, column = np.triu_indices(units)
    above, below = row * units + column, column * units + row
    pairs = (count * (count + 1) // 2, count * (count - 1) // 2)
    even, odd = (np.empty((number, len(row)), each.dtype) for number in pairs)
    half = each.dtype.type(0.5**0.5)
    weights = np.where(row == column, half, each.dtype.type(1))

    def task(index: int) -> None:
        """X_ij for one i and j >= i."""
        products = (each[index].T @ each[index:]).reshape(count - index, -1)
        upper, lower = products.take(above, axis=1), products.take(below, axis=1)
        first = index * count - index * (index - 1) // 2
        own = even[first : first + count - index]
        np.add(upper, lower, out=own)
        own *= weights
        own[0] *= half
        np.subtract(upper[1:], lower[1:], out=odd[first - index : first - index + count - index - 1])

    run_blocks(task, count)
    return (even @ even.T).astype(np.float64), (odd @ odd.T).astype(np.float64)


def _pair_overlaps(samples: Array) -> Array:
    """``<S_j, S_l>_F`` for ``S_j = Y_j^T Y_j``, (probes, probes)."""
    overlaps = np.empty((len(samples), len(samples)))

    def row(probe: int) -> None:
        for other in range(probe, len(samples)):
            overlaps[probe, other] = overlaps[other, probe] = np.square(samples[probe] @ samples[other].T).sum()

    run_blocks(row, len(samples))
    return overlaps


def _symmetrised(op: TensorOperator, batch: Array) -> Array:
    """``Mu^(1/2) A Mu^(-1/2)`` on a batch."""
    space = op.space_in
    return np.asarray(space.scale(op.apply(space.scale(batch, -0.5)), 0.5))


def _realigned(op: TensorOperator) -> Array:
    """R, for an operator that is small enough to be a matrix."""
    units = op.shape_in[-1]
    size = op.space_in.size
    basis = np.eye(size, dtype=op.dtype).reshape(size, *op.shape_in)
    matrix = _symmetrised(op, basis).reshape(size, size).T.astype(np.float64)
    return matrix.reshape(size // units, units, -1, units).transpose(0, 2, 1, 3).reshape(-1, units**2)


def _samples(op: TensorOperator, probes: int, seed: int, control: _Control | None = None) -> tuple[Array, Array]:
    """Rows Y and Y_1 for each probe, (probes, q, H^2), scaled so that ``E sum_i Y_i Y_i^T = R^T R`` for each probe.

    A probe is one vector of signs g' and q orthogonal vectors g of length sqrt(B T), a random frame.
    """
    units = op.shape_in[-1]
    points = op.space_in.size // units
    rows = min(points, _ROWS_PER_PROBE)
    width = max(1, min(units, _BATCH_ENTRIES // op.space_in.size))
    require_memory(
        8.0 * (2 * probes * rows * units**2 + 4 * width * op.space_in.size), f"a Schmidt sketch of {op.name}"
    )
    generator = np.random.default_rng(seed)
    samples = np.empty((probes, rows, units, units))  # (probe, i, h', h)
    shadows = np.zeros_like(samples[: probes if control is not None else 0])
    frame = np.empty((rows, points))

    def draw(_: int) -> None:
        frame[...] = np.linalg.qr(generator.standard_normal((points, rows)))[0].T * (points / rows) ** 0.5

    for probe in range(probes):
        signs = generator.choice([-1.0, 1.0], size=points)
        run_blocks(draw, 1)  # BLAS on one thread, here and below: several would wait for each other
        for start in range(0, units, width):
            columns = np.arange(start, min(start + width, units))
            batch = np.zeros((len(columns), points, units), op.dtype)
            batch[np.arange(len(columns)), :, columns] = signs
            image = _symmetrised(op, batch.reshape(-1, *op.shape_in)).reshape(len(columns), points, units)
            _contract(frame, image, samples[probe, :, start : start + width])
        if control is not None:
            shadows[probe] = np.einsum("ik,irh->rkh", signs @ control.basis, frame @ control.images, optimize=True)
    return samples.reshape(probes, rows, units**2), shadows.reshape(len(shadows), rows, units**2)


def _contract(frame: Array, image: Array, out: Array) -> None:
    """``frame @ image[k]`` into out[:, k]."""

    def task(column: int) -> None:
        out[:, column] = frame @ image[column]

    run_blocks(task, len(image))
