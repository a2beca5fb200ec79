"""The exact spectrum of K = J J*.

K does not mix units: an entry (b, n, h), (b', n', h') is zero unless h = h'. For unit h it is F_h F_h^T with

    F_h = mu^(1/2) [ G_g[:, h] * V_g  for the gates g ],    V_g = [ m | x | 1 ]

the columns of V_g being those that a trainable parameter of gate g multiplies. So the spectrum of K consists of those
of H small Gram matrices. Where the gates are constant and equal for all units, K = (V V^T) (x) I_H: one small singular
value problem, each eigenvalue H-fold (Hazelden et al., arXiv:2507.06381, for the vanilla network).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import eigvalsh, svdvals
from scipy.linalg.blas import dsyrk

from kpref._reprs import short_repr
from kpref._validate import function, within_floats
from kpref.flow import Flow, require_flow
from kpref.linearize import DenseForm, Form, written_out
from kpref.memory import require_memory
from kpref.site_view import site_or_none
from kpref.spectra.closed_form import gate_features
from kpref.threads import run_blocks, serial_blas
from kpref.unit_blocks import UnitBlocks, unit_blocks

__all__ = ["KernelSpectrum", "form_spectrum", "kernel_spectrum"]

Array = npt.NDArray[Any]

#: Rows of F_h that one rank-k update takes, so that they are still in cache when they are multiplied.
_CHUNK = 512


@dataclass(frozen=True, eq=False)
class KernelSpectrum:
    """Exact spectrum of K.

    Attributes
    ----------
    values : ndarray
        All eigenvalues that can be different from zero, descending, with multiplicities: H min(points with weight,
        columns of F_h).
    unit_values : ndarray, shape (H, ...)
        The same for each unit; one row for a system that is not in site form.
    trace, frobenius : float
        ``tr K`` and ``(tr K^2)^(1/2)``.
    effective_dimension : float
        ``(tr K)^2 / tr K^2``.
    """

    values: Array
    unit_values: Array
    trace: float
    frobenius: float
    effective_dimension: float

    __repr__ = short_repr


@serial_blas
def kernel_spectrum(flow: Flow, progress: Callable[[int], object] | None = None) -> KernelSpectrum:
    """Exact spectrum of ``flow.K``, multiplicities included.

    Parameters
    ----------
    flow : Flow
    progress : callable, optional
        Called with 1 after each unit.

    Returns
    -------
    KernelSpectrum

    Notes
    -----
    With c columns in F_h: H (B T c^2 + O(c^3)) flops, or one such problem where the gates are constant. Eigenvalues
    have an absolute error of a few units of rounding of the largest.
    """
    flow = require_flow(flow)
    if progress is not None:
        function("progress", progress, "a number of units")
    return form_spectrum(flow.linearization, flow.space.mu, progress)


@serial_blas
@np.errstate(over="ignore", invalid="ignore")  # it is said in words
def form_spectrum(form: Form, mu: Array, progress: Callable[[int], object] | None = None) -> KernelSpectrum:
    """`kernel_spectrum` of a linearisation, mu (B, T) being the measure."""
    form = written_out(form)
    if isinstance(form, DenseForm):
        return _dense_spectrum(form, mu)
    site = site_or_none(form)
    if site is None:
        blocks = unit_blocks(form)
        if blocks is None:
            raise ValueError(
                "K of this network mixes units, since a trained weight acts on later states through another product: "
                "its spectrum is not exact by units. kpref.eigh(flow.K, k) gives the leading part"
            )
        return _summary(_block_spectra(blocks, np.sqrt(mu.T).reshape(-1, 1), progress))
    root = np.sqrt(mu.T).reshape(-1, 1)
    features = [root * block for block in gate_features(site)]
    units = form.n_states
    gates = site.gates.astype(np.float64, copy=False)
    if gates.shape[:2] == (1, 1) and (gates == gates[..., :1]).all():
        matrix = np.concatenate([gate * block for gate, block in zip(gates[0, 0, :, 0], features, strict=True)], axis=1)
        unit_values = np.broadcast_to(np.square(svdvals(matrix)), (units, min(matrix.shape))).copy()
        if progress is not None:
            progress(units)
    else:
        unit_values = _unit_spectra(gates, features, form.n_steps * form.n_trials, progress)
    return _summary(unit_values[:, : np.count_nonzero(mu)])


def _summary(unit_values: Array) -> KernelSpectrum:
    values = np.sort(unit_values, axis=None)[::-1]
    trace, square = float(values.sum()), float(np.square(values).sum())
    within_floats("the spectrum of K", (trace, square))
    return KernelSpectrum(values, unit_values, trace, square**0.5, trace * trace / square if square else 0.0)


def _dense_spectrum(form: DenseForm, mu: Array) -> KernelSpectrum:
    """Squared singular values of ``Mu^(1/2) J``, J stored; units are not apart here, so they count as one."""
    root = np.sqrt(mu.T)[:, :, None, None]
    matrix = (root * form.parameter_jacobian).reshape(-1, form.n_parameters)
    return _summary(np.square(svdvals(matrix))[None, : np.count_nonzero(mu) * form.n_states])


def _unit_spectra(gates: Array, features: list[Array], rows: int, progress: Callable[[int], object] | None) -> Array:
    units = gates.shape[3]
    columns = sum(block.shape[1] for block in features)
    wide = columns > rows
    size = min(columns, rows)
    require_memory(8 * (units * size + 4 * size**2 + rows * (columns if wide else 0)), "the spectrum of K")
    steps = rows // gates.shape[1] if gates.shape[1] > 1 else rows
    flat = np.broadcast_to(gates, (gates.shape[0] if gates.shape[0] > 1 else steps, *gates.shape[1:]))
    unit_values = np.empty((units, size))

    def task(unit: int) -> None:
        by_gate = flat[..., unit].reshape(rows, len(features))
        gram = _gram(by_gate, features, wide)
        unit_values[unit] = np.maximum(eigvalsh(gram, lower=True, overwrite_a=True, check_finite=False), 0.0)[::-1]

    run_blocks(task, units, done=None if progress is None else lambda unit: progress(1))
    return unit_values


def _block_spectra(blocks: UnitBlocks, root: Array, progress: Callable[[int], object] | None) -> Array:
    """Eigenvalues of ``F_h F_h^T Mu`` for each unit h, (N, most of them), padded with zeros."""
    sizes = [
        min(gates.shape[0] * len(root), sum(block.shape[1] for block in features))
        for gates, features in zip(blocks.gates, blocks.features, strict=True)
    ]
    unit_values = np.zeros((max(1, len(sizes)), max(sizes, default=1)))

    def task(unit: int) -> None:
        features = blocks.features[unit]
        rows, columns = blocks.gates[unit].shape[0] * len(root), sum(block.shape[1] for block in features)
        if columns > rows:
            parts = [np.concatenate([root * gates[:, [g]] * block for g, block in enumerate(features)], axis=1)
                     for gates in blocks.gates[unit]]  # fmt: skip
            factor = np.concatenate(parts)
            gram = factor @ factor.T
        else:
            gram = sum(_gram(root * gates, features, False) for gates in blocks.gates[unit])  # type: ignore[assignment]
        values = eigvalsh(gram, lower=True, check_finite=False)
        unit_values[unit, : len(values)] = np.maximum(values, 0.0)[::-1]
        if progress is not None:
            progress(1)

    run_blocks(task, len(sizes))
    return unit_values


def _gram(by_gate: Array, features: list[Array], wide: bool) -> Array:
    """F^T F, or F F^T where F has more columns than rows; lower triangle."""
    if wide:
        factor = np.concatenate([by_gate[:, [g]] * block for g, block in enumerate(features)], axis=1)
        return np.asarray(factor @ factor.T)
    columns = sum(block.shape[1] for block in features)
    gram = np.zeros((columns, columns), order="F")
    for start in range(0, len(by_gate), _CHUNK):
        part = slice(start, start + _CHUNK)
        factor = np.concatenate([by_gate[part, [g]] * block[part] for g, block in enumerate(features)], axis=1)
        gram = dsyrk(1.0, factor.T, beta=1.0, c=gram, lower=1, overwrite_c=1)
    return gram
