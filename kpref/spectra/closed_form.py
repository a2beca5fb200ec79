"""Reduced views of K in closed form.

K does not mix units; for unit h it is F_h F_h^T Mu with the rows ``f_h[a] = [ G_g[a, h] v_g[a]  for the gates g ]``
of F_h, a = (trial, time) and v_g the entries of ``[ m | x | 1 ]`` that trainable parameters of gate g multiply (see
`kpref.spectra.kernel`). Hence, with N = B T,

    tr_{trials, time}(K)[h, h] = sum_a mu[a] |f_h[a]|^2 = sum_g sum_a mu[a] G_g[a, h]^2 |v_g[a]|^2
    <K>[h, h] = (1/N^2) (sum_a f_h[a]) . (sum_a mu[a] f_h[a]),    sum_a f_h[a] = [ (G_g^T V_g)[h]  for the gates g ]

and both are zero off the diagonal. Two products with each gate instead of a pass over pairs of points.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from kpref._validate import finite_array, within_floats
from kpref.lengths import check_lengths, points
from kpref.linearize import DenseForm
from kpref.site_view import SiteForm, with_gates
from kpref.threads import serial_blas

__all__ = ["gate_features", "kernel_block_squares", "kernel_trial_trace", "kernel_unit_average", "kernel_unit_trace"]

Array = npt.NDArray[Any]


def gate_features(form: SiteForm) -> list[Array]:
    """V_g for each gate, (R B, columns): rows in the order (time, trial)."""
    rows = form.n_steps * form.n_trials
    recurrent = form.variable.reshape(rows, -1)
    inputs, ones = form.drive.reshape(rows, -1)[:, :-1], np.ones((rows, 1))
    blocks = {"recurrent": recurrent, "input": inputs, "bias": ones}
    features = []
    for gate in range(form.layout.n_gates):
        kinds = [blocks[site.kind] for site in form.layout.sites if gate in site.gates]
        features.append(np.concatenate([np.empty((rows, 0)), *kinds], axis=1, dtype=np.float64))
    return features


@serial_blas
def kernel_unit_trace(form: Any, mu: Array) -> Array:
    """Diagonal of ``tr_{trials, time}(K)``, shape (H,); K's trace is its sum.

    Parameters
    ----------
    form : SiteForm or DenseForm
    mu : ndarray, shape (B, T)
        The measure.

    Raises
    ------
    TypeError
        If `form` is no linearisation, or one without a closed form.
    ValueError
        If `mu` is no measure of its points, or numbers overflow.
    """
    return np.asarray(within_floats("the trace of K", kernel_trial_trace(form, mu).sum(axis=0)))


@np.errstate(over="ignore", invalid="ignore")  # who asks for the sum is told in words
def kernel_trial_trace(form: Any, mu: Array) -> Array:
    """Diagonal of ``tr_time(K)``, shape (B, H): the share of each trial in `kernel_unit_trace`."""
    form = with_gates(form)
    weights = _measure(form, mu).T
    if isinstance(form, DenseForm):
        return np.asarray(np.einsum("nb,nbhm->bh", weights, np.square(form.parameter_jacobian)))
    total = np.zeros((form.n_trials, form.n_states))
    for gate, features in enumerate(gate_features(form)):
        lengths = weights * np.square(features).sum(axis=1).reshape(weights.shape)
        coefficient = np.broadcast_to(form.gates[:, :, gate], form.variable.shape)
        total += np.einsum("nb,nbh->bh", lengths, np.square(coefficient, dtype=np.float64))
    return total


def kernel_block_squares(form: Any, mu: Array, groups: Array, units: Array) -> Array:
    """Squared norms of the blocks of K between groups of trials, for some units, shape (G, G).

    ``sum_h |F_gh F_g'h^T|_F^2``, which is ``<F_gh^T F_gh, F_g'h^T F_g'h>_F`` where F has fewer columns than rows.

    Parameters
    ----------
    form : SiteForm or DenseForm
    mu : ndarray, shape (B, T)
        The measure.
    groups : ndarray of int, shape (B,)
        The group of each trial, from 0 to G - 1; -1 for none.
    units : ndarray of int
        Units h; for a system in dense form, all of which are one block, those that count.
    """
    count = int(groups.max()) + 1
    owner = np.broadcast_to(groups, mu.T.shape)
    root = np.sqrt(mu.T)
    form = with_gates(form)
    if isinstance(form, DenseForm):
        rows = (root[:, :, None, None] * form.parameter_jacobian[:, :, units]).reshape(-1, form.n_parameters)
        return _block_squares(rows.astype(np.float64), np.repeat(owner.reshape(-1), len(units)), count)
    features = [root.reshape(-1, 1) * block for block in gate_features(form)]
    shape = (form.n_steps * form.n_trials, len(features), form.n_states)
    gates = np.broadcast_to(form.gates, (form.n_steps, form.n_trials, *shape[1:])).reshape(shape)
    squares = np.zeros((count, count))
    for unit in units:
        factor = np.concatenate([gates[:, [g], unit] * block for g, block in enumerate(features)], axis=1)
        squares += _block_squares(factor, owner.reshape(-1), count)
    return squares


def _block_squares(factor: Array, owner: Array, count: int) -> Array:
    """``|F_g F_g'^T|_F^2`` for the rows F_g of each group."""
    if factor.shape[1] > len(factor):
        member = (owner == np.arange(count)[:, None]).astype(float)
        return np.asarray(member @ np.square(factor @ factor.T) @ member.T)
    grams = np.stack([factor[owner == group].T @ factor[owner == group] for group in range(count)])
    flat = grams.reshape(count, -1)
    return np.asarray(flat @ flat.T)


