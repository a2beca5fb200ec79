"""Schmidt spectra: how far an operator is from a tensor product of one over (trials, time) and one over units.

With a = (trial, time), the operator A on tensors (B, T, H) is realigned to the (B T)^2 x H^2 matrix

    R[(a, a'), (h, h')] = A[(a, h), (a', h')],        A = sum_i s_i X_i (x) Y_i,

the sum being the singular value decomposition of R: X_i act on trials and time, Y_i on units, and s_i are the Schmidt
values (Van Loan and Pitsianis, *Approximation with Kronecker products*, 1993; Hazelden et al., arXiv:2507.06381). Their
effective rank ``(sum s^2)^2 / sum s^4`` is one if and only if A is a Kronecker product.

A is taken in its symmetrised form ``Mu^(1/2) A Mu^(-1/2)`` everywhere in this module, zero where the measure is zero.
A self-adjoint A stays symmetric in it, and neither the unit of mu nor its shape can be read as a lack of
separability: Mu acts on trials and time alone, so that an A of Schmidt rank one has rank one in either form.

**K** is diagonal over units. Only the columns (h, h) of R are non-zero, column h being K_h = F_h F_h^T of
`kpref.spectra.kernel`, and the Schmidt values of K are the roots of the eigenvalues of the H x H matrix

    Gamma[h, h'] = <K_h, K_h'>_F,    K_h[a, a'] = sum_g G_g[a, h] G_g[a', h] (V_g V_g^T)[a, a'].

If there is one gate and it is constant along the trajectory (the linear map, leaky and rate networks), all K_h are
multiples of V V^T and the rank is one, exactly. It is *not* one for the vanilla network ``z' = phi(a)``, whose gate
phi'(a) differs between units, nor for the GRU.

**A system in dense form** mixes units in K. With J_h the rows of ``Mu^(1/2) J`` that belong to state h,
``(R^T R)[(h, h'), (k, k')] = <J_h^T J_k, J_h'^T J_k'>_F``.

For any other operator see `kpref.spectra.schmidt_sampling`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import eigvalsh
from scipy.linalg.blas import dgemm, dsyrk

from kpref._reprs import short_repr
from kpref._validate import function, within_floats
from kpref.flow import Flow, require_flow
from kpref.linearize import DenseForm
from kpref.memory import require_memory
from kpref.site_view import SiteForm, with_gates
from kpref.spectra.closed_form import gate_features
from kpref.threads import even_blocks, run_blocks, serial_blas

__all__ = ["SchmidtSpectrum", "schmidt_spectrum"]

Array = npt.NDArray[Any]

#: Entries of the (pairs x H) matrix of one tile, so that it is still in cache when it is multiplied.
_TILE_ENTRIES = 1 << 18
#: Partial sums of Gamma: as many threads can work, whatever their number.
_PARTS = 16


@dataclass(frozen=True, eq=False)
class SchmidtSpectrum:
    """Exact Schmidt spectrum of K.

    Attributes
    ----------
    values : ndarray, shape (H,), or (H^2,) for a system in dense form
        Schmidt values that can be different from zero, descending. As roots of eigenvalues of ``R^T R`` they are known
        to about 1e-8 of the largest: below that, half the digits are lost, and nothing can be said.
    effective_rank : float
        ``(sum s^2)^2 / sum s^4``, from trace and norm of ``R^T R`` and so to rounding.
    """

    values: Array
    effective_rank: float

    __repr__ = short_repr


@serial_blas
@np.errstate(over="ignore", invalid="ignore")  # it is said in words
def schmidt_spectrum(flow: Flow, progress: Callable[[int], object] | None = None) -> SchmidtSpectrum:
    """Exact Schmidt spectrum of ``flow.K``, K never being formed.

    Parameters
    ----------
    flow : Flow
    progress : callable, optional
        Called with 1 after each of the parts that the work is cut into.

    Returns
    -------
    SchmidtSpectrum

    Raises
    ------
    MemoryError
        Before anything is allocated, if the work arrays would not fit.
    ValueError
        If its numbers overflow.

    Notes
    -----
    With c columns in F_h, the smaller of ``(B T H)^2 / 2`` flops, by tiles of pairs (a, a') and dsyrk, and
    ``B T (c H)^2``, from ``Gamma[h, h'] = |F_h^T F_h'|_F^2``; plus O(H^3). With one constant gate ``B T c^2`` suffices.
    Dense form: ``2 B T (H M)^2 + H^4 M^2`` flops.
    """
    if progress is not None:
        function("progress", progress, "a number of parts")
    form = with_gates(require_flow(flow).linearization)
    if isinstance(form, DenseForm):
        return _from_gram(_dense_gram(form, flow.space.mu))
    root_mu = np.sqrt(flow.space.mu.T).reshape(-1, 1)
    features = [root_mu * block for block in gate_features(form)]
    gates = form.gates.astype(np.float64, copy=False)
    if gates.shape[:3] == (1, 1, 1):
        # Gamma = c c^T with c_h = G_h^2 |V V^T|_F: one Schmidt value, its length.
        values = np.zeros(form.n_states)
        values[0] = np.linalg.norm(np.square(gates[0, 0, 0])) * np.linalg.norm(_gram(features[0]))
        within_floats("the Schmidt spectrum of K", values)
        return SchmidtSpectrum(values, 1.0 if values[0] else 0.0)
    by_row = np.broadcast_to(gates, (form.n_steps, form.n_trials, *gates.shape[2:])).reshape(-1, *gates.shape[2:])
    columns = sum(block.shape[1] for block in features)
    if 2 * columns**2 < len(by_row):
        return _from_gram(_gram_by_columns(by_row, features, progress))
    return _from_gram(_gram_by_pairs(by_row, features, _gates_by_columns(form), progress))


def _from_gram(gram: Array) -> SchmidtSpectrum:
    within_floats("the Schmidt spectrum of K", gram)
    trace, square = float(np.trace(gram)), float(within_floats("the Schmidt spectrum of K", np.square(gram).sum()))
    values = np.sqrt(np.maximum(eigvalsh(gram), 0.0))[::-1]
    return SchmidtSpectrum(values, trace * trace / square if square else 0.0)


def _gram(matrix: Array) -> Array:
    """``V^T V`` or ``V V^T``, whichever is smaller: they have the same norm."""
    return np.asarray(matrix @ matrix.T if matrix.shape[1] > matrix.shape[0] else matrix.T @ matrix)


def _gates_by_columns(form: SiteForm) -> list[list[int]]:
    """The gates in groups that multiply the same columns: they share V V^T."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for gate in range(form.layout.n_gates):
        groups.setdefault(tuple(site.kind for site in form.layout.sites if gate in site.gates), []).append(gate)
    return [gates for kinds, gates in groups.items() if kinds]


def _gram_by_pairs(
    gates: Array, features: list[Array], groups: list[list[int]], progress: Callable[[int], object] | None
) -> Array:
    """Gamma as a sum over tiles of pairs (a, a'), those above the diagonal counted twice."""
    rows, _, units = gates.shape
    edge = max(1, int((_TILE_ENTRIES / units) ** 0.5))
    strips = [slice(start, min(start + edge, rows)) for start in range(0, rows, edge)]
    tiles = [(one, other) for one in range(len(strips)) for other in range(one, len(strips))]
    parts = even_blocks(len(tiles), 1, _PARTS)
    require_memory(8.0 * (len(parts) * units**2 + gates.size), "the Schmidt spectrum of K")
    by_gate = np.ascontiguousarray(np.moveaxis(gates, 1, 0))  # (k, B T, H)
    partial = np.zeros((len(parts), units, units)).transpose(0, 2, 1)  # Fortran order, for dsyrk

    def task(part: int) -> None:
        total = partial[part]
        for one, other in tiles[parts[part]]:
            left, right = strips[one], strips[other]
            pairs: Array | None = None
            for group in groups:
                overlap = features[group[0]][left] @ features[group[0]][right].T
                term = by_gate[group[0], left, None] * by_gate[group[0], None, right]
                for gate in group[1:]:
                    term += by_gate[gate, left, None] * by_gate[gate, None, right]
                term *= overlap[:, :, None]
                pairs = term if pairs is None else np.add(pairs, term, out=pairs)
            if pairs is not None:
                weight = 1.0 if one == other else 2.0
                dsyrk(weight, pairs.reshape(-1, units).T, beta=1.0, c=total, lower=1, overwrite_c=1)

    run_blocks(task, len(parts), done=None if progress is None else lambda part: progress(1))
    return _symmetric(partial)


def _gram_by_columns(gates: Array, features: list[Array], progress: Callable[[int], object] | None) -> Array:
    """``Gamma[h, h'] = |F_h^T F_h'|_F^2``, for few columns and many pairs (a, a')."""
    rows, _, units = gates.shape
    columns = sum(block.shape[1] for block in features)
    chunk = max(1, _TILE_ENTRIES // (units * columns))
    require_memory(8.0 * (units * columns) ** 2, "the Schmidt spectrum of K")
    wide = units * columns
    parts = even_blocks(units, 1, _PARTS)
    gamma = np.zeros((units, units))

    def factor(part: slice, which: slice) -> Array:
        """F_h for some units, (rows of the chunk, units * c)."""
        blocks = [gates[part, gate, which, None] * block[part, None, :] for gate, block in enumerate(features)]
        return np.concatenate(blocks, axis=2).reshape(part.stop - part.start, -1)

    def task(index: int) -> None:
        own = parts[index]
        product = np.zeros(((own.stop - own.start) * columns, wide), order="F")
        for start in range(0, rows, chunk):
            part = slice(start, min(start + chunk, rows))
            product = dgemm(
                1.0, factor(part, own).T, factor(part, slice(0, units)).T, 1.0, product, 0, 1, overwrite_c=1
            )
        blocks = np.square(product).reshape(own.stop - own.start, columns, units, columns)
        gamma[own] = blocks.sum(axis=(1, 3))

    run_blocks(task, len(parts), done=None if progress is None else lambda part: progress(1))
    return (gamma + gamma.T) / 2


def _symmetric(partial: Array) -> Array:
    """Sum of lower triangles, in order, as a full matrix."""
    total = np.array(partial[0])
    for other in partial[1:]:
        total += other
    return np.tril(total) + np.tril(total, -1).T


def _dense_gram(form: DenseForm, mu: Array) -> Array:
    """``(R^T R)[(h, h'), (k, k')] = <J_h^T J_k, J_h'^T J_k'>_F``, from the (H M)^2 matrix of all J_h^T J_k."""
    units, parameters = form.n_states, form.n_parameters
    require_memory(8.0 * (3 * (units * parameters) ** 2 + units**4), "the Schmidt spectrum of K")
    root = np.sqrt(mu.T)[:, :, None, None]
    jacobian = (root * form.parameter_jacobian).reshape(-1, units * parameters)
    inner = (jacobian.T @ jacobian).reshape(units, parameters, units, parameters)
    pairs = inner.transpose(0, 2, 1, 3).reshape(units**2, parameters**2)  # row (h, k): J_h^T J_k
    overlaps = (pairs @ pairs.T).reshape(units, units, units, units)
    return np.asarray(overlaps.transpose(0, 2, 1, 3).reshape(units**2, units**2))
