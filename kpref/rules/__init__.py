"""Learning rules as operators: what comes of an error in the parameters, and from there in the states.

A *rule* is a function ``rule(flow, err) -> G`` of a `kpref.Flow` and an error (B, T, H), the derivative of the loss
density by the states. G is a `TensorOperator` from trajectories to parameters, linear, and made at this error where its
statistics depend on it. A step of the rule is ``dtheta = -eta G Err``, so that ``dz = -eta Phi Err``, ``Phi = D G``.

>>> import numpy as np, kpref
>>> from kpref import rules
>>> flow = kpref.Flow(kpref.models.GRU.init(3, 8, seed=0), np.ones((5, 20, 3)))
>>> err = np.ones(flow.states.shape)
>>> rules.direction(rules.truncated(4), flow, err).shape
(315,)
"""

from kpref.rules.approximate import feedback_alignment, local_online, truncated
from kpref.rules.compared import RuleComparison, compare_rules
from kpref.rules.descent import (
    Rule,
    backpropagation,
    direction,
    functional_descent,
    gauss_newton,
    one_step_gauss_newton,
    phi,
)
from kpref.rules.named import RULES, get
from kpref.rules.preconditioned import adagrad, adam, diagonal, kronecker_factored, shampoo

__all__ = [
    "RULES",
    "Rule",
    "RuleComparison",
    "adagrad",
    "adam",
    "backpropagation",
    "compare_rules",
    "diagonal",
    "direction",
    "feedback_alignment",
    "functional_descent",
    "gauss_newton",
    "get",
    "kronecker_factored",
    "local_online",
    "one_step_gauss_newton",
    "phi",
    "shampoo",
    "truncated",
]
