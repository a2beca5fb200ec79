"""Sizes of the operators of one network: traces, effective dimensions and Schmidt ranks.

What structure gives exactly is exact, at any size: K at all points and along each kept axis, and the trace of
``P P*`` of a map. The rest is estimated from random vectors beside the leading modes, which are known by now, each
number with its standard error; Schmidt ranks are those of a part of the trials where all of them would take too long.
Beside the error of random vectors stands that of the finite number of trials (`kpref.analysis.trial_errors`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from kpref._reprs import short_repr
from kpref._types import Array
from kpref.analysis.trial_errors import errors_of_blocks, errors_of_kernel, errors_of_modes, trial_groups
from kpref.flow import Flow
from kpref.models import Field
from kpref.operators import TensorOperator
from kpref.operators.precision import for_estimates
from kpref.space import TrajectorySpace
from kpref.spectra import (
    Eigen,
    Estimate,
    KernelSpectrum,
    effective_schmidt_rank,
    kernel_effective_dimension,
    propagator_gram_trace,
    schmidt_spectrum,
)
from kpref.spectra.beside_modes import seen_beside_modes
from kpref.spectra.blocks import BlockEigen, whole_vectors
from kpref.spectra.paired_probes import DENSE_SIZE
from kpref.spectra.schmidt import schmidt_flops
from kpref.spectra.schmidt_sampling import DENSE_SIZE as SCHMIDT_DENSE_SIZE
from kpref.spectra.symmetric import SymmetricForm
from kpref.spectra.white_images import WhiteImages, white_images
from kpref.threads import serial_blas

__all__ = ["KEPT", "Dimensions", "measure_dimensions", "schmidt_probes", "schmidt_trials"]

#: Axes along which K is looked at.
KEPT = ("unit", "trial", "time")
_SCHMIDT_PRODUCTS = 768  # H a probe
#: Products that an exact trace of P P* of a Runge-Kutta flow may take.
_MOST_PRODUCTS = 256
#: Entries (B T) H of the gates up to which the Schmidt spectrum of K is computed: its flops are about their square.
_KERNEL_ENTRIES = 80_000
#: Flops that it may take where units have several states, or are not apart.
_SCHMIDT_FLOPS = 3e10
#: States B T H up to which that of the NTK is sampled.
_NTK_ENTRIES = 24_000


@dataclass(frozen=True, eq=False)
class Dimensions:
    """Traces, effective dimensions and Schmidt ranks of one network on its trials."""

    # kernel_trace, kernel: trace and effective dimension of K; exact where its spectrum is
    kernel_trace: Estimate
    kernel: Estimate
    # effective dimension of the partial trace of K that keeps one of `KEPT`; None where random vectors do not tell
    kernel_kept: dict[str, Estimate | None]
    # ntk_trace, ntk: trace and effective dimension of the NTK
    ntk_trace: Estimate
    ntk: Estimate
    # propagator_trace, propagator: those of ``P P*``
    propagator_trace: Estimate
    propagator: Estimate
    # kernel_schmidt, ntk_schmidt: effective Schmidt ranks; None where random vectors do not tell them, or nobody asked
    kernel_schmidt: Estimate | None
    # kernel_schmidt_trials, ntk_schmidt_trials: on so many trials
    kernel_schmidt_trials: int
    ntk_schmidt: Estimate | None
    ntk_schmidt_trials: int
    # standard errors from the finite number of trials, by the keys of `kpref.analysis.quantities`. Empty with one
    # trial.
    trial_errors: dict[str, float]

    __repr__ = short_repr

    @property
    def without_schmidt(self) -> bool:
        """Whether nobody asked for Schmidt ranks."""
        return not (self.kernel_schmidt_trials or self.ntk_schmidt_trials)


def measure_dimensions(
    flow: Flow,
    spectrum: KernelSpectrum | None,
    kernel_modes: Eigen,
    modes: Eigen,
    propagator_modes: BlockEigen,
    probes: int,
    seed: int,
    kernel_part: Flow | None = None,
    ntk_part: Flow | None = None,
    seen: Mapping[str, WhiteImages] | None = None,
) -> Dimensions:
    """Sizes of the operators of a flow.

    `spectrum`: that of its K, if it is exact. `kernel_modes`, `modes`: leading eigenpairs of its K and of its NTK.
    `propagator_modes`: those of ``P P*``, by trial. `probes`: number of random vectors beside these, `seed`: of
    them. `kernel_part`, `ntk_part`: the same network on as many of the trials as the Schmidt ranks of K and of the NTK
    may take (`schmidt_trials`); None leaves these out. `seen`: K and the NTK as so many random vectors see them, by
    name, where these products have been made.
    """
    images = seen or {}
    groups = trial_groups(flow.space, seed)
    errors: dict[str, float] = {}
    ntk = _sizes(flow.NTK, flow.space, modes.values, modes.vectors, groups, probes, seed, "NTK", errors,
                 images.get("NTK"))  # fmt: skip
    whole = whole_vectors(propagator_modes, flow.space.shape, axis=0)
    propagator = _sizes(flow.P.gram(), flow.space, propagator_modes.values, whole, groups, probes, seed, "PP*", errors)
    del whole
    kernel = _kernel_sizes(flow, spectrum, kernel_modes, groups, probes, seed, errors, images.get("K"))
    return Dimensions(
        kernel_trace=kernel[0],
        kernel=kernel[1],
        kernel_kept={axis: _kernel_kept(flow, axis) for axis in KEPT},
        ntk_trace=ntk[0],
        ntk=ntk[1],
        propagator_trace=_propagator_trace(flow) or propagator[0],
        propagator=propagator[1],
        kernel_schmidt=None if kernel_part is None else _kernel_schmidt(kernel_part, seed),
        kernel_schmidt_trials=0 if kernel_part is None else kernel_part.space.shape[0],
        ntk_schmidt=None if ntk_part is None else _sampled_rank(ntk_part.NTK, seed),
        ntk_schmidt_trials=0 if ntk_part is None else ntk_part.space.shape[0],
        trial_errors=errors,
    )


def _kernel_sizes(
    flow: Flow,
    spectrum: KernelSpectrum | None,
    modes: Eigen,
    groups: Array | None,
    probes: int,
    seed: int,
    errors: dict[str, float],
    images: WhiteImages | None,
) -> tuple[Estimate, Estimate]:
    """Trace and dimension of K, exact if they can be."""
    if spectrum is None:
        return _sizes(flow.K, flow.space, modes.values, modes.vectors, groups, probes, seed, "K", errors, images)
    if groups is not None:
        trace, relative, along_units = errors_of_kernel(flow, groups)
        errors["trace_K"], errors["effective_dimension_K_unit"] = trace, along_units
        errors["effective_dimension_K"] = relative * spectrum.effective_dimension
    return Estimate(spectrum.trace, 0.0, 0, "exact"), Estimate(spectrum.effective_dimension, 0.0, 0, "exact")


def _kernel_kept(flow: Flow, axis: str) -> Estimate | None:
    """Along one axis; None where the products that it takes do not tell it."""
    try:
        return kernel_effective_dimension(flow, axis)
    except RuntimeError:
        return None


@serial_blas
def _sizes(
    op: TensorOperator,
    space: TrajectorySpace,
    values: Array,
    modes: Array,
    groups: Array | None,
    probes: int,
    seed: int,
    key: str,
    errors: dict[str, float],
    images: WhiteImages | None = None,
) -> tuple[Estimate, Estimate]:
    """Trace and dimension of a positive operator with known modes; their errors from the trials go into `errors`."""
    form = SymmetricForm(op)
    if form.size <= max(DENSE_SIZE, len(values) + probes):
        matrix = form(np.eye(form.size, dtype=op.dtype)).astype(np.float64)
        trace, square = float(np.trace(matrix)), float(np.square(matrix).sum())
        found = [Estimate(each, 0.0, form.size, "exact") for each in (trace, trace**2 / square if square else 0.0)]
        spread = None if groups is None else errors_of_blocks(matrix, form.coordinates, space, groups)
    else:
        if images is None:
            # P P* in float64: of 1e6 similar directions so little scatter is left that rounding would be above it.
            own = form if key == "PP*" else SymmetricForm(for_estimates(op, DENSE_SIZE))
            images = white_images(own, probes, seed)
        seen = seen_beside_modes(images, values, modes, groups)
        found = [seen.trace(), seen.dimension()]
        spread = None if groups is None else errors_of_modes(seen, space, groups)
    if spread is not None:
        errors[f"trace_{key}"], errors[f"effective_dimension_{key}"] = spread
    return found[0], found[1]


def schmidt_trials(space: TrajectorySpace, times: int = 1) -> tuple[int, int]:
    """Numbers of trials that the Schmidt ranks of K and of the NTK may take, so many times the usual; 0 for none."""
    if times == 0:
        return 0, 0
    trials, steps, units = space.shape
    kernel, ntk = (max(1, times * entries // (steps * units)) for entries in (_KERNEL_ENTRIES, _NTK_ENTRIES))
    return min(trials, kernel), min(trials, ntk)


def _propagator_trace(flow: Flow) -> Estimate | None:
    """That of ``P P*``, if it is exact."""
    _, steps, units = flow.space.shape
    if not isinstance(flow.model, Field) or steps * units <= _MOST_PRODUCTS:
        return Estimate(propagator_gram_trace(flow), 0.0, 0, "exact")
    return None


def _kernel_schmidt(flow: Flow, seed: int) -> Estimate | None:
    if schmidt_flops(flow.linearization) <= _SCHMIDT_FLOPS:
        return Estimate(schmidt_spectrum(flow).effective_rank, 0.0, 0, "exact")
    return _sampled_rank(flow.K, seed)


def _sampled_rank(op: TensorOperator, seed: int) -> Estimate | None:
    """The effective Schmidt rank, or None where the products that a report takes do not tell it."""
    op = for_estimates(op, SCHMIDT_DENSE_SIZE)
    try:
        return effective_schmidt_rank(op, probes=schmidt_probes(op.shape_in[-1]), seed=seed)
    except RuntimeError:
        return None


def schmidt_probes(units: int) -> int:
    """Probes for a Schmidt rank, so that their products stay about as many."""
    return int(np.clip(_SCHMIDT_PRODUCTS // units, 8, 32))
