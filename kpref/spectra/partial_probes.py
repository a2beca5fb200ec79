"""Effective dimension of partial traces, from random vectors that each show a whole partial trace.

A vector q over kept axes k and others o is a matrix q[k, o]. For white q beside the known part of G (orthonormal rows
Q with their images, R the rest, see `kpref.spectra.deflated`),

    S(q)[k, k'] = sum_o (R q)[k, o] q[k', o],        E S(q) = tr_other(R),

made symmetric: one product for an unbiased estimate of the whole partial trace, where a product with ``g (x) v`` shows
one column of it. The known part of G is ``sum_i (Q_i w_i^T + w_i Q_i^T)``, ``w = Q G - (Q G Q^T) Q / 2``, and its
partial trace A a sum of such terms too. With M = tr_other(G) and independent q_i, unbiased (a U-statistic),

    tr M = tr A + E tr S(q_i),    tr M^2 = |A|_F^2 + 2 E <A, S(q_i)>_F + E <S(q_i), S(q_j)>_F,    i != j.

Only inner products of the terms are needed; those of ``L R^T`` and ``L' R'^T`` are ``<L^T L', R^T R'>_F``, which is
less work where the kept axes have more entries than the others.

**Errors.** The jackknife over the q removes the bias of the logarithm of the ratio to first order. Its error is to
first order that of the mean of quadratic forms ``q.F q`` with ``F = 2 R / tr M - 2 R (M (x) 1) / tr M^2``, and M from
the known part and the other vectors; see `kpref.spectra.quadratic_forms`.

What the sum over pairs has of second order is counted twice by the jackknife, and by the quadratic forms too, through
the noise of M: where ``h_ij = <S(q_i), S(q_j)>_F`` without the effects of i and of j has the variance sigma^2, of
``2 |sym(F)|_F^2 / p`` that noise is ``4 sigma^2 / (p (p - 2))``, over (tr M^2)^2. `without_excess` takes it off. It is
all that there is where M is close to a multiple of the identity, and skewed: with g_ij what is left of
``h_ij / tr M^2`` the logarithm's third cumulant has

    -8 E g_ij g_jk g_ki / p^3,

which is stated as skewness beside that of the forms.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from kpref._types import Array
from kpref.memory import require_memory
from kpref.spectra.deflated import Deflated
from kpref.spectra.estimate import Estimate
from kpref.spectra.paired_probes import (
    beyond_first_order,
    estimate_of,
    exponential,
    jackknife,
    pair_residuals,
    rounding,
    without_excess,
)
from kpref.spectra.quadratic_forms import MOST_SKEWED, Mean, mean_of_forms
from kpref.spectra.symmetric import Coordinates
from kpref.threads import run_blocks

__all__ = ["partial_dimension"]


def partial_dimension(seen: Deflated, coordinates: Coordinates, kept: tuple[int, ...]) -> Estimate:
    """Effective dimension of the partial trace of a matrix on the kept axes.

    Parameters
    ----------
    seen : Deflated
        Of the operator, on tensors of three axes.
    coordinates : Coordinates
        Those that it is seen in.
    kept : tuple of int
        Axes, in order.

    Raises
    ------
    RuntimeError
        If the partial trace is drowned by noise.
    """
    known, count = len(seen.basis), len(seen.vectors)
    halves = seen.images - (seen.images @ seen.basis.T) @ seen.basis / 2
    left, right = (
        _matrices(np.concatenate(rows), coordinates, kept)
        for rows in ((2 * seen.basis, seen.vectors), (halves, seen.rest))
    )
    traces = np.einsum("iko,iko->i", left, right)
    overlaps = _overlaps(left, right)
    trace, square = traces[:known].sum(), overlaps[:known, :known].sum()
    cross = 2 * overlaps[:known, known:].sum(axis=0)
    pairs = overlaps[known:, known:].copy()
    np.fill_diagonal(pairs, 0.0)  # of one vector with itself: not independent
    if not traces.any() and not overlaps.any():
        return Estimate(0.0, 0.0, seen.n_products, seen.method)

    def logarithm(own: Any, cross: Any, pairs: Any) -> Any:
        squares = square + cross + pairs
        if np.min(squares) <= 0:
            raise RuntimeError(
                f"{seen.n_products} products are too few to tell the effective dimension along the kept axes: noise is "
                f"larger than what is sought; take {4 * seen.n_products} (probes=...) or more"
            )
        return 2 * np.log(trace + own) - np.log(squares)

    # Everything and, one after another, everything without one of the vectors.
    samples, total, own = traces[known:], pairs.sum(), pairs.sum(axis=1)
    mean_pair = total / (count * (count - 1))
    whole = logarithm(samples.mean(), cross.mean(), mean_pair)
    without = logarithm(
        (samples.sum() - samples) / (count - 1),
        (cross.sum() - cross) / (count - 1),
        (total - 2 * own) / ((count - 1) * (count - 2)),
    )
    logs, error = jackknife(whole, without)
    forms = _flat(left[known:]) @ _flat(right[known:]).T / (trace + samples.mean())
    squares = square + cross.mean() + mean_pair
    forms -= _square_forms(left, right, known) / squares
    spread = mean_of_forms(2 * forms, seen.vectors @ seen.vectors.T, coordinates.size - known, positive=False)
    spread = _second_order(beyond_first_order(spread, error, count), pairs / squares)
    found, floor = exponential(logs, spread), rounding(np.float64, coordinates.size)
    return estimate_of(found, floor * found.value, seen.n_products, seen.method)


def _second_order(spread: Mean, pairs: Array) -> Mean:
    """With the variance and the skewness that the sum over pairs has beyond first order; zeros on the diagonal."""
    count, left = len(pairs), pair_residuals(pairs)
    error = without_excess(spread.standard_error, left)
    if not error:
        return spread
    cubes = max(0.0, float(np.vdot(left @ left, left)) / (count * (count - 1) * (count - 2)))
    skewness = float(np.clip(spread.skewness - 8 * cubes / (count * error) ** 3, -MOST_SKEWED, MOST_SKEWED))
    return spread._replace(standard_error=error, skewness=skewness)


def _matrices(vectors: Array, coordinates: Coordinates, kept: tuple[int, ...]) -> Array:
    """Vectors (v, n) as matrices (v, kept, others)."""
    tensors = coordinates.embed(vectors)
    axes = [1 + axis for axis in kept]
    rows = int(np.prod([tensors.shape[axis] for axis in axes]))
    return np.moveaxis(tensors, axes, range(1, 1 + len(axes))).reshape(len(vectors), rows, -1)


def _overlaps(left: Array, right: Array) -> Array:
    """Inner products of the symmetric parts of ``L_i R_i^T``, (v, v), for factors (v, kept, others)."""
    count, rows, others = left.shape
    overlaps = np.empty((count, count))
    if rows <= others:
        require_memory(16.0 * count * rows**2, f"{count} partial traces of {rows} x {rows}")
        sums = np.empty((count, rows, rows))

        def form(index: int) -> None:
            product = left[index] @ right[index].T
            sums[index] = (product + product.T) / 2

        run_blocks(form, count)
        flat = sums.reshape(count, -1)
        return np.asarray(flat @ flat.T)

    lefts, rights = _columns(left), _columns(right)

    def row(index: int) -> None:
        own, later = slice(index * others, (index + 1) * others), slice(index * others, None)
        straight = (lefts[own] @ lefts[later].T) * (rights[own] @ rights[later].T)
        crossed = (lefts[own] @ rights[later].T) * (rights[own] @ lefts[later].T)
        sums = (straight + crossed).reshape(others, -1, others).sum(axis=(0, 2)) / 2
        overlaps[index, index:] = overlaps[index:, index] = sums

    run_blocks(row, count)
    return overlaps


def _square_forms(left: Array, right: Array, known: int) -> Array:
    """``R v_i.(M v_j)`` for the white vectors, M being what the known part and the *other* white vectors say."""
    vectors, rest, count = left[known:], right[known:], len(left) - known
    known_part = _applied(left[:known], right[:known], vectors)
    white_part = _applied(vectors, rest, vectors)
    own = [
        np.concatenate([_applied(vectors[[i]], rest[[i]], each[[i]]) for i in range(count)]) for each in (vectors, rest)
    ]
    forms = _flat(rest) @ _flat(white_part - own[0]).T - _flat(own[1]) @ _flat(vectors).T
    forms /= count - 2
    np.fill_diagonal(forms, np.einsum("iko,iko->i", rest, white_part - own[0]) / (count - 1))
    return np.asarray(forms + _flat(rest) @ _flat(known_part).T)


def _applied(left: Array, right: Array, matrices: Array) -> Array:
    """``sum_i sym(L_i R_i^T)`` applied to matrices (c, kept, others)."""
    count, rows, others = left.shape
    if rows <= others:
        total = np.zeros((rows, rows))
        for one, other in zip(left, right, strict=True):
            total += one @ other.T
        return np.asarray((total + total.T) / 2 @ matrices)
    lefts, rights, images = _columns(left), _columns(right), np.empty_like(matrices)

    def image(index: int) -> None:
        matrix = matrices[index]
        images[index] = (lefts.T @ (rights @ matrix) + rights.T @ (lefts @ matrix)) / 2

    run_blocks(image, len(matrices))
    return images


def _columns(matrices: Array) -> Array:
    """Columns of all of them, one after another, as rows (v others, kept)."""
    return np.ascontiguousarray(matrices.swapaxes(1, 2)).reshape(-1, matrices.shape[1])


def _flat(matrices: Array) -> Array:
    return matrices.reshape(len(matrices), -1)
