"""The products of `kpref.kernels` in plain NumPy: slow, obvious, and what the compiled ones are tested against.

A form of products (`kpref.product_form`) has no others: its functions are Python's, and called in the calling thread.
"""

from __future__ import annotations

import numpy as np

from kpref._types import Array
from kpref.kernels.plain_program import run, run_transposed
from kpref.kernels.stage_sums import StageTable
from kpref.linearize import DenseForm, Form
from kpref.product_form import ProductForm
from kpref.step_form import StepForm

__all__ = [
    "adjoint",
    "inverse",
    "inverse_transpose",
    "jacobian",
    "jacobian_transpose",
    "parameter_product",
    "parameter_transpose",
    "stage_adjoint",
    "stage_costate",
    "stage_costate_transpose",
    "stage_tangent",
    "state_jacobian",
    "tangent",
]


def jacobian(form: Form, step: int, x: Array) -> Array:
    """``A[step] x`` for x of shape (v, B, H)."""
    if isinstance(form, DenseForm | ProductForm) and form.state_jacobian is not None:
        return np.einsum("bij,vbj->vbi", form.state_jacobian[step], x)
    if isinstance(form, ProductForm):
        return form.state_product(step, x)
    return run(form, step, x)


def jacobian_transpose(form: Form, step: int, x: Array) -> Array:
    """``A[step]^T x`` for x of shape (v, B, H)."""
    if isinstance(form, DenseForm | ProductForm) and form.state_jacobian is not None:
        return np.einsum("bji,vbj->vbi", form.state_jacobian[step], x)
    if isinstance(form, ProductForm):
        return form.state_transpose(step, x)
    return run_transposed(form, step, x)


def tangent(form: Form, forcing: Array) -> Array:
    """``P q``."""
    out = np.empty_like(forcing)
    state = np.zeros_like(forcing[:, :, 0])
    for step in range(form.n_steps):
        state = jacobian(form, step, state) + forcing[:, :, step]
        out[:, :, step] = state
    return out


def adjoint(form: Form, forcing: Array) -> Array:
    """``P^T g``."""
    out = np.empty_like(forcing)
    out[:, :, -1] = forcing[:, :, -1]
    for step in range(form.n_steps - 2, -1, -1):
        out[:, :, step] = jacobian_transpose(form, step + 1, out[:, :, step + 1]) + forcing[:, :, step]
    return out


def inverse(form: Form, response: Array) -> Array:
    """``P^-1 y``."""
    out = response.copy()
    for step in range(1, form.n_steps):
        out[:, :, step] -= jacobian(form, step, response[:, :, step - 1])
    return out


def inverse_transpose(form: Form, forcing: Array) -> Array:
    """``(P^-1)^T g``."""
    out = forcing.copy()
    for step in range(form.n_steps - 1):
        out[:, :, step] -= jacobian_transpose(form, step + 1, forcing[:, :, step + 1])
    return out


def parameter_product(form: StepForm | ProductForm, vectors: Array) -> Array:
    """``J dtheta``."""
    if isinstance(form, ProductForm):
        return form.parameter_product(vectors)
    zero, changes = np.zeros((len(vectors), form.n_trials, form.n_states), form.dtype), form.pack(vectors)
    return np.stack([run(form, step, zero, changes) for step in range(form.n_steps)], axis=2)


def parameter_transpose(form: StepForm | ProductForm, tensors: Array) -> Array:
    """``J^T g``."""
    if isinstance(form, ProductForm):
        return form.parameter_transpose(tensors)
    changes = form.pack(np.zeros((len(tensors), form.n_parameters), form.dtype))
    for step in range(form.n_steps):
        run_transposed(form, step, tensors[:, :, step], changes)
    return form.unpack(changes)


def state_jacobian(form: Form, row: int) -> Array:
    """A of one row, written out: (B, H, H)."""
    if isinstance(form, DenseForm):
        return form.state_jacobian[row]
    basis = np.broadcast_to(np.eye(form.n_states)[:, None], (form.n_states, form.n_trials, form.n_states))
    return np.moveaxis(jacobian(form, row, basis), 0, 2)


