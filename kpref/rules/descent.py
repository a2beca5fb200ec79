"""Rules without approximation: backpropagation, descent in the space of functions, and Gauss and Newton's.

    backpropagation           G = D*                        Phi = D D* = NTK
    functional descent                                      Phi = P P*
    one-step Gauss-Newton     G = (J* J + d)^+ J* P*        Phi = P J (J* J + d)^+ J* P*
    Gauss-Newton              G = (D* D + d)^+ D*           Phi = D (D* D + d)^+ D*

Functional descent moves the dynamics at each point by ``-P* Err``, which no change of parameters does; the one-step
form is the change of parameters that comes nearest to it, Gauss-Newton the one that brings the change of the states
nearest to ``-Err`` (Hazelden et al., arXiv:2507.06381).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from kpref._types import Array
from kpref._validate import finite_array, function, real_number, short
from kpref.flow import Flow, require_flow
from kpref.operators import TensorOperator
from kpref.spectra import inverse

__all__ = [
    "Rule", "backpropagation", "direction", "functional_descent", "gauss_newton", "one_step_gauss_newton", "phi",
    "require_err",
]  # fmt: skip

#: From a flow and an error (B, T, H) to G, from trajectories to parameters.
Rule = Callable[[Flow, Array], TensorOperator]


def direction(rule: Rule, flow: Flow, err: npt.ArrayLike) -> Array:
    """``G Err``, shape (M,): what a step of the rule subtracts from the parameters, per unit learning rate.

    Parameters
    ----------
    rule : callable
        One of `kpref.rules`, or a function of your own; see there.
    flow : Flow
    err : array_like, shape (B, T, H)
        Such as ``flow.gradient_flow(...).err``.

    Raises
    ------
    TypeError, ValueError
        If an argument is something else, or has another shape.
    """
    return np.asarray(_made(rule, flow, err)(require_err(flow, err)))


def phi(rule: Rule, flow: Flow, err: npt.ArrayLike) -> TensorOperator:
    """``Phi = D G``, from errors to ``-dz / eta``. Arguments and errors as for `direction`."""
    made = _made(rule, flow, err)
    return (flow.D @ made).renamed("Phi")


def backpropagation(flow: Flow, err: Array) -> TensorOperator:
    """The gradient: ``G = D*``."""
    return require_flow(flow).D.star


def functional_descent(flow: Flow) -> TensorOperator:
    """``Phi = P P*``, of a change of the dynamics at each point for itself: no rule, since no parameters do it."""
    return require_flow(flow).P.gram("P P*")


def one_step_gauss_newton(damping: float = 0.0, tol: float = 1e-8) -> Rule:
    """Functional descent projected back on what parameters can do: ``G = (J* J + d)^+ J* P*``.

    Parameters
    ----------
    damping : float
        d, at least 0.
    tol : float
        Of the least-squares solver; see `kpref.inverse`.
    """
    damping, tol = real_number("damping", damping, least=0), real_number("tol", tol, above=0)

    def rule(flow: Flow, err: Array) -> TensorOperator:
        return inverse(flow.J, damping, tol) @ flow.P.star

    return rule


def gauss_newton(damping: float = 0.0, tol: float = 1e-8) -> Rule:
    """``G = (D* D + d)^+ D*``. Parameters as for `one_step_gauss_newton`."""
    damping, tol = real_number("damping", damping, least=0), real_number("tol", tol, above=0)

    def rule(flow: Flow, err: Array) -> TensorOperator:
        return inverse(flow.D, damping, tol)

    return rule


def require_err(flow: Flow, err: npt.ArrayLike) -> Array:
    """An error of a flow, or ValueError."""
    return finite_array("err", err, shape=require_flow(flow).space.shape, axes=("trial", "step", "state"))


def _made(rule: Rule, flow: Flow, err: npt.ArrayLike) -> TensorOperator:
    error = require_err(flow, err)
    if isinstance(rule, TensorOperator):
        raise TypeError(f"rule must be a function of a flow and an error, as those of kpref.rules are; got {rule!r}")
    function("rule", rule, "a flow and an error")
    made = rule(flow, error)
    if not isinstance(made, TensorOperator) or (made.space_in, made.space_out) != (flow.space, flow.D.space_in):
        raise TypeError(f"rule must return a TensorOperator from trajectories to parameters; got {short(made)}")
    return made
