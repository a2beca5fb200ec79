"""Operators in coordinates in which inner products are plain sums: what an algorithm for matrices may see.

A tensor q has the coordinates ``W^(1/2) q`` on the support of the weights W of its space. In those of its two spaces,
an operator A is the matrix ``W_out^(1/2) A W_in^(-1/2)``, and its adjoint the transpose of that.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from kpref._types import Array
from kpref.operators import TensorOperator
from kpref.space import EuclideanSpace

__all__ = [
    "Coordinates",
    "RectangularForm",
    "SymmetricForm",
    "require_adjoint",
    "require_apart",
    "require_operator",
    "require_self_adjoint",
]


class Coordinates:
    """Flat vectors of the entries of tensors where their weight is positive.

    `size`: number n of entries whose weight is positive.
    """

    def __init__(self, space: EuclideanSpace) -> None:
        self.space = space
        full = np.ones(space.shape) if space.weights is None else np.broadcast_to(space.weights, space.shape)
        self.support = np.flatnonzero(full.reshape(-1) > 0)
        self.size = len(self.support)

    def embed(self, vectors: Array) -> Array:
        """Entries (v, n) as tensors (v, \\*shape), zero off the support."""
        if self.size == self.space.size:
            flat = vectors
        else:
            flat = np.zeros((len(vectors), self.space.size), vectors.dtype)
            flat[:, self.support] = vectors
        return flat.reshape(len(vectors), *self.space.shape)

    def restrict(self, tensors: Array) -> Array:
        """Entries (v, n) of tensors (v, \\*shape) on the support."""
        flat = np.asarray(tensors).reshape(len(tensors), self.space.size)
        return flat if self.size == self.space.size else flat[:, self.support]

    def to_tensors(self, vectors: Array, overwrite: bool = False) -> Array:
        """Vectors (v, n) as tensors (v, \\*shape): ``W^(-1/2)``, zero off the support; in place if they may go."""
        flat = self.embed(vectors)
        return self.space.scale(flat, -0.5, out=flat if overwrite else None)

    def to_vectors(self, tensors: Array) -> Array:
        """Vectors (v, n) of tensors (v, \\*shape): ``W^(1/2)``."""
        return self.restrict(self.space.scale(np.asarray(tensors), 0.5))


class RectangularForm:
    """``W_out^(1/2) A W_in^(-1/2)`` on the supports of the weights, on flat vectors, and its transpose.

    `progress`: called with the number of products with A after each call.
    `domain`, `codomain`: of the two spaces. `n_products`: products with A so far; those with the adjoint come on top
    where an algorithm needs both.
    """

    def __init__(self, op: TensorOperator, progress: Callable[[int], object] | None = None) -> None:
        self.op, self._progress = op, progress
        self.domain, self.codomain = Coordinates(op.space_in), Coordinates(op.space_out)
        self._transpose = op.T
        self.n_products = 0

    def __call__(self, vectors: Array) -> Array:
        """Apply to vectors (v, n)."""
        images = self._scaled(self.op, self.domain, self.codomain, vectors, 1.0)
        self.n_products += len(vectors)
        if self._progress is not None:
            self._progress(len(vectors))
        return images

    def transpose(self, vectors: Array) -> Array:
        """Apply the transpose to vectors (v, m)."""
        return self._scaled(self._transpose, self.codomain, self.domain, vectors, -1.0)

    def gram(self, vectors: Array) -> Array:
        """Apply the transpose after the matrix itself to vectors (v, n)."""
        return self.transpose(self(vectors))

    def _scaled(
        self, op: TensorOperator, before: Coordinates, after: Coordinates, vectors: Array, sign: float
    ) -> Array:
        """``W_after^(sign/2) op W_before^(-sign/2)``."""
        weights = before.space.uniform_weight, after.space.uniform_weight
        if not (weights[0] and weights[1]):
            images = _finite(op, op.apply(before.space.scale(before.embed(vectors), -sign / 2)))
            return after.restrict(after.space.scale(images, sign / 2))
        # A number commutes with everything: it goes where there are fewer entries.
        number = np.asarray((weights[1] / weights[0]) ** (sign / 2), op.dtype)
        if before.size < after.size:
            return after.restrict(_finite(op, op.apply(before.embed(number * vectors))))
        return number * after.restrict(_finite(op, op.apply(before.embed(vectors))))


class SymmetricForm:
    """``Mu^(1/2) A Mu^(-1/2)`` on the support of the measure, on flat vectors.

    It has the eigenvalues, the trace and the Frobenius norm of A on the restricted space.

    `op`: self-adjoint in the inner product of its space. `progress`: called with the number of products after each
    call.
    `size`: number n of entries whose weight is positive. `n_products`: products with the operator so far.
    """

    def __init__(self, op: TensorOperator, progress: Callable[[int], object] | None = None) -> None:
        self.op, self.space, self._progress = op, op.space_in, progress
        self.coordinates = Coordinates(self.space)
        self.size = self.coordinates.size
        self.n_products = 0

    def __call__(self, vectors: Array) -> Array:
        """Apply to vectors (v, n)."""
        if self.space.uniform_weight is not None:  # a number, which commutes with A
            images = self.coordinates.restrict(_finite(self.op, self.op.apply(self.coordinates.embed(vectors))))
        else:
            images = self.coordinates.to_vectors(_finite(self.op, self.op.apply(self.to_tensors(vectors))))
        self.n_products += len(vectors)
        if self._progress is not None:
            self._progress(len(vectors))
        return images

    def to_tensors(self, vectors: Array, overwrite: bool = False) -> Array:
        """Vectors (v, n) as tensors (v, \\*shape): ``Mu^(-1/2)``, zero off the support; in place if they may go."""
        return self.coordinates.to_tensors(vectors, overwrite)


def require_operator(op: object) -> TensorOperator:
    """An operator as it is, or a TypeError that says how to make one of a matrix or of a SciPy LinearOperator."""
    if isinstance(op, TensorOperator):
        return op
    raise TypeError(
        f"op must be a TensorOperator, such as flow.NTK; got {type(op).__module__}.{type(op).__qualname__}. A matrix "
        "or LinearOperator A of shape (m, n) becomes one by TensorOperator(lambda rows: (A @ rows.T).T, lambda rows: "
        "(A.T @ rows.T).T, EuclideanSpace((n,)), EuclideanSpace((m,)))"
    )


def require_apart(op: TensorOperator, axis: int) -> None:
    """Raise ValueError unless an operator is known to keep the indices along an axis of its tensors apart."""
    known = op.structure
    if not ((axis == 0 and known.by_trial) or (axis == len(op.shape_in) - 1 and known.by_unit)):
        raise ValueError(
            f"{op.name} must keep the indices along axis {axis} apart, which its structure does not say; take an "
            "algorithm that asks for no blocks, or say so in the Structure of its parts"
        )


def require_self_adjoint(op: TensorOperator, seed: int = 0, trusting: bool = True) -> None:
    """Raise ValueError if an operator is not self-adjoint: by its declared structure, or else by a test.

    The test compares ``<p, A q>`` and ``<A p, q>`` for random tensors p, q. An operator that is not `trusting` is
    tested whatever is declared; where it is known as ``A A*``, by `require_adjoint` for A.
    """
    if op.structure.self_adjoint and trusting:
        return
    if op.factor is not None:
        return require_adjoint(op.factor, seed)
    if op.space_in != op.space_out:
        raise ValueError(f"{op.name} maps {op.space_in} to {op.space_out}; this needs an operator on one space")
    space = op.space_in
    p, q = _support(space) * np.random.default_rng(seed).normal(size=(2, *space.shape))
    image_p, image_q = op(p), op(q)
    left, right = space.inner(p, image_q), space.inner(image_p, q)
    scale = space.norm(p) * space.norm(image_q) + space.norm(q) * space.norm(image_p)
    if _differ(left, right, scale, op):
        raise ValueError(
            f"{op.name} is not self-adjoint in the inner product of its space: <p, A q> = {left:.6g} but "
            f"<A p, q> = {right:.6g}"
        )


def require_adjoint(op: TensorOperator, seed: int = 0) -> None:
    """Raise ValueError if the adjoint of an operator is none: ``<p, A q>`` and ``<A* p, q>`` for random p, q differ."""
    generator = np.random.default_rng(seed)
    # Zero where the weights are: adjoints are those on the restricted spaces.
    p, q = (_support(space) * generator.normal(size=space.shape) for space in (op.space_out, op.space_in))
    image, pulled = op(q), op.star(p)
    left, right = op.space_out.inner(p, image), op.space_in.inner(pulled, q)
    scale = op.space_out.norm(p) * op.space_out.norm(image) + op.space_in.norm(q) * op.space_in.norm(pulled)
    if _differ(left, right, scale, op):
        raise ValueError(
            f"the transpose of {op.name} is not that of its map: <p, A q> = {left:.6g} but <A* p, q> = {right:.6g} in "
            "the inner products of its spaces"
        )


def _support(space: EuclideanSpace) -> Array:
    """Ones where a weight is positive, else zeros; broadcastable to the shape."""
    return np.ones(1) if space.weights is None else (np.asarray(space.weights) > 0).astype(float)


def _differ(left: float, right: float, scale: float, op: TensorOperator) -> bool:
    """Rounding alone leaves a difference of a few units of precision times the norms; a thousand is far above it."""
    return abs(left - right) > 1e3 * float(np.finfo(op.dtype).eps) * scale


def _finite(op: TensorOperator, images: Array) -> Array:
    """Images as they are, or ValueError if some are not finite: the vectors were."""
    with np.errstate(over="ignore", invalid="ignore"):
        total = images.sum()  # a single one that is not finite shows in it
    if not np.isfinite(total) and not np.isfinite(images).all():
        raise ValueError(
            f"{op.name} maps finite tensors to such that are not finite: its numbers overflow, or are wrong"
        )
    return images
