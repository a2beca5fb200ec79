"""Operators on trajectories as SciPy LinearOperators, and the operators of the K-P flow."""

from kpref.operators.products import TrialParts
from kpref.operators.propagation import (
    initial_state_jacobian,
    kernel,
    parameter_jacobian,
    propagator,
    propagator_inverse,
    sensitivity,
)
from kpref.operators.reduced import average, partial_trace
from kpref.operators.stage_space import (
    continuous_adjoint,
    discrete_adjoint,
    grid_propagator,
    initial_state_sensitivity,
    parameter_sensitivity,
    stage_parameter_jacobian,
    stage_propagator,
)
from kpref.operators.structure import Structure
from kpref.operators.submatrices import submatrix
from kpref.operators.tensor import TensorOperator, identity

__all__ = [
    "Structure",
    "TensorOperator",
    "TrialParts",
    "average",
    "continuous_adjoint",
    "discrete_adjoint",
    "grid_propagator",
    "identity",
    "initial_state_jacobian",
    "initial_state_sensitivity",
    "kernel",
    "parameter_jacobian",
    "parameter_sensitivity",
    "partial_trace",
    "propagator",
    "propagator_inverse",
    "sensitivity",
    "stage_parameter_jacobian",
    "stage_propagator",
    "submatrix",
]
