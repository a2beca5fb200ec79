"""`verify`: point the oracle at a backend, get a verdict that needs no tolerance.

Each check holds an error against the standard deviation that the backend's own rounding can give it, entry by entry
(`kpref.oracle.certificates`). A check of one product passes below 10 deviations: rounding errors are bounded, and the
largest of a million independent ones stays below 5. Where errors pass through a whole sweep, the deviation is itself
estimated, from random errors of the size of each step's; there the bound is 8 (`kpref.oracle.session`). Metrics are
held to a few times what errors can do that are drawn at random, or that all conspire (`kpref.oracle.reductions`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from kpref._types import Array
from kpref._validate import integer, real_number
from kpref.flow import Flow, require_noiseless_flow
from kpref.models.base import Field
from kpref.models.step import StepModel
from kpref.oracle import feedback_weights, hypotheses
from kpref.oracle.arithmetic import Arithmetic
from kpref.oracle.backend import OPERATORS, TRANSPOSES, Backend, BackendFault
from kpref.oracle.claimed_errors import Comparison
from kpref.oracle.error_structure import alike, like_rounding, not_additive
from kpref.oracle.evaluation import FACTORS, LOCAL, WEIGHED_AFTER, WEIGHED_BEFORE
from kpref.oracle.identities import MEANING, Identities
from kpref.oracle.loss_scale import NOT_SCALED, ScaledGradient, scale_of
from kpref.oracle.measurement import Factory, measure_profile
from kpref.oracle.metrics import check_metrics
from kpref.oracle.parallel_solves import PARALLEL
from kpref.oracle.pooled import directions_of, pooled_excess
from kpref.oracle.session import (
    LOCAL_BOUND,
    NOT_DETERMINISTIC,
    REPEATS,
    Answer,
    OutOfRange,
)
from kpref.oracle.stages import verify_stages
from kpref.oracle.trajectories import explain_states
from kpref.oracle.verdict import Check, Report, faulty

__all__ = ["verify"]

_NOT_EVERYWHERE = "not linear: right for one argument and wrong for another"
_OTHER_POINT = (
    "other point: linear, and like the right answer, as with numbers of other parameters, states or inputs, or with "
    "coarser ones"
)

#: Deviations that an entry is said to exceed where only all together are too large. Patterns of what is wrong begin at
#: three tenths of it (`kpref.oracle.hypotheses.pattern`): above one deviation, which no rounding to nearest exceeds.
_WRONG_EVERYWHERE = 4.0
#: Numbers that are made of a unit's own constants and rounded once for all points: A, B and its derivative, say.
_OWN = 3.0


def verify(
    backend: Any,
    flow: Flow,
    arithmetic: str | Arithmetic | None = None,
    seed: int = 0,
    timeout: float | None = None,
    factory: Factory | None = None,
    repeats: int = REPEATS,
) -> Report:
    """Check a backend's operators against the reference along a flow.

    Parameters
    ----------
    backend : object or None
        Has some of `states`, `P`, `P_T`, `P_inverse`, `J`, `J_T`, `K`, `NTK`, `gradient`, `D` and their transposes:
        callables on tensors of the flow's shapes, or LinearOperators on flat vectors. `states`, where offered, are the
        points of linearisation; they are certified first. And, optionally, `metrics`; see `kpref.oracle.backend`. None
        for what `factory` makes.
    flow : Flow
        The problem that the backend was given. Parameters, inputs and initial states are rounded to what the backend's
        arithmetic can hold. Of a field that states a program, in one Runge-Kutta step for each interval of the grid,
        `kpref.oracle.stages` lists what is certified; backends that take other steps, and other fields, are for
        `verify_convergence`. Where trials have `lengths`, tensors are zero behind their ends, and what a backend
        answers there is not looked at: it may stand still or run on.
    arithmetic : str or Arithmetic, optional
        "float64", "float32", "tf32", "bfloat16" or "float16", or any other given in full; by default what the backend's
        `arithmetic` or `dtype` says.
    seed : int
        Of the tensors that the operators are applied to.
    timeout : float, optional
        Seconds that a call may take; by default there is no limit. Calls are made in the caller's own thread, where
        the contexts that it has set hold and where none can be ended: a call that took longer counts as one without an
        answer when it returns. One that never does is ended in a process of its own: ``kpref verify``,
        ``pytest --kpref-backend`` or a `kpref.oracle.isolation.IsolatedBackend`, which keep the time themselves.
    factory : callable, optional
        Function of a flow that makes a backend, such as this one. For a map its arithmetic is then measured
        (`kpref.oracle.measure_profile`), and where it is coarser than declared the report says in what; the checks are
        held to what was measured.
    repeats : int
        How often an answer is asked for again. An operator of a map that is wrong in a part p of its calls, at random,
        passes with a chance of ``(1 - p)**(repeats + 4)`` at most: of a tenth 28 % with 8 and 1 % with 40.

    Returns
    -------
    Report

    Raises
    ------
    TypeError
        If the flow is not of a network, or there is neither backend nor factory.
    ValueError
        If the arithmetic is unknown, a loss scale is no power of two, or the steps of a field are not one for each
        interval.
    """
    require_noiseless_flow(flow)
    if backend is None and factory is None:
        raise TypeError("verify takes a backend, or a factory that makes one; got None for both")
    seed = integer("seed", seed, 0)
    if timeout is not None:
        timeout = real_number("timeout", timeout, above=0)
    repeats = integer("repeats", repeats, 1)
    if isinstance(flow.model, Field):
        backend = factory(flow) if backend is None and factory is not None else backend
        return verify_stages(backend, flow, arithmetic, seed, timeout, repeats)
    if not isinstance(flow.model, StepModel):
        raise TypeError(f"verify takes flows of networks that state a program; got {flow.model}")
    shape = (flow.states.shape[0], flow.states.shape[1], flow.states.shape[2])
    profile = None if factory is None else measure_profile(factory, flow)
    if backend is None and factory is not None:
        backend = factory(flow)
    wrapped = Backend.of(backend, shape, flow.model.n_parameters, arithmetic, timeout)
    declared = wrapped.arithmetic
    coarser = () if profile is None else profile.coarser_than(declared)
    if profile is not None and coarser:
        wrapped.arithmetic = profile.arithmetic(declared)
    try:
        checks = _checks(wrapped, flow, seed, repeats)
    finally:
        wrapped.arithmetic = declared  # a `Backend` is the caller's
    return Report(tuple(checks), declared.name, repr(flow), profile, coarser)


def _checks(backend: Backend, flow: Flow, seed: int, repeats: int) -> list[Check]:
    """All checks of a backend, in its arithmetic."""
    session = _Verification(ScaledGradient.around(backend), flow, np.random.default_rng(seed), repeats)
    checks = session.states()
    for position, operator in enumerate(OPERATORS):
        # The same probes of an operator whatever else is offered: golden folders hold answers to them.
        session.generator = np.random.default_rng([seed, position])
        checks += session.operator(operator)
    session.generator = np.random.default_rng([seed, len(OPERATORS)])
    checks += check_metrics(session)
    for name, sentence in backend.unjudged().items():
        checks.append(
            Check(f"offered.{name}", name, "what is offered is judged", "", "could not run", message=sentence)
        )
    return checks


@dataclass
class _Verification(Identities):
    """One run of the checks."""

    alone: dict[str, Answer] = field(init=False, default_factory=dict)  # of J on each parameter alone

    def states(self) -> list[Check]:
        """The trajectory, which becomes the point of linearisation."""
        meaning, equation = MEANING["states"]
        blank = Check("states.residual", "states", meaning, equation, "not offered")
        if not self.backend.offers("states"):
            return [blank]
        try:
            self.require_range()
            states = self.backend.states()
        except BackendFault as fault:
            return [faulty(blank, fault)]
        except OutOfRange as reason:
            return [replace(blank, verdict="could not run", message=str(reason))]
        self.take_states(states)
        comparison = self.counted("states", self.judge.states(states))
        check = self.judged(blank, comparison, LOCAL_BOUND)
        repeated = self._repeated_states(states)
        if check.verdict == "defect":
            guess = repeated.guess or explain_states(self.judge, self.z0, states, comparison, LOCAL_BOUND)
            check = replace(check, guess=guess or self._structure_of_states(states, comparison))
        pooled = self._pooled_check("states", comparison, states)
        if pooled.verdict == "defect":
            pooled = replace(pooled, guess=check.guess or self._structure_of_states(states, comparison))
        return [check, repeated, pooled]

    def _structure_of_states(self, states: Array, comparison: Comparison) -> str | None:
        """What can be said of a trajectory that no hypothesis explains."""
        rounded = self.precision(lambda: self.judge.states(states), accept=like_rounding)
        return rounded or (_OTHER_POINT if alike(states, states - comparison.error) else None)

    def _repeated_states(self, states: Array) -> Check:
        """The trajectory many times. Chaos amplifies what is rounded otherwise, so each is certified by itself."""
        check = Check(
            "states.repeated",
            "states",
            "every trajectory is one of the map",
            "z[n+1] = F(z[n], x[n])",
            "pass",
            figure=0.0,
            bound=LOCAL_BOUND,
        )
        try:
            for _ in range(self.repeats):
                other = self.backend.states()
                if not np.array_equal(other, states):
                    self.take_states(other)
                    found = self.judged(check, self.counted("states", self.judge.states(other)), LOCAL_BOUND)
                    check = found if (found.figure or 0.0) > (check.figure or 0.0) else check
                    self.take_states(states)
        except BackendFault as fault:
            return faulty(check, fault)
        return replace(check, guess=NOT_DETERMINISTIC) if check.verdict == "defect" else check

    def operator(self, operator: str) -> list[Check]:
        """The certificate of one operator, of every answer that it gives, and the identities that it should obey."""
        meaning, equation = MEANING[operator]
        kind = "residual" if operator in LOCAL else "value"
        blank = Check(f"{operator}.{kind}", operator, meaning, equation, "not offered")
        if not self.backend.offers(operator):
            return [replace(blank, message=self.backend.not_offered.get(operator, ""))]
        try:
            tensor, other = self.probe(operator), self.probe(operator)
            answer = self.backend(operator, tensor)
            again, other_answer = self.backend.answers(operator, tensor, other)
        except BackendFault as fault:
            return [faulty(blank, fault)]
        except OutOfRange as reason:
            return [replace(blank, verdict="could not run", message=str(reason))]
        result = Answer(operator, tensor, answer, self.compare(operator, tensor, answer))
        check = self.judged(blank, result.comparison, self.bound_of(operator))
        if check.verdict == "defect":
            self.defective.add(operator)
        checks = []
        makers: dict[str, Callable[[Answer], list[Check]]] = {
            "repeated": partial(self.repeated, again=again),
            "linearity": self.linearity,
            "causality": self.causality,
            "trials": self.trial_independence,
            "layout": self._layout,
            "special": self.special,
            "pooled": self._pooled,
            "pairs": lambda first: self.pairs(first, self.certified(operator, other, other_answer)),
            "answers": self._answers,
        }
        for name, make in makers.items():
            identity = replace(blank, identifier=f"{operator}.{name}")
            try:
                checks += make(result)
            except BackendFault as fault:
                checks.append(faulty(identity, fault))
            except OutOfRange as reason:
                checks.append(replace(identity, verdict="could not run", message=str(reason)))
        if check.verdict == "defect":
            check = replace(check, guess=next(filter(None, (c.guess for c in checks[:2])), None) or self._guess(result))
        if checks[0].guess is not None:  # it explains all that is wrong
            checks = [replace(c, guess=checks[0].guess) if c.verdict == "defect" else c for c in checks]
        elif checks[-1].guess is not None:  # an answer that is wrong explains the identities that it does not obey
            checks = [replace(c, guess=c.guess or checks[-1].guess) if c.verdict == "defect" else c for c in checks]
        return [check, *checks]

    def _guess(self, result: Answer, bound: float | None = None) -> str | None:
        """The class of a defect: that of an operator that this one is made of, or its own.

        `bound`: what an entry that is wrong exceeds; by default that of the operator.
        """
        operator, tensor, answer = result.operator, result.tensor, result.answer
        culprits = [factor for factor in FACTORS.get(operator, ()) if factor in self.defective]
        if culprits and self._follows(result):
            return f"follows: from the defect of {' and '.join(culprits)}"
        bound = self.bound_of(operator) if bound is None else bound
        loss = scale_of(self.backend, operator)
        explained = hypotheses.explain(self.judge, operator, tensor, answer, result.comparison, bound)
        if loss > 1 and not explained.startswith("factor"):  # which what is lost without a scale may hide
            if self.judge.gradient(tensor / loss, answer / loss).ratio().max() <= bound:
                return NOT_SCALED
        return explained or self._structure(result)

    def _structure(self, result: Answer) -> str | None:
        """What can be said of an answer that no hypothesis explains."""
        operator, tensor, answer, error = result.operator, result.tensor, result.answer, result.comparison.error
        try:
            rounded = not_additive(
                tensor,
                self.arithmetic.round_state,
                lambda part: self.compare(operator, part, self.backend(operator, part)),
            )
            others = "" if rounded or operator != "gradient" else self._other_weights(tensor)
        except BackendFault:
            return None
        if rounded:
            return self.precision(lambda: self.compare(operator, tensor, answer), self.bound_of(operator))
        if others:
            return others
        if operator in ("P", "P_T", "P_inverse"):  # what wrong numbers multiply is what is carried from step to step
            answer = answer - tensor
        right = answer + error if operator == "P_inverse" else answer - error
        return _OTHER_POINT if alike(answer, right) else None

    def _other_weights(self, tensor: Array) -> str:
        """Whether gradients of errors at the second step are those of other weights; empty if not."""
        arguments = self.arithmetic.round_state(feedback_weights.second_steps(self.judge, tensor))
        found = [self.compare("gradient", part, self.backend("gradient", part)) for part in arguments]
        if not found:
            return ""
        errors, deviations = (
            np.stack(parts) for parts in zip(*((c.error, c.spread.deviation) for c in found), strict=True)
        )
        return feedback_weights.of_second_steps(self.judge, arguments, errors, deviations)

    def _follows(self, result: Answer) -> bool:
        """Whether the backend's own factors, one after another, give what its product of them does."""
        weigh, operator = self.flow.space.weigh, result.operator
        value = self.arithmetic.round(weigh(result.tensor)) if operator in WEIGHED_BEFORE else result.tensor
        try:
            for factor in FACTORS[operator]:
                if not self.backend.offers(factor):
                    return False
                value = self.backend(factor, value)
        except BackendFault:
            return False
        value = weigh(value) if operator in WEIGHED_AFTER else value
        gap = Comparison(self.residual(result, result.answer - value), result.comparison.spread).ratio()
        # An answer that is too large carries rounding errors that are too large.
        return bool(np.median(gap) <= 0.1 * np.median(result.comparison.ratio()) or np.max(gap) <= self.swept_bound)

    def _answers(self, result: Answer) -> list[Check]:
        """Every other answer has a certificate, also that of a LinearOperator's transpose: here is the worst."""
        operator = result.operator
        way = next(way for way, to in TRANSPOSES.items() if to == operator)
        transposed = None
        if self.backend.offers(way):
            answer = self.backend(way, result.tensor)
            if not np.array_equal(answer, result.answer):  # the operator itself may be offered as this one
                transposed = self.certified(operator, result.tensor, answer)
        assert self.worst is not None
        check, worst = self.worst
        if worst is None or operator in self.defective:
            return [check]
        self.defective.add(operator)
        if worst is transposed:
            return [replace(check, guess=f"transpose: {way} is not {operator}")]
        same = np.array_equal(worst.tensor, result.tensor)  # to which the first answer was right
        if same or self.varies(worst, worst.tensor, worst.answer):
            return [replace(check, guess=NOT_DETERMINISTIC)]
        # A linear operator that errs here errs for most arguments, unless by little more than what rounding does.
        little = (check.figure or 0.0) < 5 * result.comparison.ratio().max()
        return [replace(check, guess=(self._guess(worst) if little else None) or _NOT_EVERYWHERE)]

    def _pooled(self, result: Answer) -> list[Check]:
        """Errors that are too large everywhere, though none of them is by much.

        Of J on each parameter alone too, whose errors are not lost among what the others do.
        """
        operator, check = result.operator, self._pooled_check(result.operator, result.comparison, result.answer)
        for name, answer in self.alone.items() if operator == "J" else ():
            found = self._pooled_check(operator, answer.comparison, answer.answer, name)
            if (found.figure or 0.0) > (check.figure or 0.0):
                check, result = found, answer
        if check.verdict == "defect" or result.comparison.parallel:
            solve = self.parallel(operator, result.tensor, result.answer)
            if solve is not None:
                check = replace(check, verdict="pass", figure=solve.pooled, message=PARALLEL)
        if check.verdict == "defect" and operator not in self.defective:
            self.defective.add(operator)
            check = replace(check, guess=self._guess(result, _WRONG_EVERYWHERE))
        return [check]

    def _pooled_check(self, operator: str, comparison: Comparison, answer: Array, alone: str = "") -> Check:
        """`alone`: the parameter that the comparison is of, if it is of one."""
        data = answer if operator in ("states", "J") else None
        excess, place = pooled_excess(
            comparison,
            self.backend.shape,
            self.arithmetic,
            swept=operator not in (*LOCAL, "states", "J", "J_T"),
            data=data,
            alone=bool(alone),
            directions=np.inf if data is None else self._directions(),
        )
        place = f"{place}, by {alone} alone" if alone else place
        return Check(
            f"{operator}.pooled",
            operator,
            "errors are not too large everywhere",
            "mean (error / deviation)^2, in parts of what rounding gives at most",
            "pass" if excess <= 1 else "defect",
            figure=excess,
            bound=1.0,
            message="" if excess <= 1 else f"most of all in {place}",
        )

    def _directions(self) -> float:
        """Of what weights multiply, states and inputs, that are rounded there; as many as there are if none is.

        Where units have constants of their own, as poles of a state space, what comes of these errs alike at all
        points, by a rounding of each of a few numbers that are made of them.
        """
        form = self.judge.form
        places = form.places.items()
        constants = (form.channel(name) for name, place in places if place.row_stride == place.trial_stride == 0)
        if any(np.ptp(each) > 0 for each in constants):
            return _OWN
        if self.arithmetic.operand == 0:
            return np.inf
        numbers = np.concatenate([self.judge.starts, self.judge.inputs], axis=-1)
        return directions_of(numbers.reshape(-1, numbers.shape[-1]))

    def _layout(self, result: Answer) -> list[Check]:
        """J on each parameter alone: order, layout, and z0 in the first step."""
        if result.operator != "J":
            return []
        checks, start = [], 0
        self.alone = {}
        for name in self.model.trainable:
            size = self.model.parameters[name].size
            theta = np.zeros(self.backend.n_parameters)
            theta[start : start + size] = self.arithmetic.round(self.generator.standard_normal(size))
            theta = self.in_range("J", theta)
            answer = self.backend("J", theta)
            blank = Check(f"J.{name}", "J", f"derivative by {name} alone", "J_theta[n] theta", "pass")
            comparison = self.counted("J", self.judge.parameter_jacobian(theta, answer))
            check = self.judged(blank, comparison, LOCAL_BOUND)
            self.alone[name] = Answer("J", theta, answer, comparison)
            if check.verdict == "defect" and "J" not in self.defective:  # else the guess for J is enough
                check = replace(check, guess=self._guess(self.alone[name]))
            checks.append(check)
            start += size
        return checks
