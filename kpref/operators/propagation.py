"""The operators of the K-P flow of a discrete-time model, over its linearisation.

With ``A[n] = dF/dz`` and ``J_theta[n] = dF/dtheta`` at the n-th application of the map, and Mu the diagonal of the
measure (Hazelden et al., arXiv:2507.06381):

    P q = dz,   dz[n+1] = A[n] dz[n] + q[n],  dz[0] = 0            linearised flow propagator
    (J dtheta)[n] = J_theta[n] dtheta                                parameter Jacobian
    K = J J* = J J^T Mu                                              parameter operator
    NTK = D D* = P J J^T P^T Mu,  D = P J = dZ/dtheta                neural tangent kernel of the states

NTK = P K P* wherever the measure is positive. Where it is zero, D D* is the kernel restricted to the observed points
and still exact, for the dynamics run on through points that nobody observes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from kpref.linearize import Form, require_form
from kpref.operators.tensor import TensorOperator
from kpref.space import EuclideanSpace, TrajectorySpace, require_trajectories

__all__ = [
    "initial_state_jacobian",
    "kernel",
    "parameter_jacobian",
    "propagator",
    "propagator_inverse",
    "sensitivity",
]

Array = npt.NDArray[Any]

# `kpref.kernels` brings Numba with it; it is imported when an operator is built, so that importing kpref stays fast.


def propagator(form: Form, space: TrajectorySpace) -> TensorOperator:
    """P, on a trajectory space. Costs 2 B T k_r H^2 flops, as does P^T."""
    _require(form, space)
    from kpref import kernels

    return TensorOperator(
        lambda batch: kernels.tangent(form, batch),
        lambda batch: kernels.adjoint(form, batch),
        space,
        space,
        form.dtype,
        "P",
    )


def propagator_inverse(form: Form, space: TrajectorySpace) -> TensorOperator:
    """P^-1: the forcing ``q[n] = y[n] - A[n] y[n-1]`` that a response y comes from; local in time."""
    _require(form, space)
    from kpref import kernels

    return TensorOperator(
        lambda batch: kernels.inverse(form, batch),
        lambda batch: kernels.inverse_transpose(form, batch),
        space,
        space,
        form.dtype,
        "P^-1",
    )


def parameter_jacobian(form: Form, space: TrajectorySpace) -> TensorOperator:
    """J, from parameters (M,) to trajectories."""
    _require(form, space)
    from kpref import kernels

    return TensorOperator(
        lambda batch: kernels.parameter_product(form, batch),
        lambda batch: kernels.parameter_transpose(form, batch),
        EuclideanSpace((form.n_parameters,)),
        space,
        form.dtype,
        "J",
    )


def sensitivity(form: Form, space: TrajectorySpace) -> TensorOperator:
    """``D = P J = dZ/dtheta``."""
    _require(form, space)
    from kpref import kernels

    return TensorOperator(
        lambda batch: kernels.sensitivity(form, batch),
        lambda batch: kernels.sensitivity_transpose(form, batch),
        EuclideanSpace((form.n_parameters,)),
        space,
        form.dtype,
        "D",
    )


def kernel(form: Form, space: TrajectorySpace) -> TensorOperator:
    """``K = J J^T Mu``: what a parameter step can do to the dynamics. Self-adjoint and positive in the measure."""
    return parameter_jacobian(form, space).gram("K")


def initial_state_jacobian(form: Form, space: TrajectorySpace) -> TensorOperator:
    """``dZ/dz0``: initial states (B, H) to trajectories, P applied to the forcing ``A[0] dz0`` at the first step."""
    _require(form, space)
    from kpref import kernels
    from kpref.kernels import reference

    def forward(batch: Array) -> Array:
        forcing = np.zeros((len(batch), *space.shape), form.dtype)
        forcing[:, :, 0] = reference.jacobian(form, 0, batch)
        return kernels.tangent(form, forcing, overwrite=True)

    def transpose(batch: Array) -> Array:
        return reference.jacobian_transpose(form, 0, kernels.adjoint(form, batch)[:, :, 0])

    trials, _, units = space.shape
    return TensorOperator(forward, transpose, EuclideanSpace((trials, units)), space, form.dtype, "D_z0")


def _require(form: Form, space: TrajectorySpace) -> None:
    """Raise TypeError or ValueError unless these are a linearisation and the space of its trajectories."""
    require_form(form)
    require_trajectories(space, (form.n_trials, form.n_steps, form.n_states))
