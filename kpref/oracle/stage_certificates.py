"""Certificates of the operators of a Runge-Kutta flow, by residuals of each step and stage.

A step is a map whose program is known (`kpref.oracle.runge_kutta_map`), so that the judge of maps serves: trajectories,
D, D^T, the gradient and the NTK are those of that map. On stage space, with y a claimed ``P_s q`` and kappa a claimed
``P_s^T g``,

    P_s:    r[n]   = y[n+1] - (R_n y[n] + S_n q[n])            R, S: the step linearised, by its start and its forcings
    P_s^T:  r[n,i] = kappa[n,i] - (S_n^T l[n])_i,              l[n] = R_{n+1}^T l[n+1] + g[n+1]

where l[n] is read off the last stage that has a weight, ``kappa[n,m] = h b_m l[n]``, so that the second equation is the
residual of that stage: local in time, as all others. J_s, J_s^T and K_s are the products of the field at the states of
the stages; the errors that these states carry in their numbers are those that the step has carried there.

P and P^T on the time grid interpolate their forcing to the stages: P has a local residual, P^T, whose answer does not
hold the costates, is held to the errors of each step sent through the exact sweep.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from kpref import kernels
from kpref._types import Array
from kpref.kernels import plain_program
from kpref.models.step import StepModel
from kpref.oracle import running_errors
from kpref.oracle.arithmetic import Arithmetic
from kpref.oracle.certificates import Judge
from kpref.oracle.claimed_errors import Comparison
from kpref.oracle.evaluation import evaluate
from kpref.oracle.form_defects import driven_variables
from kpref.oracle.further import FullJudge
from kpref.oracle.gradient_errors import gradient_errors
from kpref.oracle.random_steps import RandomSteps
from kpref.oracle.runge_kutta_map import RungeKuttaMap, stage_name
from kpref.oracle.spreads import Spread, Weight, no_error, relative
from kpref.oracle.uncertain import Uncertain
from kpref.runge_kutta import Forcing
from kpref.space import EuclideanSpace, TrajectorySpace
from kpref.step_form import StepForm

__all__ = ["StageJudge", "Steps", "forced", "forced_transpose"]


#: Unit of numbers so short that errors of stages hide defects if they are taken to be independent.
_SHORT = 2.0**-12


@dataclass(frozen=True, eq=False)
class Steps:
    """The steps of a flow as its backend was given them.

    Attributes
    ----------
    inputs : ndarray, shape (N, B, s n_in + 1)
        At the stages, and h.
    loose : ndarray, shape (N, B, s n_in + 1)
        Errors that the backend's own may have, in units of numbers: of inputs that it interpolates.
    timed : ndarray, shape (N, B, s n_in + 1)
        The same in units of time: of h, the difference of two times that may be large, and of what is interpolated.
    forcing : Forcing
        How P extends a forcing from the grid to the stages.
    late : ndarray, shape (N,)
        What a rounding error of the time is of a step.
    """

    inputs: Array
    loose: Array
    timed: Array
    forcing: Forcing
    late: Array

    def errors(self, arithmetic: Arithmetic) -> Spread:
        """Those of the inputs. Whoever computes in less than float32 still keeps time in it."""
        size = arithmetic.unit * self.loose + min(arithmetic.unit, 2.0**-24) * self.timed
        return Spread(size, 2 * size)

    def interpolated(self, q: Array, arithmetic: Arithmetic) -> tuple[Array, Array]:
        """A forcing (B, N + 1, H) at the stages (B, N, s, H), and the deviation of its error."""
        rows = q[:, self.forcing.source]  # (B, N, s, w, H)
        weight = self.forcing.weight[None, ..., None]
        size = (np.abs(weight) * np.abs(rows)).sum(axis=3)
        unit = 3 * arithmetic.unit + min(arithmetic.unit, 2.0**-24) * self.late[None, :, None, None]
        return (weight * rows).sum(axis=3), unit * size

    def gathered(self, kappa: Array) -> Array:
        """The transpose of `interpolated`: (..., B, N, s, H) to (..., B, N + 1, H)."""
        steps, units = kappa.shape[-3], kappa.shape[-1]
        out = np.zeros((*kappa.shape[:-3], steps + 1, units))
        terms = kappa[..., None, :] * self.forcing.weight[..., None]
        np.add.at(np.moveaxis(out, -2, 0), self.forcing.source, np.moveaxis(terms, (-4, -3, -2), (0, 1, 2)))
        return out


class _StepJudge(FullJudge):
    """Of the step as a map: its inputs may carry errors."""

    def __init__(self, steps: Steps, model: RungeKuttaMap, starts: Array, space: Any, arithmetic: Arithmetic) -> None:
        super().__init__(model, starts, np.moveaxis(steps.inputs, 0, 1), space, arithmetic)
        self.steps = steps
        self._sharpened: list[running_errors.Chunk] | None = None

    @property
    def _alone(self) -> bool:
        """Errors of stages are themselves measured, of few runs, and pooled over units."""
        return False

    def _given_inputs(self) -> Any:
        return Uncertain(self.inputs, self.steps.errors(self.arithmetic), self.arithmetic)

    def chunks(self) -> Iterator[running_errors.Chunk]:
        """See `Judge.chunks`: in short numbers, none errs by more than in random runs of the steps."""
        if max(self.arithmetic.unit, self.arithmetic.operand) < _SHORT:
            return super().chunks()
        if self._sharpened is None:
            self._sharpened = [self._sharper(chunk) for chunk in super().chunks()]
        return iter(self._sharpened)

    def _sharper(self, chunk: running_errors.Chunk) -> _StepChunk:
        inputs = self._given_inputs()[chunk.rows]
        runs = RandomSteps(self.model, chunk.form, self.starts[chunk.rows], inputs, self.arithmetic)
        numbers, value = dict(chunk.numbers), chunk.value
        if runs.known:
            for name, size in runs.numbers.items():
                if name in numbers and numbers[name].deviation.shape == size.shape:  # not the same at all points
                    numbers[name] = _least(numbers[name], size)
            value = _least(value, runs.value)
        return _StepChunk(chunk.rows, chunk.form, numbers, value, chunk.arithmetic, runs=runs)

    def with_arithmetic(self, arithmetic: Arithmetic) -> Self:
        """See `Judge.with_arithmetic`."""
        other = super().with_arithmetic(arithmetic)
        other._sharpened = None
        return other

    def _forward(
        self, chunk: running_errors.Chunk, x: Array | None, changes: Mapping[str, Weight] | None = None
    ) -> tuple[Array, Spread]:
        return _forward(chunk, x, changes)

    def _backward(self, chunk: running_errors.Chunk, x: Array) -> tuple[Array, Spread]:
        return _backward(chunk, x)

    def _transposed(self, g: Array, extra: int = 0, samples: int = 0) -> tuple[Array, Spread, Array]:
        return gradient_errors(self.form, self.arithmetic, self.chunks(), g, extra, samples, _products)


@dataclass(frozen=True, eq=False)
class _StepChunk(running_errors.Chunk):
    """Rows of steps, and random runs of them."""

    runs: RandomSteps | None = None


def _forward(
    chunk: running_errors.Chunk, x: Array | None, changes: Mapping[str, Weight] | None = None
) -> tuple[Array, Spread]:
    """See `running_errors.forward`: no more than in random runs."""
    value, spread = running_errors.forward(chunk, x, changes)
    runs = getattr(chunk, "runs", None)
    if runs is None or not runs.known:
        return value, spread
    plain = {name: change.entries.T for name, change in (changes or {}).items()}
    return value, _least(spread, runs.forward(chunk.form.program, x, plain))


def _backward(chunk: running_errors.Chunk, x: Array) -> tuple[Array, Spread]:
    """See `running_errors.transposed`: no more than in random runs."""
    value, spread = running_errors.transposed(chunk, x)
    runs = getattr(chunk, "runs", None)
    if runs is None or not runs.known:
        return value, spread
    return value, _least(spread, runs.backward(chunk.form.program, x))


def _products(chunk: running_errors.Chunk, g: Array) -> Iterator[Array] | None:
    """See `RandomSteps.products`."""
    runs = getattr(chunk, "runs", None)
    return None if runs is None or not runs.known else runs.products(chunk.form.program, g)


def _least(spread: Spread, deviation: Array) -> Spread:
    """A spread of no more than a deviation."""
    return Spread(np.minimum(spread.deviation, deviation), spread.worst)


class _FieldJudge(Judge):
    """Of the field at the stages, rows ordered (step, stage); what its numbers err by is known of the step."""

    def __init__(self, judge: _StepJudge, field: StepModel, states: Array, inputs: Array) -> None:
        rows, trials, units = states.shape
        space: Any = EuclideanSpace((trials, rows, units))
        super().__init__(field, np.moveaxis(states, 0, 1), np.moveaxis(inputs, 0, 1), space, judge.arithmetic)
        # States of stages carry errors: they are variables as any other.
        self.form = self.form.changed(variables={name: self.form.variable(name) for name in field.state_variables})
        self.of_step = judge

    @property
    def _alone(self) -> bool:
        """As of the steps."""
        return self.of_step._alone

    def with_arithmetic(self, arithmetic: Arithmetic) -> Self:
        """See `Judge.with_arithmetic`."""
        other = super().with_arithmetic(arithmetic)
        other.of_step = self.of_step.with_arithmetic(arithmetic)
        return other

    def chunks(self) -> Iterator[running_errors.Chunk]:
        """See `Judge.chunks`."""
        model: Any = self.of_step.model
        stages, numbers = model.n_stages, (*self.form.program.channels, *self.form.known)
        for chunk in self.of_step.chunks():
            rows = slice(chunk.rows.start * stages, chunk.rows.stop * stages)
            own = {
                name: _interleaved([chunk.numbers[stage_name(stage, name)] for stage in range(stages)])
                for name in numbers
            }
            shape = (rows.stop - rows.start, *self.starts.shape[1:])
            yield running_errors.Chunk(rows, self.form.rows(rows), own, no_error(shape), self.arithmetic)


def _interleaved(parts: list[Spread]) -> Spread:
    """Errors of each stage, (R, B, width), as those of rows (step, stage)."""
    if parts[0].deviation.ndim < 3:
        return parts[0]
    deviation, worst = (
        np.stack([getattr(part, name) for part in parts], axis=1).reshape(-1, *parts[0].deviation.shape[1:])
        for name in ("deviation", "worst")
    )
    return Spread(deviation, worst)


class StageJudge:
    """The reference along the steps of a trajectory, and what an arithmetic may do to products with it.

    `model`: with parameters that the arithmetic can hold. `starts`: shape (B, N, H); the state that each step starts
    from. `space`: of rows 1..N.
    """

    def __init__(
        self, model: RungeKuttaMap, steps: Steps, starts: Array, space: TrajectorySpace, arithmetic: Arithmetic
    ) -> None:
        self.model, self.steps, self.arithmetic = model, steps, arithmetic
        self.step = _StepJudge(steps, model, starts, space, arithmetic)
        plain: Any = EuclideanSpace(space.shape)
        self.plain = copy.copy(self.step)
        self.plain.space = plain
        before, stages = np.moveaxis(starts, 1, 0), model.n_stages
        states, _ = model.stages(model.parameters, before, steps.inputs)
        if model.frozen:
            states = [before] * stages
        inputs = [model.inputs_of(steps.inputs, stage) for stage in range(stages)]
        rows = (len(before) * stages, *before.shape[1:])
        self.field = _FieldJudge(
            self.step,
            model.field,
            np.stack(states, axis=1).reshape(rows),
            np.stack(inputs, axis=1).reshape(*rows[:2], -1),
        )

    def with_weights_changed(self, change: Any) -> StageJudge:
        """The same judge with a defect in the weights of its linearisation."""
        other = copy.copy(self)
        other.step, other.field = copy.copy(self.step), copy.copy(self.field)
        for judge in (other.step, other.field):
            weights = {n: w for n, w in judge.form.weights.items() if w.shape[0] == w.shape[1]}
            judge.form = judge.form.changed(weights={name: change(weight) for name, weight in weights.items()})
        return other

    def with_first_inputs(self) -> StageJudge:
        """The same judge with a defect: what inputs alone give is that of the first stage at all stages."""
        other, stages = copy.copy(self), self.model.n_stages
        other.step, other.field = copy.copy(self.step), copy.copy(self.field)
        driven = driven_variables(self.field.form)
        whole, field = self.step.form, self.field.form
        other.step.form = whole.changed(
            variables={stage_name(i, n): whole.variable(stage_name(0, n)) for n in driven for i in range(stages)}
        )
        other.field.form = field.changed(
            variables={n: np.repeat(field.variable(n)[::stages], stages, axis=0) for n in driven}
        )
        return other

    def with_arithmetic(self, arithmetic: Arithmetic) -> StageJudge:
        """The same judge for another arithmetic."""
        other = copy.copy(self)
        other.arithmetic = arithmetic
        other.step, other.plain = (judge.with_arithmetic(arithmetic) for judge in (self.step, self.plain))  # type: ignore[assignment]
        other.field = self.field.with_arithmetic(arithmetic)  # type: ignore[assignment]
        return other

    # Values

    def value(self, operator: str, tensor: Array) -> Array:
        """The answer of an operator, in float64; trajectories without row 0."""
        form, shape = self.step.form, self.step.space.shape
        stages = (shape[0], shape[1], self.model.n_stages, shape[2])
        if operator == "P_s":
            return forced(self.model, form, tensor)
        if operator == "P_s_T":
            return forced_transpose(self.model, form, tensor[None])[0]
        if operator == "P":
            return forced(self.model, form, self.steps.interpolated(tensor, self.arithmetic)[0])
        if operator == "P_T":
            return self.steps.gathered(forced_transpose(self.model, form, tensor[None])[0])
        if operator == "D_T":
            return np.asarray(kernels.sensitivity_transpose(form, tensor[None])[0])
        if operator in ("J_s", "J_s_T", "K_s"):
            own = tensor.reshape(stages[0], -1, stages[3]) if operator != "J_s" else tensor
            found = evaluate(operator.replace("_s", ""), self.field.form, self.field.space, own)
            return found if operator == "J_s_T" else found.reshape(stages)
        if operator == "D_z0":
            forcing = np.zeros(shape)
            forcing[:, 0] = plain_program.run(form, 0, tensor[None])[0]
            return np.asarray(kernels.tangent(form, forcing[None])[0])
        if operator == "D_z0_T":
            return evaluate("D_z0_T", form, self.step.space, tensor[:, 1:]) + tensor[:, 0]
        return evaluate(operator, form, self.step.space, tensor)

    def reach(self, operator: str, tensor: Array, value: Array) -> float:
        """The most that a sum comes to inside the steps on the way from a tensor to its value: see `Judge.reach`."""
        form, found = self.step.form, 0.0
        if operator in ("gradient", "NTK"):
            tensor = self.step.space.weigh(tensor)
        if operator in ("P_s_T", "P_T", "D_T", "D_z0_T", "gradient", "NTK"):
            costate = np.asarray(kernels.adjoint(form, (tensor[:, 1:] if operator == "D_z0_T" else tensor)[None])[0])
            found = self._largest(running_errors.reach_transposed, costate)
        forcing = self._forcing(operator, tensor)
        if forcing is not None:
            joined = _joined(forcing, value, tensor if operator == "D_z0" else None)
            found = max(found, self._largest(running_errors.reach, joined))
        return found / min(1.0, float(self._h.min()))  # a backend may keep slopes, which a step multiplies by h

    def _forcing(self, operator: str, tensor: Array) -> Array | None:
        """Of the stages, (B, N, s, H), where an operator ends with a response to one; `tensor` is weighed."""
        if operator in ("D", "NTK"):
            return self.value("J_s", tensor if operator == "D" else self.value("D_T", tensor))
        if operator == "P":
            return self.steps.interpolated(tensor, self.arithmetic)[0]
        if operator == "D_z0":
            trials, steps, units = self.step.space.shape
            return np.zeros((trials, steps, self.model.n_stages, units))
        return tensor if operator == "P_s" else None

    def _largest(self, reach: Callable[[running_errors.Chunk, Array], float], entering: Array) -> float:
        return max(reach(chunk, np.moveaxis(entering[:, part], 1, 0)) for chunk, part in self._forced_chunks())

    # Certificates

    def compare(self, operator: str, tensor: Array, answer: Array) -> Comparison:
        """The certificate of an answer; those on stage space have rows (step, stage)."""
        trials, steps, units = self.step.space.shape
        rows = (trials, steps * self.model.n_stages, units)
        if operator == "J_s":
            return self.field.parameter_jacobian(tensor, answer.reshape(rows))
        if operator == "J_s_T":
            return self.field.parameter_transpose(tensor.reshape(rows), answer)
        if operator == "K_s":
            return self.field.kernel(tensor.reshape(rows), answer.reshape(rows))
        if operator in ("D", "D_T", "gradient", "NTK"):
            return self._of_map(operator, tensor, answer)
        if operator == "P_s":
            return self._propagator(tensor, np.zeros(tensor.shape), answer)
        if operator == "P":
            return self._propagator(*self.steps.interpolated(tensor, self.arithmetic), answer)
        if operator == "D_z0":
            nothing = np.zeros((trials, steps, self.model.n_stages, units))
            return self._propagator(nothing, nothing, answer, tensor)
        if operator == "D_z0_T":
            moved = self.step.initial_transpose(tensor[:, 1:], answer - tensor[:, 0])
            return Comparison(moved.error, moved.spread + relative(answer, self.arithmetic.unit))
        return self._transpose(tensor, answer) if operator == "P_s_T" else self._grid_transpose(tensor, answer)

    def _of_map(self, operator: str, tensor: Array, answer: Array) -> Comparison:
        if operator == "D":
            spread = self.step.sensitivity(tensor)
            lost = np.full(answer.shape, self.step.floor)
            return Comparison(answer - self.value("D", tensor), spread + Spread(lost, lost))
        if operator == "D_T":
            return self.plain.gradient(tensor, answer)
        return getattr(self.step, "gradient" if operator == "gradient" else "tangent_kernel")(tensor, answer)  # type: ignore[no-any-return]

    def floor_of(self, operator: str) -> float:
        """Absolute error of numbers that are lost near zero; a costate is read off a stage of small weight."""
        weights = np.abs(np.vstack([self.model.a, self.model.b]))
        gain = 1.0 + weights.max() / abs(self.model.b[self._last]) if operator == "P_s_T" else 1.0
        return float(gain) * self.step.floor

    def _propagator(self, q: Array, q_error: Array, y: Array, start: Array | None = None) -> Comparison:
        """Residual of each step of a response to forcings of the stages."""
        joined = _joined(q, y, start)
        error, deviation, worst = np.zeros(y.shape), np.zeros(y.shape), np.zeros(y.shape)
        entering = self._entering(q_error)
        for chunk, part in self._forced_chunks():
            carried, spread = _forward(chunk, np.moveaxis(joined[:, part], 1, 0))
            now = np.moveaxis(y[:, part], 1, 0)
            spread = spread + relative(now, self.arithmetic.unit)
            for target, value in ((error, now - carried), (deviation, spread.deviation), (worst, spread.worst)):
                target[:, part] = np.moveaxis(value, 0, 1)
        lost = self.step.floor
        return Comparison(error, Spread(deviation, worst) + entering + Spread(np.array(lost), np.array(lost)))

    def _entering(self, q_error: Array) -> Spread:
        """What errors of the forcing of each stage do to the end of a step, through whichever weight is largest."""
        weight = np.abs(np.vstack([self.model.a, self.model.b])).max(axis=0)
        h = self.steps.inputs[:, 0, -1][None, :, None]
        sizes = weight[:, None] * q_error
        return Spread(h * np.sqrt(np.square(sizes).sum(axis=2)), 3 * h * sizes.sum(axis=2))

    def _transpose(self, g: Array, kappa: Array) -> Comparison:
        """Residuals of the costates of the stages."""
        h, b, last = self._h, self.model.b, self._last
        unit, loose = self.arithmetic.unit, min(self.arithmetic.unit, 2.0**-24) * self.steps.late[None, :, None]
        seen = kappa[:, :, last] / (h * b[last])  # l[n], as the last stage with a weight shows it
        within, before = np.zeros(kappa.shape), np.zeros(g.shape)
        spreads = [np.zeros(kappa.shape) for _ in range(2)], [np.zeros(g.shape) for _ in range(2)]
        for chunk, part in self._forced_chunks():
            value, spread = _backward(chunk, np.moveaxis(seen[:, part], 1, 0))
            units = g.shape[2]
            for tensor, found in ((value, (before, within)), (spread.deviation, (spreads[1][0], spreads[0][0])),
                                  (spread.worst, (spreads[1][1], spreads[0][1]))):  # fmt: skip
                moved = np.moveaxis(tensor, 0, 1)
                found[0][:, part] = moved[:, :, :units]
                found[1][:, part] = moved[:, :, units:].reshape(found[1][:, part].shape)
        # The costate that is read off the last stage carries some roundings more, which pass through the same products.
        own = Spread(*spreads[0]).times(2.0) + relative(kappa, 1.0).times(loose[..., None] + 2 * unit)
        error = kappa - within
        expected = g.copy()
        expected[:, :-1] += before[:, 1:]
        size = relative(seen, 1.0).times(loose + 3 * unit) + relative(g, unit)
        carried = Spread(*spreads[1]).times(2.0) + relative(before, 1.0).times(loose + unit)
        over = size + Spread(*(_earlier(part) for part in (carried.deviation, carried.worst)))
        error[:, :, last] = (seen - expected) * (h * b[last])
        for target, source in ((own.deviation, over.deviation), (own.worst, over.worst)):
            target[:, :, last] = np.abs(h * b[last]) * source
        for stage in range(last + 1, len(b)):  # nothing may come out where nothing goes in
            error[:, :, stage] = kappa[:, :, stage]
        lost = np.array(self.floor_of("P_s_T"))
        shape = (g.shape[0], -1, g.shape[2])
        whole = own + Spread(lost, lost)
        return Comparison(error.reshape(shape), whole.reshape(*(g.shape[0], error.shape[1] * len(b), g.shape[2])))

    def _grid_transpose(self, g: Array, answer: Array) -> Comparison:
        """The value of P^T on the time grid, and the errors of all steps sent through the exact sweep."""
        form, unit = self.step.form, self.arithmetic.unit
        costate = np.asarray(kernels.adjoint(form, g[None])[0])
        local = self.step.adjoint(g, costate).spread + relative(g, unit)
        value = _cotangents(self.model, form, costate[None])[0][0]
        own = np.zeros(value.shape)
        for chunk, part in self._forced_chunks():
            spread = _backward(chunk, np.moveaxis(costate[:, part], 1, 0))[1]
            moved = np.moveaxis(spread.deviation[..., g.shape[2] :], 0, 1)
            own[:, part] = moved.reshape(own[:, part].shape)
        late = min(unit, 2.0**-24) * self.steps.late[None, :, None, None]
        own = np.hypot(own, (4 * unit + late) * np.abs(value))

        def swept(generator: np.random.Generator, count: int) -> Array:
            noise = generator.standard_normal((count, *local.deviation.shape)) * local.deviation
            costates = np.asarray(kernels.adjoint(self.step.carrying, noise))
            kappas = _cotangents(self.model, self.step.carrying, costates)[0]
            return self.steps.gathered(kappas + generator.standard_normal((count, *own.shape)) * own)

        spread = self.step._pooled(swept) + relative(answer, unit)
        lost = np.full(answer.shape, self.step.floor)
        return Comparison(answer - self.steps.gathered(value), spread + Spread(lost, lost))

    @property
    def _h(self) -> Array:
        return self.steps.inputs[:, 0, -1][None, :, None]

    @property
    def _last(self) -> int:
        """The last stage that has a weight."""
        return int(np.flatnonzero(self.model.b)[-1])

    def _forced_chunks(self) -> Iterator[tuple[running_errors.Chunk, slice]]:
        for chunk in self.step.chunks():
            yield replace(chunk, form=self.model.forced(chunk.form)), chunk.rows


def _joined(q: Array, y: Array, start: Array | None) -> Array:
    """The state that each step starts from, and the forcings of its stages beside it."""
    first = np.zeros_like(y[:, :1]) if start is None else start[:, None]
    before = np.concatenate([first, y[:, :-1]], axis=1)
    return np.concatenate([before, q.reshape(*q.shape[:2], -1)], axis=2)


def _earlier(tensor: Array) -> Array:
    """Rows moved one step back, the last being zero."""
    moved = np.zeros_like(tensor)
    moved[:, :-1] = tensor[:, 1:]
    return moved


# Exact products on stage space


def forced(model: RungeKuttaMap, form: StepForm, q: Array) -> Array:
    """``P_s q`` for q (B, N, s, H): rows 1..N, (B, N, H)."""
    own, state, rows = model.forced(form), np.zeros((1, q.shape[0], q.shape[3])), []
    for step in range(q.shape[1]):
        joined = np.concatenate([state, q[None, :, step].reshape(1, len(q), -1)], axis=2)
        state = plain_program.run(own, step, joined)
        rows.append(state[0])
    return np.stack(rows, axis=1)


def forced_transpose(model: RungeKuttaMap, form: StepForm, g: Array) -> Array:
    """``P_s^T g`` for g (v, B, N, H): (v, B, N, s, H)."""
    return _cotangents(model, form, np.asarray(kernels.adjoint(form, g)))[0]


def _cotangents(model: RungeKuttaMap, form: StepForm, costates: Array) -> tuple[Array, Array]:
    """Of forcings (v, B, N, s, H), and of the state before each step (v, B, N, H)."""
    own, (vectors, trials, steps, units) = model.forced(form), costates.shape
    rows = [plain_program.run_transposed(own, step, costates[:, :, step]) for step in range(steps)]
    joined = np.stack(rows, axis=2)
    return joined[..., units:].reshape(vectors, trials, steps, -1, units), joined[..., :units]
