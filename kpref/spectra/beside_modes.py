"""What random vectors tell of a symmetric positive matrix whose leading eigenvectors are known, from inner products.

For orthonormal eigenvectors Q with ``A Q_j = lambda_j Q_j``, normal vectors g with their images ``a = A g``, and
``s = g Q^T``, ``t = a Q^T``, the directions beside Q, of length sqrt(n - k), and what the rest R of A makes of them are

    v = c (g - s Q),      R v = c (a - t Q).

All estimates of `kpref.spectra.deflated` are made of inner products of Q, v and R v, and those of Q, g and a tell them:
rows of a million numbers are read once, and no vector is made. Inner products are in float64, so that what is taken off
is lost to rounding no more than it is in the images. They are kept for each group of trials, for the errors that the
choice of the trials leaves (`kpref.analysis.trial_errors`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kpref._types import Array
from kpref.memory import require_memory
from kpref.spectra.deflated import Moments
from kpref.spectra.estimate import Estimate
from kpref.spectra.rows import inner_products_of_parts
from kpref.spectra.symmetric import Coordinates, SymmetricForm
from kpref.spectra.white_images import WhiteImages, white_images

__all__ = ["BesideModes", "beside_modes", "seen_beside_modes"]


@dataclass(frozen=True, eq=False)
class BesideModes:
    """A matrix as far as k eigenpairs and p white vectors beside them show it."""

    values: Array  # (k,)
    # (G, r, r): inner products of the r = k + 2 p rows Q, v and R v over each of the groups of trials
    by_group: Array
    moments: Moments

    def trace(self) -> Estimate:
        """tr A."""
        return self.moments.trace()

    def dimension(self) -> Estimate:
        """``(tr A)^2 / tr A^2``; zero for A = 0."""
        return self.moments.dimension()


def beside_modes(
    form: SymmetricForm, values: Array, modes: Array, probes: int, seed: int, groups: Array | None = None
) -> BesideModes:
    """From so many normal vectors, a product each; `values`, `modes`: (k,) and (k, \\*shape).

    `groups`: shape (B,); the group of each trial, from 0 on, -1 for none; None for all in one.
    """
    return seen_beside_modes(white_images(form, probes, seed), values, modes, groups)


def seen_beside_modes(seen: WhiteImages, values: Array, modes: Array, groups: Array | None = None) -> BesideModes:
    """The same from products that are there already."""
    count, known, size = len(seen.vectors), len(modes), seen.vectors.shape[1]
    require_memory(float(known) * size * seen.images.itemsize, f"the eigenfunctions of {seen.form.op.name}")
    basis = seen.form.coordinates.to_vectors(np.asarray(modes, seen.images.dtype))
    places = _columns_of_groups(seen.form.coordinates, groups)
    raw = inner_products_of_parts((basis, seen.vectors, seen.images), places)
    total = raw.sum(axis=0)
    own, drawn, images = slice(known), slice(known, known + count), slice(known + count, None)
    shares, image_shares = total[drawn, own], total[images, own]
    lengths = np.sqrt((size - known) / np.diagonal(total[drawn, drawn] - shares @ shares.T))
    turn = np.eye(len(total))
    turn[drawn, own], turn[images, own] = -shares, -image_shares
    turn[known:] *= np.tile(lengths, 2)[:, None]
    inner = turn @ raw @ turn.T
    total = inner.sum(axis=0)
    squares, values = float(np.square(values).sum()), np.asarray(values, dtype=np.float64)
    moments = Moments(
        known=(float(values.sum()), squares),
        forms=total[drawn, images],
        rests=total[images, images],
        overlaps=total[drawn, drawn],
        dimensions=size - known,
        size=size,
        dtype=seen.images.dtype,
        n_products=count,
        method=f"leading {known} eigenvalues, random vectors for the rest",
    )
    return BesideModes(values, inner if groups is None else inner[:-1], moments)


def _columns_of_groups(coordinates: Coordinates, groups: Array | None) -> list[list[slice]]:
    """The entries that belong to the trials of each group; those without a group are the last."""
    if groups is None:
        return [[slice(0, coordinates.size)]]
    trials = len(groups)
    ends = np.searchsorted(coordinates.support, coordinates.space.size // trials * np.arange(trials + 1)).tolist()
    trial_places = [slice(start, stop) for start, stop in zip(ends, ends[1:], strict=False)]
    return [
        [trial_places[trial] for trial in np.flatnonzero(groups == group)] for group in [*range(groups.max() + 1), -1]
    ]