def _stage_product(form: Form, table: StageTable, step: int, stage: int, x: Array, transposed: bool) -> Array:
    """``A x``, or ``A^T x``, at a stage."""
    product = jacobian_transpose if transposed else jacobian
    return product(form, step * len(table.b) + stage, x)


def _forcing(table: StageTable, step: int, stage: int) -> list[tuple[float, int]]:
    """Weight and row of each term of the forcing of a stage."""
    return list(zip(table.weight[step, stage], table.source[step, stage], strict=True))


def stage_tangent(
    form: Form, table: StageTable, forcing: Array, carry: Array, out: Array, transposed: bool = False
) -> None:
    """As `kpref.kernels.stage_tangent`: ``dk_i = A_i dZ_i + q_i``, ``dZ_i = dz + h sum_j a_ij dk_j``."""
    for step, h in enumerate(table.h):
        slopes: list[Array] = []
        for stage in range(len(table.b)):
            state = carry + h * sum(a * slope for a, slope in zip(table.a[stage], slopes, strict=False))
            slope = _stage_product(form, table, step, stage, state, transposed)
            slopes.append(slope + sum(w * forcing[:, :, row] for w, row in _forcing(table, step, stage)))
        carry += h * sum(b * slope for b, slope in zip(table.b, slopes, strict=True))
        if table.row[step] >= 0:
            out[:, :, table.row[step]] = carry


def stage_adjoint(
    form: Form, table: StageTable, source: Array, carry: Array, out: Array, transposed: bool = False
) -> None:
    """As `kpref.kernels.stage_adjoint`: ``kappa_i = h b_i lambda + h sum_j a_ji A_j^T kappa_j``, last stage first."""
    for step, h in reversed(list(enumerate(table.h))):
        if table.row[step] >= 0:
            carry += source[:, :, table.row[step]]
        mu: dict[int, Array] = {}
        for stage in reversed(range(len(table.b))):
            kappa = h * table.b[stage] * carry + h * sum(table.a[j, stage] * mu[j] for j in mu)
            for w, row in _forcing(table, step, stage):
                out[:, :, row] += w * kappa
            mu[stage] = _stage_product(form, table, step, stage, kappa, not transposed)
        carry += sum(mu.values())


def stage_costate(form: Form, table: StageTable, source: Array, carry: Array, out: Array) -> None:
    """As `kpref.kernels.stage_costate`: the adjoint of dz, with ``h b_i g_i`` for a cotangent of each dZ_i."""
    for step, h in reversed(list(enumerate(table.h))):
        if table.row[step] >= 0:
            out[:, :, table.row[step]] = carry
        mu: dict[int, Array] = {}
        for stage in reversed(range(len(table.b))):
            kappa = h * table.b[stage] * carry + h * sum(table.a[j, stage] * mu[j] for j in mu)
            cost = sum(w * source[:, :, row] for w, row in _forcing(table, step, stage))
            mu[stage] = _stage_product(form, table, step, stage, kappa, True) + h * table.b[stage] * cost
        carry += sum(mu.values())


def stage_costate_transpose(form: Form, table: StageTable, impulses: Array, carry: Array, out: Array) -> None:
    """As `kpref.kernels.stage_costate_transpose`: dz takes impulses at the grid, ``h b_i dZ_i`` is what comes out."""
    for step, h in enumerate(table.h):
        slopes: list[Array] = []
        for stage in range(len(table.b)):
            state = carry + h * sum(a * slope for a, slope in zip(table.a[stage], slopes, strict=False))
            for w, row in _forcing(table, step, stage):
                out[:, :, row] += w * h * table.b[stage] * state
            slopes.append(_stage_product(form, table, step, stage, state, False))
        carry += h * sum(b * slope for b, slope in zip(table.b, slopes, strict=True))
        if table.row[step] >= 0:
            carry += impulses[:, :, table.row[step]]
