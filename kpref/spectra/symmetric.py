"""The symmetric form of a self-adjoint operator: what an algorithm for symmetric matrices may see."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from kpref.operators import TensorOperator

__all__ = ["SymmetricForm", "require_self_adjoint"]

Array = npt.NDArray[Any]


class SymmetricForm:
    """``Mu^(1/2) A Mu^(-1/2)`` on the support of the measure, on flat vectors.

    It has the eigenvalues, the trace and the Frobenius norm of A on the restricted space.

    Parameters
    ----------
    op : TensorOperator
        Self-adjoint in the inner product of its space.
    progress : callable, optional
        Called with the number of products after each call.

    Attributes
    ----------
    size : int
        Number n of entries whose weight is positive.
    n_products : int
        Products with the operator so far.
    """

    def __init__(self, op: TensorOperator, progress: Callable[[int], object] | None = None) -> None:
        self.op, self.space, self._progress = op, op.space_in, progress
        weights = self.space.weights
        full = np.ones(self.space.shape) if weights is None else np.broadcast_to(weights, self.space.shape)
        self._support = np.flatnonzero(full.reshape(-1) > 0)
        self.size = len(self._support)
        self.n_products = 0

    def __call__(self, vectors: Array) -> Array:
        """Apply to vectors (v, n)."""
        image = self.space.scale(self.op.apply(self.to_tensors(vectors)), 0.5)
        self.n_products += len(vectors)
        if self._progress is not None:
            self._progress(len(vectors))
        return self.to_vectors(image)

    def to_tensors(self, vectors: Array) -> Array:
        """Vectors (v, n) as tensors (v, \\*shape): ``Mu^(-1/2)``, zero off the support."""
        flat = np.zeros((len(vectors), self.space.size), vectors.dtype)
        flat[:, self._support] = vectors
        return self.space.scale(flat.reshape(-1, *self.space.shape), -0.5)

    def to_vectors(self, tensors: Array) -> Array:
        """Entries of tensors (v, \\*shape) on the support."""
        return np.asarray(tensors).reshape(len(tensors), -1)[:, self._support]


def require_self_adjoint(op: TensorOperator, seed: int = 0) -> None:
    """Raise ValueError if an operator is not self-adjoint: by its declared structure, or else by a test.

    The test compares ``<p, A q>`` and ``<A p, q>`` for random tensors p, q.
    """
    if op.structure.self_adjoint:
        return
    if op.space_in != op.space_out:
        raise ValueError(f"{op.name} maps {op.space_in} to {op.space_out}; this needs an operator on one space")
    space = op.space_in
    p, q = np.random.default_rng(seed).normal(size=(2, *space.shape))
    image_p, image_q = op(p), op(q)
    left, right = space.inner(p, image_q), space.inner(image_p, q)
    # Rounding alone leaves a difference of a few units of precision times the norms; a thousand is far above it.
    scale = space.norm(p) * space.norm(image_q) + space.norm(q) * space.norm(image_p)
    if abs(left - right) > 1e3 * np.finfo(op.dtype).eps * scale:
        raise ValueError(
            f"{op.name} is not self-adjoint in the inner product of its space: <p, A q> = {left:.6g} but "
            f"<A p, q> = {right:.6g}"
        )
