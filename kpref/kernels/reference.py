"""The products of `kpref.kernels` in plain NumPy: slow, obvious, and what the compiled ones are tested against."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from kpref.linearize import SiteForm

__all__ = [
    "adjoint",
    "inverse",
    "inverse_transpose",
    "jacobian",
    "jacobian_transpose",
    "parameter_product",
    "parameter_transpose",
    "tangent",
]

Array = npt.NDArray[Any]


def _row(coefficient: Array, step: int) -> Array:
    return coefficient[step if len(coefficient) > 1 else 0]


def _slope(form: SiteForm, step: int) -> Array | float:
    return _row(form.slope, step) if form.slope.size else 1.0


def jacobian(form: SiteForm, step: int, x: Array) -> Array:
    """``A[step] x`` for x of shape (v, B, H)."""
    currents = (_slope(form, step) * x) @ form.weight.T
    split = currents.reshape(*x.shape[:2], -1, x.shape[2])
    recurrent = _row(form.gates, step)[:, : split.shape[2]]
    return _row(form.decay, step) * x + (recurrent * split).sum(axis=2)


def jacobian_transpose(form: SiteForm, step: int, x: Array) -> Array:
    """``A[step]^T x`` for x of shape (v, B, H)."""
    recurrent = _row(form.gates, step)[:, : len(form.weight) // form.n_states]
    split = recurrent * x[:, :, None, :]
    return _row(form.decay, step) * x + _slope(form, step) * (split.reshape(*x.shape[:2], -1) @ form.weight)


def tangent(form: SiteForm, forcing: Array) -> Array:
    """``P q``."""
    out = np.empty_like(forcing)
    state = np.zeros_like(forcing[:, :, 0])
    for step in range(form.n_steps):
        state = jacobian(form, step, state) + forcing[:, :, step]
        out[:, :, step] = state
    return out


def adjoint(form: SiteForm, forcing: Array) -> Array:
    """``P^T g``."""
    out = np.empty_like(forcing)
    out[:, :, -1] = forcing[:, :, -1]
    for step in range(form.n_steps - 2, -1, -1):
        out[:, :, step] = jacobian_transpose(form, step + 1, out[:, :, step + 1]) + forcing[:, :, step]
    return out


def inverse(form: SiteForm, response: Array) -> Array:
    """``P^-1 y``."""
    out = response.copy()
    for step in range(1, form.n_steps):
        out[:, :, step] -= jacobian(form, step, response[:, :, step - 1])
    return out


def inverse_transpose(form: SiteForm, forcing: Array) -> Array:
    """``(P^-1)^T g``."""
    out = forcing.copy()
    for step in range(form.n_steps - 1):
        out[:, :, step] -= jacobian_transpose(form, step + 1, forcing[:, :, step + 1])
    return out


def _parameter_jacobian(form: SiteForm, site: Any, step: int) -> Array:
    """``dF / d(parameter)`` at one step, dense: (B, H, rows of the parameter, columns)."""
    columns: dict[str, Array] = {
        "recurrent": form.variable[step],
        "input": form.drive[step, :, :-1],
        "bias": form.drive[step, :, -1:],
    }
    units = form.n_states
    gates = np.broadcast_to(_row(form.gates, step), (form.n_trials, form.gates.shape[2], units))
    blocks = [np.einsum("bi,ij,bc->bijc", gates[:, gate], np.eye(units), columns[site.kind]) for gate in site.gates]
    return np.concatenate(blocks, axis=2)


def _dense_parameter_jacobian(form: SiteForm, step: int) -> Array:
    pieces = [_parameter_jacobian(form, site, step) for site in form.layout.sites]
    return np.concatenate([piece.reshape(form.n_trials, form.n_states, -1) for piece in pieces], axis=2)


def parameter_product(form: SiteForm, vectors: Array) -> Array:
    """``J dtheta``, from the dense Jacobian of each step."""
    rows = [np.einsum("bhm,vm->vbh", _dense_parameter_jacobian(form, step), vectors) for step in range(form.n_steps)]
    return np.stack(rows, axis=2)


def parameter_transpose(form: SiteForm, tensors: Array) -> Array:
    """``J^T g``, from the dense Jacobian of each step."""
    terms = [
        np.einsum("bhm,vbh->vm", _dense_parameter_jacobian(form, step), tensors[:, :, step])
        for step in range(form.n_steps)
    ]
    return np.sum(terms, axis=0)
