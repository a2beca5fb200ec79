"""Leading eigenpairs of operators that are block-diagonal over one axis: one Lanczos process per block, all in step.

P does not mix trials and K does not mix units, so that ``P P*`` has one block for each trial and K one for each unit.
Similar blocks give the whole operator clusters of nearly equal eigenvalues, in which an iteration that does not know
the blocks gets stuck, while each block by itself is easy. A product with the operator serves all blocks at once.
A block whose largest eigenvalue is settled, and below those that are wanted, needs no more products: they are saved
where it can be said what the operator makes of the other blocks alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from kpref._reprs import short_repr
from kpref._types import Array
from kpref._validate import integer
from kpref.memory import require_memory
from kpref.operators import TensorOperator
from kpref.spectra.eigen import check_search, signs
from kpref.spectra.symmetric import require_apart, require_operator
from kpref.threads import even_blocks, run_blocks, serial_blas

__all__ = ["BlockEigen", "block_eigh", "extend_blocks", "one_a_block", "whole_vectors"]

_EXTRA = 14  # vectors of a basis beyond the k that a restart keeps
_STRIDE = 5  # products after which convergence is looked for
_SETTLED = 1e-6  # defect of the largest value of a block, relative to it, that is settled: its square tells the value's
_WORTHWHILE = 0.75  # part of the blocks, or less, that one goes on with alone
_MAX_RESTARTS = 200
_BLOCKS_AT_ONCE = 4  # whose vectors a task makes orthogonal
Integers = npt.NDArray[np.intp]
Product = Callable[[Array], Array]


@dataclass(frozen=True, eq=False)
class BlockEigen:
    """Leading eigenpairs of a block-diagonal operator."""

    values: Array  # (k,): in descending order, over all blocks
    # (k, *shape without the axis): the eigenfunctions in their blocks (they are zero in the others), of norm one in
    # the inner product of the space, the entry of largest magnitude positive
    vectors: Array
    blocks: Array  # (k,): which block each belongs to
    residuals: Array  # (k,): ``||A v - lambda v|| / lambda_1``, as in `kpref.spectra.Eigen`
    n_products: int  # products with the operator that were needed
    # largest, defects: (number of blocks,): the largest eigenvalue of each block, from below, and its residual by the
    # iteration's own account, which may be far above those of the pairs: only the largest of all were waited for
    largest: Array
    defects: Array

    __repr__ = short_repr


@serial_blas
def block_eigh(
    op: TensorOperator,
    k: int,
    axis: int,
    seed: int = 0,
    tol: float = 1e-10,
    progress: Callable[[int], object] | None = None,
    part: Callable[[Integers], TensorOperator] | None = None,
) -> BlockEigen:
    """The k largest eigenvalues of a positive operator that does not mix the blocks along one axis of its tensors.

    Thick-restart Lanczos (Wu and Simon, SIAM J. Matrix Anal. Appl. 2000) with full orthogonalisation in each block.

    `op`: known to be self-adjoint, positive and block-diagonal over `axis`, by its structure. `k`: number of
    eigenpairs, over all blocks. `axis`: 0 for trials, 2 for units. `seed`: of the starting vectors. `tol`: largest
    residual. `progress`: called with 1 after each product. `part`: gives an operator on some blocks alone, by their
    indices, that does there what `op` does in all; products with it count as others do.
    Raises ValueError if that is not known of the operator, or k is out of range; RuntimeError if the residuals do not
    fall below `tol`; MemoryError before anything is allocated, if the bases would not fit.
    """
    op = require_operator(op)
    space = op.space_in
    if not (op.structure.self_adjoint and op.structure.positive):
        raise ValueError(f"op must be declared self-adjoint and positive; {op.name} is not")
    k, axis = integer("k", k, 1, space.size), integer("axis", axis, 0, len(space.shape) - 1)
    require_apart(op, axis)
    tol, seed = check_search(tol, seed, progress)
    number = space.shape[axis]
    inner = tuple(np.delete(space.shape, axis))
    products = 0

    def tensor(rows: Array) -> Array:
        return np.moveaxis(rows.reshape(len(rows), *inner), 0, axis)

    def symmetric(rows: Array, operator: TensorOperator = op) -> Array:
        nonlocal products
        products += 1
        space = operator.space_in
        if space.uniform_weight is not None:  # a number, which commutes with A
            image = operator(tensor(rows))
        else:
            image = space.scale(operator(space.scale(tensor(rows), -0.5)), 0.5)
        if progress is not None:
            progress(1)
        return np.moveaxis(np.asarray(image), axis, 0).reshape(len(rows), -1)

    def product_of(some: Integers) -> Product:
        assert part is not None
        return partial(symmetric, operator=part(some))

    shape = (number, space.size // number)
    require_memory(8.0 * space.size * (min(shape[1], k + _EXTRA) + k + 4), f"the Lanczos bases of {op.name}")
    process = _Process(symmetric, shape, k, np.random.default_rng(seed), None if part is None else product_of)
    values, blocks, rows, tops = process.run(tol, op.name)
    residuals, vectors = np.empty(len(values)), np.empty((len(values), *inner))
    for pairs in one_a_block(blocks):
        there, whole = blocks[pairs], np.zeros(shape)
        whole[there] = rows[pairs]
        gaps = symmetric(whole)[there] - values[pairs, None] * rows[pairs]
        residuals[pairs] = np.linalg.norm(gaps, axis=1) / (values[0] or 1.0)
        vectors[pairs] = np.moveaxis(space.scale(tensor(whole), -0.5), axis, 0)[there]
    vectors *= signs(vectors)
    return BlockEigen(values, vectors, blocks, residuals, products, *tops)


def whole_vectors(modes: BlockEigen, shape: tuple[int, ...], axis: int) -> Array:
    """Eigenfunctions of blocks along an axis as tensors (k, \\*shape) that are zero in the other blocks."""
    tensors = np.zeros((len(modes.values), *shape))
    for tensor, block, vector in zip(tensors, modes.blocks, modes.vectors, strict=True):
        np.moveaxis(tensor, axis, 0)[block] = vector
    return tensors


def one_a_block(blocks: Integers) -> list[Integers]:
    """Pairs by their blocks (k,), sorted into sets of such that are in different ones: a product serves each set."""
    turns = np.array([np.count_nonzero(blocks[:index] == block) for index, block in enumerate(blocks)])
    return [np.flatnonzero(turns == turn) for turn in range(int(turns.max()) + 1)]


class _Process:
    """Lanczos processes of all blocks, or of those that may still hold one of the k largest pairs.

    `symmetric`: the operator on rows (blocks, size). `product_of`: gives that of some blocks alone, if there is one.
    """

    def __init__(
        self,
        symmetric: Product,
        shape: tuple[int, int],
        k: int,
        generator: np.random.Generator,
        product_of: Callable[[Integers], Product] | None,
    ) -> None:
        number, size = shape
        self.symmetric, self.product_of, self.k = symmetric, product_of, k
        self.kept = min(k, size)
        self.width = min(size, self.kept + _EXTRA)
        self.going = np.arange(number)  # blocks that the bases belong to
        self.tops = np.zeros((2, number))  # of all blocks the largest value, and its defect
        self.basis = np.zeros((number, self.width + 1, size))
        self.basis[:, 0] = generator.standard_normal(shape)
        self.basis[:, 0] /= np.linalg.norm(self.basis[:, 0], axis=1, keepdims=True)
        self.projected = np.zeros((number, self.width, self.width))

    def run(self, tol: float, name: str) -> tuple[Array, Integers, Array, tuple[Array, Array]]:
        """Values of the k largest pairs, their blocks, vectors (k, size); of each block the largest, and its defect."""
        first = restarts = 0
        while restarts < _MAX_RESTARTS:
            stop = min(self.width, first + _STRIDE)
            beta = extend_blocks(self.symmetric, self.basis, self.projected[:, :stop, :stop], first)
            ritz, rotations = np.linalg.eigh(self.projected[:, :stop, :stop])
            ritz, rotations = ritz[:, ::-1][:, : self.kept], rotations[:, :, ::-1][:, :, : self.kept]
            defects = beta[:, None] * np.abs(rotations[:, -1])
            self.tops[:, self.going] = ritz[:, 0], defects[:, 0]
            order = np.argsort(-ritz, axis=None, kind="stable")[: self.k]
            clear = len(order) == self.k and (stop == self.width or self._clear(ritz, defects, order))
            if clear and defects.flat[order].max() <= tol * ritz.max():
                places, columns = np.unravel_index(order, ritz.shape)
                pairs = zip(places, columns, strict=True)
                rows = [rotations[place, :, column] @ self.basis[place, :stop] for place, column in pairs]
                return ritz.flat[order], self.going[places], np.array(rows), (self.tops[0], self.tops[1])
            wanted = self._may_be_wanted(ritz, defects, order)
            if self.product_of is not None and wanted.sum() <= _WORTHWHILE * len(wanted):
                self._go_on_with(np.flatnonzero(wanted), self.product_of)
                ritz, rotations = ritz[wanted], rotations[wanted]
            first = stop
            if stop == self.width:
                self._restart(ritz, rotations)
                first, restarts = self.kept, restarts + 1
        raise RuntimeError(f"{name}: the Lanczos process did not converge to {tol:g} in {_MAX_RESTARTS} restarts")

    def _clear(self, ritz: Array, defects: Array, order: Integers) -> bool:
        """Whether no other value comes near the wanted ones, and all that is told of blocks is settled."""
        others = np.delete((ritz + defects).reshape(-1), order)
        settled = self.tops[1] <= _SETTLED * self.tops[0]
        return bool(settled.all()) and bool((others <= ritz.flat[order[-1]]).all())

    def _may_be_wanted(self, ritz: Array, defects: Array, order: Integers) -> npt.NDArray[np.bool_]:
        """Of the blocks that go on, which may hold a wanted pair, or have a largest value that is not settled."""
        least = ritz.flat[order[-1]] - defects.flat[order].max()
        return np.asarray((ritz[:, 0] + defects[:, 0] >= least) | (defects[:, 0] > _SETTLED * ritz[:, 0]))

    def _go_on_with(self, some: Integers, product_of: Callable[[Integers], Product]) -> None:
        self.going, self.basis, self.projected = self.going[some], self.basis[some], self.projected[some]
        self.symmetric = product_of(self.going)

    def _restart(self, ritz: Array, rotations: Array) -> None:
        """Keep the leading Ritz vectors."""
        kept = self.kept
        self.basis[:, :kept] = rotations.swapaxes(1, 2) @ self.basis[:, : self.width]
        self.basis[:, kept] = self.basis[:, self.width]
        self.projected[...] = 0.0
        self.projected[:, range(kept), range(kept)] = ritz


def extend_blocks(symmetric: Callable[[Array], Array], basis: Array, projected: Array, first: int) -> Array:
    """Fill the basis from vector `first` on, and the projected matrix; returns the norms of what is left over.

    A block whose Krylov space is exhausted goes on with zero vectors, which add zeros to its spectrum. One block after
    the other: the basis of one stays in a cache while it is read four times.
    """
    number, beta = len(basis), np.zeros(len(basis))
    parts = even_blocks(number, min(number, _BLOCKS_AT_ONCE))
    for column in range(first, projected.shape[2]):
        fresh = np.ascontiguousarray(symmetric(basis[:, column]))

        def task(index: int, column: int = column, fresh: Array = fresh) -> None:
            for block in range(parts[index].start, parts[index].stop):
                overlaps, beta[block] = _extend(basis[block, : column + 2], fresh[block])
                projected[block, : column + 1, column] += overlaps
                projected[block, column, : column + 1] = projected[block, : column + 1, column]

        run_blocks(task, len(parts))
    return beta


def _extend(rows: Array, vector: Array) -> tuple[Array, float]:
    """Make a vector (n,) orthonormal to all rows but the last, which it becomes; its overlaps, and what was left of it.

    The last row is zero where nothing but rounding was left. The vector is overwritten.
    """
    known, overlaps, length = rows[:-1], np.zeros(len(rows) - 1), float(np.linalg.norm(vector))
    for _ in range(2):  # once more, for what rounding left of the first time: all of it where images outgrow others
        found = known @ vector
        vector -= found @ known
        overlaps += found
    left = float(np.linalg.norm(vector))
    if left <= 100 * np.finfo(float).eps * length:
        rows[-1] = 0.0
        return overlaps, 0.0
    np.divide(vector, left, out=rows[-1])
    return overlaps, left
