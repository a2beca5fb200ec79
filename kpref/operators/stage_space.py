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

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np

from kpref._types import Array
from kpref._validate import instance
from kpref.linearize import Form, linearize
from kpref.models.base import ProductModel
from kpref.operators.products import TrialParts
from kpref.operators.propagation import jacobian_structure
from kpref.operators.structure import BY_TRIAL, Structure
from kpref.operators.tensor import TensorOperator
from kpref.reused_memory import empty_tensor
from kpref.runge_kutta import Forcing, Segment, StageSystem, interpolation
from kpref.space import EuclideanSpace, TrajectorySpace, require_space, require_trajectories
from kpref.threads import run_blocks

__all__ = [
    "continuous_adjoint",
    "discrete_adjoint",
    "grid_propagator",
    "initial_state_sensitivity",
    "parameter_sensitivity",
    "stage_parameter_jacobian",
    "stage_propagator",
]


def stage_propagator(system: StageSystem, space: TrajectorySpace) -> TensorOperator:
    """P_s: the linearised flow of the discrete method, from forcings of its stages. Costs n s products with A."""
    _require(system, space)
    shape = (system.n_trials, system.n_steps, system.stages, system.n_states)
    # The steps of a trial are those up to the last grid time of it.
    lengths = None if space.lengths is None else system.solution.grid_index[space.lengths - 1]
    maps = partial(_forced_states, system), partial(_stage_cotangents, system)
    return TensorOperator(*maps, EuclideanSpace(shape, lengths), space, system.dtype, "P_s", BY_TRIAL)


def _forced_states(system: StageSystem, batch: Array) -> Array:
    stages = system.stages
    flat = batch.reshape(len(batch), system.n_trials, -1, system.n_states)

    def provide(segment: Segment, form: Form) -> Array:
        return np.require(flat[:, :, segment.start * stages : segment.stop * stages], system.dtype, ["C", "W"])

    return _tangent(system, system.stage_forcing, provide, len(batch))


def _stage_cotangents(system: StageSystem, batch: Array) -> Array:
    stages = system.stages
    out = empty_tensor((len(batch), system.n_trials, system.n_steps * stages, system.n_states), system.dtype)

    def done(segment: Segment, form: Form, tensor: Array) -> None:
        out[:, :, segment.start * stages : segment.stop * stages] = tensor

    system.adjoint(system.stage_forcing, batch, _stage_zeros(system, len(batch)), done)
    return out.reshape(len(batch), system.n_trials, system.n_steps, stages, system.n_states)


def stage_parameter_jacobian(system: StageSystem, stages_space: EuclideanSpace) -> TensorOperator:
    """J_s: what a parameter step does to the derivative at each stage, those of P_s."""
    _require_system(system)
    require_space("stages_space", stages_space)
    maps = partial(_stage_images, system), partial(_stage_sum, system)
    structure = partial(_units_of_stages, system)
    return TensorOperator(*maps, _parameters(system), stages_space, system.dtype, "J_s", structure)


def _stage_images(system: StageSystem, batch: Array) -> Array:
    from kpref import kernels

    stages = system.stages
    out = empty_tensor((len(batch), system.n_trials, system.n_steps * stages, system.n_states), system.dtype)
    for segment in system.segments:
        rows = slice(segment.start * stages, segment.stop * stages)
        out[:, :, rows] = kernels.parameter_product(system.form(segment), batch)
    return out.reshape(len(batch), system.n_trials, system.n_steps, stages, system.n_states)


def _stage_sum(system: StageSystem, batch: Array) -> Array:
    from kpref import kernels

    stages = system.stages
    flat = batch.reshape(len(batch), system.n_trials, -1, system.n_states)
    total = np.zeros((len(batch), system.field.n_parameters), system.dtype)
    for segment in system.segments:
        rows = slice(segment.start * stages, segment.stop * stages)
        total += kernels.parameter_transpose(system.form(segment), flat[:, :, rows])
    return total


def _units_of_stages(system: StageSystem) -> Structure:
    return jacobian_structure(system.form(system.segments[0]))


def parameter_sensitivity(system: StageSystem, space: TrajectorySpace) -> TensorOperator:
    """``D = P_s J_s = dZ/dtheta``, segment by segment: no tensor over all stages is made."""
    _require(system, space)
    maps = partial(_sensitivities, system), partial(_gradients, system)
    by_products = isinstance(system.field, ProductModel) and "parameter" in system.field.products
    by_trial = None if by_products else partial(_gradients_by_trial, system)
    return TensorOperator(*maps, _parameters(system), space, system.dtype, "D", by_trial=by_trial)


def _sensitivities(system: StageSystem, batch: Array) -> Array:
    from kpref import kernels

    out, carry = empty_tensor((len(batch), *_trajectory(system)), system.dtype), _at_rest(system, len(batch))
    out[:, :, 0] = carry
    for segment in system.segments:
        table = system.table(segment, system.stage_forcing)
        kernels.stage_sensitivity(system.form(segment), table, batch, carry, out)
    return out


