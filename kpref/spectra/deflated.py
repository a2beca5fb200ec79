"""Trace and effective dimension of a symmetric positive matrix, part of which is known exactly.

For orthonormal rows Q with images ``Q G``, with ``E = 1 - Q^T Q`` and ``R = E G E``,

    tr G   = tr Q G Q^T + tr R,                            tr R   = E v.R v,
    tr G^2 = 2 |Q G|_F^2 - |Q G Q^T|_F^2 + tr R^2,         tr R^2 = E |R v|^2,

v being white in the complement of Q: what couples the two, ``|Q G E|_F^2``, is known from the images. See
`kpref.spectra.paired_probes` for the errors. Q is a Krylov space where nothing is known, or eigenvectors.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
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
from kpref.spectra.white_images import WhiteImages, white_images

__all__ = ["Deflated", "beside_krylov", "beside_modes", "seen_beside_modes"]


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

    def trace(self) -> Estimate:
        """tr G."""
        known = float(np.trace(self._coupled))
        mean = mean_of_forms(self._forms, self._overlaps, self._dimensions, positive=True)
        return self._estimate(mean._replace(value=mean.value + known))

    def dimension(self) -> Estimate:
        """``(tr G)^2 / tr G^2``; zero for G = 0."""
        coupled = self._coupled
        squares = 2 * float(np.trace(inner_products(self.images))) - float(np.vdot(coupled, coupled))
        pairs = np.stack([self._forms, inner_products(self.rest)])
        if not squares and not pairs.any():
            return Estimate(0.0, 0.0, self.n_products, self.method)
        known = float(np.trace(coupled)), squares
        return self._estimate(product_of_means(known, pairs, (2.0, -1.0), self._overlaps, self._dimensions))

    @property
    def _dimensions(self) -> int:
        """Of the complement of Q."""
        return self.vectors.shape[1] - len(self.basis)

    @cached_property
    def _coupled(self) -> Array:
        """``Q G Q^T``."""
        return inner_products(self.images, self.basis)

    @cached_property
    def _forms(self) -> Array:
        """``v_i.R v_j``."""
        return inner_products(self.vectors, self.rest)

    @cached_property
    def _overlaps(self) -> Array:
        """``v_i.v_j``."""
        return inner_products(self.vectors)

    def _estimate(self, mean: Mean) -> Estimate:
        floor = rounding(self.vectors.dtype, self.vectors.shape[1]) * abs(mean.value)
        return estimate_of(mean, floor, self.n_products, self.method)


def beside_krylov(form: SymmetricForm, probes: int, seed: Any) -> Deflated:
    """A third of the products for a Krylov space, the others for white vectors beside it."""
    generator, dtype = np.random.default_rng(seed), form.op.dtype
    require_memory(4.0 * probes * form.size * dtype.itemsize, f"{probes} probes of {form.op.name}")
    basis, images = krylov_range(form, form.size, probes // 3, dtype, generator)
    vectors = directions(generator, probes - len(basis), basis)
    rest = in_batches(form, vectors)
    return _deflated(basis, images, vectors, rest, form.n_products, "Krylov space and random vectors")


def beside_modes(form: SymmetricForm, values: Array, modes: Array, probes: int, seed: Any) -> Deflated:
    """White vectors, a product each, beside eigenfunctions (k, \\*shape) that are known already."""
    return seen_beside_modes(white_images(form, probes, seed), values, modes, overwrite=True)


def seen_beside_modes(seen: WhiteImages, values: Array, modes: Array, overwrite: bool = False) -> Deflated:
    """The same from products that are there already, and lost with `overwrite`."""
    form, dtype = seen.form, seen.form.op.dtype
    count = 2 * len(seen.vectors) + 3 * len(modes)
    require_memory(1.0 * count * form.size * dtype.itemsize, f"{len(seen.vectors)} probes of {form.op.name}")
    basis = form.coordinates.to_vectors(np.asarray(modes, dtype))
    images = np.asarray(values, dtype)[:, None] * basis
    vectors, rest = seen.beside(basis, images, overwrite)
    method = f"leading {len(values)} eigenvalues, random vectors for the rest"
    return _deflated(basis, images, vectors, rest, len(vectors), method)


def _deflated(basis: Array, images: Array, vectors: Array, rest: Array, products: int, method: str) -> Deflated:
    """`rest`: (p, n): images of v, in which what the basis has of them is taken out here."""
    combination(inner_products(rest, basis).astype(rest.dtype), basis, out=rest)
    return Deflated(basis, images, vectors, rest, products, method)
