"""K of one network, whether or not it keeps units apart.

Where no trained array reaches the states of two units, K consists of one block a unit, and its spectrum is exact.
Otherwise, as with layers one above the other, a leading part is iterated, and what is told of the whole is estimated.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from kpref.analysis.mode_checks import ASKED, whole_vectors
from kpref.flow import Flow
from kpref.linearize import DenseForm, Form
from kpref.product_form import ProductForm
from kpref.spectra import Eigen, KernelSpectrum, eigh, kernel_spectrum
from kpref.spectra.blocks import block_eigh
from kpref.step_form import StepForm
from kpref.unit_blocks import unit_blocks

__all__ = ["exact_spectrum", "kernel_modes"]


def exact_spectrum(flow: Flow, progress: Callable[[int], object] | None = None) -> KernelSpectrum | None:
    """The spectrum of K; None where K couples units."""
    form = flow.linearization
    exact = not isinstance(form, StepForm) or unit_blocks(form) is not None
    return kernel_spectrum(flow, progress=progress) if exact else None


def kernel_modes(flow: Flow, k: int, seed: int, progress: Callable[[int], object] | None = None) -> Eigen:
    """Leading eigenpairs of K by iteration: in all its blocks at a time, where these are the states one by one."""
    if not _states_apart(flow.linearization):
        return eigh(flow.K, k, seed=seed, tol=ASKED, progress=progress)
    found = block_eigh(flow.K, k, axis=2, seed=seed, tol=ASKED, progress=progress)
    vectors = whole_vectors(found, flow.space.shape, axis=2)
    return Eigen(found.values, vectors, found.residuals, found.n_products, np.ones(len(found.values), dtype=bool))


def _states_apart(form: Form) -> bool:
    if not isinstance(form, StepForm):
        return not isinstance(form, DenseForm | ProductForm)
    blocks = unit_blocks(form)
    return blocks is not None and all(len(columns) == 1 for columns in blocks.columns)
