"""K of one network, whether or not it keeps units apart.

Where no trained array reaches the states of two units, K consists of one block a unit, and its spectrum is exact.
Otherwise, as with layers one above the other, a leading part is iterated, and what is told of the whole is estimated.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from kpref.analysis.mode_checks import ASKED, whole_vectors
from kpref.flow import Flow
from kpref.linearize import Form
from kpref.spectra import Eigen, KernelSpectrum, eigh, kernel_spectrum
from kpref.spectra.blocks import block_eigh
from kpref.unit_form import unit_form

__all__ = ["exact_spectrum", "kernel_modes"]


def exact_spectrum(flow: Flow, progress: Callable[[int], object] | None = None) -> KernelSpectrum | None:
    """The spectrum of K; None where K couples units."""
    return None if unit_form(flow.linearization) is None else kernel_spectrum(flow, progress=progress)


def kernel_modes(flow: Flow, k: int, seed: int, progress: Callable[[int], object] | None = None) -> Eigen:
    """Leading eigenpairs of K by iteration: in all its blocks at a time, where these are the states one by one."""
    if not _states_apart(flow.linearization):
        return eigh(flow.K, k, seed=seed, tol=ASKED, progress=progress)
    found = block_eigh(flow.K, k, axis=2, seed=seed, tol=ASKED, progress=progress)
    vectors = whole_vectors(found, flow.space.shape, axis=2)
    return Eigen(found.values, vectors, found.residuals, found.n_products, np.ones(len(found.values), dtype=bool))


def _states_apart(form: Form) -> bool:
    units = unit_form(form)
    return units is not None and units.parts == 1
