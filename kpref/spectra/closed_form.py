"""Reduced views of K in closed form.

K does not mix units; for unit u it is ``F_u F_u^T Mu`` with ``F_u[(a, s), (g, c)] = G[s, g, u](a) v_g[c](a)``, a =
(time, trial), s the states of the unit and g the currents that its trained arrays enter (`kpref.unit_form`). Hence,
with N = B T,

    tr_{trials, time}(K)[s u, s' u] = sum_a mu[a] sum_g G[s, g, u](a) G[s', g, u](a) |v_g(a)|^2
    <K>[s u, s' u] = (1/N^2) (sum_a F_u[(a, s)]) . (sum_a mu[a] F_u[(a, s')])
    sum_a F_u[(a, s)] = [ G[s, g, u]^T V_g  for the currents g ]

and both are zero between units. Two products for each current instead of a pass over pairs of points. Where a network
mixes units, the first is ``sum_a mu[a] G(a) diag(|v(a)|^2) G(a)^T`` with the derivatives by all currents, and the
second ``(J^T 1_h) . (J^T mu_h')`` from products with J^T, 1_h being one in all states h and mu_h the measure there.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kpref import kernels
from kpref._types import Array
from kpref._validate import finite_array, within_floats
from kpref.lengths import check_lengths, points
from kpref.linearize import Form
from kpref.step_form import StepForm
from kpref.threads import serial_blas
from kpref.unit_factors import UnitForm
from kpref.unit_form import current_derivatives, unit_form

__all__ = [
    "kernel_block_squares",
    "kernel_group_matrices",
    "kernel_unit_average",
    "kernel_unit_matrix",
    "kernel_unit_trace",
]

#: Products with J and its transpose that squares of blocks take where units are mixed.
_PROBES = 32
#: States whose averages are computed at once.
_BATCH = 8


def kernel_unit_trace(form: Form, mu: Array) -> Array:
    """Diagonal of ``tr_{trials, time}(K)``, shape (H,); K's trace is its sum.

    Parameters
    ----------
    form : StepForm, DenseForm or ProductForm
    mu : ndarray, shape (B, T)
        The measure.

    Raises
    ------
    TypeError
        If `form` is no linearisation.
    ValueError
        If `mu` is no measure of its points, or numbers overflow.
    """
    return np.diagonal(kernel_unit_matrix(form, mu)).copy()


def kernel_unit_matrix(form: Form, mu: Array) -> Array:
    """``tr_{trials, time}(K)``, shape (H, H): that of each unit, and zero between units where K does not mix them.

    Parameters and errors as for `kernel_unit_trace`.
    """
    return np.asarray(within_floats("the trace of K", kernel_group_matrices(form, mu, None)[0]))


@serial_blas
@np.errstate(over="ignore", invalid="ignore")  # who asks for the sum is told in words
def kernel_group_matrices(form: Form, mu: Array, groups: Array | None) -> Array:
    """The shares of groups of trials, numbered as in `kernel_block_squares`, in `kernel_unit_matrix`: (G, H, H)."""
    units = unit_form(form)
    weights = _measure(form, mu)
    owner = np.zeros(len(weights), dtype=int) if groups is None else groups
    member = (owner == np.arange(owner.max() + 1)[:, None]).astype(float)
    if units is None:
        assert isinstance(form, StepForm)
        total = np.zeros((len(member), form.n_states, form.n_states))
        for row, (gates, weighted) in enumerate(current_derivatives(form)):
            each = (weights[:, row, None, None] * weighted) @ gates.swapaxes(1, 2)
            total += np.tensordot(member, each, 1)
        return total
    blocks = np.zeros((units.n_trials, units.parts, units.parts, units.n_units))
    for currents, features in units.groups:
        lengths = weights.T[:, :, None] * features.squares().reshape(units.n_steps, units.n_trials, -1)
        own = units.gates[:, :, :, currents]
        for s in range(units.parts):
            for t in range(s + 1):
                shape = (units.n_steps, units.n_trials, *own.shape[3:])
                each = np.einsum("nbku,nbku,nbu->bu", *(np.broadcast_to(own[:, :, i], shape) for i in (s, t)),
                                 np.broadcast_to(lengths, (*shape[:2], units.n_units)))  # fmt: skip
                blocks[:, s, t] += each
                if s != t:
                    blocks[:, t, s] += each
    return units.scatter(np.tensordot(member, blocks, 1))


@serial_blas
def kernel_block_squares(form: Form, mu: Array, groups: Array, most: int) -> tuple[Array, npt.NDArray[np.intp]]:
    """Squared norms of the blocks of K between groups of trials, for some units, shape (G, G); and their states.

    ``sum_u |F_gu F_g'u^T|_F^2``, which is ``<F_gu^T F_gu, F_g'u^T F_g'u>_F`` where F has fewer columns than rows. Where
    K mixes units of a network it is an estimate for all of them, ``<C_g theta, C_g' theta>`` with
    ``C_g = J_g^T Mu J_g`` and a mean over 32 vectors of random signs.

    `mu`: shape (B, T); the measure. `groups`: shape (B,); the group of each trial, from 0 to G - 1; -1 for none.
    `most`: units that stand for all.
    """
    count, units = int(groups.max()) + 1, unit_form(form)
    if units is None:
        return _estimated_squares(form, mu, groups, count), np.arange(form.n_states)
    units = units.weighted(np.sqrt(_measure(form, mu).T))
    owner = np.repeat(np.broadcast_to(groups, mu.T.shape).reshape(-1), units.parts)
    some = np.unique(np.linspace(0, units.n_units - 1, min(units.n_units, most)).round().astype(int))
    squares = np.zeros((count, count))
    for unit in some:
        squares += _block_squares(units.factor(unit).reshape(len(owner), -1), owner, count)
    columns = units.columns[:, some].reshape(-1)
    return squares, columns[columns >= 0]


def _block_squares(factor: Array, owner: Array, count: int) -> Array:
    """``|F_g F_g'^T|_F^2`` for the rows F_g of each group."""
    if factor.shape[1] > len(factor):
        member = (owner == np.arange(count)[:, None]).astype(float)
        return np.asarray(member @ np.square(factor @ factor.T) @ member.T)
    parts = (factor[owner == group] for group in range(count))
    grams = np.stack([part.T @ part for part in parts])  # half of a product: NumPy sees that the two are one
    flat = grams.reshape(count, -1)
    return np.asarray(flat @ flat.T)


