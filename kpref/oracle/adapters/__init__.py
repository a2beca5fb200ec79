"""Backends made of what there already is: a PyTorch module, a JAX step function, a field that diffrax or torchdiffeq
solves, operators of another package.

Each adapter returns an object that `kpref.oracle.verify` takes. PyTorch and JAX are imported when an adapter of theirs
is called and not before.
"""

from kpref.oracle.adapters.diffrax_field import diffrax_backend
from kpref.oracle.adapters.jax_step import jax_backend
from kpref.oracle.adapters.kpflow_operators import kpflow_backend
from kpref.oracle.adapters.kpref_flow import flow_backend
from kpref.oracle.adapters.torch_module import torch_backend
from kpref.oracle.adapters.torchdiffeq_field import torchdiffeq_backend

__all__ = [
    "diffrax_backend",
    "flow_backend",
    "jax_backend",
    "kpflow_backend",
    "torch_backend",
    "torchdiffeq_backend",
]
