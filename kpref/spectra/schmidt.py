"""Schmidt spectra: how far an operator is from a tensor product of one over (trials, time) and one over units.

With a = (trial, time), the operator A on tensors (B, T, H) is realigned to the (B T)^2 x H^2 matrix

    R[(a, a'), (h, h')] = A[(a, h), (a', h')],        A = sum_i s_i X_i (x) Y_i,

the sum being the singular value decomposition of R: X_i act on trials and time, Y_i on units, and s_i are the Schmidt
values (Van Loan and Pitsianis, *Approximation with Kronecker products*, 1993; Hazelden et al., arXiv:2507.06381). Their
effective rank ``(sum s^2)^2 / sum s^4`` is one if and only if A is a Kronecker product.

A is taken in its symmetrised form ``Mu^(1/2) A Mu^(-1/2)`` everywhere in this module, zero where the measure is zero.
A self-adjoint A stays symmetric in it, and neither the unit of mu nor its shape can be read as a lack of
separability: Mu acts on trials and time alone, so that an A of Schmidt rank one has rank one in either form.

**K** does not mix units. Only the columns (s u, s' u) of R are non-zero, which are K_u = F_u F_u^T of
`kpref.unit_form`, and the Schmidt values of K are the roots of the eigenvalues of the matrix over N S^2 pairs of
states of one unit

    Gamma[(u, s, s'), (w, t, t')] = <K_u^(s s'), K_w^(t t')>_F,
    K_u^(s s')[a, a'] = sum_g G[s, g, u](a) G[s', g, u](a') (V_g V_g^T)[a, a'].

If there is one state and one current a unit and its gate is constant along the trajectory (the linear map, leaky and
rate networks), all K_u are multiples of V V^T and the rank is one, exactly. It is *not* one for the vanilla network
``z' = phi(a)``, whose gate phi'(a) differs between units, nor for the GRU. A system in dense form is one unit of H
states.

For any other operator see `kpref.spectra.schmidt_sampling`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.linalg import eigvalsh

from kpref._reprs import short_repr
from kpref._types import Array
from kpref._validate import function, within_floats
from kpref.flow import Flow, require_flow
from kpref.linearize import Form
from kpref.memory import require_memory
from kpref.threads import even_blocks, run_blocks, serial_blas
from kpref.unit_factors import UnitForm
from kpref.unit_form import unit_form

__all__ = ["SchmidtSpectrum", "schmidt_flops", "schmidt_spectrum"]

#: Entries of the (pairs x H) matrix of one tile, so that it is still in cache when it is multiplied.
_TILE_ENTRIES = 1 << 18
#: Partial sums of Gamma: as many threads can work, whatever their number.
_PARTS = 16


@dataclass(frozen=True, eq=False)
class SchmidtSpectrum:
    """Exact Schmidt spectrum of K.

    Attributes
    ----------
    values : ndarray, shape (N S^2,)
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
    For N units of S states, with c columns in F_u: the smaller of ``(B T N S^2)^2`` flops, by tiles of pairs (a, a')
    and symmetric products, and ``B T (c N S)^2``, from the products F_us^T F_wt; plus O((N S^2)^3). With one constant
    gate ``B T c^2`` suffices.
    """
    if progress is not None:
        function("progress", progress, "a number of parts")
    flow = require_flow(flow)
    units = unit_form(flow.linearization)
    if units is None:
        raise ValueError(
            "K of this network mixes units, since a trained weight acts on later states through another product: its "
            "Schmidt spectrum has no closed form. kpref.spectra.effective_schmidt_rank(flow.K) estimates its rank"
        )
    units = units.weighted(np.sqrt(flow.space.mu.T))
    if units.constant and units.n_units:
        # Gamma = c c^T with c_u = G_u^2 |V V^T|_F: one Schmidt value, its length.
        values = np.zeros(units.n_units)
        ((_, features),) = units.groups
        values[0] = np.linalg.norm(np.square(units.gates[0, 0, 0, 0])) * np.linalg.norm(_gram(features.values))
        within_floats("the Schmidt spectrum of K", values)
        return SchmidtSpectrum(values, 1.0 if values[0] else 0.0)
    by_pairs, by_columns = _flops(units)
    return _from_gram((_gram_by_columns if by_columns < by_pairs else _gram_by_pairs)(units, progress))


def schmidt_flops(form: Form) -> float:
    """What `schmidt_spectrum` takes; infinity where there is no closed form."""
    units = unit_form(form)
    if units is None:
        return math.inf
    return 0.0 if units.constant else min(_flops(units))


def _flops(units: UnitForm) -> tuple[float, float]:
    """Of the sum over pairs of points, and of products of columns."""
    rows, pairs, columns = units.n_steps * units.n_trials, units.n_units * units.parts**2, units.width
    by_columns = 2.0 * rows * (units.n_units * units.parts * columns) ** 2
    if units.parts > 1:
        by_columns += 2.0 * (pairs * columns) ** 2
    return (float(rows) * pairs) ** 2, by_columns


def _from_gram(gram: Array) -> SchmidtSpectrum:
    within_floats("the Schmidt spectrum of K", gram)
    trace, square = float(np.trace(gram)), float(within_floats("the Schmidt spectrum of K", np.square(gram).sum()))
    values = np.sqrt(np.maximum(eigvalsh(gram), 0.0))[::-1]
    return SchmidtSpectrum(values, trace * trace / square if square else 0.0)


def _gram(matrix: Array) -> Array:
    """``V^T V`` or ``V V^T``, whichever is smaller: they have the same norm."""
    return np.asarray(matrix @ matrix.T if matrix.shape[1] > matrix.shape[0] else matrix.T @ matrix)


def _gram_by_pairs(units: UnitForm, progress: Callable[[int], object] | None) -> Array:
    """Gamma as a sum over tiles of pairs (a, a'); those below the diagonal are the others with s and s' exchanged."""
    rows, size = units.n_steps * units.n_trials, units.parts**2 * units.n_units
    edge = max(1, int((_TILE_ENTRIES / size) ** 0.5))
    strips = [slice(start, min(start + edge, rows)) for start in range(0, rows, edge)]
    tiles = [(one, other) for one in range(len(strips)) for other in range(one, len(strips))]
    parts = even_blocks(len(tiles), 1, _PARTS)
    require_memory(8.0 * len(parts) * size**2, "the Schmidt spectrum of K")
    partial = np.zeros((len(parts), size, size))

    def task(part: int) -> None:
        total = partial[part]
        for one, other in tiles[parts[part]]:
            pairs = units.pairs(strips[one], strips[other])
            rows_of = pairs.reshape(-1, size)
            # Half of the work of a product: NumPy sees that the two are one.
            total += (0.5 if one == other else 1.0) * (rows_of.T @ rows_of)

    run_blocks(task, len(parts), done=None if progress is None else lambda part: progress(1))
    upper = partial.sum(axis=0)
    exchanged = np.arange(size).reshape(units.parts, units.parts, -1).swapaxes(0, 1).reshape(-1)
    return np.asarray(upper + upper[np.ix_(exchanged, exchanged)])


def _gram_by_columns(units: UnitForm, progress: Callable[[int], object] | None) -> Array:
    """``Gamma[(u, s, s'), (w, t, t')] = <F_us^T F_wt, F_us'^T F_wt'>``, for few columns and many pairs (a, a')."""
    rows, number, columns, states = units.n_steps * units.n_trials, units.n_units, units.width, units.parts
    wide, size = number * states * columns, number * states**2
    chunk = max(1, _TILE_ENTRIES // (wide or 1))
    require_memory(8.0 * (wide**2 + size**2), "the Schmidt spectrum of K")
    parts = even_blocks(number, 1, _PARTS)
    gamma = np.zeros((number, states**2, number, states**2))

    def factor(part: slice, which: slice) -> Array:
        """F_u for some units, (rows of the chunk, units * S * c)."""
        return np.concatenate([units.factor(unit, part).reshape(part.stop - part.start, -1)
                               for unit in range(which.start, which.stop)], axis=1)  # fmt: skip

    def task(index: int) -> None:
        own = parts[index]
        product = np.zeros(((own.stop - own.start) * states * columns, wide))
        for start in range(0, rows, chunk):
            part = slice(start, min(start + chunk, rows))
            product += factor(part, own).T @ factor(part, slice(0, number))
        blocks = product.reshape(own.stop - own.start, states, columns, number, states, columns)
        rows_of = blocks.transpose(0, 3, 1, 4, 2, 5).reshape(len(blocks), number, states**2, -1)
        overlaps = (rows_of @ rows_of.swapaxes(2, 3)).reshape(len(blocks), number, *(states,) * 4)  # s t, s' t'
        gamma[own] = overlaps.transpose(0, 2, 4, 1, 3, 5).reshape(len(blocks), states**2, number, states**2)

    run_blocks(task, len(parts), done=None if progress is None else lambda part: progress(1))
    flat = gamma.reshape(size, size)
    return (flat + flat.T) / 2
