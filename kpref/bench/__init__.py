"""The contenders of ``kpref bench``, and how they are timed: kpref, JAX, diffrax and PyTorch."""
