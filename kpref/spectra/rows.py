"""Sums over long rows (j, n), a block of columns at a time: what fits into no cache is read once, and not copied.

Blocks are cut by the problem alone and added up in order, so that the bits are the same for any number of threads.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kpref._types import Array
from kpref.threads import even_blocks, run_blocks

__all__ = [
    "combination",
    "inner_products",
    "inner_products_of_parts",
    "orthonormal",
    "overlaps_with",
    "ritz_gaps",
    "triangle",
]

#: Columns that a thread works on at a time; and entries of both factors of inner products, in double precision.
_BLOCK = 1 << 14
_ENTRIES = 1 << 17
#: Partial sums of inner products of parts: as many threads can work, whatever their number.
_SUMS = 16
#: Squares of lengths, relative to the largest, that are rounding of Gram matrices.
_DEPENDENT = 1e-12
#: Difference of a Gram matrix from the identity that is left as it is.
_ORTHONORMAL = 1e-14


def overlaps_with(rows: Array, vector: Array) -> Array:
    """Inner products of a vector (n,) with rows (j, n), in their precision."""
    blocks = even_blocks(len(vector), _BLOCK)
    parts = np.empty((max(len(blocks), 1), len(rows)), rows.dtype)

    def task(index: int) -> None:
        np.matmul(rows[:, blocks[index]], vector[blocks[index]], out=parts[index])

    run_blocks(task, len(blocks))
    return np.asarray(parts.sum(axis=0))


def combination(weights: Array, rows: Array, out: Array | None = None) -> Array:
    """``weights @ rows`` for rows (j, n) and weights (j,) or (i, j); subtracted from `out`, if there is one."""
    blocks = even_blocks(rows.shape[1], _BLOCK)
    total = np.empty((*weights.shape[:-1], rows.shape[1]), rows.dtype) if out is None else out

    def task(index: int) -> None:
        part = (..., blocks[index])
        if out is None:
            total[part] = weights @ rows[part]
        else:
            total[part] -= weights @ rows[part]

    run_blocks(task, len(blocks))
    return total


def ritz_gaps(turn: Array, values: Array, rows: Array, images: Array) -> Array:
    """Turn rows (k, n) into ``turn @ rows``, in place; the lengths (k,) of ``turn @ images - values * rows`` of these.

    As Ritz vectors with their values, and the lengths of their residuals, in one pass.
    """
    blocks = even_blocks(rows.shape[1], _BLOCK)
    squares = np.zeros((max(len(blocks), 1), len(rows)))

    def task(index: int) -> None:
        own = turn @ rows[:, blocks[index]]
        squares[index] = np.square(turn @ images[:, blocks[index]] - values[:, None] * own).sum(axis=1)
        rows[:, blocks[index]] = own

    run_blocks(task, len(blocks))
    return np.asarray(np.sqrt(squares.sum(axis=0)))


def inner_products(rows: Array, others: Array | None = None) -> Array:
    """``rows @ others.T`` for rows (i, n) and (j, n), of the rows themselves without others: in float64.

    Rows in float32 lose nothing in the sums, and their copies in float64 stay in a cache.
    """
    count, size = rows.shape
    width = count if others is None else len(others)
    blocks = even_blocks(size, max(1, _ENTRIES // max(1, count + width)))
    parts = np.zeros((max(len(blocks), 1), count, width))

    def task(index: int) -> None:
        left = rows[:, blocks[index]].astype(np.float64, copy=False)
        right = left if others is None else others[:, blocks[index]].astype(np.float64, copy=False)
        np.matmul(left, right.T, out=parts[index])

    run_blocks(task, len(blocks))
    return np.asarray(parts.sum(axis=0))


def inner_products_of_parts(parts: Sequence[Array], places: Sequence[Sequence[slice]]) -> Array:
    """Inner products of all rows of some arrays (j, n), taken as one, over each of some sets of columns: (G, r, r).

    In float64, as `inner_products`; no column is in two sets.
    """
    count = sum(map(len, parts))
    width = max(1, _ENTRIES // max(1, count))
    pieces = [
        (group, slice(start, min(start + width, place.stop)))
        for group, own in enumerate(places)
        for place in own
        for start in range(place.start, place.stop, width)
    ]
    tasks = even_blocks(len(pieces), 1, _SUMS)
    sums = np.zeros((max(len(tasks), 1), len(places), count, count))

    def task(index: int) -> None:
        for group, columns in pieces[tasks[index]]:
            rows = np.concatenate([part[:, columns] for part in parts]).astype(np.float64, copy=False)
            sums[index, group] += rows @ rows.T

    run_blocks(task, len(tasks))
    return np.asarray(sums.sum(axis=0))


def orthonormal(rows: Array) -> Array:
    """Orthonormal rows of the same span, the rows themselves where they are; fewer where rows depend on each other.

    By Gram matrices, which tell dependence to half of the digits: those of a million numbers each are there in a tenth
    of the time of their QR factorisation.
    """
    for _ in range(2):  # the first time orthogonal up to rounding magnified by the condition of the Gram matrix
        gram = inner_products(rows)
        if not len(rows) or np.abs(gram - np.eye(len(rows))).max() <= _ORTHONORMAL:
            break
        shares, turned = np.linalg.eigh(gram)
        there = shares > _DEPENDENT * shares[-1]
        rows = combination((turned[:, there] / np.sqrt(shares[there])).T, rows)
    return rows


def triangle(rows: Array) -> Array:
    """R of the QR factorisation of ``rows.T``: of each block of columns, and then of these triangles.

    As accurate as of all at once (Demmel et al., SIAM J. Sci. Comput. 34, 2012), from blocks that stay in a cache.
    """
    blocks = even_blocks(rows.shape[1], _BLOCK)
    parts: list[Array] = [np.empty((0, len(rows)))] * len(blocks)

    def task(index: int) -> None:
        parts[index] = np.asarray(np.linalg.qr(rows[:, blocks[index]].T, mode="r"))

    run_blocks(task, len(blocks))
    return np.asarray(np.linalg.qr(np.concatenate(parts), mode="r"))