def _gradients(system: StageSystem, batch: Array) -> Array:
    from kpref import kernels

    total = np.zeros((len(batch), system.field.n_parameters), system.dtype)
    source, carry = np.require(batch, system.dtype, ["C", "W"]), _at_rest(system, len(batch))
    for segment in reversed(system.segments):
        table = system.table(segment, system.stage_forcing)
        total += kernels.stage_sensitivity_transpose(system.form(segment), table, source, carry)
    return total


def _gradients_by_trial(system: StageSystem, batch: Array) -> TrialParts:
    """Those of one trial at a time, but in segments whose coefficients are not kept: these are gone by then."""
    from kpref import kernels

    kept: list[tuple[Form, Array]] = []
    early: list[Array] = []

    def done(segment: Segment, form: Form, tensor: Array) -> None:
        if system.keeps(segment):
            kept.append((form, tensor))
            return
        total = early[0] if early else np.zeros((len(batch), system.n_trials, system.field.n_parameters), system.dtype)
        early[:] = [total]

        def add(trial: int) -> None:
            total[:, trial] += kernels.trial_transpose(form, tensor, trial)

        run_blocks(add, system.n_trials)

    def rows(trial: int) -> Array:
        parts = [kernels.trial_transpose(form, tensor, trial) for form, tensor in kept]
        return np.asarray(sum(parts + [total[:, trial] for total in early]))

    system.adjoint(system.stage_forcing, batch, _stage_zeros(system, len(batch)), done)
    return TrialParts(rows, lambda trial: _squares(rows(trial)))


def _squares(rows: Array) -> Array:
    """Inner products of rows, in float64."""
    wide = rows.astype(float, copy=False)
    return np.asarray(wide @ wide.T)


def initial_state_sensitivity(system: StageSystem, space: TrajectorySpace) -> TensorOperator:
    """``dZ/dz0``, from initial states (B, H); row 0 of its image is the perturbation itself."""
    _require(system, space)
    maps = partial(_from_start, system), partial(_to_start, system)
    states = EuclideanSpace((system.n_trials, system.n_states))
    return TensorOperator(*maps, states, space, system.dtype, "D_z0", BY_TRIAL)


def _from_start(system: StageSystem, batch: Array) -> Array:
    out = empty_tensor((len(batch), *_trajectory(system)), system.dtype)
    system.tangent(_idle(system), partial(_nothing, system, len(batch)), batch, out)
    return out


def _to_start(system: StageSystem, batch: Array) -> Array:
    return system.adjoint(_idle(system), batch, partial(_nothing, system, len(batch)), lambda *_: None)


def _nothing(system: StageSystem, count: int, segment: Segment, form: Form) -> Array:
    return np.zeros((count, system.n_trials, 1, system.n_states), system.dtype)


def grid_propagator(system: StageSystem, space: TrajectorySpace, forcing: str) -> TensorOperator:
    """P on trajectories: ``(P q)(t) = int_0^t Phi(t, s) q(s) ds`` with q interpolated from the grid to the stages."""
    _require(system, space)
    table = system.grid_forcing(forcing)
    maps = partial(_driven_states, system, table), partial(_grid_cotangents, system, table)
    return TensorOperator(*maps, space, space, system.dtype, "P", BY_TRIAL)


def _driven_states(system: StageSystem, table: Forcing, batch: Array) -> Array:
    tensor = np.require(batch, system.dtype, ["C", "W"])
    return _tangent(system, table, lambda segment, form: tensor, len(batch))


def _grid_cotangents(system: StageSystem, table: Forcing, batch: Array) -> Array:
    out = np.zeros(batch.shape, system.dtype)
    system.adjoint(table, batch, lambda segment, form: out, lambda *_: None)
    return out


def discrete_adjoint(system: StageSystem, space: TrajectorySpace, forcing: str) -> TensorOperator:
    """Costates of the discrete flow: ``P* g`` as the derivative of the method's own quadrature of g . dz.

    ``lambda[n]`` is the derivative of ``sum h b_i g(t_i) . Z_i`` over the later steps by the state at grid time n. It
    tends to the solution of the continuous adjoint equation at the order of the method (Sanz-Serna, SIAM Review 58,
    2016), that of the interpolation of g permitting.
    """
    _require(system, space)
    table = system.grid_forcing(forcing)
    maps = partial(_costates, system, table), partial(_costates_transposed, system, table)
    return TensorOperator(*maps, space, space, system.dtype, "P* (discrete)", BY_TRIAL)


