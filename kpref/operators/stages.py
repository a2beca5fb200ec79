"""The operators of a Runge-Kutta flow: exact on stage space, convergent on trajectory space.

Stage space holds a forcing at each stage of each step, (B, n, s, H), with the Euclidean inner product. There

    P_s : forcing of stages -> states,   J_s : parameters -> forcing of stages,   K_s = J_s J_s^T,
    D = P_s J_s = dZ/dtheta for every tableau, to rounding,   NTK = D D^T Mu.

On the time grid, P interpolates its forcing to the stages, and K = J J* with J_theta at the grid times: the operators
of the papers (Hazelden et al., arXiv:2507.06381), which converge to the continuous ones, and P K P* to the NTK, at the
order of the method or of the interpolation, whichever is lower. Rows 0 of trajectories are the initial states, which
no forcing moves.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from kpref._validate import instance
from kpref.linearize import Form, linearize
from kpref.operators.tensor import TensorOperator
from kpref.runge_kutta import Forcing, Segment, StageSystem, interpolation
from kpref.space import EuclideanSpace, TrajectorySpace, require_space, require_trajectories

__all__ = [
    "continuous_adjoint",
    "discrete_adjoint",
    "grid_propagator",
    "initial_state_sensitivity",
    "parameter_sensitivity",
    "stage_parameter_jacobian",
    "stage_propagator",
]

Array = npt.NDArray[Any]


def stage_propagator(system: StageSystem, space: TrajectorySpace) -> TensorOperator:
    """P_s: the linearised flow of the discrete method, from forcings of its stages. Costs 2 B n s k_r H^2 flops."""
    _require(system, space)
    shape = (system.n_trials, system.n_steps, system.stages, system.n_states)
    stages = system.stages

    def forward(batch: Array) -> Array:
        flat = batch.reshape(len(batch), shape[0], -1, shape[3])

        def provide(segment: Segment, form: Form) -> Array:
            return np.require(flat[:, :, segment.start * stages : segment.stop * stages], system.dtype, ["C", "W"])

        return _tangent(system, space, system.stage_forcing, provide, len(batch))

    def transpose(batch: Array) -> Array:
        out = np.empty((len(batch), shape[0], system.n_steps * stages, shape[3]), system.dtype)

        def done(segment: Segment, form: Form, tensor: Array) -> None:
            out[:, :, segment.start * stages : segment.stop * stages] = tensor

        system.adjoint(system.stage_forcing, batch, _stage_zeros(system, len(batch)), done)
        return out.reshape(len(batch), *shape)

    # The steps of a trial are those up to the last grid time of it.
    lengths = None if space.lengths is None else system.solution.grid_index[space.lengths - 1]
    return TensorOperator(forward, transpose, EuclideanSpace(shape, lengths), space, system.dtype, "P_s")


def stage_parameter_jacobian(system: StageSystem, stages_space: EuclideanSpace) -> TensorOperator:
    """J_s: what a parameter step does to the derivative at each stage, those of P_s."""
    _require_system(system)
    require_space("stages_space", stages_space)
    from kpref import kernels

    shape = (system.n_trials, system.n_steps, system.stages, system.n_states)
    stages = system.stages

    def forward(batch: Array) -> Array:
        out = np.empty((len(batch), shape[0], system.n_steps * stages, shape[3]), system.dtype)
        for segment in system.segments:
            rows = slice(segment.start * stages, segment.stop * stages)
            out[:, :, rows] = kernels.parameter_product(system.form(segment), batch)
        return out.reshape(len(batch), *shape)

    def transpose(batch: Array) -> Array:
        flat = batch.reshape(len(batch), shape[0], -1, shape[3])
        total = np.zeros((len(batch), system.field.n_parameters), system.dtype)
        for segment in system.segments:
            rows = slice(segment.start * stages, segment.stop * stages)
            total += kernels.parameter_transpose(system.form(segment), flat[:, :, rows])
        return total

    parameters = EuclideanSpace((system.field.n_parameters,))
    return TensorOperator(forward, transpose, parameters, stages_space, system.dtype, "J_s")


def parameter_sensitivity(system: StageSystem, space: TrajectorySpace) -> TensorOperator:
    """``D = P_s J_s = dZ/dtheta``, segment by segment: no tensor over all stages is made."""
    _require(system, space)
    from kpref import kernels

    parameters = EuclideanSpace((system.field.n_parameters,))

    def forward(batch: Array) -> Array:
        def provide(segment: Segment, form: Form) -> Array:
            return kernels.parameter_product(form, batch)

        return _tangent(system, space, system.stage_forcing, provide, len(batch))

    def transpose(batch: Array) -> Array:
        total = np.zeros((len(batch), parameters.size), system.dtype)

        def done(segment: Segment, form: Form, tensor: Array) -> None:
            total[...] += kernels.parameter_transpose(form, tensor)

        system.adjoint(system.stage_forcing, batch, _stage_zeros(system, len(batch)), done)
        return total

    return TensorOperator(forward, transpose, parameters, space, system.dtype, "D")


def initial_state_sensitivity(system: StageSystem, space: TrajectorySpace) -> TensorOperator:
    """``dZ/dz0``, from initial states (B, H); row 0 of its image is the perturbation itself."""
    _require(system, space)
    shape = (system.n_trials, system.n_states)
    idle = _idle(system)

    def forward(batch: Array) -> Array:
        def provide(segment: Segment, form: Form) -> Array:
            return np.zeros((len(batch), shape[0], 1, shape[1]), system.dtype)

        out = np.empty((len(batch), *space.shape), system.dtype)
        system.tangent(idle, provide, batch, out)
        return out

    def transpose(batch: Array) -> Array:
        def receive(segment: Segment, form: Form) -> Array:
            return np.zeros((len(batch), shape[0], 1, shape[1]), system.dtype)

        return system.adjoint(idle, batch, receive, lambda *_: None)

    return TensorOperator(forward, transpose, EuclideanSpace(shape), space, system.dtype, "D_z0")


def grid_propagator(system: StageSystem, space: TrajectorySpace, forcing: str) -> TensorOperator:
    """P on trajectories: ``(P q)(t) = int_0^t Phi(t, s) q(s) ds`` with q interpolated from the grid to the stages."""
    _require(system, space)
    table = system.grid_forcing(forcing)

    def forward(batch: Array) -> Array:
        tensor = np.require(batch, system.dtype, ["C", "W"])
        return _tangent(system, space, table, lambda segment, form: tensor, len(batch))

    def transpose(batch: Array) -> Array:
        out = np.zeros((len(batch), *space.shape), system.dtype)
        system.adjoint(table, batch, lambda segment, form: out, lambda *_: None)
        return out

    return TensorOperator(forward, transpose, space, space, system.dtype, "P")


def discrete_adjoint(system: StageSystem, space: TrajectorySpace, forcing: str) -> TensorOperator:
    """Costates of the discrete flow: ``P* g`` as the derivative of the method's own quadrature of g . dz.

    ``lambda[n]`` is the derivative of ``sum h b_i g(t_i) . Z_i`` over the later steps by the state at grid time n. It
    tends to the solution of the continuous adjoint equation at the order of the method (Sanz-Serna, SIAM Review 58,
    2016), that of the interpolation of g permitting.
    """
    _require(system, space)
    from kpref import kernels

    table = system.grid_forcing(forcing)

    def forward(batch: Array) -> Array:
        source = np.require(batch, system.dtype, ["C", "W"])
        out = np.empty_like(source)
        carry = np.zeros((len(batch), system.n_trials, system.n_states), system.dtype)
        for segment in reversed(system.segments):
            kernels.stage_costate(system.form(segment), system.table(segment, table), source, carry, out)
        out[:, :, 0] = carry
        return out

    def transpose(batch: Array) -> Array:
        impulses = np.require(batch, system.dtype, ["C", "W"])
        out = np.zeros_like(impulses)
        carry = impulses[:, :, 0].copy()
        for segment in system.segments:
            numbers = system.table(segment, table)
            kernels.stage_costate_transpose(system.form(segment), numbers, impulses, carry, out)
        return out

    return TensorOperator(forward, transpose, space, space, system.dtype, "P* (discrete)")


def continuous_adjoint(system: StageSystem, space: TrajectorySpace, forcing: str) -> TensorOperator:
    """``P* g = l`` with ``-dl/dt = A(t)^T l + g``, l(t_end) = 0: solved backwards by the same method and steps.

    A(t) is taken along the dense output of the trajectory, whose order q is at least p - 1: uniform errors of
    O(h^{q+1}), and so a result of the order p of the method. Differs from the discrete adjoint by as much.
    """
    _require(system, space)
    from kpref import kernels

    solution, stages = system.solution, system.stages
    t, h, c = solution.t_steps, solution.h, system.tableau.c
    at = np.where(c == 1.0, t[:-1, None], t[1:, None] - c * h[:, None])[::-1]
    interval = solution.interval[::-1]
    weights = interpolation(solution.times, at, interval, forcing)
    rows = np.full(system.n_steps, -1)
    rows[system.n_steps - 1 - solution.grid_index[:-1]] = np.arange(len(solution.times) - 1)
    segments = [Segment(system.n_steps - s.stop, system.n_steps - s.start) for s in reversed(system.segments)]

    def tables(segment: Segment) -> tuple[Form, Any]:
        part = slice(segment.start, segment.stop)
        times = at[part].reshape(-1)
        inputs = np.moveaxis(system.signal(times, np.repeat(interval[part], stages)), 1, 0)
        form = linearize(system.field, solution(times), np.ascontiguousarray(inputs), system.dtype)
        numbers = kernels.StageTable(
            a=system.tableau.a.astype(system.dtype),
            b=system.tableau.b.astype(system.dtype),
            h=np.ascontiguousarray(h[::-1][part], system.dtype),
            row=np.ascontiguousarray(rows[part]),
            source=np.ascontiguousarray(weights.source[part]),
            weight=np.ascontiguousarray(weights.weight[part], system.dtype),
        )
        return form, numbers

    def forward(batch: Array) -> Array:
        source = np.require(batch, system.dtype, ["C", "W"])
        out = np.zeros_like(source)
        carry = np.zeros((len(batch), system.n_trials, system.n_states), system.dtype)
        for segment in segments:
            kernels.stage_tangent(*tables(segment), source, carry, out, transposed=True)
        return out

    def transpose(batch: Array) -> Array:
        source = np.require(batch, system.dtype, ["C", "W"])
        out = np.zeros_like(source)
        carry = np.zeros((len(batch), system.n_trials, system.n_states), system.dtype)
        for segment in reversed(segments):
            kernels.stage_adjoint(*tables(segment), source, carry, out, transposed=True)
        return out

    return TensorOperator(forward, transpose, space, space, system.dtype, "P* (continuous)")


def _require_system(system: StageSystem) -> None:
    instance("system", system, StageSystem, "the linearisation at the stages of a flow, a StageSystem")


def _require(system: StageSystem, space: TrajectorySpace) -> None:
    """Raise TypeError or ValueError unless these are a linearisation at stages and the space of its trajectories."""
    _require_system(system)
    require_trajectories(space, (system.n_trials, len(system.solution.times), system.n_states))


def _tangent(system: StageSystem, space: TrajectorySpace, forcing: Forcing, provide: Any, count: int) -> Array:
    """A tangent sweep from dz = 0."""
    out = np.empty((count, *space.shape), system.dtype)
    system.tangent(forcing, provide, np.zeros((count, system.n_trials, system.n_states), system.dtype), out)
    return out


def _stage_zeros(system: StageSystem, count: int) -> Any:
    """Zeros over the stages of a segment, for cotangents to be added into."""

    def receive(segment: Segment, form: Form) -> Array:
        rows = (segment.stop - segment.start) * system.stages
        return np.zeros((count, system.n_trials, rows, system.n_states), system.dtype)

    return receive


def _idle(system: StageSystem) -> Forcing:
    """No forcing at all."""
    shape = (system.n_steps, system.stages, 0)
    return Forcing(np.zeros(shape, dtype=np.int64), np.zeros(shape))
