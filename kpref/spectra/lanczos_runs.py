"""Lanczos processes from several normal vectors at once, each with a basis of its own, and what all tell together.

``A V = V T + beta v e^T`` for the m vectors V of a process, orthogonalised in full: T has the first 2 m moments of the
spectral measure of the vector that it starts from, and images of all bases are known without another product.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kpref._types import Array
from kpref.spectra.bases import append_orthonormal, noise
from kpref.spectra.rows import combination

__all__ = ["LanczosRun", "joint_ritz", "lanczos_runs"]

#: Directions that bases share: of those with a smaller share in one than this, none is taken twice.
_SHARED = 1e-4


@dataclass(frozen=True, eq=False)
class LanczosRun:
    """A Lanczos process: m steps, or fewer where nothing more is to be found."""

    basis: Array  # (m + 1, n), or (m, n)
    alphas: Array  # (m,)
    betas: Array  # (m,): the last one is zero where the process has ended
    weight: float  # squared length of the vector that it starts from

    @property
    def matrix(self) -> Array:
        """The tridiagonal matrix T."""
        return np.diag(self.alphas) + np.diag(self.betas[:-1], 1) + np.diag(self.betas[:-1], -1)


def lanczos_runs(
    apply: Callable[[Array], Array], size: int, known: Array, count: int, steps: int, dtype: npt.DTypeLike, seed: int
) -> list[LanczosRun]:
    """Lanczos processes from normal vectors beside what is known, a step of all of them at a time."""
    generator = np.random.default_rng(seed)
    steps = min(steps, size - len(known))
    bases, (alphas, betas) = np.empty((count, steps + 1, size)), np.zeros((2, count, steps))
    weights, lengths = np.empty(count), np.full(count, steps)
    for run in range(count):
        start = generator.standard_normal(size)
        combination(known @ start, known, out=start)
        _, length = append_orthonormal(bases[run], 0, start, generator)
        weights[run] = length**2
    for step in range(steps):
        going = np.flatnonzero(lengths == steps)
        if not len(going):
            break
        images = np.asarray(apply(bases[going, step].astype(dtype)), np.float64)
        images -= (images @ known.T) @ known
        for run, image in zip(map(int, going), images, strict=True):
            if step + 1 + len(known) == size:  # it has all dimensions
                alphas[run, step] = bases[run, step] @ image
                continue
            overlaps, betas[run, step] = append_orthonormal(bases[run], step + 1, image, generator)
            alphas[run, step] = overlaps[step]
            if not betas[run, step]:
                lengths[run] = step + 1
    return [
        LanczosRun(basis[: m + (b[m - 1] > 0)], a[:m], b[:m], weight)
        for basis, a, b, m, weight in zip(bases, alphas, betas, lengths, weights, strict=True)
    ]


def joint_ritz(runs: list[LanczosRun]) -> tuple[Array, float]:
    """Ritz values in the span of all bases, and what they may be too large by for rounding.

    That is more than what the products leave where bases have directions in common, some of which are in the span by a
    small difference.
    """
    rows = np.concatenate([run.basis for run in runs])
    overlaps = rows @ rows.T
    starts = np.cumsum([0, *(len(run.basis) for run in runs)])
    inside = np.concatenate([start + np.arange(len(run.alphas)) for start, run in zip(starts, runs, strict=False)])
    columns = []
    for start, run in zip(starts, runs, strict=False):
        steps = len(run.alphas)
        image = overlaps[:, start : start + steps] @ run.matrix
        if len(run.basis) > steps:
            image[:, -1] += run.betas[-1] * overlaps[:, start + steps]
        columns.append(image)
    projected = np.concatenate(columns, axis=1)[inside]
    shares, directions = np.linalg.eigh(overlaps[np.ix_(inside, inside)])
    own = shares > _SHARED
    directions = directions[:, own] / np.sqrt(shares[own])
    values = np.linalg.eigvalsh(directions.T @ ((projected + projected.T) / 2) @ directions)
    return values, noise(np.float64) * float(np.abs(values).max()) / float(shares[own][0])
