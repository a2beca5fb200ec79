"""The two kinds of dynamics behind a `kpref.Flow`: a map, and a Runge-Kutta flow of a vector field.

Each runs its model over the trials once, and makes the operators along the trajectory when they are asked for.

A trial that ends early stands still from then on: it is linearised where its last step was, so that no model is asked
about inputs that nobody gave, and the operators take nothing from there (`kpref.space`). Its states are zero.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from kpref import operators
from kpref._types import Array
from kpref._validate import short
from kpref.forward import compiled_network
from kpref.integrate import InputSignal, Tableau
from kpref.linearize import Form, empty_step_form, linearize, require_finite, with_states
from kpref.models.base import Field, Map
from kpref.operators import TensorOperator
from kpref.runge_kutta import integrate, interpolation_order, linearized_steps
from kpref.space import TrajectorySpace
from kpref.step_form import StepForm
from kpref.threads import even_blocks, run_blocks

__all__ = ["Dynamics", "FieldDynamics", "MapDynamics", "StageOperators"]

#: Trials that the forward pass of a map handles in one block.
_TRIALS_PER_BLOCK = 48


class Dynamics(Protocol):
    """What a flow needs of its dynamics."""

    space: TrajectorySpace

    @property
    def states(self) -> Array:
        """States (B, T, H), zero after the end of a trial."""

    @property
    def linearization(self) -> Form:
        """Coefficients at the points of the trajectory, where K and J of the flow are taken."""

    def propagator(self) -> TensorOperator:
        """P, on the trajectory space."""

    def sensitivity(self) -> TensorOperator:
        """``D = dZ/dtheta``."""

    def initial_state_sensitivity(self) -> TensorOperator:
        """``dZ/dz0``."""

    def rerun(self, model: Any) -> Array:
        """States (B, T, H) of another model of the same kind on the same trials."""


class MapDynamics:
    """A model in discrete time, run over its inputs.

    `inputs`: shape (B, T, n_inputs). `z0`: shape (B, H). `measure`: "mean", "sum", or weights. `lengths`: shape (B,);
    steps of each trial, None for all. `noise`: shape (B, T, H), what is added to the states after each step: the
    trajectory is ``z[n + 1] = F(z[n], x[n]) + noise[n]``, and its linearisation that of F there.
    """

    def __init__(
        self,
        model: Map,
        inputs: Array,
        z0: Array,
        measure: str | npt.ArrayLike,
        dtype: npt.DTypeLike,
        lengths: npt.NDArray[np.int64] | None = None,
        noise: Array | None = None,
    ) -> None:
        trials, steps, _ = inputs.shape
        self.space = TrajectorySpace((trials, steps, model.n_states), measure, lengths=lengths)
        self.lengths = np.full(trials, steps) if self.space.lengths is None else self.space.lengths
        self.z0, self.drive = z0, _standing_still(np.ascontiguousarray(inputs.swapaxes(0, 1)), self.lengths)
        self.noise = None if noise is None else np.ascontiguousarray(noise.swapaxes(0, 1))
        self._trajectory, form = self._run(model, dtype)
        starts = _standing_still(self._trajectory[:-1], self.lengths)
        self.linearization: Form = (
            linearize(model, starts, self.drive, dtype) if form is None else with_states(form, starts)
        )

    @property
    def states(self) -> Array:
        """A view of z[1..T]: a pickle that held it would lose its order in memory, on which bits of sums depend."""
        return self._trajectory[1:].swapaxes(0, 1)

    def propagator(self) -> TensorOperator:
        """P."""
        return operators.propagator(self.linearization, self.space)

    def sensitivity(self) -> TensorOperator:
        """``D = P J``."""
        return operators.sensitivity(self.linearization, self.space)

    def initial_state_sensitivity(self) -> TensorOperator:
        """``dZ/dz0``."""
        return operators.initial_state_jacobian(self.linearization, self.space)

    def rerun(self, model: Map) -> Array:
        """States of another model on the same trials."""
        return self._run(model)[0][1:].swapaxes(0, 1)

    def _run(self, model: Map, dtype: npt.DTypeLike | None = None) -> tuple[Array, StepForm | None]:
        """z[0..T], time first: (T + 1, B, H), zero after the end of a trial.

        Compiled code gives the linearisation in the same pass, all but its states, if its dtype is given.
        """
        steps, trials, _ = self.drive.shape
        trajectory = np.empty((steps + 1, trials, model.n_states))
        trajectory[0] = self.z0
        network = compiled_network(model) if self.noise is None else None
        if network is None:
            self._run_plainly(model, trajectory)
            _require_finite(trajectory)
            return trajectory, None
        form = None if dtype is None else empty_step_form(network.model, (steps, trials), dtype, network.constants)
        known, sound = network.run(trajectory, self.drive, self.lengths, form)
        if not known:
            _require_finite(trajectory)
        if form is not None and not sound:
            require_finite(form)
        return trajectory, form

    def _run_plainly(self, model: Map, trajectory: Array) -> None:
        """Blocks of trials run in parallel."""
        trials = trajectory.shape[1]
        # A function of the user's sees all trials at once.
        blocks = even_blocks(trials, _TRIALS_PER_BLOCK) if model.thread_safe else [slice(0, trials)]

        def task(index: int) -> None:
            block = blocks[index]
            lengths = self.lengths[block]
            shortest, longest = lengths.min(), lengths.max()
            trajectory[longest + 1 :, block] = 0.0
            with np.errstate(over="ignore", invalid="ignore"):  # reported below, with the place
                for step in range(longest):
                    going: Any = block
                    if step >= shortest:
                        going = block.start + np.flatnonzero(lengths > step)
                        trajectory[step + 1, block] = 0.0
                    trajectory[step + 1, going] = model.step(trajectory[step, going], self.drive[step, going])
                    if self.noise is not None:
                        trajectory[step + 1, going] += self.noise[step, going]

        run_blocks(task, len(blocks), here=not model.thread_safe)


def _standing_still(rows: Array, lengths: npt.NDArray[np.int64]) -> Array:
    """Rows (T, B, ...), what comes after the end of each trial being its last row that exists."""
    if lengths.min() == len(rows):
        return rows
    filled = rows.copy()
    for trial in np.flatnonzero(lengths < len(rows)):
        filled[lengths[trial] :, trial] = rows[lengths[trial] - 1, trial]
    return filled


def _require_finite(trajectory: Array) -> None:
    finite = np.asarray(np.isfinite(trajectory).all(axis=2))
    if not finite.all():
        step = int(np.argmin(finite.all(axis=1)))
        trial = int(np.argmin(finite[step]))
        raise ValueError(
            f"the trajectory overflows: the state of trial {trial} is not finite after step {step - 1} "
            f"(largest state before it: {np.abs(trajectory[step - 1, trial]).max():.3g})"
        )


@dataclass(frozen=True, eq=False)
class StageOperators:
    """Operators of a Runge-Kutta flow on stage space: exact for the discrete flow."""

    P: TensorOperator  # from forcings at the stages (B, n, s, H) to trajectories
    J: TensorOperator  # from parameters to stages; ``P J = dZ/dtheta`` to rounding
    K: TensorOperator  # ``J J^T`` on stages


class FieldDynamics:
    """A model in continuous time, solved by an explicit Runge-Kutta method.

    `source`: inputs on the grid (B, N + 1, n_inputs), or a function of time.
    `kind`: one of "hold", "linear", "cubic"; how inputs extend between grid times.
    `times`: shape (N + 1,).
    `z0`: shape (B, H).
    `tolerances`: for adaptive steps; None for fixed ones.
    `forcing`: one of "linear", "cubic"; how a forcing on the grid extends to the stages.
    `measure`, `dtype`: as for maps.
    `stage_memory`: bytes for stored stage coefficients.
    `lengths`: shape (B,); grid times of each trial, None for all.
    """

    def __init__(
        self,
        field: Field,
        source: npt.ArrayLike | Callable[[float], npt.ArrayLike],
        kind: Any,
        times: Array,
        z0: Array,
        tableau: Tableau,
        tolerances: dict[str, Any] | None,
        forcing: str,
        measure: str | npt.ArrayLike,
        dtype: npt.DTypeLike,
        stage_memory: float | None,
        lengths: npt.NDArray[np.int64] | None = None,
    ) -> None:
        interpolation_order(forcing)  # refuses an unknown kind now rather than when P is asked for
        self.field, self.forcing, self.z0 = field, forcing, z0
        self.input_kind = kind
        trials = len(z0)
        self.space = TrajectorySpace((trials, len(times), field.n_states), measure, times, lengths)
        self.lengths = np.full(trials, len(times)) if self.space.lengths is None else self.space.lengths
        if self.space.lengths is not None:
            source = _until_the_end(source, kind, forcing, self.lengths)
        self.signal = InputSignal(times, source, kind)
        self.tableau, self.tolerances = tableau, tolerances
        self.system = linearized_steps(
            field, self.signal, self.signal.times, z0, tableau, tolerances, self.space.lengths, dtype, stage_memory
        )
        self.solution = self.system.solution

    @property
    def states(self) -> Array:
        """States at the grid times, not kept: see `MapDynamics.states`."""
        return self.space.clear(self.solution.states.swapaxes(0, 1))

    @cached_property
    def linearization(self) -> Form:
        """Coefficients at the grid times."""
        times = self.solution.times
        interval = np.minimum(np.arange(len(times)), len(times) - 2)
        inputs = np.ascontiguousarray(np.moveaxis(self.signal(times, interval), 1, 0))
        return linearize(self.field, self.solution.states, inputs, self.system.dtype)

    @cached_property
    def stage(self) -> StageOperators:
        """Operators on stage space."""
        propagator = operators.stage_propagator(self.system, self.space)
        jacobian = operators.stage_parameter_jacobian(self.system, propagator.space_in)
        return StageOperators(propagator, jacobian, jacobian.gram("K_s"))

    def propagator(self) -> TensorOperator:
        """P, with the forcing interpolated from the grid."""
        return operators.grid_propagator(self.system, self.space, self.forcing)

    def sensitivity(self) -> TensorOperator:
        """``D = P_s J_s``."""
        return operators.parameter_sensitivity(self.system, self.space)

    def initial_state_sensitivity(self) -> TensorOperator:
        """``dZ/dz0``."""
        return operators.initial_state_sensitivity(self.system, self.space)

    def adjoint(self, kind: str) -> TensorOperator:
        """Solution operator of the adjoint equation, discrete or continuous."""
        makers = {"discrete": operators.discrete_adjoint, "continuous": operators.continuous_adjoint}
        if not isinstance(kind, str) or kind not in makers:
            raise ValueError(f'the kind of adjoint must be "discrete" or "continuous"; got {short(kind)}')
        if self.space.lengths is not None:
            raise ValueError(
                "the adjoint equation is solved back from the last time for all trials: it takes arrays that end where "
                "all of them do"
            )
        return makers[kind](self.system, self.space, self.forcing)

    def rerun(self, model: Field) -> Array:
        """States of another model on the same trials; adaptive steps are chosen anew."""
        solution = integrate(
            model, self.signal, self.signal.times, self.z0, self.tableau, self.tolerances, self.space.lengths
        )
        return self.space.clear(solution.states.swapaxes(0, 1))


def _until_the_end(source: Any, kind: str, forcing: str, lengths: npt.NDArray[np.int64]) -> Any:
    """Inputs that stand still after the end of each trial, at the value that its last interval ends with."""
    if forcing == "cubic" or (kind == "cubic" and not callable(source)):
        raise ValueError(
            "cubic interpolation reaches past the end of a trial: take linear interpolation (input_kind, forcing), or "
            "arrays that end where all of the trials do"
        )
    if callable(source):
        return source
    # Held inputs are those at the start of an interval: that of the last row of a trial belongs to no interval.
    return _standing_still(source.swapaxes(0, 1), lengths - 1 if kind == "hold" else lengths).swapaxes(0, 1)
