"""Cells of `calibration` for traces and Frobenius norms: each estimator by default, with tolerances, in the report."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np
from calibration import Cell, dense_copy, diagonal, networks, spectra, symmetrised

from kpref.operators import TensorOperator
from kpref.space import EuclideanSpace
from kpref.spectra.dimensions import operator_norm
from kpref.spectra.estimate import Estimate
from kpref.spectra.trace_methods import METHODS
from kpref.spectra.traces import adjoint_trace, frobenius_squared, trace

__all__ = ["spectrum_cells", "trace_cells"]

TOLERANCES = (0.1, 0.03, 0.01)
MODES, REPORT_PROBES, PROPAGATOR_PROBES = 10, 16, 32
"""Of the report: eigenvectors that are projected off, random vectors for the rest; products with P P*."""

Estimator = Callable[..., Estimate]


def trace_cells() -> Iterator[Cell]:
    """Those of spectra, then of three networks; a network is made once its first cell is asked for."""
    yield from spectrum_cells()
    yield from _network_cells()


def spectrum_cells() -> Iterator[Cell]:
    """Three spectra, two of both signs."""
    for name, values in spectra():
        gram = diagonal(values)
        yield from _of_gram(name, gram, values)
    places = np.arange(300)
    for name, values in (("both signs 1/i", (-1.0) ** places / (1 + places)), ("1, -1 and 0", _pair(places))):
        for method, probes in (("hutchinson", 8), ("hutch++", 9)):
            run = partial(trace, _indefinite(values), method, probes)
            yield Cell(f"trace {method}, {probes} products, {name}", lambda seed, run=run: run(seed=seed), values.sum())  # type: ignore[misc]


def _network_cells() -> Iterator[Cell]:
    for name, flow in networks():
        gram = dense_copy(flow.NTK)
        yield from _of_gram(name, gram, np.maximum(np.linalg.eigvalsh(symmetrised(gram))[::-1], 0.0))
        propagator = dense_copy(flow.P)
        matrix = symmetrised(propagator)
        largest, squares = float(np.linalg.norm(matrix, 2)), float(np.vdot(matrix, matrix))
        for method in ("hutch++", "hutchinson"):
            yield from _settings(f"tr P {method}, {name}", partial(trace, propagator, method), float(np.trace(matrix)))
        yield from _settings(f"|P|_F^2, {name}", partial(frobenius_squared, propagator), squares)
        of_gram = partial(trace, propagator.gram(), probes=PROPAGATOR_PROBES)
        yield Cell(f"tr P P*, report, {name}", lambda seed, run=of_gram: run(seed=seed), squares)  # type: ignore[misc]
        norm = partial(operator_norm, propagator)
        yield Cell(f"operator norm of P, {name}", lambda seed, run=norm: run(seed=seed), largest)  # type: ignore[misc]


def _pair(places: np.ndarray) -> np.ndarray:
    return np.where(places < 2, 1.0 - 2 * places, 0.0)


def _indefinite(values: np.ndarray) -> TensorOperator:
    """Diagonal, and not said to be symmetric."""
    space = EuclideanSpace(np.shape(values))
    return TensorOperator(lambda rows: rows * values, lambda rows: rows * values, space, space)


def _of_gram(name: str, gram: TensorOperator, values: np.ndarray) -> Iterator[Cell]:
    assert gram.factor is not None
    factor, total, squares = gram.factor, float(values.sum()), float(np.square(values).sum())
    for method in METHODS:
        yield from _settings(f"trace {method}, {name}", partial(trace, gram, method), total)
    yield from _settings(f"adjoint_trace, {name}", partial(adjoint_trace, factor), total)
    yield from _settings(f"frobenius_squared, one space, {name}", partial(frobenius_squared, gram), squares)
    yield from _settings(f"frobenius_squared, two spaces, {name}", partial(frobenius_squared, _reshaped(factor)), total)
    yield Cell(f"leading modes and adjoint_trace, report, {name}", _as_reported(values), total)


def _settings(name: str, run: Estimator, truth: float) -> Iterator[Cell]:
    """By default, and with each tolerance, given enough products."""
    yield Cell(f"{name}, default", lambda seed: run(seed=seed), truth)
    for tol in TOLERANCES:
        yield Cell(f"{name}, tol {tol:g}", lambda seed, tol=tol: run(probes=256, tol=tol, seed=seed), truth)  # type: ignore[misc]


def _as_reported(values: np.ndarray) -> Callable[[int], Estimate]:
    """Leading eigenvalues that are known, and `adjoint_trace` for the rest: what the report does with the NTK."""
    leading, rest = float(values[:MODES].sum()), np.where(np.arange(len(values)) < MODES, 0.0, values)
    factor = diagonal(rest).factor
    assert factor is not None

    def run(seed: int) -> Estimate:
        found = adjoint_trace(factor, REPORT_PROBES, seed=seed)
        return replace(found, value=leading + found.value)

    return run


def _reshaped(op: TensorOperator) -> TensorOperator:
    """Into a space of another shape, without weights: the squared norm is that in the measure."""
    matrix = symmetrised(op)
    return TensorOperator(
        lambda rows: (rows.reshape(len(rows), -1) @ matrix.T)[:, None],
        lambda rows: rows[:, 0] @ matrix,
        EuclideanSpace((matrix.shape[1],)),
        EuclideanSpace((1, len(matrix))),
    )