def _estimated_squares(form: Form, mu: Array, groups: Array, count: int) -> Array:
    generator, squares = np.random.default_rng(0), np.zeros((count, count))
    member = (groups == np.arange(count)[:, None]).astype(form.dtype)
    for _ in range(_PROBES):
        signs = generator.choice([-1.0, 1.0], size=(1, form.n_parameters)).astype(form.dtype)
        image = kernels.parameter_product(form, signs) * mu[None, :, :, None]
        parts = [kernels.parameter_transpose(form, (image * own[None, :, None, None]).astype(form.dtype))[0]
                 for own in member]  # fmt: skip
        stack = np.stack(parts).astype(np.float64)
        squares += stack @ stack.T / _PROBES
    return squares


@serial_blas
@np.errstate(over="ignore", invalid="ignore")  # it is said in words
def kernel_unit_average(form: Form, mu: Array, lengths: npt.NDArray[np.int64] | None = None) -> Array:
    """The average of K over all pairs of trials and times, shape (H, H); zero between units that K does not mix.

    Parameters
    ----------
    form : StepForm, DenseForm or ProductForm
    mu : ndarray, shape (B, T)
        The measure.
    lengths : ndarray of int, shape (B,), optional
        How many of the T points of each trial exist: the average is over those.

    Raises
    ------
    TypeError
        If `form` is no linearisation.
    ValueError
        If `mu` is no measure of its points, `lengths` are no lengths of its trials, or numbers
        overflow.
    """
    units = unit_form(form)
    weights, exist = _measure(form, mu), np.ones((form.n_trials, form.n_steps))
    if lengths is not None:
        exist = points(check_lengths(lengths, form.n_trials, form.n_steps), form.n_steps).astype(float)
    if units is None:
        plain, weighed = (_transposed_images(form, density) for density in (exist, weights))
        total = plain @ weighed.T
    else:
        total = units.scatter(_averages(units, exist.T, weights.T))
    return np.asarray(within_floats("the average of K", total / exist.sum() ** 2))


def _averages(units: UnitForm, exist: Array, weights: Array) -> Array:
    """``(sum_a exist[a] F_u[(a, s)]) . (sum_a weights[a] F_u[(a, s')])``, (S, S, N)."""
    shape = (units.n_steps, units.n_trials, units.n_units)
    total = np.zeros((units.parts, units.parts, units.n_units))
    for currents, features in units.groups:
        for gate in range(currents.start, currents.stop):
            sums = []
            for density in (exist, weights):
                scaled = [np.broadcast_to(each, shape) * density[:, :, None]
                          for each in np.moveaxis(units.gates[:, :, :, gate], 2, 0)]  # fmt: skip
                sums.append(np.stack([features.sums(each.reshape(-1, units.n_units)) for each in scaled]))
            total += np.einsum("suc,tuc->stu", *sums)
    return total


def _transposed_images(form: Form, density: Array) -> Array:
    """J^T of a density (B, T) in each state by itself: (H, M)."""
    found = np.empty((form.n_states, form.n_parameters))
    for start in range(0, form.n_states, _BATCH):
        states = np.eye(form.n_states, dtype=form.dtype)[start : start + _BATCH]
        tensors = density.astype(form.dtype)[None, :, :, None] * states[:, None, None, :]
        found[start : start + _BATCH] = kernels.parameter_transpose(form, tensors)
    return found


def _measure(form: Form, mu: npt.ArrayLike) -> Array:
    """A measure of the points of a linearisation, shape (B, T)."""
    return finite_array("mu", mu, shape=(form.n_trials, form.n_steps), axes=("trial", "step"))
