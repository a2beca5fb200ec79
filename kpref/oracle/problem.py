"""A flow in discrete time as plain data: JSON and named float64 arrays, to be rebuilt elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from kpref._types import Array
from kpref.flow import Flow
from kpref.models.base import Map
from kpref.models.described import described, rebuilt
from kpref.models.registry import Registration, registered, registration_of
from kpref.models.step import StepModel
from kpref.oracle.arithmetic import Arithmetic

__all__ = ["MODELS", "describe", "rebuild", "rounded"]

#: The networks in discrete time by the names that files and the command line use.
MODELS: dict[str, Registration] = {
    name: known
    for name, known in registered().items()
    if issubclass(known.kind, Map) and issubclass(known.kind, StepModel)
}


def describe(flow: Flow) -> tuple[dict[str, Any], dict[str, Array]]:
    """A flow as plain data.

    Returns
    -------
    description : dict
        Of the model; see `kpref.models.described.described`.
    arrays : dict of str to ndarray
        ``inputs`` (B, T, n_in), ``z0`` (B, H), ``mu`` (B, T), those of the model, and ``lengths`` (B,) if there are.

    Raises
    ------
    TypeError
        If the model is not one of `MODELS`.
    """
    model = flow.model
    known = registration_of(model)
    if known is None or known.name not in MODELS:
        raise TypeError(f"only flows of {', '.join(MODELS)} can be handed to another process; got {model}")
    description, arrays = described(model)
    own = {"inputs": np.asarray(flow.inputs, dtype=float), "z0": np.asarray(flow.z0), "mu": flow.space.mu}
    if flow.space.lengths is not None:
        own["lengths"] = flow.space.lengths.astype(float)
    return description, own | arrays


def rebuild(description: Mapping[str, Any], arrays: Mapping[str, Array]) -> Flow:
    """The flow that `describe` described.

    Raises ValueError if something is missing or does not fit.
    """
    try:
        ends = arrays.get("lengths")
        lengths = None if ends is None else np.asarray(ends).astype(np.int64)
        return Flow(rebuilt(description, arrays), arrays["inputs"], arrays["z0"], arrays["mu"], lengths=lengths)
    except (KeyError, TypeError) as error:
        raise ValueError(f"the description of a problem is incomplete or of another kind: {error}") from error


def rounded(flow: Flow, arithmetic: Arithmetic, dtype: npt.DTypeLike = np.float64, lengths: Any = None) -> Flow:
    """The flow of the problem as an arithmetic can hold it: parameters, inputs and initial states rounded.

    `lengths`: (B,), those of its trials; by default they run on to the last step.
    """
    model = flow.model.with_parameters({k: arithmetic.round(v) for k, v in flow.model.parameters.items()})
    inputs, z0 = arithmetic.round(flow.inputs), arithmetic.round_state(flow.z0)
    return Flow(model, inputs, z0, flow.space.mu, dtype, lengths=lengths)
