"""Sizes of the operators of one network: traces, effective dimensions and Schmidt ranks.

What structure gives exactly is exact, at any size: K at all points and along each kept axis, and the trace of
``P P*`` of a map. The rest is estimated from random vectors, each number with its standard error; Schmidt ranks
are those of a part of the trials where all of them would take too long.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kpref.flow import Flow
from kpref.linearize import SiteForm
from kpref.models import Field
from kpref.operators import Structure, TensorOperator
from kpref.space import TrajectorySpace
from kpref.spectra import (
    Eigen,
    Estimate,
    adjoint_trace,
    effective_dimension,
    effective_schmidt_rank,
    kernel_effective_dimension,
    propagator_gram_trace,
    schmidt_spectrum,
    trace,
)

__all__ = ["KEPT", "Dimensions", "measure_dimensions", "ntk_trace", "schmidt_trials"]

Array = npt.NDArray[Any]

#: Axes along which K is looked at.
KEPT = ("unit", "trial", "time")
_TRACE_PROBES = 16
_DIMENSION_PROBES = 18
_SCHMIDT_PRODUCTS = 768  # H a probe
#: Products that an exact trace of P P* of a Runge-Kutta flow may take.
_MOST_PRODUCTS = 256
#: Entries (B T) H of the gates up to which the Schmidt spectrum of K is computed: its flops are about their square.
_KERNEL_ENTRIES = 80_000
#: States B T H up to which that of the NTK is sampled.
_NTK_ENTRIES = 24_000


@dataclass(frozen=True, eq=False)
class Dimensions:
    """Traces, effective dimensions and Schmidt ranks of one network on its trials.

    Attributes
    ----------
    kernel_kept : dict of str to Estimate
        Effective dimension of the partial trace of K that keeps one of `KEPT`.
    ntk_trace, ntk : Estimate
        Trace and effective dimension of the NTK.
    propagator_trace, propagator : Estimate
        Those of ``P P*``.
    kernel_schmidt, ntk_schmidt : Estimate
        Effective Schmidt ranks.
    kernel_schmidt_trials, ntk_schmidt_trials : int
        On so many trials.
    """

    kernel_kept: dict[str, Estimate]
    ntk_trace: Estimate
    ntk: Estimate
    propagator_trace: Estimate
    propagator: Estimate
    kernel_schmidt: Estimate
    kernel_schmidt_trials: int
    ntk_schmidt: Estimate
    ntk_schmidt_trials: int


def measure_dimensions(flow: Flow, modes: Eigen, kernel_part: Flow, ntk_part: Flow, seed: int) -> Dimensions:
    """Sizes of the operators of a flow.

    Parameters
    ----------
    flow : Flow
    modes : Eigen
        Leading eigenpairs of its NTK.
    kernel_part, ntk_part : Flow
        The same network on as many of the trials as the Schmidt ranks of K and of the NTK may take
        (`schmidt_trials`).
    seed : int
        Of the random vectors.
    """
    return Dimensions(
        kernel_kept={axis: kernel_effective_dimension(flow, axis) for axis in KEPT},
        ntk_trace=ntk_trace(flow, modes, seed),
        ntk=effective_dimension(flow.NTK, probes=_DIMENSION_PROBES, seed=seed),
        propagator_trace=_propagator_trace(flow, seed),
        propagator=effective_dimension(flow.P.gram(), probes=_DIMENSION_PROBES, seed=seed),
        kernel_schmidt=_kernel_schmidt(kernel_part, seed),
        kernel_schmidt_trials=kernel_part.space.shape[0],
        ntk_schmidt=effective_schmidt_rank(ntk_part.NTK, probes=_schmidt_probes(flow), seed=seed),
        ntk_schmidt_trials=ntk_part.space.shape[0],
    )


def schmidt_trials(space: TrajectorySpace) -> tuple[int, int]:
    """Numbers of trials that the Schmidt ranks of K and of the NTK may take."""
    trials, steps, units = space.shape
    kernel, ntk = (max(1, entries // (steps * units)) for entries in (_KERNEL_ENTRIES, _NTK_ENTRIES))
    return min(trials, kernel), min(trials, ntk)


def ntk_trace(flow: Flow, modes: Eigen, seed: int) -> Estimate:
    """Trace of the NTK: the leading eigenvalues, and an estimate for what is orthogonal to the modes.

    With the projection ``Q q = q - sum_i <v_i, q> v_i``, ``tr NTK = sum_i lambda_i + tr (Q D)(Q D)*``.
    """
    rest = adjoint_trace(_without(modes, flow) @ flow.D, probes=_TRACE_PROBES, seed=seed)
    method = "exact" if rest.exact else f"leading {len(modes.values)} eigenvalues, random vectors for the rest"
    value = float(modes.values.sum()) + rest.value
    return Estimate(value, rest.standard_error, modes.n_products + rest.n_products, method)


def _without(modes: Eigen, flow: Flow) -> TensorOperator:
    """The orthogonal projection off some orthonormal modes."""
    space, vectors = flow.space, modes.vectors
    weighed = space.weigh(vectors)
    flat, dual = vectors.reshape(len(vectors), -1), weighed.reshape(len(vectors), -1)

    def project(batch: Array, along: Array, against: Array) -> Array:
        rows = batch.reshape(len(batch), -1)
        return np.asarray(rows - (rows @ against.T) @ along).reshape(batch.shape)

    return TensorOperator(
        lambda batch: project(batch, flat, dual),
        lambda batch: project(batch, dual, flat),
        space,
        space,
        flow.dtype,
        "Q",
        Structure(self_adjoint=True, positive=True),
    )


def _propagator_trace(flow: Flow, seed: int) -> Estimate:
    _, steps, units = flow.space.shape
    if not isinstance(flow.model, Field) or steps * units <= _MOST_PRODUCTS:
        return Estimate(propagator_gram_trace(flow), 0.0, 0, "exact")
    return trace(flow.P.gram(), probes=2 * _TRACE_PROBES, seed=seed)


def _kernel_schmidt(flow: Flow, seed: int) -> Estimate:
    if isinstance(flow.linearization, SiteForm):
        return Estimate(schmidt_spectrum(flow).effective_rank, 0.0, 0, "exact")
    return effective_schmidt_rank(flow.K, probes=_schmidt_probes(flow), seed=seed)


def _schmidt_probes(flow: Flow) -> int:
    return int(np.clip(_SCHMIDT_PRODUCTS // flow.space.shape[2], 6, 32))
