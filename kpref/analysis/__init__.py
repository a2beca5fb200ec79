"""What gradient descent does to the states of a trained network: the numbers, the figures, and ``kpref analyze``."""

from kpref.analysis.command import add_arguments, run
from kpref.analysis.numbers import Analysis, analyze_checkpoint
from kpref.analysis.settings import Integration, Objective

__all__ = ["Analysis", "Integration", "Objective", "add_arguments", "analyze_checkpoint", "run"]
