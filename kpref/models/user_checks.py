"""What is asked of the functions of a `UserModel`, and found out by calling them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from kpref._foreign import read_only
from kpref._validate import finite_array, first_index, numeric_array, place, short
from kpref.models.base import Array, Parameters

__all__ = [
    "ARGUMENTS",
    "Entry",
    "Probe",
    "UserFunction",
    "check_batches",
    "named_arrays",
    "state_value",
    "supplied_value",
    "user_function",
    "values",
]

UserFunction = Callable[..., Any]
Entry = tuple[int, ...]

#: What each product multiplies, by the name of the function.
ARGUMENTS = {
    "state_product": "v",
    "state_transpose": "w",
    "parameter_product": "changes",
    "parameter_transpose": "w",
}


class Probe(NamedTuple):
    """Where a model is checked: parameters, states (k, H), inputs (k, n_inputs)."""

    parameters: Parameters
    z: Array
    x: Array

    def at(self, index: int) -> str:
        """One point in words."""
        inputs = f", x = {_in_a_line(self.x[index])}" if self.x.size else ""
        return f"z = {_in_a_line(self.z[index])}{inputs}"

    def row(self, index: int) -> Probe:
        """One point, as a batch of one."""
        return Probe(self.parameters, self.z[index : index + 1], self.x[index : index + 1])


def _in_a_line(array: Array) -> str:
    return np.array2string(array, max_line_width=10_000, threshold=12)


def named_arrays(parameters: Mapping[str, npt.ArrayLike]) -> dict[str, Array]:
    """Parameters as read-only float64 arrays by name."""
    if not isinstance(parameters, Mapping):
        raise TypeError(f"parameters must be a mapping of names to arrays; got {type(parameters).__name__}")
    if not parameters:
        raise ValueError("parameters must hold at least one parameter")
    for name in parameters:
        if not (isinstance(name, str) and name.isidentifier()):
            raise ValueError(f"the names of parameters must be Python identifiers; got {short(name)}")
    checked = {name: finite_array(name, value) for name, value in parameters.items()}
    for name, value in checked.items():
        if value.size == 0:
            raise ValueError(f"{name} must have at least one entry; got shape {value.shape}")
    return checked


def user_function(name: str, function: Any, vectorized: bool) -> UserFunction:
    """A function of states (..., H) whose values are checked copies, made of one of states (H,) if not vectorised."""
    if not callable(function):
        vector = ARGUMENTS.get(name)
        arguments = f"(z, x, parameters, {vector})" if vector else "(z, x, parameters)"
        raise TypeError(f"{name} must be a function of {arguments}; got {type(function).__name__}")
    over_points = partial(_call_checked, name, function if vectorized else partial(_one_by_one, name, function))
    return partial(_flattened, over_points) if name == "parameter_transpose" else over_points


def _flattened(function: UserFunction, z: Array, x: Array, parameters: Parameters, w: Array) -> Any:
    """A sum over states, whatever axes they have: the function sees one."""
    count = math.prod(z.shape[:-1])
    z, x, w = (array.reshape(count, array.shape[-1]) for array in (z, x, w))
    return function(z, x, parameters, w)


def _call_checked(name: str, function: UserFunction, z: Array, x: Array, parameters: Parameters, *given: Any) -> Any:
    """The value of a function, as arrays of our own; `given` is what a product multiplies."""
    guarded = [_guarded(part) for part in given]
    try:
        value = function(read_only(z), read_only(x), MappingProxyType(dict(parameters)), *guarded)
    except MemoryError:
        raise
    except Exception as error:
        if isinstance(error, ValueError) and str(error).startswith(f"the value of {name}"):
            raise  # what it returned for one state was refused in words
        reason = f"{type(error).__name__} ({' '.join(str(error).split())})"
        raise ValueError(
            f"{name} raised {reason} for states of shape {z.shape} and inputs of shape {x.shape}"
        ) from error
    complex_ = any(np.iscomplexobj(array) for array in (z, x, *parameters.values()))
    if isinstance(value, Mapping):
        return {key: _own(f"{name}[{key!r}]", part, z, complex_) for key, part in value.items()}
    return _own(name, value, z, complex_)


def _guarded(given: Any) -> Any:
    if isinstance(given, Mapping):
        return MappingProxyType({name: read_only(array) for name, array in given.items()})
    return read_only(given)


def _own(name: str, value: Any, z: Array, complex_: bool) -> Array:
    """A copy of what a function returned for states z, with their leading axes."""
    array = numeric_array(f"the value of {name}", value, "biufc")
    if array.dtype.kind == "c" and not complex_:
        wrong = array.imag != 0
        index = first_index(wrong if wrong.any() else np.ones(array.shape, bool)) if array.size else ()
        state = f" at z = {z[index[: z.ndim - 1]]}" if array.shape[: z.ndim - 1] == z.shape[:-1] and array.size else ""
        raise ValueError(
            f"the value of {name} must be an array of real numbers; got {array.dtype}: entry {place(index)} is "
            f"{array[index]}{state}"
        )
    return np.array(array)


def _one_by_one(name: str, function: UserFunction, z: Array, x: Array, parameters: Parameters, *given: Any) -> Any:
    """A function of one state (H,) at states (..., H)."""
    leading = z.shape[:-1]
    values = []
    for index in np.ndindex(leading):
        parts = [part if isinstance(part, Mapping) else part[index] for part in given]
        values.append(_copied(name, function(z[index], x[index], parameters, *parts)))
    if name == "parameter_transpose" and isinstance(values[0], Mapping):
        return {key: np.sum([value[key] for value in values], axis=0) for key in values[0]}
    if isinstance(values[0], Mapping):
        columns = {key: np.stack([value[key] for value in values]) for key in values[0]}
        return {key: column.reshape(*leading, *column.shape[1:]) for key, column in columns.items()}
    stacked = np.stack(values)
    return stacked.reshape(*leading, *stacked.shape[1:])


def _copied(name: str, value: Any) -> Any:
    """Arrays of our own: the function may fill the same one for the next state."""
    if isinstance(value, Mapping):
        return {
            key: np.array(numeric_array(f"the value of {name}[{key!r}]", part, "biufc")) for key, part in value.items()
        }
    return np.array(numeric_array(f"the value of {name}", value, "biufc"))


def values(function: UserFunction, probe: Probe) -> Array:
    """f at the points of a probe, checked."""
    value = numeric_array("the value of function", function(probe.z, probe.x, probe.parameters), "biuf")
    _check_value_shape("function", value, probe.z.shape)
    bad = ~np.isfinite(value)
    if bad.any():
        index = first_index(bad)
        raise ValueError(
            f"function must be finite where it is checked; its entry {index[-1]} is {value[index]} at "
            f"{probe.at(index[0])} (check_states chooses other states)"
        )
    return value


def _check_value_shape(name: str, value: Array, shape: tuple[int, ...]) -> None:
    if value.shape != shape:
        raise ValueError(
            f"{name} must return shape {shape} here, with the leading axes of the states; got {value.shape}. "
            "Index the last axis, as in z[..., 0], and stack on axis -1; or give vectorized=False"
        )


def check_batches(function: UserFunction, probe: Probe) -> None:
    """Refuse a function whose value at a state depends on the other states, or on the number of leading axes."""
    parameters, z, x = probe
    together = values(function, probe)
    rows = [slice(i, i + 1) for i in range(len(z))]
    alone = np.concatenate([values(function, Probe(parameters, z[row], x[row])) for row in rows])
    deep = values(function, Probe(parameters, z[:, None], x[:, None]))[:, 0]
    # Products may add their terms in another order for another number of rows.
    allowed = 1e-10 * np.abs(together).max()
    for other in (alone, deep):
        wrong = ~(np.abs(other - together) <= allowed)
        if wrong.any():
            index = first_index(wrong)
            raise ValueError(
                f"function must treat each state by itself: entry {index[1]} is {together[index]} in a batch of "
                f"{len(z)} and {other[index]} alone, at {probe.at(index[0])}"
            )


def state_value(value: Any, shape: tuple[int, ...]) -> Array:
    """F during use: the shape of the states."""
    array = np.asarray(value)
    _check_value_shape("function", array, shape)
    return array


def supplied_value(name: str, value: Any, shape: tuple[int, ...], parameter: str | None = None) -> Array:
    """A supplied derivative, or a product with it: its form, checked."""
    summed = name == "parameter_transpose"
    if parameter is not None:
        if not isinstance(value, Mapping) or parameter not in value:
            raise ValueError(f"{name} must return a dict of the trainable parameters; {parameter!r} is missing")
        name, value = f"{name}[{parameter!r}]", value[parameter]
    array = numeric_array(f"the value of {name}", value, "biuf")
    if summed and array.shape != shape:
        raise ValueError(
            f"{name} must return shape {shape}, that of the parameter, summed over states; got {array.shape}"
        )
    _check_value_shape(name, array, shape)
    return array.astype(np.float64, copy=False)
