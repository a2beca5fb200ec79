"""``kpref bench``: how fast the operators are, against the machine's matrix products, JAX, diffrax and PyTorch."""

from kpref.bench.command import add_arguments, run

__all__ = ["add_arguments", "run"]
