"""`verify`: point the oracle at a backend, get a verdict that needs no tolerance.

Each check holds an error against the standard deviation that the backend's own rounding can give it, entry by entry
(`kpref.oracle.certificates`). A check of one product passes below 10 deviations: rounding errors are bounded, and the
largest of a million independent ones stays below 5. Where errors pass through a whole sweep, the size is an estimate
from random errors and the true ones are partly the same from step to step; there the bound is 50.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from kpref.flow import Flow
from kpref.models.base import Map, SiteModel
from kpref.oracle import hypotheses
from kpref.oracle.arithmetic import Arithmetic
from kpref.oracle.backend import OPERATORS, Backend, BackendFault
from kpref.oracle.certificates import Comparison, Judge
from kpref.oracle.coefficients import Spread
from kpref.oracle.verdict import Check, Place, Report, Verdict

__all__ = ["verify"]

Array = npt.NDArray[Any]

#: Bounds in standard deviations: of one product, and of errors that a sweep has carried along.
LOCAL_BOUND = 10.0
SWEPT_BOUND = 50.0

_MEANING = {
    "states": ("each step of the trajectory is the map", "z[n+1] = F(z[n], x[n])"),
    "P": ("the response obeys the linearised dynamics", "y[n] = A[n] y[n-1] + q[n]"),
    "P_T": ("the costate obeys the adjoint dynamics", "l[n] = A[n+1]^T l[n+1] + g[n]"),
    "P_inverse": ("the forcing is what the response comes from", "q[n] = y[n] - A[n] y[n-1]"),
    "J": ("parameter steps move the dynamics as they should", "(J theta)[n] = J_theta[n] theta"),
    "J_T": ("the transpose of J", "J^T g = sum_bn J_theta[b,n]^T g[b,n]"),
    "K": ("the parameter operator, measure included", "K = J J^T Mu"),
    "NTK": ("the neural tangent kernel, measure included", "NTK = P J J^T P^T Mu"),
    "gradient": ("the gradient of a loss with this derivative by the states", "J^T P^T Mu Err"),
}


def verify(
    backend: Any,
    flow: Flow,
    arithmetic: str | Arithmetic | None = None,
    seed: int = 0,
    timeout: float = 60.0,
) -> Report:
    """Check a backend's operators against the reference along a flow.

    Parameters
    ----------
    backend : object
        Has some of `states`, `P`, `P_T`, `P_inverse`, `J`, `J_T`, `K`, `NTK`, `gradient`: callables on tensors of the
        flow's shapes, or LinearOperators on flat vectors. `states`, where offered, are the points of linearisation;
        they are certified first.
    flow : Flow
        Of a network in discrete time: the problem that the backend was given. Parameters, inputs and initial states are
        rounded to what the backend's arithmetic can hold.
    arithmetic : str or Arithmetic, optional
        "float64", "float32", "tf32", "bfloat16" or "float16"; by default what the backend's `arithmetic` or `dtype`
        says.
    seed : int
        Of the tensors that the operators are applied to.
    timeout : float
        Seconds for each call.

    Returns
    -------
    Report

    Raises
    ------
    TypeError
        If the flow is not of a network in discrete time.
    ValueError
        If the arithmetic is unknown.
    """
    if not (isinstance(flow.model, Map) and isinstance(flow.model, SiteModel)):
        raise TypeError(f"verify takes flows of networks in discrete time; got {flow.model}")
    shape = (flow.states.shape[0], flow.states.shape[1], flow.states.shape[2])
    wrapped = Backend.of(backend, shape, flow.model.n_parameters, arithmetic, timeout)
    session = _Session(wrapped, flow, np.random.default_rng(seed))
    checks = session.states()
    for operator in OPERATORS:
        checks += session.operator(operator)
    checks += session.pairs()
    return Report(tuple(checks), wrapped.arithmetic.name, repr(flow))


@dataclass
class _Session:
    """One run of the checks."""

    backend: Backend
    flow: Flow
    generator: np.random.Generator

    def __post_init__(self) -> None:
        self.arithmetic = self.backend.arithmetic
        model = self.flow.model
        assert isinstance(model, SiteModel)
        self.model: Any = model.with_parameters(
            {name: self.arithmetic.round(value) for name, value in model.parameters.items()}
        )
        self.inputs = self.arithmetic.round(self.flow.inputs)
        self.z0 = self.arithmetic.round(self.flow.z0)
        self.answers: dict[str, tuple[Array, Array]] = {}
        self._take_states(None)

    def _take_states(self, states: Array | None) -> None:
        """Linearise at the backend's trajectory, or at the model's own."""
        if states is None:
            states = np.asarray(self.model.iterate(self.z0, self.inputs))
        starts = np.concatenate([self.z0[:, None], states[:, :-1]], axis=1)
        self.judge = Judge(self.model, starts, self.inputs, self.flow.space, self.arithmetic)

    def states(self) -> list[Check]:
        """The trajectory, which becomes the point of linearisation."""
        meaning, equation = _MEANING["states"]
        blank = Check("states.residual", "states", meaning, equation, "not offered")
        if not self.backend.offers("states"):
            return [blank]
        try:
            states = self.backend.states()
        except BackendFault as fault:
            return [_fault(blank, fault)]
        self._take_states(states)
        check = self._judged(blank, self.judge.states(states), LOCAL_BOUND)
        if check.verdict == "defect":
            check = replace(check, guess=self._explain_states(states))
        return [check]

    def _explain_states(self, states: Array) -> str | None:
        """The first step from a start of zero, a missing bias: defects of a trajectory that the first steps show."""
        zero = self.model.iterate(np.zeros_like(self.z0), self.inputs[:, :1])
        if np.allclose(states[:, :1], zero, rtol=100 * self.arithmetic.unit, atol=100 * self.arithmetic.unit):
            return "z0 dropped: the trajectory starts from zero"
        without = {name: np.zeros_like(v) for name, v in self.model.parameters.items() if name.startswith("bias")}
        starts, tolerance = self.judge.starts, 100 * self.arithmetic.unit
        claimed = np.moveaxis(states, 1, 0)
        candidates = [("bias missing: biases are left out", without)]
        candidates += [(f"bias missing: {name} is left out", {name: value}) for name, value in without.items()]
        weight = self.model.parameters["weight_hh"]
        blocks = weight.reshape(-1, weight.shape[1], weight.shape[1])
        for label, changed in (
            ("transpose: recurrent weight transposed", blocks.swapaxes(1, 2)),
            ("gate order: blocks of the weights exchanged", blocks[::-1]),
        ):
            candidates.append((label, {"weight_hh": changed.reshape(weight.shape)}))
        for label, parameters in candidates:
            value = self.model.evaluate(starts, self.judge.inputs, parameters)
            if parameters and np.abs(claimed - value).max() <= tolerance * max(1.0, np.abs(value).max()):
                return label
        for shift, word in ((1, "before"), (-1, "after")):
            value = self.model.evaluate(starts, np.roll(self.judge.inputs, shift, axis=0))
            if np.abs(claimed - value)[1:-1].max(initial=0.0) <= tolerance * max(1.0, np.abs(value).max()):
                return f"time shifted by one: inputs of the step {word}"
        return None

    def operator(self, operator: str) -> list[Check]:
        """The certificate of one operator, and the identities that it should obey by itself."""
        meaning, equation = _MEANING[operator]
        kind = "residual" if operator in ("P", "P_T", "P_inverse") else "value"
        blank = Check(f"{operator}.{kind}", operator, meaning, equation, "not offered")
        if not self.backend.offers(operator):
            return [blank]
        try:
            tensor = self._probe(operator)
            answer = self.backend(operator, tensor)
            self.backend.check_independence(operator, tensor, self._probe(operator))
        except BackendFault as fault:
            return [_fault(blank, fault)]
        self.answers[operator] = (tensor, answer)
        comparison = self._compare(operator, tensor, answer)
        check = self._judged(blank, comparison, SWEPT_BOUND if operator in ("NTK", "gradient") else LOCAL_BOUND)
        if check.verdict == "defect":
            check = replace(check, guess=self._guess(operator, tensor, answer, comparison))
        checks = [check]
        for make in (self._linearity, self._causality, self._trial_independence, self._layout):
            try:
                checks += make(operator)
            except BackendFault as fault:
                identity = replace(blank, identifier=f"{operator}.{make.__name__.strip('_')}")
                checks.append(_fault(identity, fault))
        return checks

    def _probe(self, operator: str) -> Array:
        """A random tensor that the arithmetic holds, scaled so that the answer stays in range."""
        shape = self.backend.shape_of(OPERATORS[operator][0])
        tensor = self.generator.standard_normal(shape)
        value = hypotheses.evaluate(operator, self.judge.form, self.flow.space, tensor)
        size = max(float(np.abs(value).max()), 1.0)
        limit = np.sqrt(self.arithmetic.largest)
        scale = 2.0 ** min(0.0, np.floor(np.log2(limit / size)))
        return self.arithmetic.round(tensor * scale)

    def _compare(self, operator: str, tensor: Array, answer: Array) -> Comparison:
        judge = self.judge
        calls: dict[str, Callable[[Array, Array], Comparison]] = {
            "P": judge.propagator,
            "P_T": judge.adjoint,
            "P_inverse": judge.propagator_inverse,
            "J": judge.parameter_jacobian,
            "J_T": judge.parameter_transpose,
            "K": judge.kernel,
            "NTK": judge.tangent_kernel,
            "gradient": judge.gradient,
        }
        return calls[operator](tensor, answer)

    def _judged(self, blank: Check, comparison: Comparison, bound: float) -> Check:
        ratio = comparison.ratio()
        largest = np.unravel_index(int(np.argmax(ratio)), ratio.shape)
        figure = float(ratio[largest])
        verdict: Verdict = "pass" if figure <= bound else "defect"
        first = None
        if verdict == "defect":
            first = self._place(ratio, self._first(ratio > bound))
        return replace(
            blank,
            verdict=verdict,
            figure=figure,
            bound=bound,
            worst_case=float(comparison.ratio(worst=True).max()),
            first=first,
            largest=self._place(ratio, largest),
            map=ratio.max(axis=2) if ratio.ndim == 3 else None,
        )

    @staticmethod
    def _first(bad: Array) -> tuple[int, ...]:
        """The first bad entry, in the order of time for a tensor."""
        if bad.ndim == 1:
            return (int(np.argmax(bad)),)
        step, trial, unit = np.argwhere(np.moveaxis(bad, 1, 0))[0]
        return int(trial), int(step), int(unit)

    def _place(self, ratio: Array, index: Any) -> Place:
        value = float(ratio[tuple(index)])
        if ratio.ndim == 3:
            trial, step, unit = (int(i) for i in index)
            return Place(value, trial, step, unit)
        return Place(value, parameter=self._parameter_name(int(index[0])))

    def _parameter_name(self, position: int) -> str:
        for name in self.model.trainable:
            array = self.model.parameters[name]
            if position < array.size:
                entry = np.unravel_index(position, array.shape)
                return f"{name}[{', '.join(str(int(i)) for i in entry)}]"
            position -= array.size
        raise IndexError("position beyond the parameters")

    def _guess(self, operator: str, tensor: Array, answer: Array, comparison: Comparison) -> str | None:
        try:
            double = self.backend(operator, 2 * tensor)
        except BackendFault:
            double = 2 * answer
        noise = float(np.linalg.norm(comparison.spread.deviation))
        size = float(np.linalg.norm(answer))
        if np.linalg.norm(double - 2 * answer) > 0.01 * size + 4 * noise:
            return "not linear: twice the argument is not twice the answer"
        explained = hypotheses.explain(self.judge, operator, tensor, answer, noise)
        return explained or self._precision(operator, tensor, answer)

    def _precision(self, operator: str, tensor: Array, answer: Array) -> str | None:
        """The coarsest of the other arithmetics, coarser than the declared one, that would explain the errors."""
        from kpref.oracle.arithmetic import ARITHMETICS

        declared = self.arithmetic
        judge = self.judge
        for name in ("float32", "tf32", "float16", "bfloat16"):
            other = ARITHMETICS[name]
            if max(other.unit, other.operand) <= max(declared.unit, declared.operand):
                continue
            self.judge = replace_arithmetic(judge, other)
            figure = float(self._compare(operator, tensor, answer).ratio().max())
            self.judge = judge
            if figure <= LOCAL_BOUND:
                return f"precision lower than declared: the errors are those of {name}"
        return None

    # Identities

    def _linearity(self, operator: str) -> list[Check]:
        """Scaling by a power of two is exact in binary arithmetic, and so must be its effect."""
        tensor, answer = self.answers[operator]
        scaled = self.backend(operator, tensor / 16)
        error = np.abs(16 * scaled - answer)
        spread = self._compare(operator, tensor, answer).spread
        blank = Check(
            f"{operator}.linearity",
            operator,
            "a sixteenth of the argument gives a sixteenth",
            "f(q/16) = f(q)/16",
            "pass",
        )
        return [self._judged(blank, Comparison(error, Spread(2 * spread.deviation, 2 * spread.worst)), LOCAL_BOUND)]

    def _causality(self, operator: str) -> list[Check]:
        """P moves nothing into the past, P^T nothing into the future."""
        steps = self.backend.shape[1]
        if operator not in ("P", "P_T", "P_inverse") or steps < 2:
            return []
        tensor, _ = self.answers[operator]
        cut = steps // 2
        part = tensor.copy()
        forward = operator != "P_T"
        hidden = slice(None, cut) if forward else slice(cut, None)
        part[:, hidden] = 0.0
        leaked = np.zeros_like(tensor)
        leaked[:, hidden] = self.backend(operator, part)[:, hidden]
        word = "past" if forward else "future"
        return [
            self._exact_zero(f"{operator}.causality", operator, f"nothing moves into the {word}", "y[m] = 0", leaked)
        ]

    def _trial_independence(self, operator: str) -> list[Check]:
        """P, P^T, P^-1 and J keep trials apart."""
        if operator not in ("P", "P_T", "P_inverse") or self.backend.shape[0] < 2:
            return []
        tensor, _ = self.answers[operator]
        part = np.zeros_like(tensor)
        part[0] = tensor[0]
        leaked = self.backend(operator, part)
        leaked[0] = 0.0
        return [self._exact_zero(f"{operator}.trials", operator, "trials do not mix", "y[b] = 0 for b > 0", leaked)]

    def _exact_zero(self, identifier: str, operator: str, meaning: str, equation: str, leaked: Array) -> Check:
        blank = Check(identifier, operator, meaning, equation, "pass")
        least = np.full(leaked.shape, self.arithmetic.unit * self.arithmetic.smallest)
        check = self._judged(blank, Comparison(leaked, Spread(least, least)), LOCAL_BOUND)
        if check.verdict == "defect":
            guess = "trials mixed" if identifier.endswith("trials") else "time: the wrong direction, or shifted"
            check = replace(check, guess=guess)
        return check

    def _layout(self, operator: str) -> list[Check]:
        """J on each parameter alone: order, layout, and z0 in the first step."""
        if operator != "J":
            return []
        checks, start = [], 0
        for name in self.model.trainable:
            size = self.model.parameters[name].size
            theta = np.zeros(self.backend.n_parameters)
            theta[start : start + size] = self.arithmetic.round(self.generator.standard_normal(size))
            answer = self.backend("J", theta)
            blank = Check(f"J.{name}", "J", f"derivative by {name} alone", "J_theta[n] theta", "pass")
            comparison = self.judge.parameter_jacobian(theta, answer)
            check = self._judged(blank, comparison, LOCAL_BOUND)
            if check.verdict == "defect":
                check = replace(check, guess=self._guess("J", theta, answer, comparison))
            checks.append(check)
            start += size
        return checks

    def pairs(self) -> list[Check]:
        """Dot tests, symmetry and positivity, between what the backend offers."""
        checks: list[Check] = []
        for first, second in (("P", "P_T"), ("J", "J_T")):
            if first in self.answers and second in self.answers:
                checks.append(self._dot_test(first, second))
        for operator in ("K", "NTK"):
            if operator in self.answers:
                checks += self._symmetry(operator)
        return checks

    def _dot_test(self, first: str, second: str) -> Check:
        """``<A q, g> = <q, A^T g>`` for the two answers at hand."""
        (q, image), (g, back) = self.answers[first], self.answers[second]
        left, right = float(np.vdot(image, g)), float(np.vdot(q, back))
        blank = Check(
            f"{first}.dot_test", first, f"{second} is the transpose of {first}", "<A q, g> = <q, A^T g>", "pass"
        )
        deviation = np.hypot(self._response(first, q, image, g), self._response(second, g, back, q))
        return self._scalar(blank, left - right, deviation, SWEPT_BOUND)

    def _response(self, operator: str, tensor: Array, answer: Array, other: Array) -> float:
        """Deviation of ``<answer, other>`` by the rounding of a backend, what sweeps do to it included."""
        spread = self._compare(operator, tensor, answer).spread
        weight = other
        if operator == "P":
            weight = hypotheses.evaluate("P_T", self.judge.form, self.flow.space, other)
        elif operator == "P_T":
            weight = hypotheses.evaluate("P", self.judge.form, self.flow.space, other)
        return float(np.linalg.norm(spread.deviation * weight))

    def _symmetry(self, operator: str) -> list[Check]:
        """``<p, A q> = <A p, q>`` and ``<q, A q> >= 0`` in the measure."""
        space = self.flow.space
        q, image_q = self.answers[operator]
        p = self._probe(operator)
        image_p = self.backend(operator, p)
        weighed_p, weighed_q = space.weigh(p), space.weigh(q)
        spread_q = self._compare(operator, q, image_q).spread.deviation
        spread_p = self._compare(operator, p, image_p).spread.deviation
        deviation = np.hypot(np.linalg.norm(spread_q * weighed_p), np.linalg.norm(spread_p * weighed_q))
        gap = float(np.vdot(weighed_p, image_q) - np.vdot(weighed_q, image_p))
        symmetric = Check(
            f"{operator}.symmetric", operator, "self-adjoint in the measure", "<p, A q>_X = <A p, q>_X", "pass"
        )
        positive = Check(f"{operator}.positive", operator, "no negative energy", "<q, A q>_X >= 0", "pass")
        energy = float(np.vdot(weighed_q, image_q))
        own = float(np.linalg.norm(spread_q * weighed_q))
        return [
            self._scalar(symmetric, gap, float(deviation), SWEPT_BOUND),
            self._scalar(positive, min(energy, 0.0), own, SWEPT_BOUND),
        ]

    @staticmethod
    def _scalar(blank: Check, error: float, deviation: float, bound: float) -> Check:
        figure = 0.0 if error == 0 else abs(error) / deviation if deviation > 0 else np.inf
        return replace(blank, verdict="pass" if figure <= bound else "defect", figure=float(figure), bound=bound)


def replace_arithmetic(judge: Judge, arithmetic: Arithmetic) -> Judge:
    """The same judge for another arithmetic."""
    import copy

    other = copy.copy(judge)
    other.arithmetic = arithmetic
    return other


def _fault(blank: Check, fault: BackendFault) -> Check:
    """A backend that raises or hangs could not be judged; one that answers with nonsense is wrong."""
    verdict: Verdict = "could not run" if fault.kind in ("raised", "timeout") else "defect"
    return replace(blank, verdict=verdict, message=str(fault), guess=None)
