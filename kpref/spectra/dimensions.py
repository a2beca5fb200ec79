"""Effective dimensions and operator norms.

**Effective dimension** of a self-adjoint positive G: the participation ratio ``(tr G)^2 / tr G^2`` of its
eigenvalues, n where n of them are equal and the others zero; of another operator A, that of ``A A*``. Along kept
axes: that of the partial trace over the others (Hazelden et al., arXiv:2507.06381).

The partial trace is that of ``Mu^(1/2) G Mu^(-1/2)``, the matrix of G in an orthonormal basis of the space, which
makes it symmetric and positive in every measure. For the units alone it is `kpref.operators.reduced.partial_trace` of
G itself; and has its eigenvalues for kept trials or times too, if the weights are products ``w[b] omega[n]``.

**Estimates.** Some of the products find a Krylov space in which G is large and known exactly; random vectors serve
the rest: `kpref.spectra.deflated` for G itself, `kpref.spectra.partial_probes` for its partial traces. These come from
images under A alone where ``G = A A*`` is known as that, as K, the NTK and P P* are.

**K in closed form.** K does not mix units; with the gates G_g and what their parameters multiply, v_g
(`kpref.unit_form`), its symmetrised entries for points a, a' and states s, s' of a unit u are

    (mu[a] mu[a'])^(1/2) sum_g G[s, g, u](a) G[s', g, u](a') (v_g[a] . v_g[a']);

partial traces sum them over equal indices, and only their squares are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from kpref._types import Array
from kpref._validate import integer, within_floats
from kpref.flow import Flow, require_flow
from kpref.memory import require_memory
from kpref.operators import TensorOperator
from kpref.operators.reduced import AXES, kept_axes
from kpref.spectra.closed_form import kernel_unit_matrix
from kpref.spectra.deflated import beside_krylov
from kpref.spectra.eigen import eigh
from kpref.spectra.estimate import Estimate
from kpref.spectra.exact_spectrum import has_exact_spectrum, kernel_spectrum
from kpref.spectra.paired_probes import DENSE_SIZE, require_settled, rounding
from kpref.spectra.partial_probes import factored_dimension, partial_dimension
from kpref.spectra.symmetric import SymmetricForm, require_operator, require_self_adjoint
from kpref.threads import even_blocks, get_num_threads, run_blocks, serial_blas
from kpref.unit_factors import UnitForm
from kpref.unit_form import unit_form

__all__ = ["effective_dimension", "kernel_effective_dimension", "operator_norm"]

Keep = str | Sequence[str] | None

#: Standard error, relative to the value, above which a dimension along kept axes is not stated.
_LARGEST_ERROR = 0.05
#: Entries of a partial trace of K that one task handles.
_BLOCK_ENTRIES = 1 << 20


@serial_blas
def effective_dimension(op: TensorOperator, keep: Keep = None, probes: int = 60, seed: int = 0) -> Estimate:
    """Effective dimension ``(tr G)^2 / tr G^2`` of an operator, or of its partial trace on kept axes.

    Parameters
    ----------
    op : TensorOperator
        G itself if declared self-adjoint and positive; of any other operator A, G is ``A A*``.
    keep : str or sequence of str, optional
        Some of ``"trial"``, ``"time"``, ``"unit"``, for G on tensors (trials, time, units); None (or all): G itself.
    probes : int
        Products with G, at least 6.
    seed : int
        Of the random vectors.

    Returns
    -------
    Estimate
        Exact up to 400 dimensions; of the input space of a factor A of G that `gram` knows too if nothing is kept, and
        up to ``2 probes`` of these if something is.
        Else with the jackknife's standard error, on the logarithmic scale; the bias is of order ``1 / probes^2``. Zero
        for G = 0.

    Raises
    ------
    TypeError
        If `op` is no TensorOperator, or `probes` no integer.
    ValueError
        For unknown axes, axes of other tensors, or too few probes; if the operator is not self-adjoint, as declared, or
        its transpose is none, by a test on random tensors; if it maps to what is not finite.
    RuntimeError
        If so many products do not tell the dimension to a factor of e, or along kept axes to a standard error of 5 %;
        it says about how many would do.
    MemoryError
        Before anything is allocated, if the vectors would not fit.

    Notes
    -----
    Points without weight do not count. For K of a flow `kernel_effective_dimension` is exact and faster. Beside the
    products, ``O(n p^2)`` flops; with kept axes of K entries and O others up to ``4 p^2 K O min(K, O)``. For networks
    with some hundred states or more the standard error is 1 to 2 % by default, along kept axes of an operator whose
    factor is known too (`scripts/estimators.py --coverage`).
    """
    require_operator(op)
    probes, seed = integer("probes", probes, 6), integer("seed", seed, 0)
    kept = None if keep is None else kept_axes(keep)
    positive = op if op.structure.self_adjoint and op.structure.positive else op.gram()
    if kept is not None and len(positive.shape_in) != len(AXES):
        raise ValueError(
            f"keep is for operators on tensors (trials, time, units); {positive.name} acts on tensors of shape "
            f"{positive.shape_in}"
        )
    if kept is None or len(kept) == len(AXES):
        kept = None
        factor = positive.factor
        if factor is not None and factor.space_in.size < factor.space_out.size:
            positive = factor.star.gram()  # A* A has the spectrum of A A*
    require_self_adjoint(positive, seed, trusting=False)
    form = SymmetricForm(positive)
    cost = 1 if op.structure.self_adjoint and op.structure.positive else 2
    if form.size <= max(DENSE_SIZE, probes):
        return Estimate(_exact_dimension(form, kept), 0.0, cost * form.size, "exact")
    if kept is not None and positive.factor is not None:
        found = factored_dimension(positive.factor, probes, seed, kept)
    else:
        seen = beside_krylov(form, probes, seed)
        found = seen.dimension() if kept is None else partial_dimension(seen, form.coordinates, kept)
    found = require_settled(replace(found, n_products=cost * found.n_products), f"the effective dimension of {op.name}")
    if kept is not None and found.relative_error > _LARGEST_ERROR:
        raise RuntimeError(
            f"{found.n_products} products leave the effective dimension of {op.name} along the kept axes a standard "
            f"error of {found.relative_error:.0%}, more than {_LARGEST_ERROR:.0%}; take about "
            f"{-(-found.products_for(1.96 * _LARGEST_ERROR) // cost):,} (probes=...)"
        )
    return found


@serial_blas
@np.errstate(over="ignore", invalid="ignore")  # it is said in words
def kernel_effective_dimension(flow: Flow, keep: Keep = None) -> Estimate:
    """Effective dimension of ``flow.K``, or of its partial trace on kept axes, exact unless K mixes units.

    Parameters
    ----------
    flow : Flow
    keep : str or sequence of str, optional
        As for `effective_dimension`.

    Returns
    -------
    Estimate
        Exact, without any product; for a network whose units K mixes that of `effective_dimension`, but exact for the
        units, and where `kernel_spectrum` is.

    Notes
    -----
    With c columns in the features of all gates: for the units O(B T (c + k H)); for trials and times together
    ``2 (B T)^2 (c + k H)`` flops, in blocks of rows; for one of them with the units ``k S H`` times its pairs, for each
    index of the other. None is the cost of `kernel_spectrum`.
    """
    kept = None if keep is None else kept_axes(keep)
    if kept is None or len(kept) == len(AXES):
        exact = has_exact_spectrum(require_flow(flow).linearization)
        return _exact(kernel_spectrum(flow).effective_dimension) if exact else effective_dimension(flow.K)
    mu = flow.space.mu
    if kept == (2,):
        matrix = kernel_unit_matrix(flow.linearization, mu)
        return _exact(_participation(float(np.trace(matrix)), matrix))
    units = unit_form(flow.linearization)
    if units is None:
        return effective_dimension(flow.K, keep)
    units = units.weighted(np.sqrt(mu.T))
    if units.n_units == 1:
        return _exact(_one_unit_dimension(units, kept))
    trace, square = _kernel_moments(units, kept)
    return _exact(trace * trace / square if square else 0.0)


@serial_blas
def operator_norm(op: TensorOperator, seed: int = 0, tol: float = 1e-10) -> Estimate:
    """Largest singular value of an operator in the measures of its spaces.

    The root of the largest eigenvalue of ``A A*``, or for an operator declared positive its own largest eigenvalue.

    Parameters
    ----------
    op : TensorOperator
    seed : int
        Of the starting vector.
    tol : float
        Residual asked for, relative to the eigenvalue.

    Returns
    -------
    Estimate
        Its ``standard_error`` is a *bound*, not a deviation: the computed residual, within which there is an eigenvalue
        (Bauer and Fike), and what rounding leaves. `Estimate.interval` is the same at all levels.

    Raises
    ------
    NoConvergence
        If the iteration does not converge.
    """
    op = require_operator(op)
    positive = op.structure.self_adjoint and op.structure.positive
    pair = eigh(op if positive else op.gram(), 1, seed, tol)
    value, bound = max(float(pair.values[0]), 0.0), float(pair.residuals[0]) + rounding(op.dtype, max(op.shape))
    if positive:
        return Estimate(value, bound * value, pair.n_products, "Lanczos", bound=True)
    # An eigenvalue within bound * value is a singular value within half of that, relative.
    return Estimate(value**0.5, bound * value**0.5 / 2, 2 * pair.n_products, "Lanczos", bound=True)


def _exact(value: float) -> Estimate:
    return Estimate(float(within_floats("the effective dimension of K", value)), 0.0, 0, "exact")


def _exact_dimension(form: SymmetricForm, kept: tuple[int, ...] | None) -> float:
    matrix = form(np.eye(form.size, dtype=form.op.dtype)).astype(np.float64)
    if kept is not None:
        shape, support = form.space.shape, form.coordinates.support
        full = np.zeros((form.space.size, form.space.size))
        full[np.ix_(support, support)] = matrix
        rows, columns = "ijk", "".join("xyz"[axis] if axis in kept else "ijk"[axis] for axis in range(len(AXES)))
        out = "".join(letters[axis] for letters in (rows, columns) for axis in kept)
        size = int(np.prod([shape[axis] for axis in kept]))
        matrix = np.einsum(f"{rows}{columns}->{out}", full.reshape(*shape, *shape)).reshape(size, size)
    return _participation(float(np.trace(matrix)), matrix)


def _participation(trace: float, matrix: Array) -> float:
    square = float(np.square(matrix).sum())
    return trace * trace / square if square else 0.0


def _one_unit_dimension(units: UnitForm, kept: tuple[int, ...]) -> float:
    """From ``Mu^(1/2) J`` as a matrix Y with the kept axes as rows: the partial trace is ``Y Y^T``."""
    states = units.columns[:, 0]
    rows = np.zeros((units.n_trials, units.n_steps, units.n_states, units.width))
    factor = units.factor(0).reshape(units.n_steps, units.n_trials, units.parts, -1)
    rows[:, :, states] = factor.swapaxes(0, 1)
    ordered = np.moveaxis(rows, kept, range(len(kept)))
    matrix = ordered.reshape(int(np.prod(ordered.shape[: len(kept)])), -1)
    gram = matrix @ matrix.T if len(matrix) <= matrix.shape[1] else matrix.T @ matrix
    return _participation(float(np.trace(gram)), gram)


def _kernel_moments(units: UnitForm, kept: tuple[int, ...]) -> tuple[float, float]:
    """Trace and squared Frobenius norm of a partial trace of K that keeps trials, times or both, or units with one."""
    grid = np.arange(units.n_steps * units.n_trials).reshape(units.n_steps, units.n_trials)
    if 1 in kept:  # (outer, inner): partial traces sum over the outer index
        grid = grid.reshape(1, -1) if 0 in kept else grid.T
    inner, depth = grid.shape[1], max(1, units.parts**2 * units.n_units) if 2 in kept else 1
    blocks = even_blocks(inner, max(1, _BLOCK_ENTRIES // (inner * depth)))
    largest = max(block.stop - block.start for block in blocks)
    workers = min(get_num_threads(), len(blocks))
    require_memory(8.0 * 4 * workers * largest * inner * depth, "a partial trace of K")
    moments = np.zeros((len(blocks), 2))

    def task(index: int) -> None:
        rows = blocks[index]
        products = units.pairs if 2 in kept else units.traced_pairs
        total = products(grid[0, rows], grid[0])
        for outer in grid[1:]:
            total += products(outer[rows], outer)
        same = total[np.arange(rows.stop - rows.start), np.arange(rows.start, rows.stop)]
        moments[index] = np.einsum("assu->", same) if 2 in kept else same.sum(), np.square(total).sum()

    run_blocks(task, len(blocks))
    trace, square = moments.sum(axis=0)
    return float(trace), float(square)
