"""Effective dimensions and operator norms.

**Effective dimension** of a self-adjoint positive G: the participation ratio ``(tr G)^2 / tr G^2`` of its
eigenvalues, n where n of them are equal and the others zero; of another operator A, that of ``A A*``. Along kept
axes: that of the partial trace over the others (Hazelden et al., arXiv:2507.06381).

The partial trace is that of ``Mu^(1/2) G Mu^(-1/2)``, the matrix of G in an orthonormal basis of the space, which
makes it symmetric and positive in every measure. For the units alone it is `kpref.operators.reduced.partial_trace` of
G itself; and has its eigenvalues for kept trials or times too, if the weights are products ``w[b] omega[n]``.

**Estimates.** A third of the products find a Krylov space in which G is large and known exactly; random vectors serve
the rest: `kpref.spectra.deflated` for G itself, `kpref.spectra.partial_probes` for its partial traces.

**K in closed form.** K does not mix units; with the gates G_g and what their parameters multiply, v_g
(`kpref.spectra.closed_form`), its symmetrised entries for points a, a' and a unit h are

    (mu[a] mu[a'])^(1/2) sum_g G_g[a, h] G_g[a', h] (v_g[a] . v_g[a']);

partial traces sum them over equal indices, and only their squares are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from kpref._validate import integer, within_floats
from kpref.flow import Flow
from kpref.linearize import DenseForm
from kpref.memory import require_memory
from kpref.operators import TensorOperator
from kpref.operators.reduced import AXES, kept_axes
from kpref.site_view import SiteForm, with_gates
from kpref.spectra.closed_form import gate_features, kernel_unit_trace
from kpref.spectra.deflated import beside_krylov
from kpref.spectra.eigen import eigh
from kpref.spectra.estimate import Estimate
from kpref.spectra.kernel import kernel_spectrum
from kpref.spectra.paired_probes import DENSE_SIZE, require_settled, rounding
from kpref.spectra.partial_probes import partial_dimension
from kpref.spectra.symmetric import SymmetricForm, require_operator, require_self_adjoint
from kpref.threads import even_blocks, get_num_threads, run_blocks, serial_blas

__all__ = ["effective_dimension", "kernel_effective_dimension", "operator_norm"]

Array = npt.NDArray[Any]
Keep = str | Sequence[str] | None

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
        Exact up to 400 dimensions; if nothing is kept, also of the input space of a factor A of G that `gram` knows.
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
        If so many products do not tell the dimension to a factor of e; it says about how many would do.
    MemoryError
        Before anything is allocated, if the vectors would not fit.

    Notes
    -----
    Points without weight do not count. For K of a flow `kernel_effective_dimension` is exact and faster. Beside the
    products, ``O(n p^2)`` flops; with kept axes of K entries and O others up to ``4 p^2 K O min(K, O)``. For networks
    with some hundred states or more the standard error is 1 to 2 % by default (`scripts/estimators.py --coverage`).
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
    seen = beside_krylov(form, probes, seed)
    found = seen.dimension() if kept is None else partial_dimension(seen, form.coordinates, kept)
    return require_settled(replace(found, n_products=cost * found.n_products), f"the effective dimension of {op.name}")


@serial_blas
@np.errstate(over="ignore", invalid="ignore")  # it is said in words
def kernel_effective_dimension(flow: Flow, keep: Keep = None) -> Estimate:
    """Effective dimension of ``flow.K``, or of its partial trace on kept axes, exact.

    Parameters
    ----------
    flow : Flow
    keep : str or sequence of str, optional
        As for `effective_dimension`.

    Returns
    -------
    Estimate
        Exact, without any product.

    Notes
    -----
    With c columns in the features of all gates: for the units O(B T (c + k H)); for trials and times together
    ``2 (B T)^2 (c + k H)`` flops, in blocks of rows; for one of them with the units ``k H`` times its pairs, for each
    index of the other. None is the cost of `kernel_spectrum`.
    """
    kept = None if keep is None else kept_axes(keep)
    if kept is None or len(kept) == len(AXES):
        return _exact(kernel_spectrum(flow).effective_dimension)
    form, mu = with_gates(flow.linearization), flow.space.mu
    if isinstance(form, DenseForm):
        return _exact(_dense_kernel_dimension(form, mu, kept))
    units = kernel_unit_trace(form, mu)
    trace = float(units.sum())
    square = float(np.square(units).sum()) if kept == (2,) else _kernel_square(form, mu, kept)
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
    square = float(np.square(matrix).sum())
    return float(np.square(np.trace(matrix)) / square) if square else 0.0


def _dense_kernel_dimension(form: DenseForm, mu: Array, kept: tuple[int, ...]) -> float:
    """From ``Mu^(1/2) J`` as a matrix Y with the kept axes as rows: the partial trace is ``Y Y^T``."""
    rows = np.sqrt(mu)[:, :, None, None] * form.parameter_jacobian.swapaxes(0, 1)
    matrix = np.moveaxis(rows, kept, range(len(kept)))
    matrix = matrix.reshape(int(np.prod(matrix.shape[: len(kept)])), -1).astype(np.float64)
    gram = matrix @ matrix.T if len(matrix) <= matrix.shape[1] else matrix.T @ matrix
    square = float(np.square(gram).sum())
    return float(np.square(np.trace(gram)) / square) if square else 0.0


def _kernel_square(form: SiteForm, mu: Array, kept: tuple[int, ...]) -> float:
    """Squared Frobenius norm of a partial trace of K that keeps trials, times or both, or units with one of them."""
    steps, trials = form.n_steps, form.n_trials
    points = (steps, trials)
    root = np.sqrt(mu.T)[:, :, None]
    features = [root * block.reshape(*points, -1) for block in gate_features(form)]
    gates = [np.broadcast_to(form.gates[:, :, g], (*points, form.n_states)) for g in range(len(features))]
    arrays = []  # (outer, inner, columns): partial traces sum over the outer index
    for array in (*features, *gates):
        ordered = array.swapaxes(0, 1) if 1 in kept and 0 not in kept else array
        shape = (1, steps * trials) if 0 in kept and 1 in kept else ordered.shape[:2]
        arrays.append(np.ascontiguousarray(ordered, dtype=np.float64).reshape(*shape, array.shape[2]))
    features, gates = arrays[: len(features)], arrays[len(features) :]
    inner, depth = gates[0].shape[1], form.n_states if 2 in kept else 1
    blocks = even_blocks(inner, max(1, _BLOCK_ENTRIES // (inner * depth)))
    largest = max(block.stop - block.start for block in blocks)
    workers = min(get_num_threads(), len(blocks))
    require_memory(8.0 * 4 * workers * largest * inner * depth, "a partial trace of K")
    squares = np.zeros(len(blocks))

    def task(index: int) -> None:
        rows = blocks[index]
        total = np.zeros((rows.stop - rows.start, inner, depth))
        for outer in range(len(gates[0])):
            for feature, gate in zip(features, gates, strict=True):
                shared = feature[outer, rows] @ feature[outer].T
                if 2 in kept:
                    total += shared[:, :, None] * gate[outer, rows, None] * gate[outer]
                else:
                    total[:, :, 0] += shared * (gate[outer, rows] @ gate[outer].T)
        squares[index] = np.square(total).sum()

    run_blocks(task, len(blocks))
    return float(squares.sum())
