"""The error that the finite number of trials leaves in a number, beside that of random vectors: a jackknife.

Trials are a sample. Leaving out one of G random groups of them at a time shows how far a number depends on which they
are (Efron and Stein, Ann. Stat. 1981): with theta_g that of the others,

    standard error^2 = (G - 1)/G sum_g (theta_g - mean theta)^2.

Nothing is computed anew: on the trials S that remain, an operator is the block G_SS, and with an exact part
``sum_i lambda_i v_i v_i^T`` (modes) and a rest R seen by white vectors u in the complement of the modes,

    tr G_SS    = sum_i lambda_i |v_iS|^2 + E u_S.(R u)_S
    |G_SS|_F^2 = |Lambda^(1/2) V_S V_S^T Lambda^(1/2)|_F^2 + 2 sum_i lambda_i v_iS.R v_iS + |R_SS|_F^2
    v_iS.R v_iS = v_ig.R v_ig = E (v_ig.R u)(v_ig.u)                     as R v_i = 0
    |R_SS|_F^2  = |R|_F^2 - 2 E |(R u)_g|^2 + E (u_g.(R u')_g)(u'_g.(R u)_g),     u, u' independent,

from the products that are there already. Some of the noise of random vectors is counted in. A trace is scaled to the
weight of all trials; a dimension does not depend on the scale.

An alignment is made of three inner products ``<A, C> = tr(A^T C)``. Without group g

    <A_SS, C_SS> = <A, C> - sum_h <A_gh, C_gh> - sum_h <A_hg, C_hg> + <A_gg, C_gg>,
    sum_h <A_gh, C_gh> = E (A u)_g.(C u)_g,      sum_h <A_hg, C_hg> = E (A^T u)_g.(C^T u)_g,
    <A_gg, C_gg> = E (u_g.(A u')_g)(u'_g.(C^T u)_g).

What random vectors get wrong of a mode that all groups share is a factor of all three, and cancels.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kpref._types import Array
from kpref.flow import Flow
from kpref.operators import TensorOperator
from kpref.space import TrajectorySpace
from kpref.spectra.beside_modes import BesideModes
from kpref.spectra.closed_form import kernel_block_squares, kernel_group_matrices
from kpref.spectra.paired_probes import DENSE_SIZE
from kpref.spectra.symmetric import Coordinates, RectangularForm
from kpref.threads import serial_blas

__all__ = [
    "errors_of_alignments",
    "errors_of_blocks",
    "errors_of_kernel",
    "errors_of_modes",
    "jackknife_error",
    "trial_groups",
]

#: Groups of trials, one of which is left out at a time.
GROUPS = 10
#: Units whose blocks of K stand for all of them.
_UNITS = 16


def trial_groups(space: TrajectorySpace, seed: int) -> Array | None:
    """Which group each trial belongs to, (B,), -1 without weight; None for less than two trials with weight."""
    weighted = np.flatnonzero(space.mu.any(axis=1))
    if len(weighted) < 2:
        return None
    groups = np.full(space.shape[0], -1)
    order = np.random.default_rng(seed).permutation(weighted)
    groups[order] = np.arange(len(order)) % min(GROUPS, len(order))
    return groups


def errors_of_blocks(
    matrix: Array, coordinates: Coordinates, space: TrajectorySpace, groups: Array
) -> tuple[float, float]:
    """Of trace and effective dimension of a small symmetric matrix."""
    owner = np.broadcast_to(groups[:, None, None], space.shape).reshape(-1)[coordinates.support]
    member = (owner == np.arange(groups.max() + 1)[:, None]).astype(float)
    traces = member @ np.diagonal(matrix)
    squares = _without(member @ np.square(matrix) @ member.T)
    return _errors(traces.sum() - traces, squares, space, groups)


def errors_of_modes(seen: BesideModes, space: TrajectorySpace, groups: Array) -> tuple[float, float]:
    """Of trace and effective dimension of a positive matrix that is seen beside its modes, by these groups."""
    values, number = seen.values, len(seen.by_group)
    count = len(seen.moments.forms)
    overlaps, own = np.empty((number, len(values), len(values))), np.empty(number)
    crossed, lengths, blocks = np.empty((3, number))
    known, drawn, images = slice(len(values)), slice(-2 * count, -count), slice(-count, None)
    for group, inner in enumerate(seen.by_group):
        overlaps[group], pairs = inner[known, known], inner[drawn, images]
        crossed[group] = values @ (inner[known, images] * inner[known, drawn]).mean(axis=1)
        own[group], lengths[group] = np.trace(pairs) / count, np.trace(inner[images, images]) / count
        blocks[group] = (np.vdot(pairs, pairs.T) - np.square(np.diagonal(pairs)).sum()) / (count * (count - 1))
    kept = overlaps.sum(axis=0) - overlaps
    root = np.sqrt(np.maximum(values, 0.0))
    traces = np.einsum("i,gii->g", values, kept) + own.sum() - own
    squares = np.square(root[:, None] * kept * root).sum(axis=(1, 2)) + 2 * crossed
    return _errors(traces, squares + lengths.sum() - 2 * lengths + blocks, space, groups)


def errors_of_kernel(flow: Flow, groups: Array) -> tuple[float, float, float]:
    """Of the trace of K, of its effective dimension *relative to that*, and of its dimension along units."""
    form, space = flow.linearization, flow.space
    each = kernel_group_matrices(form, space.mu, groups)
    without = each.sum(axis=0) - each
    by_state = np.diagonal(without, axis1=1, axis2=2)  # (G, H)
    trace, along_units = _errors(by_state.sum(axis=1), np.square(without).sum(axis=(1, 2)), space, groups)
    # A few units stand for all, where K does not mix them.
    squares, states = kernel_block_squares(form, space.mu, groups, _UNITS)
    _, dimension = _errors(by_state[:, states].sum(axis=1), _without(squares), space, groups)
    whole = np.diagonal(each.sum(axis=0))[states].sum() ** 2 / (squares.sum() or 1.0)
    return trace, dimension / (whole or 1.0), along_units


@serial_blas
def errors_of_alignments(
    pairs: Mapping[str, tuple[TensorOperator, TensorOperator]], groups: Array, probes: int, seed: int
) -> dict[str, float]:
    """Of the alignment of each pair of operators on one trajectory space, by the same names; NaN where one is zero.

    All see the same `probes` random vectors, once each and their transposes once more where they are not self-adjoint;
    of few dimensions all is exact.
    """
    first = next(iter(pairs.values()))[0]
    coordinates = Coordinates(first.space_in)
    exact = coordinates.size <= DENSE_SIZE
    size = coordinates.size
    vectors = np.eye(size) if exact else np.random.default_rng(seed).standard_normal((probes, size))
    operators = {id(op): op for pair in pairs.values() for op in pair}
    images = {key: _images(op, vectors, coordinates) for key, op in operators.items()}
    seen = _by_trial(vectors, coordinates)
    found = {}
    for name, (one, other) in pairs.items():
        a, c = images[id(one)], images[id(other)]
        crossed, own, others = (_inner(seen, *both, groups, exact) for both in ((a, c), (a, a), (c, c)))
        scale = own * others
        known = (scale > 0).all()
        found[name] = jackknife_error(crossed / np.sqrt(scale)) if known else float("nan")
    return found


def _images(op: TensorOperator, vectors: Array, coordinates: Coordinates) -> tuple[Array, Array]:
    """By trial, A u and A^T u."""
    form = RectangularForm(op)
    image = _by_trial(form(vectors.astype(op.dtype)), coordinates)
    if op.structure.self_adjoint:
        return image, image
    return image, _by_trial(form.transpose(vectors.astype(op.dtype)), coordinates)


def _inner(vectors: Array, one: tuple[Array, Array], other: tuple[Array, Array], groups: Array, exact: bool) -> Array:
    """``<A_SS, C_SS>`` without each group, (G,)."""
    number, count = int(groups.max()) + 1, len(vectors)
    rows, columns, own = np.empty((3, number))
    for group in range(number):
        u, a, a_t, c, c_t = (
            each[:, groups == group].reshape(count, -1).astype(np.float64) for each in (vectors, *one, *other)
        )
        rows[group], columns[group] = np.vdot(a, c), np.vdot(a_t, c_t)
        first, second = u @ a.T, u @ c_t.T
        own[group] = np.vdot(first, second.T)
        if not exact:  # a vector does not meet itself
            own[group] -= np.diagonal(first) @ np.diagonal(second)
    if not exact:
        rows, columns, own = rows / count, columns / count, own / (count * (count - 1))
    return np.asarray(rows.sum() - rows - columns + own)


def _without(squares: Array) -> Array:
    """Squared norm of a matrix without the rows and columns of each group, from those of its blocks (G, G)."""
    return np.asarray(squares.sum() - 2 * squares.sum(axis=1) + np.diagonal(squares))


def _by_trial(rows: Array, coordinates: Coordinates) -> Array:
    trials = coordinates.space.shape[0]
    return coordinates.embed(rows).reshape(len(rows), trials, -1)


def _errors(traces: Array, squares: Array, space: TrajectorySpace, groups: Array) -> tuple[float, float]:
    """From traces and those of the square without each group."""
    weights = np.array([space.mu[groups == group].sum() for group in range(len(traces))])
    scaled = traces * weights.sum() / (weights.sum() - weights)
    dimensions = np.divide(traces**2, squares, out=np.zeros_like(traces), where=squares > 0)
    return jackknife_error(scaled), jackknife_error(dimensions)


def jackknife_error(values: Array) -> float:
    """Standard error of a number from its values without each group in turn."""
    count = len(values)
    return float(np.sqrt((count - 1) / count * np.square(values - values.mean()).sum()))
