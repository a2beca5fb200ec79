"""Explicit Runge-Kutta integration: methods as tables, fixed and adaptive steps, dense output, input signals."""

from kpref.integrate.errors import IntegrationError
from kpref.integrate.interpolate import InputSignal, check_times
from kpref.integrate.solution import RightHandSide, Solution
from kpref.integrate.solve import adaptive, fixed_steps
from kpref.integrate.tableau import order_condition_residuals
from kpref.integrate.tableaus import TABLEAUS, Tableau, get_tableau

__all__ = [
    "TABLEAUS",
    "InputSignal",
    "IntegrationError",
    "RightHandSide",
    "Solution",
    "Tableau",
    "adaptive",
    "check_times",
    "fixed_steps",
    "get_tableau",
    "order_condition_residuals",
]
