"""Identities that the answers of an operator obey, whatever the right ones are: each is a check of its own.

Answers to arguments that an identity needs are certified as well; the worst of them is a check too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import chain

import numpy as np

from kpref._types import Array
from kpref.oracle.claimed_errors import Comparison
from kpref.oracle.evaluation import evaluate
from kpref.oracle.loss_scale import scale_of
from kpref.oracle.probes import special_arguments
from kpref.oracle.session import LOCAL_BOUND, NOT_DETERMINISTIC, NOT_LINEAR, Answer, Session
from kpref.oracle.spreads import Spread
from kpref.oracle.verdict import Check

__all__ = ["MEANING", "Identities"]

#: Guesses where an answer should be zero and is not.
_LEAKED = {
    "trials": "trials mixed",
    "causality": "time: the wrong direction, or shifted",
    "zero": "offset: something is added to every answer",
}

#: Operators of which each trial, and the past or the future of each point, is by itself.
_WITHIN_TRIALS = ("P", "P_T", "P_inverse", "P_inverse_T")

#: What each operator is, in words and as an equation.
MEANING = {
    "states": ("each step of the trajectory is the map", "z[n+1] = F(z[n], x[n])"),
    "P": ("the response obeys the linearised dynamics", "y[n] = A[n] y[n-1] + q[n]"),
    "P_T": ("the costate obeys the adjoint dynamics", "l[n] = A[n+1]^T l[n+1] + g[n]"),
    "P_inverse": ("the forcing is what the response comes from", "q[n] = y[n] - A[n] y[n-1]"),
    "J": ("parameter steps move the dynamics as they should", "(J theta)[n] = J_theta[n] theta"),
    "J_T": ("the transpose of J", "J^T g = sum_bn J_theta[b,n]^T g[b,n]"),
    "K": ("the parameter operator, measure included", "K = J J^T Mu"),
    "NTK": ("the neural tangent kernel, measure included", "NTK = P J J^T P^T Mu"),
    "gradient": ("the gradient of a loss with this derivative by the states", "J^T P^T Mu Err"),
    "P_inverse_T": ("the transpose of the inverse of P", "q[n] = g[n] - A[n+1]^T g[n+1]"),
    "D": ("the trajectory's derivative by the parameters", "y[n] = A[n] y[n-1] + J_theta[n] theta"),
    "D_T": ("the transpose of D", "D^T = J^T P^T"),
    "D_z0": ("the trajectory's derivative by the initial states", "y[0] = A[0] dz0, y[n] = A[n] y[n-1]"),
    "D_z0_T": ("the transpose of D_z0", "D_z0^T g = A[0]^T (P^T g)[0]"),
    "K_T": ("the transpose of K, measure included", "K^T = Mu J J^T"),
    "NTK_T": ("the transpose of the NTK, measure included", "NTK^T = Mu P J J^T P^T"),
    "gradient_T": ("the transpose of the gradient's operator", "Mu P J"),
}


@dataclass
class Identities(Session):
    """A session that holds answers against each other, and against zeros."""

    def certified(self, operator: str, tensor: Array, answer: Array) -> Answer:
        """An answer with its certificate; the one that errs most beyond the first is kept."""
        result = Answer(operator, tensor, answer, self.compare(operator, tensor, answer))
        self.keep_worst(result)
        return result

    def keep_worst(self, result: Answer) -> None:
        """Remember the verdict on the answer that errs most but for the first, and the answer if it is wrong."""
        operator = result.operator
        blank = Check(f"{operator}.answers", operator, "every other answer is right too", MEANING[operator][1], "pass")
        check = self.judged(blank, result.comparison, self.bound_of(operator))
        known = self.worst[0] if self.worst is not None and self.worst[0].operator == operator else None
        if known is None or (check.figure or 0.0) > (known.figure or 0.0):
            self.worst = check, result if check.verdict == "defect" else None

    def repeated(self, result: Answer, again: Array) -> list[Check]:
        """The same argument many times: sums that are not always taken in the same order round otherwise, no more."""
        operator, own = result.operator, result.comparison
        blank = Check(
            f"{operator}.repeated", operator, "the same argument gives the same answer", "f(q) = f(q)", "pass"
        )
        check = self.judged(blank, Comparison(0 * own.error, own.spread), self.bound_of(operator))
        for other in chain([again], (self.backend(operator, result.tensor) for _ in range(self.repeats))):
            if np.array_equal(other, result.answer):
                continue
            error = self.residual(result, other - result.answer)
            self.keep_worst(replace(result, answer=other, comparison=replace(own, error=own.error + error)))
            found = self.judged(blank, Comparison(error, own.spread.times(np.sqrt(2.0))), self.bound_of(operator))
            check = found if (found.figure or 0.0) > (check.figure or 0.0) else check
        return [replace(check, guess=NOT_DETERMINISTIC) if check.verdict == "defect" else check]

    def varies(self, result: Answer, tensor: Array, answer: Array) -> bool:
        """Whether an argument, that of a result or a multiple of it, gives another answer when it is given again."""
        error = self.residual(result, self.backend(result.operator, tensor) - answer)
        spread = result.comparison.spread.times(np.sqrt(2.0))
        return bool(Comparison(error, spread).ratio().max() > self.bound_of(result.operator))

    def special(self, result: Answer) -> list[Check]:
        """Arguments of another kind than random ones of order one; see `special_arguments`."""
        operator, zero = result.operator, np.zeros_like(result.tensor)
        for tensor in special_arguments(result.tensor, self.arithmetic):
            self.certified(operator, tensor, self.backend(operator, tensor))
        nothing = self.backend(operator, zero)
        return [self._exact_zero(f"{operator}.zero", operator, "nothing comes of nothing", "f(0) = 0", nothing)]

    def linearity(self, result: Answer) -> list[Check]:
        """Scaling by a power of two is exact in binary arithmetic, and so must be its effect, but for underflow.

        So the scaled answer has the certificate of the answer; where that is wrong, the two are compared. In a narrow
        range, which numbers on the way fall out of, it has one of its own.
        """
        operator, right = result.operator, result.operator not in self.defective
        scaled = self.backend(operator, result.tensor / -16)
        error = self.residual(result, -16 * scaled - result.answer)
        # A scaled gradient's argument is so many times as large as what is stored of it.
        lost = np.full(error.shape, 16 * scale_of(self.backend, operator) * self.judge.floor)
        spread = result.comparison.spread.times(1.0 if right else 2.0) + Spread(lost, lost)
        blank = Check(
            f"{operator}.linearity",
            operator,
            "minus a sixteenth of the argument gives minus a sixteenth",
            "f(-q/16) = -f(q)/16",
            "pass",
        )
        comparison = replace(
            result.comparison, error=error + result.comparison.error if right else error, spread=spread
        )
        if self.narrow and right:
            comparison = self.compare(operator, result.tensor / -16, scaled)
        check = self.judged(blank, comparison, self.bound_of(operator))
        if check.verdict != "defect":
            return [check]
        varies = self.varies(result, result.tensor / -16, scaled)
        return [replace(check, guess=NOT_DETERMINISTIC if varies else NOT_LINEAR)]

    def causality(self, result: Answer) -> list[Check]:
        """P and its inverse move nothing into the past, their transposes nothing into the future."""
        operator, tensor = result.operator, result.tensor
        steps = self.backend.shape[1]
        if operator not in _WITHIN_TRIALS or steps < 2:
            return []
        cut = steps // 2
        part = tensor.copy()
        forward = operator not in ("P_T", "P_inverse_T")
        hidden = slice(None, cut) if forward else slice(cut, None)
        part[:, hidden] = 0.0
        leaked, answer = np.zeros_like(tensor), self.backend(operator, part)
        self.certified(operator, part, answer)
        leaked[:, hidden] = self.existing(answer)[:, hidden]
        word = "past" if forward else "future"
        check = self._exact_zero(
            f"{operator}.causality", operator, f"nothing moves into the {word}", "y[m] = 0", leaked
        )
        if check.verdict != "defect":
            return [check]
        # Elimination leaves rounding where zeros should be.
        parallel = self.parallel(operator, part, answer)
        if parallel is None:
            return [check]
        blank = replace(check, guess=None, first=None, largest=None)
        return [self.judged(blank, replace(parallel.comparison, error=leaked), self.swept_bound)]

    def trial_independence(self, result: Answer) -> list[Check]:
        """P, its inverse and their transposes keep trials apart."""
        operator, tensor = result.operator, result.tensor
        if operator not in _WITHIN_TRIALS or self.backend.shape[0] < 2:
            return []
        part = np.zeros_like(tensor)
        part[0] = tensor[0]
        leaked = self.certified(operator, part, self.backend(operator, part)).answer.copy()
        leaked[0] = 0.0
        return [self._exact_zero(f"{operator}.trials", operator, "trials do not mix", "y[b] = 0 for b > 0", leaked)]

    def _exact_zero(self, identifier: str, operator: str, meaning: str, equation: str, leaked: Array) -> Check:
        blank = Check(identifier, operator, meaning, equation, "pass")
        least = np.full(leaked.shape, self.arithmetic.unit * self.arithmetic.smallest)
        check = self.judged(blank, Comparison(self.existing(leaked), Spread(least, least)), LOCAL_BOUND)
        if check.verdict == "defect":
            check = replace(check, guess=_LEAKED[identifier.split(".")[1]])
        return check

    def pairs(self, result: Answer, other: Answer) -> list[Check]:
        """Dot test against the transpose, or symmetry and positivity; answers are kept no longer than needed."""
        if result.operator in ("K", "NTK"):
            return self._symmetry(result, other)
        for first, second in (("P", "P_T"), ("J", "J_T")):
            if result.operator == first and self.backend.offers(second):
                self.waiting = self._with_response(result)
            elif result.operator == second and self.waiting is not None:
                waiting, self.waiting = self.waiting, None
                return [self._dot_test(waiting, self._with_response(result))]
        return []

    def _with_response(self, result: Answer) -> Answer:
        """Deviations of an answer, what sweeps do to errors of each step included.

        Of an answer of P or P^T the certificate knows those of each step; random ones of this size are sent through.
        """
        own = result.comparison.spread.deviation
        if result.operator not in ("P", "P_T") or result.comparison.parallel:
            return replace(result, comparison=Comparison(own, Spread(own, own)))  # the rest is not needed any more
        squares = np.zeros(result.answer.shape)
        for _ in range(8):
            noise = self.generator.standard_normal(own.shape) * own
            with np.errstate(over="ignore", invalid="ignore"):
                squares += np.square(evaluate(result.operator, self.judge.carrying, self.flow.space, noise)) / 8
        swept = np.sqrt(squares)
        return replace(result, comparison=Comparison(swept, Spread(swept, swept)))

    def _dot_test(self, first: Answer, second: Answer) -> Check:
        """``<A q, g> = <q, A^T g>`` for the two answers at hand."""
        left, right = float(np.vdot(first.answer, second.tensor)), float(np.vdot(first.tensor, second.answer))
        wrong = [answer.operator for answer in (first, second) if answer.operator in self.defective]
        blank = Check(
            f"{first.operator}.dot_test",
            wrong[0] if wrong else second.operator,
            f"{second.operator} is the transpose of {first.operator}",
            "<A q, g> = <q, A^T g>",
            "pass",
        )
        deviation = np.hypot(
            np.linalg.norm(first.comparison.spread.deviation * second.tensor),
            np.linalg.norm(second.comparison.spread.deviation * first.tensor),
        )
        return self.scalar(blank, left - right, float(deviation), self.swept_bound)

    def _symmetry(self, result: Answer, second: Answer) -> list[Check]:
        """``<p, A q> = <A p, q>`` and ``<q, A q> >= 0`` in the measure."""
        operator, q, image_q, p, image_p = result.operator, result.tensor, result.answer, second.tensor, second.answer
        weighed_p, weighed_q = self.flow.space.weigh(p), self.flow.space.weigh(q)
        own = result.comparison.spread.deviation
        deviation = np.hypot(_length(own, weighed_p), _length(second.comparison.spread.deviation, weighed_q))
        gap = float(np.vdot(weighed_p, image_q) - np.vdot(weighed_q, image_p))
        energy = float(np.vdot(weighed_q, image_q))
        symmetric = Check(
            f"{operator}.symmetric", operator, "self-adjoint in the measure", "<p, A q>_X = <A p, q>_X", "pass"
        )
        positive = Check(f"{operator}.positive", operator, "no negative energy", "<q, A q>_X >= 0", "pass")
        return [
            self.scalar(symmetric, gap, float(deviation), self.swept_bound),
            self.scalar(positive, min(energy, 0.0), _length(own, weighed_q), self.swept_bound),
        ]


def _length(deviation: Array, weights: Array) -> float:
    """Norm of weighed deviations; what has no weight counts for nothing, though it be infinite."""
    return float(np.linalg.norm(deviation[weights != 0] * weights[weights != 0]))
