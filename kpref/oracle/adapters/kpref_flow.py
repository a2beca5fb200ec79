"""kpref's own operators as a backend: the example of one, and the judge judged."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from kpref.flow import Flow
from kpref.oracle.arithmetic import get_arithmetic
from kpref.oracle.problem import rounded

__all__ = ["flow_backend"]


def flow_backend(flow: Flow, dtype: str | None = None) -> SimpleNamespace:
    """The operators of a flow, in float64 or float32.

    Parameters
    ----------
    flow : Flow
        Of a network in discrete time.
    dtype : {"float64", "float32"}, optional
        By default the flow's own.

    Returns
    -------
    SimpleNamespace
        Everything that `kpref.oracle.backend` lists, over parameters, inputs and initial states that the precision
        can hold. The trajectory is computed in float64 in any case.
    """
    name = str(flow.dtype) if dtype is None else dtype
    own = rounded(flow, get_arithmetic(name), np.dtype(name))
    return SimpleNamespace(
        arithmetic=name, states=own.states, P=own.P, P_T=own.P.T, P_inverse=own.P_inverse, J=own.J, J_T=own.J.T,
        K=own.K, NTK=own.NTK, gradient=own.D.star,
    )  # fmt: skip
