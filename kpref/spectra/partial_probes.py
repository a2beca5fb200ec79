"""Effective dimension of partial traces, from random vectors that each show a whole partial trace.

A vector q over kept axes k and others o is a matrix q[k, o]. For white q beside the known part of G (orthonormal rows
Q with their images, R the rest, see `kpref.spectra.deflated`),

    S(q)[k, k'] = sum_o (R q)[k, o] q[k', o],        E S(q) = tr_other(R),

made symmetric: one product for an unbiased estimate of the whole partial trace, where a product with ``g (x) v`` shows
one column of it. The known part of G is ``sum_i (Q_i w_i^T + w_i Q_i^T)``, ``w = Q G - (Q G Q^T) Q / 2``, and its
partial trace A a sum of such terms too. With M = tr_other(G) and independent q_i, unbiased (a U-statistic),

    tr M = tr A + E tr S(q_i),    tr M^2 = |A|_F^2 + 2 E <A, S(q_i)>_F + E <S(q_i), S(q_j)>_F,    i != j.

Only inner products of the terms are needed; those of ``L R^T`` and ``L' R'^T`` are ``<L^T L', R^T R'>_F``, which is
less work where the kept axes have many more entries than the others.

**Factors.** Of ``G = F F^T`` the image ``Y = F x`` of a white x in the domain of F, as a matrix Y[k, o], does better:

    E Y Y^T = tr_other(G),        half a product, and symmetric and positive besides.

With K kept entries the noise ``E |S - M|_F^2`` of one sample S is, but for terms that are no larger than |G|_F^2,

    |tr_kept(G)|_F^2  for Y Y^T,        K |G|_F^2  for S(q),        |tr_kept(G)|_F^2 <= K |G|_F^2,

the first much less where G is close to a product, which has ``|G|_F = |tr_kept(G)|_F |tr_other(G)|_F / tr G``: K over
the dimension along the kept axes of an untrained network. Orthonormal V with its images F V takes the place of Q:
``A = sum_i Y_i Y_i^T`` over its columns, and x is white beside V. V is the Krylov space of F^T F, a product for each
column. (A sketch from transposes trial by trial, `kpref.spectra.trial_probes`, costs less a column, but with few trials
its columns are worse by more. 20 trials of 12 steps of the bundled network, 60 products, standard errors in % along
units, units with times, units with trials: trained 2.6, 4.1, 5.4 by S(q) beside 20 columns of Q; 1.5, 1.7, 1.8 by
Y Y^T beside 30 columns of a sketch from four passes; 1.3, 1.4, 1.6 beside 10 columns of the Krylov space, as with 20
or 30; 3.1, 3.5, 4.0 beside none. Untrained 3.2, 6.0, 11 by S(q), and 1.5, 1.8, 2.0 by Y Y^T beside none.)

**Errors.** The jackknife over the q removes the bias of the logarithm of the ratio to first order. Its error is to
first order that of the mean of quadratic forms ``q.E q`` with ``E = 2 R / tr M - 2 R (M (x) 1) / tr M^2``, and M from
the known part and the other vectors; see `kpref.spectra.quadratic_forms`. Of x it is ``x.E x`` with
``E = 2 F^T F / tr M - 2 F^T (M (x) 1) F / tr M^2``.

What the sum over pairs has of second order is counted twice by the jackknife, and by the quadratic forms too, through
the noise of M: where ``h_ij = <S(q_i), S(q_j)>_F`` without the effects of i and of j has the variance sigma^2, of
``2 |sym(E)|_F^2 / p`` that noise is ``4 sigma^2 / (p (p - 2))``, over (tr M^2)^2. `without_excess` takes it off. It is
all that there is where M is close to a multiple of the identity, and skewed: with g_ij what is left of
``h_ij / tr M^2`` the logarithm's third cumulant has

    -8 E g_ij g_jk g_ki / p^3.

The skewness that an `Estimate` states is that of a mean whose deviation grows with it (as of chi-square): an interval
reaches further on the side to which the estimate itself is skewed. The deviation of the sum over pairs does not depend
on what is sought, so that its interval reaches further on the *other* side: to first order in 1 / p^(1/2) a mean of the
first kind with minus half the skewness has the same (the third cumulant of the studentised mean is minus twice that
of the mean in the one case, and that of the mean in the other; Hall, Ann. Statist. 16, 1988).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from kpref._types import Array
from kpref.memory import require_memory
from kpref.operators import TensorOperator
from kpref.operators.reduced import as_matrices
from kpref.spectra.bases import append_orthonormal
from kpref.spectra.deflated import Deflated
from kpref.spectra.estimate import Estimate
from kpref.spectra.paired_probes import (
    beyond_first_order,
    directions,
    estimate_of,
    exponential,
    in_batches,
    jackknife,
    pair_residuals,
    rounding,
    without_excess,
)
from kpref.spectra.quadratic_forms import MOST_SKEWED, Mean, mean_of_forms
from kpref.spectra.symmetric import Coordinates, RectangularForm
from kpref.threads import even_blocks, run_blocks

__all__ = ["factored_dimension", "partial_dimension"]

#: Samples whose forms are computed at once.
_TOGETHER = 8
#: How many times as many entries as its factors the matrix of a sample may have, where it is made.
_LARGER = 2
#: Rows of a sum of samples that one task makes.
_ROWS = 256


def partial_dimension(seen: Deflated, coordinates: Coordinates, kept: tuple[int, ...]) -> Estimate:
    """Effective dimension of the partial trace of a matrix on the kept axes.

    `seen`: of the operator, on tensors of three axes. `coordinates`: those that it is seen in. `kept`: axes, in order.
    Raises RuntimeError if noise drowns the partial trace.
    """
    basis, images, vectors, rest = (
        each.astype(np.float64, copy=False) for each in (seen.basis, seen.images, seen.vectors, seen.rest)
    )
    halves = images - (images @ basis.T) @ basis / 2
    left, right = (
        as_matrices(coordinates.embed(np.concatenate(rows)), kept) for rows in ((2 * basis, vectors), (halves, rest))
    )
    return _dimension(left, right, len(basis), vectors, seen.n_products, seen.method)


def factored_dimension(factor: TensorOperator, probes: int, seed: Any, kept: tuple[int, ...]) -> Estimate:
    """The same for ``A A*`` from products with A alone: exact where A has no more columns than are asked for.

    `factor`: A, onto tensors of three axes. `probes`: products, two of A or one of A and one of its transpose each.
    """
    form, dtype = RectangularForm(factor), factor.dtype
    small, codomain, size = form.domain.size, form.codomain, form.codomain.size
    require_memory(8.0 * 2 * probes * (2 * size + small), f"{probes} probes of {factor.name}")
    if small <= 2 * probes:
        left = as_matrices(codomain.embed(in_batches(form, np.eye(small, dtype=dtype)).astype(float)), kept)
        trace, square = float(np.vdot(left, left)), float(_overlaps(left, left).sum())
        return Estimate(trace**2 / square if square else 0.0, 0.0, -(-small // 2), "exact")
    generator, columns = np.random.default_rng(seed), probes // 6
    basis, images = np.empty((columns, small), dtype), np.empty((columns, size), dtype)
    vector = form.transpose(generator.standard_normal((1, size)).astype(dtype))[0]
    for index in range(columns):
        append_orthonormal(basis, index, vector, generator)
        images[index] = form(basis[index : index + 1])[0]
        if index + 1 < columns:
            vector = form.transpose(images[index : index + 1])[0]
    vectors = directions(generator, 2 * (probes - columns), basis)
    images = np.concatenate([images, in_batches(form, vectors)]).astype(np.float64, copy=False)
    left = as_matrices(codomain.embed(images), kept)
    method = "Krylov space and random vectors of the factor"
    return _dimension(left, left, columns, vectors.astype(np.float64, copy=False), probes, method)


def _dimension(left: Array, right: Array, known: int, vectors: Array, products: int, method: str) -> Estimate:
    """From ``sym(L_i R_i^T)``, of which the first are the known part and the others samples, by so many vectors."""
    count = len(vectors)
    traces = np.einsum("iko,iko->i", left, right)
    overlaps = _overlaps(left, right)
    trace, square = traces[:known].sum(), overlaps[:known, :known].sum()
    cross = 2 * overlaps[:known, known:].sum(axis=0)
    pairs = overlaps[known:, known:].copy()
    np.fill_diagonal(pairs, 0.0)  # of one vector with itself: not independent
    if not traces.any() and not overlaps.any():
        return Estimate(0.0, 0.0, products, method)

    def logarithm(own: Any, cross: Any, pairs: Any) -> Any:
        squares = square + cross + pairs
        if np.min(squares) <= 0:
            raise RuntimeError(
                f"{products} products are too few to tell the effective dimension along the kept axes: noise is larger "
                f"than what is sought; take {4 * products} (probes=...) or more"
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
    spread = mean_of_forms(2 * forms, vectors @ vectors.T, vectors.shape[1] - known, positive=False)
    spread = _second_order(beyond_first_order(spread, error, count), pairs / squares)
    found, floor = exponential(logs, spread), rounding(np.float64, left[0].size)
    return estimate_of(found, floor * found.value, products, method, least=1.0, most=float(left.shape[1]))


def _second_order(spread: Mean, pairs: Array) -> Mean:
    """With the variance and the skewness that the sum over pairs has beyond first order; zeros on the diagonal."""
    count, left = len(pairs), pair_residuals(pairs)
    error = without_excess(spread.standard_error, left)
    if not error:
        return spread
    cubes = max(0.0, float(np.vdot(left @ left, left)) / (count * (count - 1) * (count - 2)))
    # Minus half of the cumulant -8: an interval about what has the same deviation everywhere.
    skewness = float(np.clip(spread.skewness + 4 * cubes / (count * error) ** 3, -MOST_SKEWED, MOST_SKEWED))
    return spread._replace(standard_error=error, skewness=skewness)


def _overlaps(left: Array, right: Array) -> Array:
    """Inner products of the symmetric parts of ``L_i R_i^T``, (v, v), for factors (v, kept, others)."""
    count, rows, others = left.shape
    overlaps = np.empty((count, count))
    if rows <= _LARGER * others:
        require_memory(16.0 * count * rows**2, f"{count} partial traces of {rows} x {rows}")
        sums = np.empty((count, rows, rows))

        def form(index: int) -> None:
            product = left[index] @ right[index].T
            sums[index] = (product + product.T) / 2

        run_blocks(form, count)
        flat = sums.reshape(count, -1)
        return np.asarray(flat @ flat.T)

    lefts = _columns(left)
    rights = lefts if right is left else _columns(right)

    def row(index: int) -> None:
        own, later = slice(index * others, (index + 1) * others), slice(index * others, None)
        products = lefts[own] @ lefts[later].T
        if rights is lefts:
            products *= products
        else:
            products *= rights[own] @ rights[later].T
            products += (lefts[own] @ rights[later].T) * (rights[own] @ lefts[later].T)
            products /= 2
        sums = products.reshape(others, -1, others).sum(axis=(0, 2))
        overlaps[index, index:] = overlaps[index:, index] = sums

    run_blocks(row, count)
    return overlaps


def _square_forms(left: Array, right: Array, known: int) -> Array:
    """``R_i.(M L_j)`` for the samples i, j, M being what the known part and the *other* samples say."""
    (vectors, rest), count = _some(left, right, slice(known, None)), len(left) - known
    of_known, of_all = _sum_of(*_some(left, right, slice(known))), _sum_of(vectors, rest)
    seen, forms, own, diagonal = np.empty((count, count)), np.empty((count, count)), np.empty((count, count)), []
    for some in even_blocks(count, _TOGETHER):
        each, terms = vectors[some], [_sum_of(*_some(vectors, rest, slice(i, i + 1))) for i in range(count)[some]]
        alone = np.concatenate([term(one[None]) for term, one in zip(terms, each, strict=True)])
        others = of_all(each) - alone
        if rest is not vectors:
            alone = np.concatenate([term(one[None]) for term, one in zip(terms, rest[some], strict=True)])
        forms[:, some], own[some] = _flat(rest) @ _flat(others).T, _flat(alone) @ _flat(vectors).T
        seen[:, some] = _flat(rest) @ _flat(of_known(each)).T
        diagonal.extend(np.einsum("iko,iko->i", rest[some], others) / (count - 1))
    forms = (forms - own) / (count - 2)
    np.fill_diagonal(forms, diagonal)
    return np.asarray(forms + seen)


def _some(left: Array, right: Array, rows: slice) -> tuple[Array, Array]:
    """Some of the factors, one array where they are one."""
    chosen = left[rows]
    return chosen, chosen if right is left else right[rows]


def _sum_of(left: Array, right: Array) -> Callable[[Array], Array]:
    """``sum_i sym(L_i R_i^T)`` as a function of matrices (c, kept, others)."""
    rows, others = left.shape[1:]
    if rows <= len(left) * others:  # the sum is no larger than its terms
        total, blocks = np.zeros((rows, rows)), even_blocks(rows, _ROWS)

        def add(index: int) -> None:
            for one, other in zip(left, right, strict=True):
                total[blocks[index]] += one[blocks[index]] @ other.T

        run_blocks(add, len(blocks))
        total = (total + total.T) / 2
        return lambda matrices: _each(total.__matmul__, matrices)
    lefts = _columns(left)
    rights = lefts if right is left else _columns(right)

    def product(matrix: Array) -> Array:
        image = lefts.T @ (rights @ matrix)
        return image if rights is lefts else (image + rights.T @ (lefts @ matrix)) / 2

    return lambda matrices: _each(product, matrices)


def _each(product: Callable[[Array], Array], matrices: Array) -> Array:
    """Images of matrices (c, kept, others) under a map of one."""
    images = np.empty_like(matrices)
    run_blocks(lambda index: images.__setitem__(index, product(matrices[index])), len(matrices))
    return images


def _columns(matrices: Array) -> Array:
    """Columns of all of them, one after another, as rows (v others, kept)."""
    return np.ascontiguousarray(matrices.swapaxes(1, 2)).reshape(-1, matrices.shape[1])


def _flat(matrices: Array) -> Array:
    return matrices.reshape(len(matrices), -1)
