"""One backend on one problem: what it is applied to, how its answers are held against the reference, and where."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kpref._types import Array
from kpref.flow import Flow
from kpref.models.step import StepModel
from kpref.oracle.arithmetic import ARITHMETICS, Arithmetic
from kpref.oracle.backend import OPERATORS, Backend, BackendFault
from kpref.oracle.claimed_errors import Comparison
from kpref.oracle.evaluation import SWEPT, WEIGHED_BEFORE, factors_of, intermediates
from kpref.oracle.further import FullJudge
from kpref.oracle.loss_scale import scale_of
from kpref.oracle.parallel_solves import PARALLEL, SOLVES, ParallelSolve, parallel_solve
from kpref.oracle.spreads import Spread
from kpref.oracle.verdict import Check, Place, Verdict
from kpref.threads import one_blas_thread, serial_blas

__all__ = [
    "APPROXIMATED",
    "INSIDE",
    "LOCAL_BOUND",
    "NOT_DETERMINISTIC",
    "NOT_LINEAR",
    "REPEATS",
    "SWEPT_BOUND",
    "Answer",
    "OutOfRange",
    "Session",
]

#: Bounds in standard deviations: of one product, and of errors that a sweep has carried along. The deviation of the
#: latter is the root mean square of 16 random errors or more (`kpref.oracle.certificates`). A sweep adds up many
#: errors, so that they are normal, and their ratio to it is Student's t of 16 degrees of freedom. Deviations count
#: units of rounding, and an error that is uniform within a unit has one of 3^(-1/2) of it: a figure beyond 8 is a t
#: beyond 13.9, of which the chance is 2.5e-10 (of 15 at eight random errors it was 5e-9). Right backends reach 3.4.
LOCAL_BOUND = 10.0
SWEPT_BOUND = 8.0
#: How much more where functions are approximated: their deviation is half of their largest error, and they err alike
#: wherever their argument is the same.
APPROXIMATED = 2.0

#: What is said of an answer that does not scale.
NOT_LINEAR = "not linear: minus a sixteenth of the argument does not give minus a sixteenth of the answer"

NOT_DETERMINISTIC = "not deterministic: the same argument does not always give the same answer"

#: How often an answer is asked for again. With the calls for other reasons an operator of a map is called twelve times
#: at least, so that an error in every tenth call does not escape, and one in a tenth of them, at random, not often.
REPEATS = 8

#: A coarser arithmetic explains errors only if they reach this part of a deviation of it.
_IDLE = 0.05

#: How much larger than answers sums inside a step may be, where the range is narrow.
INSIDE = 16.0
#: Numbers beyond it are not asked for: the analysis squares them.
_LARGEST = 1e70


class OutOfRange(Exception):
    """No tensor of numbers of the arithmetic leads to an answer of such."""

    @classmethod
    def of(cls, operator: str, arithmetic: Arithmetic) -> OutOfRange:
        """What an operator makes of numbers that the arithmetic holds, or what arises on the way, it does not."""
        return cls(f"numbers of {operator}, or on the way to them, are beyond the range of {arithmetic.name}")


@dataclass(frozen=True, eq=False)
class Answer:
    """What an operator was applied to, what it gave, and what rounding explains of it."""

    operator: str
    tensor: Array
    answer: Array
    comparison: Comparison


@dataclass
class Session:
    """A backend on the problem of a flow, its data rounded to what the arithmetic holds.

    `judge`: at the backend's trajectory, or at the model's own.
    """

    backend: Backend
    flow: Flow
    generator: np.random.Generator  # of the tensors that operators are applied to
    repeats: int = REPEATS

    def __post_init__(self) -> None:
        self.arithmetic = self.backend.arithmetic
        model = self.flow.model
        assert isinstance(model, StepModel)
        self.model: Any = model.with_parameters(
            {name: self.arithmetic.round(value) for name, value in model.parameters.items()}
        )
        self.inputs = self.arithmetic.round(self.flow.inputs)
        self.z0 = self.arithmetic.round_state(self.flow.z0)
        self.defective: set[str] = set()  # operators whose certificate failed
        self.waiting: Answer | None = None  # of an operator whose transpose is still to come
        self.worst: tuple[Check, Answer | None] | None = None  # of the answers of an operator beside the first
        self.take_states(None)

    def take_states(self, states: Array | None) -> None:
        """Linearise at the backend's trajectory, or at the model's own, of which `furthest` is the largest number."""
        if states is None:
            states = np.asarray(self.model.iterate(self.z0, self.inputs))
            self.furthest = float(np.abs(self.existing(states)).max(initial=0.0))
        starts = np.concatenate([self.z0[:, None], states[:, :-1]], axis=1)
        self.judge = FullJudge(self.model, starts, self.inputs, self.flow.space, self.arithmetic)

    def probe(self, operator: str) -> Array:
        """A random tensor that the arithmetic holds, scaled so that everything on the way stays in range.

        Where the dynamics grow beyond the range, only the part that travels least far is other than zero.
        """
        self.require_range()
        shape = self.backend.shape_of(OPERATORS[operator][0])
        tensor = self.existing(self.generator.standard_normal(shape))
        length, loss = self.backend.shape[1], scale_of(self.backend, operator)
        while True:
            with np.errstate(over="ignore", invalid="ignore"):
                size = self._size(operator, loss * tensor, within=self.narrow)
            if scale := self.scale_of_probe(size):
                return loss * self.arithmetic.round_state(tensor * scale)
            length //= 2
            if operator not in ("P", "P_T", "gradient", "D_T") or length == 0:
                raise OutOfRange.of(operator, self.arithmetic)
            tensor[:, slice(None, -length) if operator == "P" else slice(length, None)] = 0.0

    @property
    def narrow(self) -> bool:
        """Whether the range is that of float16, not of float32 or more."""
        return self.arithmetic.largest < 1e30

    def scale_of_probe(self, size: float) -> float:
        """The power of two, at most one, that makes all on the way to an answer small enough; 0 if none is held.

        `size`: of the largest number on the way. A wide range leaves room on both sides for what else arises; of a
        narrow one nearly all is needed.
        """
        largest, smallest = self.arithmetic.largest, self.arithmetic.smallest
        limit, least = largest / 64, smallest
        if not self.narrow:
            limit, least = min(np.sqrt(largest), _LARGEST), max(smallest / self.arithmetic.unit, 1 / _LARGEST)
        scale = 2.0 ** min(0.0, np.floor(np.log2(limit / max(size, 1.0)))) if np.isfinite(size) else 0.0
        return float(scale) if scale >= least else 0.0

    def in_range(self, operator: str, tensor: Array) -> Array:
        """A tensor, or so small a multiple of it that everything on the way to its answer is held."""
        with np.errstate(over="ignore", invalid="ignore"):
            scale = self.scale_of_probe(self._size(operator, tensor, within=self.narrow))
        if not scale:
            raise OutOfRange.of(operator, self.arithmetic)
        return self.arithmetic.round_state(tensor * scale)

    def _size(self, operator: str, tensor: Array, within: bool) -> float:
        """The largest number on the way to an answer, and inside a step, which may be `INSIDE` times as large."""
        given, size = self.flow.space.weigh(tensor) if operator in WEIGHED_BEFORE else tensor, 0.0
        values = list(intermediates(operator, self.judge.form, self.flow.space, tensor))
        if within and np.isfinite(values[-1]).all():
            for factor, value in zip(factors_of(operator), values, strict=False):
                size, given = max(size, self.judge.reach(factor, given, value) / INSIDE), value
        return float(np.max([size, *(np.abs(value).max() for value in values)]))

    def require_range(self) -> None:
        """Raise OutOfRange where the trajectory itself comes near the largest number, or beyond it."""
        if not self.furthest < self.arithmetic.largest / 2:
            raise OutOfRange(
                f"the states grow to {self.furthest:.3g}, near or beyond the range of {self.arithmetic.name}, whose "
                f"largest number is {self.arithmetic.largest:.3g}; take fewer steps, smaller inputs or initial states"
            )

    @property
    def swept_bound(self) -> float:
        """What errors that a sweep has carried along are held to, in this arithmetic."""
        return SWEPT_BOUND * (APPROXIMATED if self.arithmetic.elementary else 1.0)

    def bound_of(self, operator: str) -> float:
        """What the certificate of an operator is held to."""
        return self.swept_bound if operator in SWEPT else LOCAL_BOUND

    def compare(self, operator: str, tensor: Array, answer: Array) -> Comparison:
        """The certificate of an operator's answer."""
        answer = self.existing(answer)
        found = self._compared(operator, tensor, answer)
        if operator in self.defective or found.ratio().max() <= min(LOCAL_BOUND, self.bound_of(operator)):
            return found
        if operator in SOLVES:
            solve = self.parallel(operator, tensor, answer)
            return found if solve is None else solve.comparison
        return self._behind_own_solve(operator, tensor, answer) or found

    @serial_blas
    def _compared(self, operator: str, tensor: Array, answer: Array) -> Comparison:
        """The certificate of an answer as of what goes step by step."""
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
            "P_inverse_T": judge.adjoint_inverse,
            "D": judge.sensitivity_residual,
            "D_T": judge.sensitivity_transpose,
            "D_z0": judge.initial_response,
            "D_z0_T": judge.initial_transpose,
            "K_T": judge.kernel_transpose,
            "NTK_T": judge.tangent_kernel_transpose,
            "gradient_T": judge.gradient_transpose,
        }
        return self.counted(operator, calls[operator](tensor, answer))

    def existing(self, array: Array) -> Array:
        """An array with zeros at points behind the ends of trials; one that is over no points as it is.

        Whether trials stand still there, or run on over inputs that are zero, is a backend's own choice.
        """
        return self.flow.space.clear(array) if array.ndim > 2 else array

    def counted(self, operator: str, comparison: Comparison) -> Comparison:
        """A comparison of what counts.

        Errors at points that do not exist do not. And an answer of a scaled loss that is divided and stored again
        loses what is tiny there.
        """
        comparison = replace(comparison, error=self.existing(comparison.error))
        loss = scale_of(self.backend, operator)
        if loss == 1.0 or not self.backend.unscaled:
            return comparison
        lost = np.full(comparison.error.shape, loss * self.arithmetic.underflow)
        return replace(comparison, spread=comparison.spread + Spread(lost, lost))

    @serial_blas
    def parallel(self, operator: str, tensor: Array, answer: Array) -> ParallelSolve | None:
        """The certificate of an answer as of a parallel solve; None where that does not explain it."""
        if operator not in SOLVES or operator in self.defective:
            return None
        judge, answer = self.judge, self.existing(answer)
        compare = {"P": judge.propagator, "P_T": judge.adjoint, "D": judge.sensitivity_residual}[operator]
        local = self.counted(operator, compare(tensor, answer))
        return parallel_solve(
            judge, operator, tensor, local, lambda right: compare(tensor, right).spread, self.swept_bound
        )

    def _behind_own_solve(self, operator: str, tensor: Array, answer: Array) -> Comparison | None:
        """The certificate of ``J^T l`` for the backend's own l, where that is right, as a parallel solve or not.

        So ``D^T g`` and the gradient are held to one product, not to what a sequential sweep makes of rounding. A
        costate that passes step by step too may be one of a parallel solve: then only what it explains counts.
        """
        if operator not in ("D_T", "gradient") or not self.backend.offers("P_T"):
            return None
        source = self.flow.space.weigh(tensor) if operator == "gradient" else tensor
        source = self.arithmetic.round_state(source)
        try:  # with the threads of BLAS that the answer had: the last bits of an elimination depend on them
            costate = self.existing(self.backend("P_T", source))
        except BackendFault:
            return None
        own = self.compare("P_T", source, costate)
        if own.ratio().max() > (self.swept_bound if own.parallel else LOCAL_BOUND):
            return None
        with one_blas_thread():
            found = replace(self.counted(operator, self.judge.parameter_transpose(costate, answer)), parallel=True)
        return found if own.parallel or found.ratio().max() <= self.bound_of(operator) else None

    def residual(self, result: Answer, change: Array) -> Array:
        """What a change of an answer changes in the error that its certificate is about."""
        change = self.existing(change)
        return change if result.comparison.parallel else self.existing(self.judge.residual(result.operator, change))

    def precision(
        self,
        compare: Callable[[], Comparison],
        bound: float = LOCAL_BOUND,
        least: float = _IDLE,
        accept: Callable[[Comparison], bool] = lambda _: True,
    ) -> str | None:
        """The finest arithmetic coarser than the declared one that explains the errors: from `least` to `bound`.

        `accept` says of a comparison in that arithmetic whether it looks like rounding.
        """
        declared, judge = self.arithmetic, self.judge
        for name in ("float32", "tf32", "float16", "bfloat16"):
            other = ARITHMETICS[name]
            if max(other.unit, other.operand) <= max(declared.unit, declared.operand):
                continue
            self.judge = judge.with_arithmetic(other)
            try:
                comparison = compare()
            finally:
                self.judge = judge
            if least < comparison.ratio().max() <= bound and accept(comparison):
                return f"precision lower than declared: the errors are those of {name}"
        return None

    def judged(self, blank: Check, comparison: Comparison, bound: float) -> Check:
        """A check with figure, verdict and places filled in."""
        ratio = comparison.ratio()
        if comparison.parallel:
            bound, blank = self.swept_bound, replace(blank, message=PARALLEL)
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
        if bad.ndim < 3:
            return tuple(int(i) for i in np.argwhere(bad)[0])
        step, trial, unit = np.argwhere(np.moveaxis(bad, 1, 0))[0]
        return int(trial), int(step), int(unit)

    def _place(self, ratio: Array, index: Any) -> Place:
        value = float(ratio[tuple(index)])
        if ratio.ndim == 3:
            trial, step, unit = (int(i) for i in index)
            return Place(value, trial, step, unit)
        if ratio.ndim == 2:
            return Place(value, trial=int(index[0]), unit=int(index[1]))
        return Place(value, parameter=self._parameter_name(int(index[0])))

    def _parameter_name(self, position: int) -> str:
        for name in self.model.trainable:
            array = self.model.parameters[name]
            if position < array.size:
                entry = np.unravel_index(position, array.shape)
                return f"{name}[{', '.join(str(int(i)) for i in entry)}]"
            position -= array.size
        raise IndexError("position beyond the parameters")

    @staticmethod
    def scalar(blank: Check, error: float, deviation: float, bound: float) -> Check:
        """A check of one number: as `Comparison.ratio`."""
        alone = np.full(1, deviation)
        figure = float(Comparison(np.full(1, error), Spread(alone, alone)).ratio()[0])
        return replace(blank, verdict="pass" if figure <= bound else "defect", figure=figure, bound=bound)
