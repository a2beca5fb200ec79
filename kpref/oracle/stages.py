"""`verify` in continuous time: a backend that takes the same steps of the same Runge-Kutta method.

With B trials, N steps of s stages, H units and M trainable parameters, a backend is any object with some of

    states           (B, N + 1, H), or a function of no arguments: the trajectory, row 0 being z0
    P_s, P_s_T       forcings of the stages (B, N, s, H) -> (B, N + 1, H), and the transpose
    J_s, J_s_T       (M,) -> (B, N, s, H): what parameters do to the velocities at the stages, and the transpose
    K_s              J_s J_s^T
    P, P_T           (B, N + 1, H) -> (B, N + 1, H): a forcing on the time grid, interpolated as the flow says
    D, D_T           (M,) -> (B, N + 1, H): dZ/dtheta = P_s J_s, and the transpose
    D_z0, D_z0_T     (B, H) -> (B, N + 1, H): dZ/dz0, row 0 being the perturbation itself, and the transpose
    gradient         (B, N + 1, H) -> (M,): D^T Mu Err
    NTK              (B, N + 1, H) -> (B, N + 1, H): D D^T Mu

Row 0 of an image of P_s, P, D and NTK is zero. `kpref.oracle.stage_certificates` says what each answer is held to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from kpref._types import Array
from kpref.dynamics import FieldDynamics
from kpref.flow import Flow
from kpref.integrate import TABLEAUS, InputSignal
from kpref.lengths import points
from kpref.models.base import Field
from kpref.models.step import StepModel
from kpref.oracle.arithmetic import Arithmetic
from kpref.oracle.backend import BackendFault, LocalBackend
from kpref.oracle.claimed_errors import Comparison
from kpref.oracle.hypotheses import explain, pattern
from kpref.oracle.loss_scale import ScaledGradient, scale_of
from kpref.oracle.names import OPERATORS
from kpref.oracle.runge_kutta_map import RungeKuttaMap
from kpref.oracle.session import INSIDE, LOCAL_BOUND, NOT_DETERMINISTIC, NOT_LINEAR, OutOfRange, Session
from kpref.oracle.spreads import Spread
from kpref.oracle.stage_certificates import StageJudge, Steps
from kpref.oracle.trajectories import explain_states
from kpref.oracle.verdict import Check, Place, Report, faulty
from kpref.space import TrajectorySpace

__all__ = ["STAGE_OPERATORS", "verify_stages"]

#: What a backend in continuous time may offer, and the spaces that each maps between.
STAGE_OPERATORS: dict[str, tuple[str, str]] = {
    "P_s": ("stages", "trajectory"),
    "P_s_T": ("trajectory", "stages"),
    "J_s": ("parameters", "stages"),
    "J_s_T": ("stages", "parameters"),
    "K_s": ("stages", "stages"),
    "P": ("trajectory", "trajectory"),
    "P_T": ("trajectory", "trajectory"),
    "D": ("parameters", "trajectory"),
    "D_T": ("trajectory", "parameters"),
    "D_z0": ("starts", "trajectory"),
    "D_z0_T": ("trajectory", "starts"),
    "gradient": ("trajectory", "parameters"),
    "NTK": ("trajectory", "trajectory"),
}

_MEANING = {
    "states": ("each step of the trajectory is one of the method", "z[n+1] = z[n] + h sum_i b_i k[n,i]"),
    "P_s": ("each step of the response is the linearised one", "dz[n+1] = R[n] dz[n] + S[n] q[n]"),
    "P_s_T": ("the costates of the stages obey the discrete adjoint", "kappa_i = h b_i l + h sum_j a_ji A_j^T kappa_j"),
    "J_s": ("parameters move the velocity at each stage", "(J_s theta)[n,i] = J_theta[n,i] theta"),
    "J_s_T": ("the transpose of J_s", "J_s^T g = sum_bni J_theta[b,n,i]^T g[b,n,i]"),
    "K_s": ("the parameter operator on stages", "K_s = J_s J_s^T"),
    "P": ("the response to a forcing on the grid", "P q = P_s (q interpolated)"),
    "P_T": ("the transpose of P", "P^T g = (interpolation)^T P_s^T g"),
    "D": ("the sensitivity of the states", "D = P_s J_s = dZ/dtheta"),
    "D_T": ("its transpose", "D^T g = J_s^T P_s^T g"),
    "D_z0": ("the sensitivity to initial states", "dZ/dz0"),
    "D_z0_T": ("its transpose", "D_z0^T g = g[0] + R[0]^T l[0]"),
    "gradient": ("the gradient of a loss with this derivative by the states", "D^T Mu Err"),
    "NTK": ("the neural tangent kernel, measure included", "D D^T Mu"),
}

#: Certificates that look at each step alone; at values; and at what a sweep has carried along.
_LOCAL, _SWEPT = ("P_s", "P_s_T", "P", "D_z0"), ("P_T", "D", "D_T", "D_z0_T", "gradient", "NTK")

#: Operators whose answers arise on the way to another's.
_ON_THE_WAY = {"K_s": ("J_s_T",), "D": ("J_s",), "D_T": ("P_s_T",), "gradient": ("P_s_T",), "NTK": ("D_T",)}

#: A hypothesis explains an answer if it leaves so much of its error at most; and, in short formats, where a large part
#: of it is rounding, so much.
_LEFT, _LEFT_BY_ROUNDING = 0.2, 0.7


def verify_stages(
    backend: Any, flow: Flow, arithmetic: str | Arithmetic | None, seed: int, timeout: float | None, repeats: int
) -> Report:
    """What `kpref.oracle.verify` does with the flow of a field. Parameters and errors as there."""
    model = _map_of(flow)
    wrapped = _StageBackend.around(backend, flow.states.shape, model.n_parameters, arithmetic, timeout)
    wrapped.stages = model.n_stages
    session = _Stages(ScaledGradient.around(wrapped), flow, np.random.default_rng(seed), repeats)
    checks = session.trajectory()
    for position, operator in enumerate(STAGE_OPERATORS):
        session.generator = np.random.default_rng([seed, position])
        checks += session.operator(operator)
    checks += _unjudged(wrapped)
    return Report(
        tuple(checks), wrapped.arithmetic.name, f"{flow}, {flow.solution.tableau.name}", unmeasured="as only maps are"
    )


def _unjudged(backend: LocalBackend) -> list[Check]:
    """What is offered and has no certificate here: a backend does not pass for it."""
    # Transposes that LinearOperators know beside are not counted.
    maps_only = [name for name in OPERATORS if name not in STAGE_OPERATORS and hasattr(backend.raw, name)]
    found = {name: f"{name} is offered and not judged: it has no certificate in continuous time" for name in maps_only}
    return [
        Check(f"offered.{name}", name, "what is offered is judged", "", "could not run", message=sentence)
        for name, sentence in (backend.unjudged() | found).items()
    ]


def _map_of(flow: Flow) -> RungeKuttaMap:
    """The steps of a flow as a map; raises TypeError or ValueError where there is none."""
    model: Any = flow.model
    if not (isinstance(model, StepModel) and isinstance(model, Field)):
        raise TypeError(
            f"verify certifies steps of fields that state a program, such as Rate or LinearSystem; got {model}: "
            "kpref.oracle.verify_convergence judges those of any field"
        )
    steps = flow.solution
    if len(steps.interval) != len(steps.times) - 1:
        raise ValueError(
            "verify takes flows of one step in each interval of the grid; for steps that were chosen adaptively give "
            "kpref.Flow(..., times=flow.solution.t_steps), or use verify_convergence"
        )
    return RungeKuttaMap(model, steps.tableau.a, steps.tableau.b)


class _StageBackend(LocalBackend):
    """A backend in continuous time."""

    operators = STAGE_OPERATORS
    stages: int  # of a step

    def shape_of(self, space: str) -> tuple[int, ...]:
        """Shape of a tensor of a space."""
        trials, times, units = self.shape
        return (trials, times - 1, self.stages, units) if space == "stages" else super().shape_of(space)


class _Stages(Session):
    """One run of the checks. `judge`: at the backend's trajectory, or at the method's own."""

    judge: Any

    def __post_init__(self) -> None:
        self.arithmetic = self.backend.arithmetic
        model, store = _map_of(self.flow), self.arithmetic.round
        self.model = model.with_parameters({name: store(value) for name, value in model.parameters.items()})
        self.z0, self.defective = self.arithmetic.round_state(self.flow.z0), set()
        self.steps = _steps(self.flow, self.arithmetic)
        mu = self.flow.space.mu[:, 1:]
        trials, times, units = self.flow.states.shape
        self.space = TrajectorySpace((trials, times - 1, units), mu)
        self.stages_in_rows = 1
        self.take_states(None)

    def take_states(self, states: Array | None) -> None:
        """Linearise at rows 1..N of a trajectory."""
        if states is None:
            states = np.asarray(self.model.iterate(self.z0, np.moveaxis(self.steps.inputs, 0, 1)))
            self.furthest = float(np.abs(states).max(initial=0.0))
        self.starts = np.concatenate([self.z0[:, None], states[:, :-1]], axis=1)
        self.judge = StageJudge(self.model, self.steps, self.starts, self.space, self.arithmetic)

    # Checks

    def trajectory(self) -> list[Check]:
        """The trajectory, which becomes the point of linearisation."""
        blank = Check("states.residual", "states", *_MEANING["states"], "not offered")
        if not self.backend.offers("states"):
            return [blank]
        try:
            self.require_range()
            answer = self.backend.states()
        except BackendFault as fault:
            return [faulty(blank, fault)]
        except OutOfRange as reason:
            return [replace(blank, verdict="could not run", message=str(reason))]
        states = answer[:, 1:]
        start = self._row("states", answer[:, 0] - self.z0, "row 0 is the initial state", "z[0] = z0")
        self.take_states(states)
        comparison = self.counted("states", self.judge.step.states(states))
        check = self.judged(blank, comparison, LOCAL_BOUND)
        if check.verdict == "defect":
            guess = self._guess_of_states(states, comparison)
            check = replace(check, guess=guess or self.precision(lambda: self.judge.step.states(states)))
        return [check, start]

    def operator(self, operator: str) -> list[Check]:
        """The certificate of an operator, its linearity, and row 0 of its answer."""
        kind = "residual" if operator in _LOCAL else "value"
        blank = Check(f"{operator}.{kind}", operator, *_MEANING[operator], "not offered")
        if not self.backend.offers(operator):
            return [replace(blank, message=self.backend.not_offered.get(operator, ""))]
        bound = self.swept_bound if operator in _SWEPT else LOCAL_BOUND
        try:
            tensor = self.probe(operator)
            whole, scaled = self.backend(operator, tensor), self.backend(operator, tensor / -16)
        except BackendFault as fault:
            return [faulty(blank, fault)]
        except OutOfRange as reason:
            return [replace(blank, verdict="could not run", message=str(reason))]
        given, (answer, small) = self._without_start(operator, tensor, whole, scaled)
        self.stages_in_rows = self.model.n_stages if STAGE_OPERATORS[operator][1] == "stages" else 1
        comparison = self.compare(operator, given, answer)
        check = self.judged(blank, comparison, bound)
        linear = self._linearity(operator, given, small, comparison, bound)
        if check.verdict == "defect":
            self.defective.add(operator)
            coarse = self.precision(lambda: self.compare(operator, given, answer), bound)
            check = replace(check, guess=linear.guess or self._guess(operator, given, answer, comparison) or coarse)
        checks = [check, linear, self._repeated(operator, tensor, answer, bound)]
        if STAGE_OPERATORS[operator][1] == "trajectory" and operator != "P_T":
            moved = tensor if operator == "D_z0" else 0.0
            words = "row 0 is the perturbation itself" if operator == "D_z0" else "nothing moves the initial state"
            checks.append(self._row(operator, whole[:, 0] - moved, words, "y[0] = 0"))
        return checks

    def probe(self, operator: str) -> Array:
        """A random tensor, so small that all on the way to its answer stays within range."""
        self.require_range()
        tensor = self.existing(self.generator.standard_normal(self.backend.shape_of(STAGE_OPERATORS[operator][0])))
        loss = scale_of(self.backend, operator)
        given, _ = self._without_start(operator, loss * tensor)
        with np.errstate(over="ignore", invalid="ignore"):
            values = [self.judge.value(name, given) for name in (operator, *_ON_THE_WAY.get(operator, ()))]
            size = float(np.max([np.abs(value).max() for value in values]))
            if self.narrow and np.isfinite(size):
                size = max(size, self.judge.reach(operator, given, values[0]) / INSIDE)
        if scale := self.scale_of_probe(size):
            return loss * self.arithmetic.round_state(tensor * scale)
        raise OutOfRange.of(operator, self.arithmetic)

    def compare(self, operator: str, tensor: Array, answer: Array) -> Comparison:
        """The certificate of an operator's answer."""
        return self.counted(operator, self.judge.compare(operator, tensor, self.existing(answer)))

    def existing(self, array: Array) -> Array:
        """See `Session.existing`: of arrays over the grid, its rows 1..N, stages of steps, or steps and stages."""
        lengths = self.flow.space.lengths
        if lengths is None or array.ndim < 3:
            return array
        times = self.flow.states.shape[1]
        exist = points(lengths, times)
        if array.shape[1] != times:
            exist = np.repeat(exist[:, 1:], array.shape[1] // (times - 1), axis=1)
        return array * exist.reshape(*exist.shape, *(1,) * (array.ndim - 2))

    def _without_start(self, operator: str, tensor: Array, *answers: Array) -> tuple[Array, list[Array]]:
        """What the judge takes of argument and answers: rows 1..N, where row 0 has no part."""
        of, to = STAGE_OPERATORS[operator]
        given = tensor[:, 1:] if of == "trajectory" and operator not in ("P", "D_z0_T") else tensor
        return given, [answer[:, 1:] if to == "trajectory" and operator != "P_T" else answer for answer in answers]

    def _linearity(self, operator: str, given: Array, small: Array, comparison: Comparison, bound: float) -> Check:
        """Minus a sixteenth of the argument, whose answer has a certificate as the other has."""
        blank = Check(
            f"{operator}.linearity",
            operator,
            "minus a sixteenth of the argument gives minus a sixteenth",
            "f(-q/16) = -f(q)/16",
            "pass",
        )
        other = self.compare(operator, given, -16 * small)
        if operator in self.defective or comparison.ratio().max() > bound:
            other = Comparison(other.error - comparison.error, other.spread.times(2.0))
        lost = np.full(other.error.shape, 16 * scale_of(self.backend, operator) * self.judge.floor_of(operator))
        check = self.judged(blank, Comparison(other.error, other.spread + Spread(lost, lost)), bound)
        return replace(check, guess=NOT_LINEAR) if check.verdict == "defect" else check

    def _repeated(self, operator: str, tensor: Array, answer: Array, bound: float) -> Check:
        """The same argument many times: an answer that is not the first has its own certificate."""
        check = Check(
            f"{operator}.repeated", operator, "the same argument gives a right answer each time", "f(q) = f(q)", "pass",
            figure=0.0, bound=bound,
        )  # fmt: skip
        try:
            others = [self.backend(operator, tensor) for _ in range(self.repeats)]
        except BackendFault as fault:
            return faulty(check, fault)
        given, others = self._without_start(operator, tensor, *others)
        for other in others:
            if not np.array_equal(other, answer):
                found = self.judged(check, self.compare(operator, given, other), bound)
                check = found if (found.figure or 0.0) > (check.figure or 0.0) else check
        if check.verdict == "defect" and operator not in self.defective:
            self.defective.add(operator)
            return replace(check, guess=NOT_DETERMINISTIC)
        return check

    def _row(self, operator: str, difference: Array, meaning: str, equation: str) -> Check:
        """Row 0 of a trajectory, which no arithmetic need round."""
        blank = Check(f"{operator}.start", operator, meaning, equation, "pass")
        least = np.full(difference.shape, self.arithmetic.unit * max(1.0, float(np.abs(self.z0).max())))
        self.stages_in_rows = 1
        check = self.judged(
            blank,
            Comparison(difference[:, None], Spread(least, least).reshape(*difference[:, None].shape)),
            LOCAL_BOUND,
        )
        words = "z0 dropped: row 0 is not the initial state" if operator == "states" else "start: row 0 is not zero"
        return replace(check, guess=words) if check.verdict == "defect" else check

    def _place(self, ratio: Array, index: Any) -> Place:
        place = super()._place(ratio, index)
        if self.stages_in_rows == 1 or place.step is None:
            return place
        step, stage = divmod(place.step, self.stages_in_rows)
        return replace(place, step=step, stage=stage)

    # Which defect is it?

    def _guess_of_states(self, states: Array, comparison: Comparison) -> str:
        error = float(np.linalg.norm(comparison.error))
        for label, model, steps in _variants(self.model, self.steps):
            value = np.moveaxis(model.evaluate(np.moveaxis(self.starts, 1, 0), steps.inputs), 0, 1)
            if np.linalg.norm(states - value) <= _LEFT * error:
                return label
        return explain_states(self.judge.step, self.z0, states, comparison, LOCAL_BOUND)

    def _guess(self, operator: str, given: Array, answer: Array, comparison: Comparison) -> str:
        """The class of a defect: the flow with a hypothetical one, or, of parts that are maps, as of maps."""
        truth = self.judge.value(operator, given)
        error, best, label = float(np.linalg.norm(answer - truth)), _left(comparison), ""
        if not answer.any():
            return "zero: nothing was computed"
        for words, value in self._candidates(operator, given, truth):
            left = float(np.linalg.norm(answer - value())) / error
            if left < 0.999 * best:
                best, label = left, words
        bound = self.swept_bound if operator in _SWEPT else LOCAL_BOUND
        if label or operator not in _AS_OF_MAPS:
            return label or pattern(comparison.ratio(), bound, answer)
        name, of = _AS_OF_MAPS[operator]
        judge = getattr(self.judge, of)
        rows = (-1, *judge.space.shape[1:])
        given, answer = (a.reshape(rows) if a.ndim > 1 else a for a in (given, answer))
        return explain(judge, name, given, answer, comparison, bound)

    def _candidates(self, operator: str, given: Array, truth: Array) -> Iterator[tuple[str, Callable[[], Array]]]:
        yield "sign: the negative of the right answer", lambda: -truth
        frozen = RungeKuttaMap(self.model.field, self.model.a, self.model.b, frozen=True)
        stale = "stale: all stages are linearised at the start of the step", frozen, self.steps
        for label, model, steps in (*_variants(self.model, self.steps), stale):
            yield label, partial(self._value_under, model, steps, operator, given)
        turned = self.judge.with_weights_changed(np.transpose)
        yield "transpose: W^T in place of W", partial(turned.value, operator, given)
        if self.model.n_stages > 1 and self.model.field.n_inputs:
            seen = "inputs: those at the start of the step multiply the weights at all stages"
            yield seen, partial(self.judge.with_first_inputs().value, operator, given)
        h = self.steps.inputs[:, 0, -1]
        if operator == "P_s_T":
            yield "step: the answer is not multiplied by h", lambda: truth / h[None, :, None, None]
            yield "stages reversed: the answer", lambda: truth[:, :, ::-1]
            yield "time reversed: the answer", lambda: truth[:, ::-1]
        if operator == "D_z0_T":
            yield "start: row 0 of the argument is not seen", lambda: truth - given[:, 0]
        if operator in ("P_s", "K_s"):
            yield "stages reversed: the argument", partial(self.judge.value, operator, given[:, :, ::-1])
        if operator == "P_s":
            bare = given / h[None, :, None, None]
            yield "step: the argument is not multiplied by h", partial(self.judge.value, operator, bare)
        if truth.ndim == 3:
            for shift in (1, -1):
                yield "time shifted by one: the answer", partial(_shifted, truth, shift)

    def _value_under(self, model: RungeKuttaMap, steps: Steps, operator: str, given: Array) -> Array:
        return StageJudge(model, steps, self.starts, self.space, self.arithmetic).value(operator, given)


#: Operators that are those of a map, by the name that they have there, and whose judge.
_AS_OF_MAPS = {
    "J_s": ("J", "field"),
    "J_s_T": ("J_T", "field"),
    "K_s": ("K", "field"),
    "D": ("D", "step"),
    "D_T": ("gradient", "plain"),
    "gradient": ("gradient", "step"),
    "NTK": ("NTK", "step"),
}


def _shifted(tensor: Array, shift: int) -> Array:
    moved = np.roll(tensor, shift, axis=1)
    moved[:, 0 if shift > 0 else -1] = 0.0
    return moved


def _left(comparison: Comparison) -> float:
    """Part of an error that the hypothesis that leaves least may leave: that of an answer which errs by deviations."""
    deviations = float(np.sqrt(np.mean(np.square(comparison.ratio()))))
    return float(np.clip(2.0 / max(deviations, 1.0), _LEFT, _LEFT_BY_ROUNDING))


def _variants(model: RungeKuttaMap, steps: Steps) -> Iterator[tuple[str, RungeKuttaMap, Steps]]:
    """The steps with a defect of the integrator."""
    stages, width = model.n_stages, model.field.n_inputs
    inputs = steps.inputs
    parts = inputs[..., :-1].reshape(*inputs.shape[:2], stages, width)

    def seeing(changed: Array) -> Steps:
        flat = changed.reshape(*inputs.shape[:2], -1)
        return replace(steps, inputs=np.concatenate([flat, inputs[..., -1:]], axis=2))

    if width:
        yield (
            "inputs: all stages see those at the start of the step",
            model,
            seeing(np.repeat(parts[:, :, :1], stages, 2)),
        )
        for shift, word in ((1, "before"), (-1, "after")):
            yield f"time shifted by one: inputs of the step {word}", model, seeing(np.roll(parts, shift, axis=0))
        late, ends = parts.copy(), np.isclose(model.a.sum(axis=1), 1.0)
        late[:-1][:, :, ends] = parts[1:][:, :, :1]
        yield "jump: stages at the end of a step see the inputs of the next", model, seeing(late)
        kept = parts.copy()
        kept[1:, :, 0] = parts[:-1, :, -1]
        yield "jump: the first stage is kept from the step before, whose inputs were others", model, seeing(kept)
    mean = inputs.copy()
    mean[..., -1] = inputs[..., -1].mean()
    yield "step: the mean of all steps in place of each", model, replace(steps, inputs=mean)
    own = [
        known for known in TABLEAUS.values() if np.array_equal(known.a, model.a) and np.array_equal(known.b, model.b)
    ]
    for tableau in own:
        if tableau.b_error is not None and len(tableau.b_error) == stages:
            embedded = model.with_weights(model.a, tableau.b - tableau.b_error)
            yield "tableau: the weights of the embedded method", embedded, steps
    if stages > 1:
        first = np.eye(stages)[0]
        yield "tableau: Euler's method", model.with_weights(model.a, first), steps
    for tableau in TABLEAUS.values():
        if tableau.stages == stages and tableau not in own:
            yield f"tableau: {tableau.name} in place of the method", model.with_weights(tableau.a, tableau.b), steps


def _steps(flow: Flow, arithmetic: Arithmetic) -> Steps:
    """What the backend was given: inputs on the grid as the arithmetic holds them, and the steps."""
    dynamics = flow.dynamics
    assert isinstance(dynamics, FieldDynamics)
    system, h = dynamics.system, flow.solution.h
    times, stages, trials = flow.solution.times, system.stages, system.n_trials
    signal, loose = system.signal, np.zeros((len(h), trials, stages, flow.model.n_inputs))
    if not signal.is_function:
        grid = arithmetic.round(flow.inputs)
        signal = InputSignal(times, grid, dynamics.input_kind)
        size = np.maximum(np.abs(grid[:, :-1]), np.abs(grid[:, 1:]))  # (B, N, n_in)
        # What interpolation rounds: a few products, with weights that sum to one but for signs.
        loose += {"hold": 0.0, "linear": 4.0, "cubic": 16.0}[dynamics.input_kind] * np.moveaxis(size, 1, 0)[:, :, None]
    at = signal(system.stage_times.reshape(-1), np.repeat(flow.solution.interval, stages))
    parts = np.moveaxis(at, 1, 0).reshape(len(h), stages, trials, -1).swapaxes(1, 2)
    if signal.is_function:
        parts = arithmetic.round(parts)
    late = (np.abs(times[:-1]) + np.abs(times[1:])) / h
    columns = np.broadcast_to(h[:, None, None], (len(h), trials, 1))
    # A rounding error of the time is `late` of them in where in its interval an input is taken.
    flat = loose.reshape(len(h), trials, -1)
    timed = np.concatenate([flat, columns], axis=2) * late[:, None, None]
    return Steps(
        np.concatenate([parts.reshape(len(h), trials, -1), columns], axis=2),
        np.concatenate([flat, 0 * columns], axis=2),
        timed,
        system.grid_forcing(dynamics.forcing),
        late,
    )