def _costates(system: StageSystem, table: Forcing, batch: Array) -> Array:
    from kpref import kernels

    source = np.require(batch, system.dtype, ["C", "W"])
    out, carry = empty_tensor(source.shape, source.dtype), _at_rest(system, len(batch))
    for segment in reversed(system.segments):
        kernels.stage_costate(system.form(segment), system.table(segment, table), source, carry, out)
    out[:, :, 0] = carry
    return out


def _costates_transposed(system: StageSystem, table: Forcing, batch: Array) -> Array:
    from kpref import kernels

    impulses = np.require(batch, system.dtype, ["C", "W"])
    out, carry = np.zeros_like(impulses), impulses[:, :, 0].copy()
    for segment in system.segments:
        numbers = system.table(segment, table)
        kernels.stage_costate_transpose(system.form(segment), numbers, impulses, carry, out)
    return out


def continuous_adjoint(system: StageSystem, space: TrajectorySpace, forcing: str) -> TensorOperator:
    """``P* g = l`` with ``-dl/dt = A(t)^T l + g``, l(t_end) = 0: solved backwards by the same method and steps.

    A(t) is taken along the dense output of the trajectory, whose order q is at least p - 1: uniform errors of
    O(h^{q+1}), and so a result of the order p of the method. Differs from the discrete adjoint by as much.
    """
    _require(system, space)
    maps = partial(_backwards, system, forcing), partial(_backwards_transposed, system, forcing)
    return TensorOperator(*maps, space, space, system.dtype, "P* (continuous)", BY_TRIAL)


def _backwards(system: StageSystem, forcing: str, batch: Array) -> Array:
    from kpref import kernels

    source = np.require(batch, system.dtype, ["C", "W"])
    out, carry = np.zeros_like(source), _at_rest(system, len(batch))
    for tables in _reversed_steps(system, forcing, reversed(system.segments)):
        kernels.stage_tangent(*tables, source, carry, out, transposed=True)
    return out


def _backwards_transposed(system: StageSystem, forcing: str, batch: Array) -> Array:
    from kpref import kernels

    source = np.require(batch, system.dtype, ["C", "W"])
    out, carry = np.zeros_like(source), _at_rest(system, len(batch))
    for tables in _reversed_steps(system, forcing, system.segments):
        kernels.stage_adjoint(*tables, source, carry, out, transposed=True)
    return out


def _reversed_steps(system: StageSystem, forcing: str, segments: Iterable[Segment]) -> Iterator[tuple[Form, Any]]:
    """Coefficients along the dense output, and the numbers of the steps, of segments taken from their ends."""
    from kpref import kernels

    solution, stages, last = system.solution, system.stages, system.n_steps
    t, h, c = solution.t_steps, solution.h, system.tableau.c
    at = np.where(c == 1.0, t[:-1, None], t[1:, None] - c * h[:, None])[::-1]
    interval = solution.interval[::-1]
    weights = interpolation(solution.times, at, interval, forcing)
    rows = np.full(last, -1)
    rows[last - 1 - solution.grid_index[:-1]] = np.arange(len(solution.times) - 1)
    for segment in segments:
        part = slice(last - segment.stop, last - segment.start)
        times = at[part].reshape(-1)
        inputs = np.moveaxis(system.signal(times, np.repeat(interval[part], stages)), 1, 0)
        form = linearize(system.field, solution(times), np.ascontiguousarray(inputs), system.dtype)
        yield (
            form,
            kernels.StageTable(
                a=system.tableau.a.astype(system.dtype),
                b=system.tableau.b.astype(system.dtype),
                h=np.ascontiguousarray(h[::-1][part], system.dtype),
                row=np.ascontiguousarray(rows[part]),
                source=np.ascontiguousarray(weights.source[part]),
                weight=np.ascontiguousarray(weights.weight[part], system.dtype),
            ),
        )


def _require_system(system: StageSystem) -> None:
    instance("system", system, StageSystem, "the linearisation at the stages of a flow, a StageSystem")


def _require(system: StageSystem, space: TrajectorySpace) -> None:
    """Raise TypeError or ValueError unless these are a linearisation at stages and the space of its trajectories."""
    _require_system(system)
    require_trajectories(space, (system.n_trials, len(system.solution.times), system.n_states))


def _tangent(system: StageSystem, forcing: Forcing, provide: Any, count: int) -> Array:
    """A tangent sweep from dz = 0."""
    out = empty_tensor((count, *_trajectory(system)), system.dtype)
    system.tangent(forcing, provide, _at_rest(system, count), out)
    return out


def _at_rest(system: StageSystem, count: int) -> Array:
    """No perturbation of the state."""
    return np.zeros((count, system.n_trials, system.n_states), system.dtype)


def _trajectory(system: StageSystem) -> tuple[int, int, int]:
    """The shape (B, N + 1, H)."""
    return system.n_trials, len(system.solution.times), system.n_states


def _parameters(system: StageSystem) -> EuclideanSpace:
    return EuclideanSpace((system.field.n_parameters,))


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
