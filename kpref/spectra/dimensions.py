"""Effective dimensions and operator norms.

**Effective dimension** of a self-adjoint positive G: the participation ratio ``(tr G)^2 / tr G^2`` of its
eigenvalues, n where n of them are equal and the others zero; of another operator A, that of ``A A*``. Along kept
axes: that of the partial trace over the others (Hazelden et al., arXiv:2507.06381).

The partial trace is that of ``Mu^(1/2) G Mu^(-1/2)``, the matrix of G in an orthonormal basis of the space, which
makes it symmetric and positive in every measure. For the units alone it is `kpref.operators.reduced.partial_trace` of
G itself; and has its eigenvalues for kept trials or times too, if the weights are products ``w[b] omega[n]``.

**Estimates.** Without kept axes, tr G and ``tr G^2 = |G|_F^2`` are means of ``g.G g`` and ``|G g|^2`` over the same
random vectors, see `kpref.spectra.paired_probes`. With kept axes, for random signs g, g' over the others and a white
v over the kept ones, with ``X(g) = (g (x) I)^T G (g (x) I)``,

    tr_other(G) = E X(g),    tr = E v.X(g) v,    tr(tr_other(G)^2) = E (X(g) v).(X(g') v),

g and g' being independent. The ratio of the means is unbiased to order 1/p^2 in the number p of samples, by the
jackknife.

**K in closed form.** K does not mix units; with the gates G_g and what their parameters multiply, v_g
(`kpref.spectra.closed_form`), its symmetrised entries for points a, a' and a unit h are

    (mu[a] mu[a'])^(1/2) sum_g G_g[a, h] G_g[a', h] (v_g[a] . v_g[a']);

partial traces sum them over equal indices, and only their squares are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from kpref.flow import Flow
from kpref.linearize import DenseForm, SiteForm
from kpref.memory import require_memory
from kpref.operators import TensorOperator
from kpref.operators.reduced import AXES, kept_axes
from kpref.spectra.closed_form import gate_features, kernel_unit_trace
from kpref.spectra.eigen import eigh
from kpref.spectra.estimate import Estimate
from kpref.spectra.kernel import kernel_spectrum
from kpref.spectra.paired_probes import DENSE_SIZE, check_probes, directions, jackknife, orthonormal_rows, split
from kpref.spectra.symmetric import SymmetricForm
from kpref.threads import even_blocks, get_num_threads, run_blocks, serial_blas

__all__ = ["effective_dimension", "kernel_effective_dimension", "operator_norm"]

Array = npt.NDArray[Any]
Keep = str | Sequence[str] | None

#: Bytes of tensors that an operator is applied to at once.
_BATCH_BYTES = 1 << 27
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
        Else with the standard error of the jackknife; the bias is of order ``1 / probes^2``. Zero for G = 0.

    Raises
    ------
    ValueError
        For unknown axes, axes of other tensors, or too few probes.
    MemoryError
        Before anything is allocated, if the vectors would not fit.

    Notes
    -----
    Points without weight do not count. For K of a flow `kernel_effective_dimension` is exact and faster.
    """
    check_probes(probes, 6)
    kept = None if keep is None else kept_axes(keep)
    positive = op if op.structure.self_adjoint and op.structure.positive else op.gram()
    if kept is not None and len(positive.shape_in) != len(AXES):
        raise ValueError(
            f"keep is for operators on tensors (trials, time, units); {positive.name} acts on tensors of shape "
            f"{positive.shape_in}"
        )
    whole = kept is None or len(kept) == len(AXES)
    factor = positive.factor
    if whole and factor is not None and factor.space_in.size < factor.space_out.size:
        positive = factor.star.gram()  # A* A has the spectrum of A A*
    form = SymmetricForm(positive)
    cost = 1 if positive is op else 2
    if form.size <= max(DENSE_SIZE, probes):
        return Estimate(_exact_dimension(form, None if whole else kept), 0.0, cost * form.size, "exact")
    if whole or kept is None:
        samples, products = _whole_samples(form, probes, np.random.default_rng(seed))
    else:
        samples, products = _kept_samples(positive, kept, probes // 2, np.random.default_rng(seed))
    if not samples.any():
        return Estimate(0.0, 0.0, cost * products, "probes, jackknife")
    value, error = jackknife(_ratio, samples)
    return Estimate(value, error, cost * products, "deflated probes, jackknife" if whole else "probes, jackknife")


@serial_blas
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
    form, mu = flow.linearization, flow.space.mu
    if isinstance(form, DenseForm):
        return _exact(_dense_kernel_dimension(form, mu, kept))
    units = kernel_unit_trace(form, mu)
    trace = float(units.sum())
    square = float(np.square(units).sum()) if kept == (2,) else _kernel_square(form, mu, kept)
    return _exact(trace**2 / square if square else 0.0)


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
        Its ``standard_error`` is a bound, not a deviation: the computed residual, within which there is an eigenvalue
        (Bauer and Fike).

    Raises
    ------
    NoConvergence
        If the iteration does not converge.
    """
    positive = op.structure.self_adjoint and op.structure.positive
    pair = eigh(op if positive else op.gram(), 1, seed, tol)
    value, bound = max(float(pair.values[0]), 0.0), float(pair.residuals[0])
    if positive:
        return Estimate(value, bound * value, pair.n_products, "Lanczos")
    # An eigenvalue within bound * value is a singular value within half of that, relative.
    return Estimate(value**0.5, bound * value**0.5 / 2, 2 * pair.n_products, "Lanczos")


def _exact(value: float) -> Estimate:
    return Estimate(float(value), 0.0, 0, "exact")


def _ratio(means: Array) -> Array:
    return np.asarray(np.square(means[..., 0]) / means[..., 1])


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
    return float(np.trace(matrix)) ** 2 / square if square else 0.0


def _whole_samples(form: SymmetricForm, probes: int, generator: np.random.Generator) -> tuple[Array, int]:
    """Independent samples (p, 2) of tr G and tr G^2, and the number of products."""
    within, beyond = split(probes)
    dtype = form.op.dtype
    require_memory(4.0 * probes * form.size * dtype.itemsize, f"{probes} probes of {form.op.name}")
    basis = orthonormal_rows(form(generator.standard_normal((within, form.size)).astype(dtype)))
    rest = directions(generator, beyond, basis)
    known, samples = (_moments(vectors, form(vectors)) for vectors in (basis, rest))
    return known.sum(axis=0) + samples, form.n_products


def _moments(vectors: Array, images: Array) -> Array:
    """``g.G g`` and ``|G g|^2`` of each row, in float64."""
    images = images.astype(np.float64, copy=False)
    return np.stack([(vectors * images).sum(axis=1), np.square(images).sum(axis=1)], axis=1)


def _kept_samples(
    op: TensorOperator, kept: tuple[int, ...], count: int, generator: np.random.Generator
) -> tuple[Array, int]:
    """Independent samples (count, 2) of the trace of the partial trace and of its square, two products each."""
    space, dtype = op.space_in, op.dtype
    along_kept = tuple(length if axis in kept else 1 for axis, length in enumerate(space.shape))
    along_others = tuple(1 if axis in kept else length for axis, length in enumerate(space.shape))
    summed = tuple(1 + axis for axis in range(len(AXES)) if axis not in kept)
    none = np.zeros((0, int(np.prod(along_kept))), dtype)
    samples = np.empty((count, 2))
    width = max(1, _BATCH_BYTES // (2 * space.size * dtype.itemsize))
    for start in range(0, count, width):
        number = min(width, count - start)
        white = directions(generator, number, none).reshape(number, *along_kept)
        signs = generator.choice(np.array([-1.0, 1.0]), size=(2, number, *along_others)).astype(dtype)
        batch = space.scale((signs * white).reshape(2 * number, *space.shape), -0.5)
        images = space.scale(op.apply(batch), 0.5).reshape(2, number, *space.shape).astype(np.float64)
        one, other = (
            (sign * image).sum(axis=summed).reshape(number, -1) for sign, image in zip(signs, images, strict=True)
        )
        flat = white.reshape(number, -1)
        samples[start : start + number, 0] = (flat * (one + other)).sum(axis=1) / 2
        samples[start : start + number, 1] = (one * other).sum(axis=1)
    return samples, 2 * count


def _dense_kernel_dimension(form: DenseForm, mu: Array, kept: tuple[int, ...]) -> float:
    """From ``Mu^(1/2) J`` as a matrix Y with the kept axes as rows: the partial trace is ``Y Y^T``."""
    rows = np.sqrt(mu)[:, :, None, None] * form.parameter_jacobian.swapaxes(0, 1)
    matrix = np.moveaxis(rows, kept, range(len(kept)))
    matrix = matrix.reshape(int(np.prod(matrix.shape[: len(kept)])), -1).astype(np.float64)
    gram = matrix @ matrix.T if len(matrix) <= matrix.shape[1] else matrix.T @ matrix
    square = float(np.square(gram).sum())
    return float(np.trace(gram)) ** 2 / square if square else 0.0


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
