"""K of one network, whether or not it keeps units apart.

Where no trained array reaches the states of two units, K has one block a unit, ``F_u F_u^T Mu``, and its spectrum is
exact. The leading eigenfunctions follow from the same factors: with ``F_u^T F_u x = s^2 x`` it is ``F_u x / s``, and
what K itself makes of it is the eigenvalue that is reported, so that each judges the other. Where K couples units, as
with layers one above the other, a leading part is iterated, and what is told of the whole is estimated.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.linalg import eigh as dense_eigh

from kpref._types import Array
from kpref.analysis.mode_checks import ASKED
from kpref.flow import Flow
from kpref.spectra import Eigen, KernelSpectrum, eigh, kernel_spectrum
from kpref.spectra.blocks import one_a_block
from kpref.spectra.eigen import signs
from kpref.spectra.exact_spectrum import Directions
from kpref.threads import run_blocks, serial_blas
from kpref.unit_factors import UnitForm
from kpref.unit_form import unit_form

__all__ = ["exact_spectrum", "kernel_modes"]

#: The part of the largest eigenvalue below which ``F_u x`` has no direction that can be told from rounding.
_SMALLEST = 1e-8


def exact_spectrum(
    flow: Flow, progress: Callable[[int], object] | None = None, directions: Directions | None = None
) -> KernelSpectrum | None:
    """The spectrum of K; None where K couples units. `directions`: filled, for `kernel_modes`."""
    return None if unit_form(flow.linearization) is None else kernel_spectrum(flow, progress, directions)


def kernel_modes(
    flow: Flow,
    k: int,
    exact: KernelSpectrum | None,
    seed: int,
    progress: Callable[[int], object] | None = None,
    directions: Directions | None = None,
) -> Eigen:
    """Leading eigenpairs of K: from the factors of the units that `exact` says they are in, or by iteration."""
    units = None if exact is None else unit_form(flow.linearization)
    if exact is None or units is None or not _told_by_factors(exact, units, k):
        return eigh(flow.K, k, seed=seed, tol=ASKED, progress=progress)
    return _from_factors(flow, exact, units, Directions(k) if directions is None else directions)


def _told_by_factors(exact: KernelSpectrum, units: UnitForm, k: int) -> bool:
    apart = len(exact.unit_values) == units.n_units > 1
    return apart and len(exact.values) >= k and bool(exact.values[k - 1] > _SMALLEST * exact.values[0])


@serial_blas
def _from_factors(flow: Flow, exact: KernelSpectrum, units: UnitForm, directions: Directions) -> Eigen:
    """Modes of units; a product serves one of each unit."""
    (owners, ranks), space, k = directions.wanted(exact.unit_values), flow.space, directions.most
    weighted, tensors = units.weighted(np.sqrt(space.mu.T)), np.zeros((k, *space.shape))
    found, columns = np.unique(owners), [columns[columns >= 0] for columns in units.columns.T]

    def task(index: int) -> None:
        unit = int(found[index])
        own, there = np.flatnonzero(owners == unit), units.columns[:, unit] >= 0
        modes = _leading(weighted, unit, int(ranks[own].max()) + 1, directions.of_unit.get(unit))[ranks[own]]
        modes = space.scale(modes.swapaxes(1, 2)[..., there], -0.5)
        modes *= signs(modes)
        for place, mode in zip(own, modes, strict=True):
            tensors[place][:, :, columns[unit]] = mode

    run_blocks(task, len(found))
    values, residuals, sets = np.empty(k), np.empty(k), one_a_block(owners)
    for some in sets:
        together = np.zeros(space.shape)
        for place in some:
            together[..., columns[owners[place]]] = tensors[place][..., columns[owners[place]]]
        image = flow.K(together)
        for place in some:
            own, mode = (space.scale(each[..., columns[owners[place]]], 0.5) for each in (image, tensors[place]))
            values[place] = np.vdot(mode, own)
            residuals[place] = np.linalg.norm(own - values[place] * mode)
    return Eigen(values, tensors, residuals / values[0], len(sets), np.ones(k, dtype=bool))


def _leading(units: UnitForm, unit: int, count: int, right: Array | None) -> Array:
    """Leading left singular vectors of a unit's factor: (count, steps, trials, states of a unit).

    `right`: (c, columns); leading right ones of a factor that has more rows than columns, if they are known.
    """
    factor = units.factor(unit).reshape(-1, units.width)
    wide = factor.shape[1] > factor.shape[0]
    if right is None or len(right) < count:
        gram = factor @ factor.T if wide else factor.T @ factor
        size = len(gram)
        right = dense_eigh(gram, subset_by_index=(size - count, size - 1), check_finite=False)[1][:, ::-1].T
    modes = right[:count] if wide else right[:count] @ factor.T
    modes = modes / np.linalg.norm(modes, axis=1, keepdims=True)
    return np.asarray(modes.reshape(count, units.n_steps, units.n_trials, units.parts))
