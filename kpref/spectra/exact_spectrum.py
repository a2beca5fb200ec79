"""The exact spectrum of K = J J*.

K does not mix units: for unit u it is F_u F_u^T with

    F_u = Mu^(1/2) [ G[s, g, u] * V_g  for the currents g ],    s the states of the unit,

the columns of V_g being what the trained arrays of current g multiply (`kpref.unit_form`). So the spectrum of K
consists of those of N small Gram matrices. Where there is one state and one current a unit, and its gate is constant,
K is the Kronecker product of V V^T and the squares of the gates: one small singular value problem, whose values come
once for each unit, times those (Hazelden et al., arXiv:2507.06381, for the vanilla network).

Where K mixes units it is one problem of the size of J: min(M, B T H).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy.linalg import eigh, eigvalsh, svdvals

from kpref import kernels
from kpref._reprs import short_repr
from kpref._types import Array
from kpref._validate import function, within_floats
from kpref.flow import Flow, require_flow
from kpref.linearize import Form
from kpref.memory import require_memory
from kpref.spectra.unit_grams import grams_of_units
from kpref.threads import per_call, run_blocks, serial_blas
from kpref.unit_factors import UnitForm
from kpref.unit_form import unit_form

__all__ = ["Directions", "KernelSpectrum", "form_spectrum", "has_exact_spectrum", "kernel_spectrum"]

#: Rows of F_h that one rank-k update takes, so that they are still in cache when they are multiplied.
_CHUNK = 512
#: Rows of the matrix that is solved where K mixes units,
_MOST_MIXED = 4096
#: and products on the way to it that are made at once.
_BATCH = 8


@dataclass(frozen=True, eq=False)
class KernelSpectrum:
    """Exact spectrum of K.

    Attributes
    ----------
    values : ndarray
        All eigenvalues that can be different from zero, descending, with multiplicities: N min(S points with weight,
        columns of F_u) for N units of S states.
    unit_values : ndarray, shape (N, ...)
        The same for each unit; one row for a system whose units are not apart.
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


@dataclass(frozen=True, eq=False)
class Directions:
    """Of the `most` largest eigenvalues, which units have them and where: filled in passing, as far as that is cheap.

    `of_unit`: for a unit the leading eigenvectors (c, columns of F_u) of ``F_u^T F_u`` in the measure, descending.
    """

    most: int
    of_unit: dict[int, Array] = field(default_factory=dict)

    def wanted(self, unit_values: Array) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """Units of the largest among eigenvalues (N, c), and which of a unit's each is."""
        order = np.argsort(-unit_values, axis=None, kind="stable")[: self.most]
        owners, ranks = np.unravel_index(order, unit_values.shape)
        return owners, ranks

    def enter(self, unit_values: Array, first: int, gram: Callable[[int], Array]) -> None:
        """From Gram matrices of the units `first` and later ones, eigenvalues of all up to the last one being known."""
        owners, ranks = self.wanted(unit_values)
        for unit in map(int, np.unique(owners[owners >= first])):
            size, count = unit_values.shape[1], int(ranks[owners == unit].max()) + 1
            _, vectors = eigh(gram(unit), subset_by_index=(size - count, size - 1), check_finite=False)
            self.of_unit[unit] = vectors[:, ::-1].T


@serial_blas
def kernel_spectrum(
    flow: Flow, progress: Callable[[int], object] | None = None, directions: Directions | None = None
) -> KernelSpectrum:
    """Exact spectrum of ``flow.K``, multiplicities included.

    Parameters
    ----------
    flow : Flow
    progress : callable, optional
        Called with 1 after each unit.
    directions : Directions, optional
        Filled, where units share their features.

    Returns
    -------
    KernelSpectrum

    Raises
    ------
    ValueError
        If numbers overflow; or if K mixes units, and the one matrix would have more than 4096 rows.
    MemoryError
        Before anything is allocated, if the work arrays would not fit.

    Notes
    -----
    With c columns in F_u: N (S B T c^2 + O(c^3)) flops, or one such problem where the gates are constant. Where K mixes
    units, min(M, B T H) products with J and its transpose. Eigenvalues have an absolute error of a few units of
    rounding of the largest.
    """
    flow = require_flow(flow)
    if progress is not None:
        function("progress", progress, "a number of units")
    return form_spectrum(flow.linearization, flow.space.mu, progress, directions)


@serial_blas
@np.errstate(over="ignore", invalid="ignore")  # it is said in words
def form_spectrum(
    form: Form, mu: Array, progress: Callable[[int], object] | None = None, directions: Directions | None = None
) -> KernelSpectrum:
    """`kernel_spectrum` of a linearisation, mu (B, T) being the measure."""
    units = unit_form(form)
    if units is None:
        return _mixed_spectrum(form, mu)
    weighted = units.weighted(np.sqrt(mu.T))
    if units.constant and units.n_units:
        ((_, features),) = weighted.groups
        unit_values = np.outer(np.square(units.gates[0, 0, 0, 0]), np.square(svdvals(features.values)))
        if progress is not None:
            progress(units.n_units)
    elif units.n_units == 1:
        unit_values = np.square(svdvals(weighted.factor(0).reshape(-1, units.width)))[None]
        if progress is not None:
            progress(1)
    else:
        unit_values = _unit_spectra(weighted, progress, directions)
    return _summary(unit_values[:, : units.parts * np.count_nonzero(mu)])


