"""kpref's own operators as a backend: the example of one, and the judge judged."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np

from kpref.flow import Flow, require_noiseless_flow
from kpref.oracle.arithmetic import get_arithmetic
from kpref.oracle.problem import rounded

__all__ = ["flow_backend"]

#: Entries of a state tensor up to which products for each of them are cheap.
_SMALL = 2000


def flow_backend(flow: Flow, dtype: str | None = None) -> SimpleNamespace:
    """The operators of a flow, in float64 or float32.

    Parameters
    ----------
    flow : Flow
        Of a network in discrete time.
    dtype : {"float64", "float32"}, optional
        By default the flow's own.

    Returns
    -------
    SimpleNamespace
        Everything that `kpref.oracle.backend` lists, over parameters, inputs and initial states that the precision
        can hold. The trajectory is computed in float64 in any case.
    """
    require_noiseless_flow(flow)
    name = str(flow.dtype) if dtype is None else dtype
    own = rounded(flow, get_arithmetic(name), np.dtype(name), flow.space.lengths)
    return SimpleNamespace(
        arithmetic=name, states=own.states, P=own.P, P_T=own.P.T, P_inverse=own.P_inverse, J=own.J, J_T=own.J.T,
        K=own.K, NTK=own.NTK, gradient=own.D.star,
        D=own.D, D_T=own.D.T, D_z0=own.D_z0, metrics=flow_metrics(own),
    )  # fmt: skip


def flow_metrics(flow: Flow) -> dict[str, Callable[[], Any]]:
    """The metrics of `kpref.oracle.metrics` as kpref computes them: those of K and all averages exactly.

    Numbers of the NTK are estimates with their standard errors where the flow is not small, and so are those of a K
    that mixes units and is no small matrix, but for its traces. The partial trace of the NTK, one product for each
    point of the trajectories and unit, is offered only where the flow is small.
    """
    from kpref import spectra
    from kpref.operators import average, partial_trace
    from kpref.spectra.exact_spectrum import has_exact_spectrum

    partial = cache(lambda: spectra.kernel_unit_matrix(flow.linearization, flow.space.mu))
    metrics: dict[str, Callable[[], Any]] = {
        "partial_trace_K": partial,
        "average_K": lambda: average(flow.K, "unit").to_dense(),
        "average_P": lambda: average(flow.P, "unit").to_dense(),
        "average_NTK": lambda: average(flow.NTK, "unit").to_dense(),
        "trace_NTK": lambda: _pair(spectra.adjoint_trace(flow.D)),
        "frobenius_NTK": lambda: _root(spectra.frobenius_squared(flow.NTK)),
        "effective_dimension_NTK": lambda: _pair(spectra.effective_dimension(flow.NTK, probes=24)),
        "alignment_K_NTK": lambda: _pair(spectra.alignment(flow.K, flow.NTK, probes=24)),
    }
    if has_exact_spectrum(flow.linearization):
        spectrum = cache(lambda: spectra.kernel_spectrum(flow))
        metrics["trace_K"] = lambda: spectrum().trace
        metrics["frobenius_K"] = lambda: spectrum().frobenius
        metrics["effective_dimension_K"] = lambda: spectrum().effective_dimension
    else:
        metrics["trace_K"] = lambda: np.trace(partial())
        metrics["frobenius_K"] = lambda: _root(spectra.frobenius_squared(flow.K))
        metrics["effective_dimension_K"] = lambda: _pair(spectra.effective_dimension(flow.K, probes=24))
    if flow.states.size <= _SMALL:
        metrics["partial_trace_NTK"] = lambda: partial_trace(flow.NTK, "unit").to_dense()
    return metrics


def _pair(estimate: Any) -> tuple[float, float]:
    return estimate.value, estimate.standard_error


def _root(square: Any) -> tuple[float, float]:
    value = np.sqrt(square.value)
    return value, square.standard_error / (2 * value) if value else 0.0
