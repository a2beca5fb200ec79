"""A Runge-Kutta flow along its steps: stage states, their linearisation, and sweeps over both.

The steps are taken once and then frozen; all operators belong to this discrete flow. Steps are handled in segments.
The coefficients of a segment are stored, or, where a memory budget says so, computed again from the states at its
steps each time they are needed; they are the same numbers to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from kpref._reprs import short_repr
from kpref._types import Array
from kpref._validate import short
from kpref.forward import CompiledNetwork, compiled_network
from kpref.integrate import InputSignal, IntegrationError, Solution, Tableau, adaptive, fixed_steps
from kpref.linearize import Form, empty_step_form, linearize, require_finite
from kpref.memory import available_memory
from kpref.models.base import DenseModel, Field
from kpref.step_form import StepForm
from kpref.threads import even_blocks, run_blocks

__all__ = [
    "Forcing", "Segment", "StageSystem", "integrate", "interpolation", "interpolation_order", "linearized_steps",
]  # fmt: skip

#: Trials that the forward pass with fixed steps handles in one block.
_TRIALS_PER_BLOCK = 48

#: Stage states (in dense form: entries of Jacobians) that one segment holds: some 16 MB for each of its coefficients.
_SEGMENT_ENTRIES = 1 << 21


@dataclass(frozen=True, eq=False)
class Forcing:
    """Where the forcing of each stage comes from: ``q[n,i] = sum_m weight[n,i,m] tensor[source[n,i,m]]``."""

    source: Array  # (n, s, w): rows of a tensor (v, B, L, H)
    weight: Array  # (n, s, w)
    by_stage: bool = False  # the tensor holds one row for each stage, ordered (step, stage), of one segment at a time


@dataclass(frozen=True)
class Segment:
    """Steps start, ..., stop - 1."""

    start: int
    stop: int


def integrate(
    field: Field,
    signal: InputSignal,
    times: Array,
    z0: Array,
    tableau: Tableau,
    tolerances: dict[str, Any] | None,
    lengths: npt.NDArray[np.int64] | None = None,
) -> Solution:
    """Solve for the states of all trials.

    `times`: shape (N + 1,). `z0`: shape (B, H). `tolerances`: arguments of `kpref.integrate.adaptive`; None for one
    step in each interval of the grid. `lengths`: shape (B,); grid times of each trial. After the last of its own a
    trial stands still, and has no say in the steps.
    Raises IntegrationError, which names the trial, the time and the last accepted state.
    """
    system = None if tolerances is not None else _compiled_steps(field, signal, times, z0, tableau, lengths, memory=0.0)
    if system is not None:
        return system.solution
    return _integrate_plainly(field, signal, times, z0, tableau, tolerances, lengths)


def linearized_steps(
    field: Field,
    signal: InputSignal,
    times: Array,
    z0: Array,
    tableau: Tableau,
    tolerances: dict[str, Any] | None,
    lengths: npt.NDArray[np.int64] | None,
    dtype: npt.DTypeLike,
    memory: float | None,
) -> StageSystem:
    """Solve as `integrate`, and linearise at the stages: see `StageSystem`.

    Fixed steps of compiled networks give the coefficients in the same pass, as far as memory allows: a second one would
    repeat all products.
    """
    if tolerances is None:
        system = _compiled_steps(field, signal, times, z0, tableau, lengths, dtype, memory)
        if system is not None:
            return system
    solution = _integrate_plainly(field, signal, times, z0, tableau, tolerances, lengths)
    return StageSystem(field, signal, solution, dtype, memory)


def _compiled_steps(
    field: Field,
    signal: InputSignal,
    times: Array,
    z0: Array,
    tableau: Tableau,
    lengths: npt.NDArray[np.int64] | None,
    dtype: npt.DTypeLike = np.float64,
    memory: float | None = None,
) -> StageSystem | None:
    """Fixed steps by compiled code; None if there is none for the field, or states overflow, which NumPy reports."""
    if compiled_network(field) is None:
        return None
    states = np.empty((len(times), *z0.shape))
    states[0] = z0
    solution = _fixed_solution(times, states, tableau, _Velocity(field, signal, lengths))
    system = StageSystem(field, signal, solution, dtype, memory)
    system.take_steps(states, np.full(len(z0), len(times)) if lengths is None else lengths)
    return system if np.isfinite(states).all() else None


def _integrate_plainly(
    field: Field,
    signal: InputSignal,
    times: Array,
    z0: Array,
    tableau: Tableau,
    tolerances: dict[str, Any] | None,
    lengths: npt.NDArray[np.int64] | None,
) -> Solution:
    rhs = _Velocity(field, signal, lengths)
    if tolerances is not None:
        ends = times[[] if lengths is None else lengths[lengths < len(times)] - 1]  # where velocities fall to zero
        return adaptive(rhs, times, z0, tableau, jumps=np.concatenate([signal.jumps, ends]), **tolerances)
    states = np.empty((len(times), *z0.shape))
    ours = field.thread_safe and not signal.is_function
    blocks = even_blocks(len(z0), _TRIALS_PER_BLOCK) if ours else [slice(0, len(z0))]
    parts: list[Solution] = []

    def task(index: int) -> None:
        block = blocks[index]
        try:
            part = fixed_steps(replace(rhs, block=block), times, z0[block], tableau, states[:, block])
            parts.append(part)
        except IntegrationError as error:
            raise error.in_block(block.start) from None

    run_blocks(task, len(blocks), here=not ours)
    # The parts differ in their trials only.
    return replace(parts[0], z_steps=states, rhs=rhs)


@dataclass(frozen=True, eq=False)
class _Velocity:
    """The right-hand side for a block of trials, zero after the end of each."""

    field: Field
    signal: InputSignal
    lengths: npt.NDArray[np.int64] | None = None
    block: slice | None = None

    __repr__ = short_repr

    def __call__(self, t: float, z: Array, interval: int) -> Array:
        block = self.block or slice(None)
        velocity = self.field.velocity(z, self.signal(t, interval)[block])
        if self.lengths is None:
            return velocity
        return np.where((interval < self.lengths[block] - 1)[:, None], velocity, 0.0)


def _fixed_solution(
    times: Array, states: Array, tableau: Tableau, rhs: Callable[[float, Array, int], Array]
) -> Solution:
    """The solution of one step in each interval."""
    steps = len(times) - 1
    return Solution(
        tableau=tableau,
        times=times,
        t_steps=times,
        z_steps=states,
        interval=np.arange(steps),
        jump_ends=np.zeros(steps, dtype=bool),
        grid_index=np.arange(steps + 1),
        n_evaluations=steps * tableau.stages,
        n_rejected=0,
        rhs=rhs,
    )


class StageSystem:
    """Linearisation at all stages of a solution.

    `dtype`: precision of the coefficients. `memory`: bytes that the stored coefficients may take; by default a quarter
    of what is available.
    """

    def __init__(
        self,
        field: Field,
        signal: InputSignal,
        solution: Solution,
        dtype: npt.DTypeLike = np.float64,
        memory: float | None = None,
    ) -> None:
        self.field, self.signal, self.solution = field, signal, solution
        self.dtype, self._memory = np.dtype(dtype), memory
        self.tableau = solution.tableau
        self.n_steps = len(solution.interval)
        self.n_trials, self.n_states = solution.z_steps.shape[1:]
        width = field.n_stored if isinstance(field, DenseModel) else 1
        entries = self.tableau.stages * self.n_trials * self.n_states * width
        length = max(1, _SEGMENT_ENTRIES // entries)
        bounds = range(0, self.n_steps, length)
        self.segments = [Segment(start, min(start + length, self.n_steps)) for start in bounds]
        available = available_memory()
        self._budget = memory if memory is not None else np.inf if available is None else available / 4
        self._stored: dict[Segment, Form] = {}
        self._stored_bytes = 0

    def __reduce__(self) -> tuple[Any, ...]:
        """Stored coefficients stay behind: they are computed again, to the same bits, by whoever needs them."""
        return StageSystem, (self.field, self.signal, self.solution, self.dtype, self._memory)

    @property
    def stages(self) -> int:
        """Number s of stages of a step."""
        return self.tableau.stages

    @cached_property
    def stage_times(self) -> Array:
        """Time of each stage, shape (n, s); exactly the end of the step where c = 1."""
        t, c = self.solution.t_steps, self.tableau.c
        ends = np.where(self.solution.jump_ends, np.nextafter(t[1:], t[:-1]), t[1:])
        return np.where(c == 1.0, ends[:, None], t[:-1, None] + c * self.solution.h[:, None])

    @cached_property
    def rows(self) -> Array:
        """Row of the time grid that each step ends on, or -1; shape (n,)."""
        rows = np.full(self.n_steps, -1)
        rows[self.solution.grid_index[1:] - 1] = np.arange(1, len(self.solution.times))
        return rows

    def form(self, segment: Segment) -> Form:
        """Coefficients at the stages of a segment, rows ordered (step, stage)."""
        if segment in self._stored:
            return self._stored[segment]
        form = self._linearize(segment)
        if self._has_room(form):
            self._store(segment, form)
        return form

    def in_precision(self, dtype: npt.DTypeLike) -> StageSystem | None:
        """The same steps with coefficients in another precision; None if there are none, or no place for one.

        What is stored is rounded; what is not is computed anew when it is needed, as here.
        """
        other = StageSystem(self.field, self.signal, self.solution, dtype, self._memory)
        for segment, form in self._stored.items():
            rounded = form.in_precision(dtype)
            if rounded is None:
                return None
            if other._has_room(rounded):
                other._store(segment, rounded)
        return other

    def keeps(self, segment: Segment) -> bool:
        """Whether the coefficients of a segment are stored, once they were asked for."""
        return segment in self._stored

    def take_steps(self, states: Array, lengths: npt.NDArray[np.int64]) -> None:
        """Fill the states from the first on, by compiled code, and coefficients while there is room.

        Of those that are not finite nothing is stored: whoever asks for them gets the error.

        `states`: shape (n + 1, B, H); those of the solution, which itself lets nobody write to them. `lengths`: shape
        (B,); grid times of each trial.
        """
        network, room = self._network, self._budget > 0
        assert network is not None  # or nobody would have come here
        for segment in self.segments:
            part, inputs = slice(segment.start, segment.stop), self.stage_inputs(segment)
            form = self._empty_form(network, len(inputs)) if room else None
            if form is not None and not self._has_room(form):
                form, room = None, False
            run, left = states[segment.start : segment.stop + 1], lengths - segment.start
            sound = network.take_steps(self.tableau, self.solution.h[part], inputs, left, run, form)
            if form is not None and sound:
                self._store(segment, form)

    def _has_room(self, form: Form) -> bool:
        return self._stored_bytes + form.nbytes <= self._budget

    def _store(self, segment: Segment, form: Form) -> None:
        self._stored[segment] = form
        self._stored_bytes += form.nbytes

    def _linearize(self, segment: Segment) -> Form:
        network = self._network
        if network is None:
            return linearize(self.field, *self.stage_states(segment), self.dtype)
        part = slice(segment.start, segment.stop)
        inputs, starts = self.stage_inputs(segment), self.solution.z_steps[part]
        form = self._empty_form(network, len(inputs))
        if not network.fill_stages(form, self.tableau, self.solution.h[part], inputs, starts):
            require_finite(form)
        return form

    def _empty_form(self, network: CompiledNetwork, rows: int) -> StepForm:
        return empty_step_form(network.model, (rows, self.n_trials), self.dtype, network.constants)

    @cached_property
    def _network(self) -> CompiledNetwork | None:
        return compiled_network(self.field)

    def stage_inputs(self, segment: Segment) -> Array:
        """Inputs at the stages, (steps * s, B, n_in), rows ordered (step, stage)."""
        part = slice(segment.start, segment.stop)
        interval = np.repeat(self.solution.interval[part], self.stages)
        return np.ascontiguousarray(np.moveaxis(self.signal(self.stage_times[part].reshape(-1), interval), 1, 0))

    def stage_states(self, segment: Segment) -> tuple[Array, Array]:
        """States and inputs at the stages: (steps * s, B, H) and (steps * s, B, n_in).

        ``Z[n,i] = z[n] + h[n] sum_{j<i} a_ij k[n,j]``, all steps of the segment at once.
        """
        part = slice(segment.start, segment.stop)
        steps, stages = segment.stop - segment.start, self.stages
        inputs = self.stage_inputs(segment).reshape(steps, stages, self.n_trials, -1)
        states = np.empty((steps, stages, self.n_trials, self.n_states))
        start, h = self.solution.z_steps[part], self.solution.h[part]
        a = self.tableau.a

        def task(step: int) -> None:
            slopes: list[Array] = []
            for stage in range(stages):
                state = start[step].copy()
                for other, slope in enumerate(slopes):
                    if a[stage, other] != 0:
                        state += (h[step] * a[stage, other]) * slope
                states[step, stage] = state
                if stage < stages - 1:
                    slopes.append(self.field.velocity(state, inputs[step, stage]))

        run_blocks(task, steps, here=not self.field.thread_safe)
        return states.reshape(-1, self.n_trials, self.n_states), inputs.reshape(steps * stages, self.n_trials, -1)

    # Forcings

    @cached_property
    def stage_forcing(self) -> Forcing:
        """Stage space: each stage has its own forcing, in rows ordered (step, stage)."""
        source = np.arange(self.n_steps * self.stages).reshape(self.n_steps, self.stages, 1)
        return Forcing(source, np.ones(source.shape), by_stage=True)

    def grid_forcing(self, kind: str) -> Forcing:
        """Forcing given on the time grid, interpolated to the stages: see `interpolation`."""
        return interpolation(self.solution.times, self.stage_times, self.solution.interval, kind)

    # Sweeps

    def tangent(self, forcing: Forcing, provide: Callable[[Segment, Form], Array], initial: Array, out: Array) -> None:
        """Tangent over all steps: dz at the grid times into `out` (v, B, N + 1, H), from `initial` (v, B, H).

        `provide` gives the tensor that a segment takes its forcing from.
        """
        from kpref import kernels

        carry = np.require(initial.copy(), self.dtype, ["C", "W"])
        out[:, :, 0] = carry
        for segment in self.segments:
            form = self.form(segment)
            tensor = provide(segment, form)
            kernels.stage_tangent(form, self.table(segment, forcing), tensor, carry, out)

    def adjoint(
        self,
        forcing: Forcing,
        source: Array,
        receive: Callable[[Segment, Form], Array],
        done: Callable[[Segment, Form, Array], None],
    ) -> Array:
        """Transpose of `tangent`: cotangents of the forcing, added into the tensors that `receive` gives.

        `done` is called when a segment is complete. Returns the cotangent of the initial state, (v, B, H).
        """
        from kpref import kernels

        source = np.require(source, self.dtype, ["C", "W"])
        carry = np.zeros_like(source[:, :, 0], order="C")
        for segment in reversed(self.segments):
            form = self.form(segment)
            tensor = receive(segment, form)
            kernels.stage_adjoint(form, self.table(segment, forcing), source, carry, tensor)
            done(segment, form, tensor)
        return np.asarray(carry + source[:, :, 0])

    def table(self, segment: Segment, forcing: Forcing) -> Any:
        """The numbers of a segment's steps as the kernels take them."""
        from kpref.kernels import StageTable

        part = slice(segment.start, segment.stop)
        source = forcing.source[part] - (segment.start * self.stages if forcing.by_stage else 0)
        return StageTable(
            a=self.tableau.a.astype(self.dtype),
            b=self.tableau.b.astype(self.dtype),
            h=self.solution.h[part].astype(self.dtype),
            row=np.ascontiguousarray(self.rows[part]),
            source=np.ascontiguousarray(source),
            weight=np.ascontiguousarray(forcing.weight[part], dtype=self.dtype),
        )