def has_exact_spectrum(form: Form) -> bool:
    """Whether `form_spectrum` has the spectrum of a linearisation, memory aside."""
    return unit_form(form) is not None or _mixed_rows(form) <= _MOST_MIXED


def _mixed_rows(form: Form) -> int:
    return min(form.n_steps * form.n_trials * form.n_states, form.n_parameters)


def _mixed_spectrum(form: Form, mu: Array) -> KernelSpectrum:
    """From ``J^T Mu J`` or ``Mu^(1/2) J J^T Mu^(1/2)``, the smaller one, by products; units count as one."""
    points, size = form.n_steps * form.n_trials * form.n_states, form.n_parameters
    small = _mixed_rows(form)
    if small > _MOST_MIXED:
        raise ValueError(
            f"K of this network mixes units, since a trained weight acts on later states through another product: its "
            f"spectrum is that of one matrix of {small} rows, and at most {_MOST_MIXED} are solved. kpref.eigh(flow.K, "
            "k) gives the leading part, kpref.spectra.effective_dimension(flow.K) its dimension"
        )
    root, gram = np.sqrt(mu)[None, :, :, None], np.empty((small, small))
    for start in range(0, small, _BATCH):
        part = slice(start, min(start + _BATCH, small))
        basis = np.zeros((part.stop - part.start, small), form.dtype)
        basis[np.arange(len(basis)), np.arange(part.start, part.stop)] = 1
        if size <= points:
            images = kernels.parameter_product(form, basis) * np.square(root)
            gram[part] = kernels.parameter_transpose(form, images.astype(form.dtype))
        else:
            tensors = basis.reshape(-1, form.n_trials, form.n_steps, form.n_states) * root
            vectors = kernels.parameter_transpose(form, tensors.astype(form.dtype))
            gram[part] = (kernels.parameter_product(form, vectors) * root).reshape(len(basis), -1)
    values = np.maximum(eigvalsh((gram + gram.T) / 2, check_finite=False), 0.0)[::-1]
    return _summary(values[None, : np.count_nonzero(mu) * form.n_states])


def _summary(unit_values: Array) -> KernelSpectrum:
    values = np.sort(unit_values, axis=None)[::-1]
    trace, square = float(values.sum()), float(np.square(values).sum())
    within_floats("the spectrum of K", (trace, square))
    return KernelSpectrum(values, unit_values, trace, square**0.5, trace * trace / square if square else 0.0)


def _unit_spectra(units: UnitForm, progress: Callable[[int], object] | None, directions: Directions | None) -> Array:
    """Eigenvalues of ``F_u F_u^T`` for each unit u, (N, most of them)."""
    rows, columns = units.n_steps * units.n_trials, units.width
    wide = columns > rows * units.parts
    size = min(columns, rows * units.parts)
    at_once = per_call(size)
    needed = units.n_units * size + (3 + at_once) * size**2 + rows * (columns if wide else 0)
    require_memory(8 * needed, "the spectrum of K")
    unit_values = np.empty((units.n_units, size))

    def solve(some: slice, gram: Callable[[int], Array]) -> None:
        units_of = range(some.start, some.stop)
        parts = [units_of[start : start + at_once] for start in range(0, len(units_of), at_once)]

        def task(index: int) -> None:
            part = parts[index]
            grams = np.stack([gram(unit) for unit in part])
            unit_values[part.start : part.stop] = np.maximum(np.linalg.eigvalsh(grams), 0.0)[:, ::-1]

        run_blocks(task, len(parts), done=None if progress is None else lambda index: progress(len(parts[index])))

    if not wide and all(features.shared for _, features in units.groups):
        for some, gram in grams_of_units(units):
            solve(some, gram)
            if directions is not None and size:
                directions.enter(unit_values[: some.stop], some.start, gram)
    else:
        solve(slice(0, units.n_units), lambda unit: _gram(units, unit, wide))
    return unit_values


def _gram(units: UnitForm, unit: int, wide: bool) -> Array:
    """F^T F, or F F^T where F has more columns than rows."""
    if wide:
        factor = units.factor(unit).reshape(-1, units.width)
        return np.asarray(factor @ factor.T)
    gram = np.zeros((units.width, units.width))
    for start in range(0, units.n_steps * units.n_trials, _CHUNK):
        factor = units.factor(unit, slice(start, start + _CHUNK)).reshape(-1, units.width)
        gram += factor.T @ factor  # half of the work of a product: NumPy sees that the two are one
    return gram
