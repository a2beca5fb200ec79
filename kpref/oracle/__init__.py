"""Judges of linearisations that know nothing of how they were derived."""

from kpref.oracle.finite_difference import (
    DotTest,
    FiniteDifference,
    TaylorTest,
    complex_step,
    dot_test,
    finite_difference,
    taylor_test,
)

__all__ = [
    "DotTest",
    "FiniteDifference",
    "TaylorTest",
    "complex_step",
    "dot_test",
    "finite_difference",
    "taylor_test",
]
