"""Operators on trajectories as SciPy LinearOperators, and the operators of the K-P flow."""

from kpref.operators.propagation import (
    initial_state_jacobian,
    kernel,
    neural_tangent_kernel,
    parameter_jacobian,
    propagator,
    propagator_inverse,
)
from kpref.operators.tensor import Structure, TensorOperator, identity

__all__ = [
    "Structure",
    "TensorOperator",
    "identity",
    "initial_state_jacobian",
    "kernel",
    "neural_tangent_kernel",
    "parameter_jacobian",
    "propagator",
    "propagator_inverse",
]