def interpolation_order(kind: str) -> int:
    """Order of an interpolation, and the number of grid times that it goes through: 2 for "linear", 4 for "cubic".

    Raises ValueError for another kind.
    """
    orders = {"linear": 2, "cubic": 4}
    if not isinstance(kind, str) or kind not in orders:
        raise ValueError(f'forcing must be "linear" or "cubic"; got {short(kind)}')
    return orders[kind]


def interpolation(times: Array, at: Array, interval: Array, kind: str) -> Forcing:
    """Sparse weights that interpolate from a grid to other times, each in a known interval of it.

    `times`: shape (N + 1,). `at`: shape (n, s). `interval`: shape (n,); interval of the grid that row n of `at` lies
    in. `kind`: "linear", through the two ends of the interval, order 2; or "cubic", the polynomial of Lagrange through
    the four nearest grid times (all, if there are fewer), order 4.
    Raises ValueError for another kind.
    """
    width = min(interpolation_order(kind), len(times))
    first = np.clip(interval - (width // 2 - 1), 0, len(times) - width)
    nodes = first[:, None] + np.arange(width)
    points = times[nodes]
    weight = np.ones((*at.shape, width))
    for this in range(width):
        for other in range(width):
            if other != this:
                gap = points[:, this] - points[:, other]
                weight[:, :, this] *= (at - points[:, [other]]) / gap[:, None]
    source = np.broadcast_to(nodes[:, None, :], weight.shape).copy()
    return Forcing(source, weight)
