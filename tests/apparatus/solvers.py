"""Correct backends whose P does not go step by step: a doubling scan, or LU of the whole system; and wrong scans."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import scipy.linalg

from apparatus.cases import emulate
from apparatus.emulation import _product
from kpref.flow import Flow
from kpref.kernels import plain_program
from kpref.oracle.arithmetic import Arithmetic

__all__ = ["solver_backend"]

Array = npt.NDArray[Any]
Defect = Literal["", "wrong step", "transposed step", "dropped level"]


def solver_backend(flow: Flow, arithmetic: Arithmetic, kind: Literal["scan", "lu"], defect: Defect = "") -> Any:
    """States, P, P_T and D_T; LU in float64 and float32 only. `defect` is planted in P."""
    right = emulate(flow, arithmetic)
    matrices = arithmetic.round(_jacobians(right.form))
    planted = matrices.copy()
    middle = len(matrices) // 2
    if defect == "wrong step":
        planted[middle] *= 1.01
    elif defect == "transposed step":
        planted[middle] = matrices[middle].swapaxes(1, 2)
    backward = np.concatenate([np.zeros_like(matrices[:1]), matrices[:0:-1].swapaxes(2, 3)])
    solve: Callable[[Array, Array], Array] = _lu(arithmetic) if kind == "lu" else _scan(arithmetic)
    forward = _scan(arithmetic, drop=2) if defect == "dropped level" else solve

    def adjoint(g: Array) -> Array:
        return solve(backward, np.asarray(g)[:, ::-1])[:, ::-1]

    return SimpleNamespace(
        arithmetic=arithmetic,
        states=right.states,
        P=lambda q: forward(planted, np.asarray(q)),
        P_T=adjoint,
        D_T=lambda g: right.J_T(adjoint(g)),
    )


def _jacobians(form: Any) -> Array:
    """Of all steps, (T, B, H, H)."""
    basis = np.eye(form.n_states)
    shape = (1, form.n_trials, form.n_states)
    return np.stack(
        [
            np.stack([plain_program.run(form, step, np.broadcast_to(column, shape))[0] for column in basis], -1)
            for step in range(form.n_steps)
        ]
    )


def _scan(arithmetic: Arithmetic, drop: int = 0) -> Callable[[Array, Array], Array]:
    """A doubling scan, each operation rounded; `drop`: the length of windows that are left out."""

    def times(left: Array, right: Array) -> Array:
        return np.asarray(arithmetic.round(_product(left, right, arithmetic, "plain")))

    def solve(matrices: Array, forcing: Array) -> Array:
        y, length = arithmetic.round(np.moveaxis(forcing, 1, 0))[..., None], 1
        while length < len(matrices):
            if length != drop:
                late = arithmetic.round(y[length:] + times(matrices[length:], y[:-length]))
                y = np.concatenate([y[:length], late])
            doubled = times(matrices[length:], matrices[:-length])
            matrices = np.concatenate([matrices[:length], doubled])
            length *= 2
        return np.moveaxis(y[..., 0], 0, 1)

    return solve


def _lu(arithmetic: Arithmetic) -> Callable[[Array, Array], Array]:
    """Elimination with pivoting in the whole system of a trial."""
    kind = np.float64 if arithmetic.unit < 2.0**-24 else np.float32

    def solve(matrices: Array, forcing: Array) -> Array:
        steps, trials, units, _ = matrices.shape
        answer = np.empty(forcing.shape)
        for trial in range(trials):
            system = np.eye(steps * units, dtype=kind)
            for step in range(1, steps):
                rows = slice(step * units, (step + 1) * units)
                system[rows, (step - 1) * units : step * units] = -matrices[step, trial]
            flat = forcing[trial].astype(kind).ravel()
            answer[trial] = scipy.linalg.lu_solve(scipy.linalg.lu_factor(system), flat).reshape(steps, units)
        return answer

    return solve
