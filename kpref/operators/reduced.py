"""Reduced views of an operator on trajectories: its average and its partial trace over trials, time or units.

An operator A on tensors (trials, time, units) has entries A[k a, k0 a0], k the indices of the axes that are kept and
a those of the other axes, n index values in all. Two smaller operators are made of it, which differ and are not mixed
up here:

    average          <A>[k, k0]        = (1/n^2) sum_{a, a0} A[k a, k0 a0]     all pairs of a and a0
    partial trace    tr_other(A)[k, k0] = sum_a A[k a, k0 a]                   equal indices only

The average is the reduced view of Hazelden et al. (arXiv:2507.06381): with E v the tensor that repeats v along the
other axes it is ``E^T A E / n^2``, one product with A. The partial trace is ``sum_a (e_a (x) I)^T A (e_a (x) I)``,
one product for each a; random signs g over the other axes, with ``E g g^T = I``, give the unbiased estimate

    tr_other(A) ~ (1/p) sum_i (g_i (x) I)^T A (g_i (x) I)

(Hutchinson, Commun. Stat. Simul. Comput. 1990, blockwise). Of an operator F F* with a known factor a whole estimate
comes from images ``Y = F x`` of normal x in the domain of F, seen as matrices Y[k, a]:

    tr_other(F F*) = E sum_a Y[k, a] (Mu Y)[k0, a]

half a product each, once for all products with the estimate. Of p images, in coordinates in which inner products are
sums, with G = F F*, its squared error in the Frobenius norm is

    (|tr_kept(G)|_F^2 + sum_{k, k0, a, a0} G[k a, k0 a0] G[k0 a, k a0]) / p,

the trace being that over the axes that are kept, and the second term at most |G|_F^2. Indices that the operator keeps
apart, trials of P P* or units of K, stay apart: each of them is a sum by itself. (`kpref.effective_dimension`
takes such images beside a Krylov space, and states its error.)

Both views are lazy, and plain sums of entries of A: kept spaces carry no measure. Where trials end early, only points
that exist are averaged over: n is then their number for each k.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from kpref._types import Array
from kpref._validate import integer, short
from kpref.lengths import points
from kpref.memory import require_memory
from kpref.operators.products import Map
from kpref.operators.structure import Structure
from kpref.operators.tensor import TensorOperator
from kpref.space import EuclideanSpace

__all__ = ["AXES", "as_matrices", "average", "kept_axes", "partial_trace"]

#: Names of the axes of a tensor, in order.
AXES = ("trial", "time", "unit")

#: Bytes of tensors that a partial trace puts through an operator at once.
_BATCH_BYTES = 1 << 27


def kept_axes(keep: str | Sequence[str]) -> tuple[int, ...]:
    """Indices, in order, of axes given by name.

    Raises ValueError if `keep` is not one or several of ``"trial"``, ``"time"``, ``"unit"``, each at most once.
    """
    names = [keep] if isinstance(keep, str) else list(keep) if isinstance(keep, Sequence) else []
    known = all(isinstance(name, str) and name in AXES for name in names)
    if not names or not known or len(set(names)) < len(names):
        raise ValueError(f"keep must be one or several of {', '.join(AXES)}, each at most once; got {short(keep)}")
    return tuple(axis for axis, name in enumerate(AXES) if name in names)


def as_matrices(tensors: Array, kept: tuple[int, ...]) -> Array:
    """Tensors (v, trials, time, units) as matrices (v, kept, others)."""
    rows = math.prod(tensors.shape[1 + axis] for axis in kept)
    return np.moveaxis(tensors, [1 + axis for axis in kept], range(1, 1 + len(kept))).reshape(len(tensors), rows, -1)


def average(op: TensorOperator, keep: str | Sequence[str]) -> TensorOperator:
    """Average of an operator over all pairs of indices of the axes that are not kept.

    Parameters
    ----------
    op : TensorOperator
        On one space of tensors (trials, time, units).
    keep : str or sequence of str
        One or several of ``"trial"``, ``"time"``, ``"unit"``; the order of the axes stays that of the tensors.

    Returns
    -------
    TensorOperator
        On the kept axes, without a measure. One product with `op` for each of its own.

    Raises
    ------
    ValueError
        For an operator on another space, or unknown axes.
    """
    kept = _kept(op, keep)
    maps = partial(_average, kept, op), partial(_average, kept, op.T)
    return _reduced(op, kept, *maps, "average", units_alone=False)


def _average(kept: tuple[int, ...], op: TensorOperator, batch: Array) -> Array:
    """``E^T A E v / n^2``."""
    others, shape, lengths = _others(kept), op.shape_in, op.space_in.lengths
    number: Any = op.dtype.type(math.prod(shape[axis] for axis in others))
    if lengths is not None:
        exist = np.broadcast_to(points(lengths, shape[1])[:, :, None], shape)
        number = np.maximum(exist.sum(axis=others), 1).astype(op.dtype)  # 1 after the end of all: of no value
        batch = batch / number
    lifted = tuple(length if axis in kept else 1 for axis, length in enumerate(shape))
    repeated = np.broadcast_to(batch.reshape(-1, *lifted), (len(batch), *shape))
    image = op.apply(np.ascontiguousarray(repeated)).sum(axis=tuple(1 + axis for axis in others))
    return np.asarray(image / (number**2 if lengths is None else number))


def partial_trace(
    op: TensorOperator, keep: str | Sequence[str], probes: int | None = None, seed: int = 0
) -> TensorOperator:
    """Trace of an operator over the axes that are not kept: equal indices only.

    Parameters
    ----------
    op : TensorOperator
        On one space of tensors (trials, time, units).
    keep : str or sequence of str
        One or several of ``"trial"``, ``"time"``, ``"unit"``; the order of the axes stays that of the tensors.
    probes : int, optional
        None for the exact partial trace: each product takes n with `op`, n the number of index values of the other
        axes; of trials or units that `op` is known to keep apart one product serves all. Otherwise the unbiased
        estimate from this many random signs: `probes` products with `op` for each. The signs are drawn once, so that
        the estimate is one linear operator.
    seed : int
        Of the signs.

    Returns
    -------
    TensorOperator
        On the kept axes, without a measure. Declared self-adjoint where `op` is and the sum keeps that: in a uniform
        measure; for the units alone, in any positive one, but not from random signs.

    Raises
    ------
    ValueError
        For an operator on another space, unknown axes, or a number of probes that is not a positive integer.
    """
    kept = _kept(op, keep)
    others = _others(kept)
    outer = tuple(op.shape_in[axis] for axis in others)
    number = math.prod(outer)
    if probes is None:
        maps = partial(_diagonal_sum, kept, op), partial(_diagonal_sum, kept, op.T)
        return _reduced(op, kept, *maps, "partial trace", units_alone=kept == (2,))
    probes, seed = integer("probes", probes, 1), integer("seed", seed, 0)
    if op.factor is not None and others:
        known = op.structure
        apart = tuple(axis for axis in kept if (known.by_trial, False, known.by_unit)[axis])
        view = partial(
            _sum_of_images, [kept.index(axis) for axis in apart], *_images(op, kept, apart, 2 * probes, seed)
        )
        maps = partial(view, False), partial(view, True)
        return _reduced(op, kept, *maps, "estimated partial trace", units_alone=kept == (2,), groups=known.by_unit)
    require_memory(float(op.dtype.itemsize) * probes * number, f"{probes} probes of {op.name}")
    signs = np.random.default_rng(seed).choice(np.array([-1.0, 1.0]), size=(probes, *outer)).astype(op.dtype)
    maps = partial(_probe_mean, kept, signs, op), partial(_probe_mean, kept, signs, op.T)
    return _reduced(op, kept, *maps, "estimated partial trace", units_alone=False)


def _kept(op: TensorOperator, keep: str | Sequence[str]) -> tuple[int, ...]:
    if not isinstance(op, TensorOperator):
        raise TypeError(f"op must be a TensorOperator; got {short(op)}")
    if op.space_in != op.space_out or len(op.shape_in) != 3:
        raise ValueError(
            f"a reduced view needs an operator on one space of tensors (trials, time, units); {op.name} maps "
            f"{op.space_in} to {op.space_out}"
        )
    return kept_axes(keep)


def _others(kept: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(axis for axis in range(len(AXES)) if axis not in kept)


def _reduced(
    op: TensorOperator, kept: tuple[int, ...], forward: Map, transpose: Map, view: str, units_alone: bool,
    groups: bool = True,
) -> TensorOperator:  # fmt: skip
    """The operator of a reduction, whose transpose is that of the transpose, as both sides are reduced alike.

    `units_alone`: whether it is a sum of blocks at equal trials and times. `groups`: whether units that are kept apart
    stay apart.
    """
    space = EuclideanSpace(tuple(op.shape_in[axis] for axis in kept))
    name = f"{view} of {op.name} on ({', '.join(AXES[axis] for axis in kept)})"
    structure = partial(_inherited, op, kept, units_alone, groups)
    return TensorOperator(forward, transpose, space, space, op.dtype, name, structure)


def _inherited(op: TensorOperator, kept: tuple[int, ...], units_alone: bool, groups: bool) -> Structure:
    """What a view keeps of the structure of an operator.

    A self-adjoint A is ``Mu^-1 N`` with N symmetric. Where the weight is a number, sums over equal parts of both sides
    are symmetric too; and the block of A at equal trials and times is that of N times a number.
    """
    space, known = op.space_in, op.structure
    symmetric = space.uniform_weight is not None or (units_alone and not space.restricted)
    return Structure(
        known.self_adjoint and symmetric,
        known.positive and symmetric,
        known.by_trial and 0 in kept,
        known.units if 2 in kept and groups else None,
    )


def _blocks(op: TensorOperator, total: int) -> Iterator[tuple[int, int]]:
    size = max(1, _BATCH_BYTES // max(1, max(op.shape) * op.dtype.itemsize))
    for start in range(0, total, size):
        yield start, min(start + size, total)


def _diagonal_sum(kept: tuple[int, ...], op: TensorOperator, batch: Array) -> Array:
    """``sum_a (e_a (x) I)^T A (e_a (x) v)``: pairs of a vector v and an index a, in batches.

    Indices that the operator keeps apart go through it at once, all of them.
    """
    known = op.structure
    apart = [axis for axis in _others(kept) if (known.by_trial, False, known.by_unit)[axis]]
    others = tuple(axis for axis in _others(kept) if axis not in apart)
    outer = tuple(op.shape_in[axis] for axis in others)
    number = math.prod(outer)
    result = np.zeros(batch.shape, op.dtype)
    order = (0, *(1 + axis for axis in (*others, *apart, *kept)))
    lifted = (-1, *(1 for _ in apart), *batch.shape[1:])
    summed = tuple(range(1, 1 + len(apart)))
    for start, stop in _blocks(op, len(batch) * number):
        vector, flat = np.divmod(np.arange(start, stop), number)
        place = (np.arange(stop - start), *np.unravel_index(flat, outer)) if outer else (np.arange(stop - start),)
        tensors = np.zeros((stop - start, *op.shape_in), op.dtype)
        tensors.transpose(order)[place] = batch[vector].reshape(lifted)
        np.add.at(result, vector, op.apply(tensors).transpose(order)[place].sum(axis=summed))
    return result


def _probe_mean(kept: tuple[int, ...], signs: Array, op: TensorOperator, batch: Array) -> Array:
    """``(1/p) sum_i (g_i (x) I)^T A (g_i (x) v)``."""
    probes, others = len(signs), _others(kept)
    result = np.zeros(batch.shape, op.dtype)
    along_others = tuple(op.shape_in[axis] if axis in others else 1 for axis in range(len(AXES)))
    along_kept = tuple(op.shape_in[axis] if axis in kept else 1 for axis in range(len(AXES)))
    summed = tuple(1 + axis for axis in others)
    for start, stop in _blocks(op, len(batch) * probes):
        vector, probe = np.divmod(np.arange(start, stop), probes)
        sign = signs[probe].reshape(-1, *along_others)
        image = op.apply(sign * batch[vector].reshape(-1, *along_kept))
        np.add.at(result, vector, (sign * image).sum(axis=summed))
    return result / op.dtype.type(probes)


def _images(
    op: TensorOperator, kept: tuple[int, ...], apart: tuple[int, ...], count: int, seed: int
) -> tuple[Array, Array]:
    """Images Y of normal vectors under the factor, over the root of their number, and Mu: (v, apart, kept, others)."""
    factor = op.factor
    assert factor is not None
    require_memory(2.0 * factor.dtype.itemsize * count * sum(factor.shape), f"{count} images under {factor.name}")
    generator, images = np.random.default_rng(seed), np.empty((count, *factor.shape_out), factor.dtype)
    for start, stop in _blocks(factor, count):
        normal = generator.standard_normal((stop - start, *factor.shape_in)).astype(factor.dtype)
        images[start:stop] = factor.apply(factor.space_in.scale(normal, -0.5))
    images /= factor.dtype.type(math.sqrt(count))
    weights = factor.space_out.scale(np.ones((1, *factor.shape_out), factor.dtype), 1.0)
    order, number = (*apart, *(axis for axis in kept if axis not in apart)), math.prod(op.shape_in[a] for a in apart)
    left, (measure,) = (
        each.reshape(len(each), number, each.shape[1] // number, -1)
        for each in (as_matrices(tensors, order) for tensors in (images, weights))
    )
    return left, measure


def _sum_of_images(apart: list[int], left: Array, weights: Array, transposed: bool, batch: Array) -> Array:
    """``sum_i Y_i (Mu Y_i)^T v``, or its transpose, for each index of the axes of v that are kept apart by itself."""
    first = range(len(apart))
    moved = np.moveaxis(batch, [1 + axis for axis in apart], first)
    rows = moved.reshape(left.shape[1], len(batch), left.shape[2])
    total = np.zeros_like(rows)
    for image in left:
        weighed = weights * image
        total += (rows @ image) @ weighed.swapaxes(-1, -2) if transposed else (rows @ weighed) @ image.swapaxes(-1, -2)
    return np.moveaxis(total.reshape(moved.shape), first, [1 + axis for axis in apart])
