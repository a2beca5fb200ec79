"""`verify_exact`: on a problem of whole numbers a right backend is right to the last bit.

No bound, no deviation: each answer equals that of `kpref.oracle.integers`, or is wrong, and the first wrong entry is
named. The problem must be one that `kpref.oracle.integers.integer_flow` made, or of that kind, and its numbers must fit
into the backend's arithmetic; both are asserted before anything is judged.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from kpref._types import Array
from kpref._validate import integer, real_number
from kpref.flow import Flow, require_noiseless_flow
from kpref.oracle import hypotheses
from kpref.oracle.arithmetic import Arithmetic
from kpref.oracle.backend import OPERATORS, Backend, BackendFault
from kpref.oracle.claimed_errors import Comparison
from kpref.oracle.evaluation import FACTORS
from kpref.oracle.integers import Integers
from kpref.oracle.session import LOCAL_BOUND, NOT_LINEAR, Session
from kpref.oracle.spreads import Spread
from kpref.oracle.trajectories import explain_states
from kpref.oracle.verdict import Check, Report, faulty

__all__ = ["exact_names", "verify_exact"]


#: What errors are divided by where a class of defect is sought: what explains an answer leaves none at all.
_TINY = 2.0**-30


def exact_names() -> list[str]:
    """Identifiers of the checks that `verify_exact` makes."""
    return [f"{name}.exact" for name in ("states", *OPERATORS)]


def verify_exact(
    backend: Any, flow: Flow, arithmetic: str | Arithmetic | None = None, seed: int = 0, timeout: float | None = None
) -> Report:
    """Check a backend's operators on a problem of whole numbers: equal to the last bit, or wrong.

    Parameters
    ----------
    backend : object
        As `kpref.oracle.verify` takes it; `metrics` are not looked at.
    flow : Flow
        The problem that the backend was given: one of `kpref.oracle.integer_flow`, or another of whole numbers.
    arithmetic : str or Arithmetic, optional
        By default what the backend's `arithmetic` or `dtype` says. Whole numbers below ``2**p`` are exact in it.
    seed : int
        Of the tensors of whole numbers that the operators are applied to.
    timeout : float, optional
        Seconds that a call may take, as of `kpref.oracle.verify`.

    Returns
    -------
    Report

    Raises
    ------
    TypeError
        If the flow is not of a network in discrete time.
    NotExact
        A ValueError: if numbers are not whole, a pre-activation is zero, or sums of magnitudes do not fit into the
        arithmetic.
    ValueError
        If the arithmetic is unknown.

    Examples
    --------
    >>> import kpref
    >>> flow = kpref.oracle.integer_flow("rnn", trials=2, steps=5, states=4)
    >>> kpref.oracle.verify_exact(kpref.oracle.flow_backend(flow, "float32"), flow).passed
    True
    """
    require_noiseless_flow(flow)
    seed = integer("seed", seed, 0)
    if timeout is not None:
        timeout = real_number("timeout", timeout, above=0)
    integers = Integers.of(flow)
    wrapped = Backend.of(backend, integers.shape, flow.model.n_parameters, arithmetic, timeout)
    generator = np.random.default_rng(seed)
    probes = {
        name: generator.integers(-2, 3, wrapped.shape_of(space)).astype(float) for name, (space, _) in OPERATORS.items()
    }
    offered = [name for name in OPERATORS if wrapped.offers(name)]
    integers.require(offered, [probes[name] for name in offered], wrapped.arithmetic)
    session = Session(wrapped, flow, generator)
    checks = [_states(session, integers)]
    checks += [_operator(session, integers, name, probe) for name, probe in probes.items()]
    words = "since nothing rounds whole numbers"
    return Report(tuple(checks), wrapped.arithmetic.name, f"{flow!r} of whole numbers", unmeasured=words)


def _blank(operator: str) -> Check:
    meaning = f"{operator} of whole numbers, equal to the last bit"
    return Check(f"{operator}.exact", operator, meaning, "error = 0", "not offered")


def _states(session: Session, integers: Integers) -> Check:
    blank = _blank("states")
    if not session.backend.offers("states"):
        return blank
    try:
        states = session.backend.states()
    except BackendFault as fault:
        return faulty(blank, fault)
    check = _compared(session, blank, states, integers.states)
    if check.verdict == "pass":
        return check
    session.take_states(states)
    residual = session.judge.states(states)
    guess = explain_states(session.judge, session.z0, states, residual, LOCAL_BOUND)
    session.take_states(None)
    return replace(check, guess=guess or None)


def _operator(session: Session, integers: Integers, operator: str, probe: Array) -> Check:
    blank = _blank(operator)
    if not session.backend.offers(operator):
        return replace(blank, message=session.backend.not_offered.get(operator, ""))
    try:
        answer = session.backend(operator, probe)
        truth = integers.answer(operator, probe)
        check = _compared(session, blank, answer, truth)
        return (
            check if check.verdict == "pass" else replace(check, guess=_guess(session, operator, probe, answer, truth))
        )
    except BackendFault as fault:
        return faulty(blank, fault)


def _guess(session: Session, operator: str, probe: Array, answer: Array, truth: Array) -> str | None:
    """The class of a defect: that of what this operator is made of, or its own."""
    culprits = [name for name in ("states", *FACTORS.get(operator, ())) if name in session.defective]
    if culprits:
        return f"follows: from the defect of {' and '.join(culprits)}"
    if not np.array_equal(-16 * session.backend(operator, probe / -16), answer):
        return NOT_LINEAR
    # Hypotheses are tried on the residuals of P and P^T.
    error = session.judge.residual(operator, answer) - session.judge.residual(operator, truth)
    tiny = np.full(error.shape, _TINY)
    comparison = Comparison(error, Spread(tiny, tiny))
    return hypotheses.explain(session.judge, operator, probe, answer, comparison, LOCAL_BOUND) or None


def _compared(session: Session, blank: Check, answer: Array, truth: Array) -> Check:
    """The verdict on an answer: its bits decide, but for the sign of zeros."""
    none = np.zeros(truth.shape)
    check = session.judged(blank, Comparison(answer - truth, Spread(none, none)), 0.0)
    if check.first is None:
        return check
    session.defective.add(blank.operator)
    first, wrong = check.first, answer != truth
    # Of parameters their number; of starts there is no step.
    place = tuple(i for i in (first.trial, first.step, first.unit) if i is not None) or int(np.argmax(wrong))
    message = (
        f"first at {first}: {float(answer[place]):.17g} where {float(truth[place]):.17g} is right; "
        f"{np.count_nonzero(wrong)} of {wrong.size} entries differ"
    )
    return replace(check, largest=None, worst_case=None, message=message)
