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

from collections.abc import Callable
from functools import partial

import numpy as np

from kpref._types import Array
from kpref.linearize import Form, require_form
from kpref.operators.products import ByTrial, TrialParts
from kpref.operators.structure import BY_TRIAL, UNKNOWN, Structure
from kpref.operators.tensor import TensorOperator
from kpref.product_form import ProductForm
from kpref.space import EuclideanSpace, TrajectorySpace, require_trajectories
from kpref.step_form import StepForm
from kpref.unit_form import state_units

__all__ = [
    "initial_state_jacobian",
    "jacobian_structure",
    "kernel",
    "parameter_jacobian",
    "propagator",
    "propagator_inverse",
    "sensitivity",
]

# `kpref.kernels` brings Numba with it; it is imported when an operator is built, so that importing kpref stays fast.
# What an operator is made of has a name in this module or that one, by which a pickle tells it.


def propagator(form: Form, space: TrajectorySpace) -> TensorOperator:
    """P, on a trajectory space. Costs 2 B T flops for each entry of the weights that states go through, as does P^T."""
    _require(form, space)
    from kpref import kernels

    return TensorOperator(
        partial(kernels.tangent, form), partial(kernels.adjoint, form), space, space, form.dtype, "P", BY_TRIAL
    )


def propagator_inverse(form: Form, space: TrajectorySpace) -> TensorOperator:
    """P^-1: the forcing ``q[n] = y[n] - A[n] y[n-1]`` that a response y comes from; local in time."""
    _require(form, space)
    from kpref import kernels

    return TensorOperator(
        partial(kernels.inverse, form), partial(kernels.inverse_transpose, form), space, space, form.dtype, "P^-1",
        BY_TRIAL,
    )  # fmt: skip


def parameter_jacobian(form: Form, space: TrajectorySpace) -> TensorOperator:
    """J, from parameters (M,) to trajectories."""
    _require(form, space)
    from kpref import kernels

    return TensorOperator(
        partial(kernels.parameter_product, form), partial(kernels.parameter_transpose, form),
        EuclideanSpace((form.n_parameters,)), space, form.dtype, "J", partial(jacobian_structure, form),
        _by_trial(form, _in_order),
    )  # fmt: skip


def sensitivity(form: Form, space: TrajectorySpace) -> TensorOperator:
    """``D = P J = dZ/dtheta``."""
    _require(form, space)
    from kpref import kernels

    return TensorOperator(
        partial(kernels.sensitivity, form), partial(kernels.sensitivity_transpose, form),
        EuclideanSpace((form.n_parameters,)), space, form.dtype, "D", by_trial=_by_trial(form, kernels.adjoint),
    )  # fmt: skip


def _by_trial(form: Form, costates: Callable[[Form, Array], Array]) -> ByTrial | None:
    """J^T of each trial after what all have in common; None where J is known by products of all trials at once."""
    if isinstance(form, ProductForm) and form.parameter_jacobian is None:
        return None
    return partial(_gradients_by_trial, form, costates)


def _gradients_by_trial(form: Form, costates: Callable[[Form, Array], Array], batch: Array) -> TrialParts:
    from kpref import kernels

    found = costates(form, batch)
    return TrialParts(partial(kernels.trial_transpose, form, found), partial(kernels.trial_products, form, found))


def _in_order(form: Form, batch: Array) -> Array:
    return np.require(batch, form.dtype, ["C", "W"])


def kernel(form: Form, space: TrajectorySpace) -> TensorOperator:
    """``K = J J^T Mu``: what a parameter step can do to the dynamics. Self-adjoint and positive in the measure."""
    return parameter_jacobian(form, space).gram("K")


def initial_state_jacobian(form: Form, space: TrajectorySpace) -> TensorOperator:
    """``dZ/dz0``: initial states (B, H) to trajectories, P applied to the forcing ``A[0] dz0`` at the first step."""
    _require(form, space)
    trials, _, units = space.shape
    return TensorOperator(
        partial(_from_start, form), partial(_to_start, form), EuclideanSpace((trials, units)), space, form.dtype,
        "D_z0", BY_TRIAL,
    )  # fmt: skip


def _from_start(form: Form, batch: Array) -> Array:
    from kpref import kernels
    from kpref.kernels import reference

    forcing = np.zeros((len(batch), form.n_trials, form.n_steps, form.n_states), form.dtype)
    forcing[:, :, 0] = reference.jacobian(form, 0, batch)
    return kernels.tangent(form, forcing, overwrite=True)


def _require(form: Form, space: TrajectorySpace) -> None:
    """Raise TypeError or ValueError unless these are a linearisation and the space of its trajectories."""
    require_form(form)
    require_trajectories(space, (form.n_trials, form.n_steps, form.n_states))


def _to_start(form: Form, batch: Array) -> Array:
    from kpref import kernels
    from kpref.kernels import reference

    return reference.jacobian_transpose(form, 0, kernels.adjoint(form, batch)[:, :, 0])


def jacobian_structure(form: Form) -> Structure:
    """What is known of J: no two units share a parameter, where the program says so."""
    return Structure(units=state_units(form)) if isinstance(form, StepForm) else UNKNOWN
