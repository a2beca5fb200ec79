"""Alignment of two kernels from matrices of parameters alone.

With D and E the sensitivities of two models on the same trials, ``tr(D D* E E*) = |D* E|^2`` in the norm of Hilbert and
Schmidt, so that the alignment of the kernels ``D D*`` and ``E E*`` is

    |D* E|^2 / (|D* D| |E* E|).

All three are seen by the same vectors: those of the range in which the two Gram matrices are large, and random ones
beside it (`kpref.spectra.paired_probes`). A model with fewer parameters than the other has zeros in place of those that
it lacks.
"""

from __future__ import annotations

import numpy as np

from kpref._types import Array
from kpref.memory import require_memory
from kpref.operators import TensorOperator
from kpref.spectra import Estimate
from kpref.spectra.bases import append_orthonormal
from kpref.spectra.paired_probes import DENSE_SIZE, directions, estimate_of, in_batches, product_of_means, rounding
from kpref.spectra.rows import inner_products

__all__ = ["gram_alignment"]

_POWERS = (1.0, -0.5, -0.5)


def gram_alignment(
    cross: TensorOperator, first: TensorOperator, second: TensorOperator, probes: int, seed: int
) -> Estimate:
    """``|D* E|^2 / (|D* D| |E* E|)``, from 0 to 1; exact where all parameters are no more than 400, or than probes.

    `cross`, `first`, `second`: ``D* E``, ``D* D`` and ``E* E``. `probes`: products with each of them, at least 6.
    Raises ValueError if one of the two Gram matrices is zero.
    """
    operators = (cross, first, second)
    size = max(first.shape[0], second.shape[0])
    if size <= max(DENSE_SIZE, probes):
        known = np.array(
            [np.square(in_batches(op.apply, np.eye(op.shape[1]))).sum(dtype=np.float64) for op in operators]
        )
        return Estimate(_ratio(known), 0.0, sum(op.shape[1] for op in operators), "exact", least=0.0, most=1.0)
    dtype, generator = np.result_type(first.dtype, second.dtype), np.random.default_rng(seed)
    require_memory(5.0 * probes * size * dtype.itemsize, f"{probes} probes of {first.name} and {second.name}")
    within = max(2, probes // 4)
    basis, images = np.empty((within, size), dtype), np.empty((3, within, size))
    for index in range(within):  # the chains of the two Gram matrices take turns
        vector = images[1 + index % 2, index - 2] if index > 1 else generator.standard_normal(size)
        append_orthonormal(basis, index, vector, generator)
        images[:, index] = [_padded(op, basis[index : index + 1], size)[0] for op in operators]
    known = np.square(images).sum(axis=(1, 2))
    rest = directions(generator, probes - within, basis)
    pairs = np.stack([image @ image.T for image in (_padded(op, rest, size) for op in operators)])
    if _ratio(known + np.trace(pairs, axis1=1, axis2=2)) == 0.0:
        return Estimate(0.0, 0.0, 3 * probes, "exact", least=0.0, most=1.0)  # no vector is seen by both
    found = product_of_means(known, pairs, _POWERS, inner_products(rest), size - within)
    error = rounding(dtype, size)
    return estimate_of(found, error, 3 * probes, "Krylov spaces and random vectors", least=0.0, most=1.0)


def _ratio(squares: Array) -> float:
    if not (squares[1] and squares[2]):
        raise ValueError("the alignment with a kernel that is zero is not defined")
    return float(np.prod(squares**_POWERS))


def _padded(op: TensorOperator, rows: Array, size: int) -> Array:
    """Images (v, size) of rows (v, size), of an operator that may act on fewer numbers, and give fewer."""
    images = np.zeros((len(rows), size))
    images[:, : op.shape[0]] = in_batches(op.apply, rows[:, : op.shape[1]])
    return images