@serial_blas
@np.errstate(over="ignore", invalid="ignore")  # it is said in words
def kernel_unit_average(form: Any, mu: Array, lengths: npt.NDArray[np.int64] | None = None) -> Array:
    """The average of K over all pairs of trials and times, shape (H, H); diagonal for a network in site form.

    Parameters
    ----------
    form : SiteForm or DenseForm
    mu : ndarray, shape (B, T)
        The measure.
    lengths : ndarray of int, shape (B,), optional
        How many of the T points of each trial exist: the average is over those.

    Raises
    ------
    TypeError
        If `form` is no linearisation, or one without a closed form.
    ValueError
        If `mu` is no measure of its points, `lengths` are no lengths of its trials, or numbers
        overflow.
    """
    form = with_gates(form)
    weights, exist = _measure(form, mu).T, np.ones((form.n_steps, form.n_trials))
    if lengths is not None:
        exist = points(check_lengths(lengths, form.n_trials, form.n_steps), form.n_steps).T.astype(float)
    number = exist.sum()
    if isinstance(form, DenseForm):
        jacobian = form.parameter_jacobian
        total = np.einsum("nb,nbhm->hm", exist, jacobian) @ np.einsum("nb,nbhm->mh", weights, jacobian)
        return np.asarray(within_floats("the average of K", total / number**2))
    total = np.zeros(form.n_states)
    for gate, features in enumerate(gate_features(form)):
        rows = len(features)
        coefficient = np.broadcast_to(form.gates[:, :, gate], form.variable.shape).reshape(rows, -1)
        plain = coefficient.T @ (exist.reshape(-1, 1) * features)
        weighed = coefficient.T @ (weights.reshape(-1, 1) * features)
        total += (plain * weighed).sum(axis=1)
    return np.diag(within_floats("the average of K", total / number**2))


def _measure(form: SiteForm | DenseForm, mu: npt.ArrayLike) -> Array:
    """A measure of the points of a linearisation, shape (B, T)."""
    return finite_array("mu", mu, shape=(form.n_trials, form.n_steps), axes=("trial", "step"))
