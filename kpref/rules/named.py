"""Rules by name: those that need no argument, as they are by default."""

from __future__ import annotations

from collections.abc import Callable

from kpref._validate import one_of
from kpref.rules.approximate import feedback_alignment, local_online
from kpref.rules.descent import Rule, backpropagation, gauss_newton, one_step_gauss_newton
from kpref.rules.preconditioned import adagrad, kronecker_factored, shampoo

__all__ = ["RULES", "get"]

#: What makes each of the rules that need no argument.
RULES: dict[str, Callable[[], Rule]] = {
    "adagrad": adagrad,
    "backpropagation": lambda: backpropagation,
    "feedback_alignment": feedback_alignment,
    "gauss_newton": gauss_newton,
    "kronecker_factored": kronecker_factored,
    "local_online": local_online,
    "one_step_gauss_newton": one_step_gauss_newton,
    "shampoo": shampoo,
}


def get(name: str) -> Rule:
    """The rule of a name, as it is by default.

    Parameters
    ----------
    name : str
        One of `RULES`.

    Raises
    ------
    ValueError
        If there is none of that name, or it needs arguments.
    """
    one_of("rule", name, RULES)
    return RULES[name]()
