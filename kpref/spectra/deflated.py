"""Trace and effective dimension of a symmetric positive matrix, part of which is known exactly.

For orthonormal rows Q with images ``Q G``, with ``E = 1 - Q^T Q`` and ``R = E G E``,

    tr G   = tr Q G Q^T + tr R,                            tr R   = E v.R v,
    tr G^2 = 2 |Q G|_F^2 - |Q G Q^T|_F^2 + tr R^2,         tr R^2 = E |R v|^2,

v being white in the complement of Q: what couples the two, ``|Q G E|_F^2``, is known from the images. See
`kpref.spectra.paired_probes` for the errors. Q is a Krylov space where nothing is known; eigenvectors, which need no
products, are `kpref.spectra.beside_modes`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from kpref._types import Array
from kpref.memory import require_memory
from kpref.spectra.estimate import Estimate
from kpref.spectra.paired_probes import (
    directions,
    estimate_of,
    in_batches,
    krylov_range,
    product_of_means,
    rounding,
)
from kpref.spectra.quadratic_forms import Mean, mean_of_forms
from kpref.spectra.rows import combination, inner_products
from kpref.spectra.symmetric import SymmetricForm

__all__ = ["Deflated", "Moments", "beside_krylov"]


@dataclass(frozen=True, eq=False)
class Moments:
    """Inner products that tell the trace and the effective dimension of G; p white vectors v beside k rows Q."""

    known: tuple[float, float]  # ``tr Q G Q^T``, and ``2 |Q G|_F^2 - |Q G Q^T|_F^2``
    # forms, rests, overlaps: (p, p): ``v_i.R v_j``, ``R v_i.R v_j`` and ``v_i.v_j``
    forms: Array
    rests: Array
    overlaps: Array
    dimensions: int  # of the complement of Q
    size: int  # n, of all
    dtype: np.dtype[Any]  # of the vectors
    n_products: int  # that were needed
    method: str  # in words

    def trace(self) -> Estimate:
        """tr G."""
        mean = mean_of_forms(self.forms, self.overlaps, self.dimensions, positive=True)
        return self._estimate(mean._replace(value=mean.value + self.known[0]))

    def dimension(self) -> Estimate:
        """``(tr G)^2 / tr G^2``; zero for G = 0."""
        pairs = np.stack([self.forms, self.rests])
        if not self.known[1] and not pairs.any():
            return Estimate(0.0, 0.0, self.n_products, self.method)
        return self._estimate(product_of_means(self.known, pairs, (2.0, -1.0), self.overlaps, self.dimensions))

    def _estimate(self, mean: Mean) -> Estimate:
        return estimate_of(mean, rounding(self.dtype, self.size) * abs(mean.value), self.n_products, self.method)


@dataclass(frozen=True, eq=False)
class Deflated:
    """A matrix G as far as k rows Q and p white vectors beside them show it; all in the coordinates of its form."""

    # basis, images: (k, n): Q and Q G
    basis: Array
    images: Array
    # vectors, rest: (p, n): v and R v
    vectors: Array
    rest: Array
    n_products: int  # that were needed
    method: str  # in words

    def dimension(self) -> Estimate:
        """``(tr G)^2 / tr G^2``; zero for G = 0."""
        coupled, (count, size) = inner_products(self.images, self.basis), self.basis.shape
        squares = 2 * float(np.trace(inner_products(self.images))) - float(np.vdot(coupled, coupled))
        return Moments(
            known=(float(np.trace(coupled)), squares),
            forms=inner_products(self.vectors, self.rest),
            rests=inner_products(self.rest),
            overlaps=inner_products(self.vectors),
            dimensions=size - count,
            size=size,
            dtype=self.vectors.dtype,
            n_products=self.n_products,
            method=self.method,
        ).dimension()


def beside_krylov(form: SymmetricForm, probes: int, seed: Any) -> Deflated:
    """A third of the products for a Krylov space, the others for white vectors beside it."""
    generator, dtype = np.random.default_rng(seed), form.op.dtype
    require_memory(4.0 * probes * form.size * dtype.itemsize, f"{probes} probes of {form.op.name}")
    basis, images = krylov_range(form, form.size, probes // 3, dtype, generator)
    vectors = directions(generator, probes - len(basis), basis)
    rest = in_batches(form, vectors)
    combination(inner_products(rest, basis).astype(dtype), basis, out=rest)
    return Deflated(basis, images, vectors, rest, form.n_products, "Krylov space and random vectors")
