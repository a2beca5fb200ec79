"""Schmidt values and their effective rank for any operator on tensors (..., units), sampled.

R is the realigned operator of `kpref.spectra.schmidt`, which also says in which form it is taken. For vectors g, g'
over a = (trial, time) with ``E g g^T = E g' g'^T = I``, independent,

    Y = sum_{a,a'} g_a g'_a' A[(a, .), (a', .)] = R^T (g (x) g'),    E vec(Y) vec(Y)^T = R^T R.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import eigvalsh, svdvals

from kpref.memory import require_memory
from kpref.operators import TensorOperator
from kpref.spectra.estimate import Estimate
from kpref.threads import run_blocks, serial_blas

__all__ = ["SchmidtSketch", "effective_schmidt_rank", "schmidt_sketch"]

Array = npt.NDArray[Any]

#: Operators up to this size are realigned as they are.
_DENSE_SIZE = 600
#: Most vectors over (trials, time) that each probe is contracted with; they cost no products.
_ROWS_PER_PROBE = 32
#: Entries of the batch of tensors that a probe sends through the operator at once.
_BATCH_ENTRIES = 1 << 21


@dataclass(frozen=True, eq=False)
class SchmidtSketch:
    """Leading Schmidt values of an operator, estimated.

    Attributes
    ----------
    values, standard_errors : ndarray, shape (k,)
        Descending; the errors are zero where the values are exact.
    n_products : int
        Products with the operator.
    """

    values: Array
    standard_errors: Array
    n_products: int


@serial_blas
def effective_schmidt_rank(op: TensorOperator, probes: int = 16, seed: int = 0) -> Estimate:
    """Effective Schmidt rank of any operator on tensors (..., units): P, K, NTK, ``P.gram()``, ...

    Sampled as in the module's docstring. From independent probes j, each with S_j such that ``E S_j = R^T R``,

        (sum s^2)^2 = E tr(S_j) tr(S_l),    sum s^4 = E <S_j, S_l>_F,    j != l,

    are averaged over all pairs: both are unbiased (U-statistics), and their ratio is so up to O(1 / probes). The
    standard error is the jackknife's, over probes.

    Parameters
    ----------
    op : TensorOperator
        On one space whose last axis is that of units. It need not be self-adjoint.
    probes : int
        At least 3.
    seed : int

    Returns
    -------
    Estimate
        Exact up to 600 states.

    Raises
    ------
    ValueError
        If the operator maps between two spaces, the space has fewer than two axes, or for fewer than 3 probes.

    Notes
    -----
    H products with the operator a probe. Memory: 32 H^2 numbers a probe, and a few batches of 16 MiB or of one tensor.
    """
    _check(op, probes)
    if op.space_in.size <= _DENSE_SIZE:
        values = svdvals(_realigned(op))
        total, square = np.square(values).sum(), (values**4).sum()
        return Estimate(float(total**2 / square) if square else 0.0, 0.0, op.space_in.size, "exact")
    samples = _samples(op, probes, seed)
    trace = np.square(samples).sum(axis=(1, 2))
    overlap = np.empty((len(samples), len(samples)))

    def row(probe: int) -> None:
        overlap[probe] = [np.square(samples[probe] @ other.T).sum() for other in samples]

    run_blocks(row, len(samples))
    products = np.outer(trace, trace)
    for matrix in (products, overlap):
        np.fill_diagonal(matrix, 0.0)  # of one probe with itself: not independent

    def ratio(without: Array | float) -> Any:
        return (products.sum() - without * 2 * products.sum(axis=0)) / (
            overlap.sum() - without * 2 * overlap.sum(axis=0)
        )

    if not trace.any():
        return Estimate(0.0, 0.0, probes * op.shape_in[-1], "sampled, jackknife")
    value = float(ratio(0.0)[0])
    return Estimate(value, float(_jackknife(ratio(1.0))), probes * op.shape_in[-1], "sampled, jackknife")


@serial_blas
def schmidt_sketch(op: TensorOperator, k: int, probes: int = 16, seed: int = 0) -> SchmidtSketch:
    """The k leading Schmidt values of any operator on tensors (..., units).

    They are the singular values of ``Omega^T R``, Omega of random Kronecker products g (x) g': a subspace embedding
    (Woodruff, *Sketching as a tool for numerical linear algebra*, 2014). Their standard error is the jackknife's, over
    probes, and they have a bias of relative order (effective rank) / probes, which lifts the leading ones: take more
    probes until the values stay.

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
    ValueError
        If the operator maps between two spaces, the space has fewer than two axes, or k or `probes` is out of range.

    Notes
    -----
    H products with the operator a probe, and singular values of ``probes`` matrices (32 probes) x H^2.
    """
    _check(op, probes)
    largest = min(op.shape_in[-1] ** 2, probes)
    if isinstance(k, bool) or int(k) != k or not 1 <= k <= largest:
        raise ValueError(f"k must be an integer from 1 to {largest}, min(units squared, probes); got {k!r}")
    if op.space_in.size <= _DENSE_SIZE:
        exact = svdvals(_realigned(op))[:k]
        return SchmidtSketch(np.pad(exact, (0, k - len(exact))), np.zeros(k), op.space_in.size)
    samples = _samples(op, probes, seed)
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
    return SchmidtSketch(found[-1], _jackknife(found[:-1]), probes * op.shape_in[-1])


# K, exactly


def _check(op: TensorOperator, probes: int) -> None:
    if op.space_in != op.space_out or len(op.shape_in) < 2:
        raise ValueError(
            f"{op.name} maps {op.space_in} to {op.space_out}; a Schmidt spectrum needs an operator on one space of "
            "tensors (..., units)"
        )
    if isinstance(probes, bool) or int(probes) != probes or probes < 3:
        raise ValueError(f"probes must be an integer of at least 3; got {probes!r}")


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


def _samples(op: TensorOperator, probes: int, seed: int) -> Array:
    """Rows Y for each probe, shape (probes, q, H^2), scaled so that ``E sum_i Y_i Y_i^T = R^T R`` for each probe.

    A probe is one vector of signs g' and q orthogonal vectors g of length sqrt(B T), a random frame.
    """
    units = op.shape_in[-1]
    points = op.space_in.size // units
    rows = min(points, _ROWS_PER_PROBE)
    width = max(1, min(units, _BATCH_ENTRIES // op.space_in.size))
    require_memory(8.0 * (probes * rows * units**2 + 4 * width * op.space_in.size), f"a Schmidt sketch of {op.name}")
    generator = np.random.default_rng(seed)
    samples = np.empty((probes, rows, units, units))  # (probe, i, h', h)
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
    return samples.reshape(probes, rows, units**2)


def _contract(frame: Array, image: Array, out: Array) -> None:
    """``frame @ image[k]`` into out[:, k]."""

    def task(column: int) -> None:
        out[:, column] = frame @ image[column]

    run_blocks(task, len(image))


def _jackknife(without: Array) -> Any:
    """Standard error from the values that are found without each of the probes."""
    count = len(without)
    return np.sqrt((count - 1) / count * np.square(without - without.mean(axis=0)).sum(axis=0))
