"""What operators make of the same normal vectors: a product for each, which serves several estimates.

With the images ``A g`` of normal vectors g, and those of orthonormal rows Q, every estimate beside Q follows without
another product, as an operator is linear: for the directions ``v = c (g - s Q)``, s = g Q^T, c making their lengths
equal, it is ``A v = c (A g - s (A Q^T)^T)``. Only inner products of such vectors are needed, and those follow from the
inner products of g, A g, Q and A Q (`kpref.spectra.beside_modes`, `kpref.spectra.comparison`). Products in float32 lose
no more of what is left there than float32 does of A g. The vectors themselves are numbers of float32, exactly, whatever
the precision of the products.
"""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakValueDictionary

import numpy as np

from kpref._types import Array
from kpref.memory import require_memory
from kpref.spectra.paired_probes import in_batches
from kpref.spectra.symmetric import SymmetricForm

__all__ = ["WhiteImages", "white_images"]


@dataclass(frozen=True, eq=False)
class WhiteImages:
    """Images of normal vectors under a symmetric operator, in the coordinates of its form."""

    form: SymmetricForm
    vectors: Array  # (p, n): g, in float32
    images: Array  # (p, n): A g, in the precision of A
    seed: int  # of the vectors: the same for all operators on a space


#: Normal vectors, for as long as somebody holds them: networks that are worked on side by side meet the same ones.
_drawn: WeakValueDictionary[tuple[int, int, int], Array] = WeakValueDictionary()


def white_images(form: SymmetricForm, count: int, seed: int) -> WhiteImages:
    """Images of so many normal vectors: the same for all operators on spaces of a size, by one seed."""
    dtype = form.op.dtype
    require_memory(2.0 * count * form.size * dtype.itemsize, f"{count} probes of {form.op.name}")
    vectors = _normal_vectors(seed, count, form.size)
    return WhiteImages(form, vectors, in_batches(lambda rows: form(rows.astype(dtype, copy=False)), vectors), seed)


def _normal_vectors(seed: int, count: int, size: int) -> Array:
    """They belong to all who hold them, and are not written to."""
    key = (seed, count, size)
    vectors = _drawn.get(key)
    if vectors is None:
        # Not the numbers that searches for eigenvectors start from: those may lie among the eigenvectors themselves.
        generator = np.random.default_rng([seed, 4])
        vectors = _drawn.setdefault(key, generator.standard_normal((count, size), dtype=np.float32))
    return vectors
