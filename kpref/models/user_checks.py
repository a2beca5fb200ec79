"""What is asked of the functions of a `UserField`, and found out by calling them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from kpref._foreign import read_only
from kpref._validate import finite_array, first_index, numeric_array, place, short
from kpref.models.base import Array, Parameters
from kpref.oracle.finite_difference import FiniteDifference

__all__ = [
    "FieldFunction",
    "Probe",
    "check_batches",
    "compare",
    "field_function",
    "field_value",
    "named_arrays",
    "supplied",
    "supplied_value",
    "values",
]

FieldFunction = Callable[[Array, Array, Parameters], Any]


class Probe(NamedTuple):
    """Where a field is checked: parameters, states (k, H), inputs (k, n_inputs)."""

    parameters: Parameters
    z: Array
    x: Array

    def at(self, index: int) -> str:
        """One point in words."""
        inputs = f", x = {self.x[index]}" if self.x.size else ""
        return f"z = {self.z[index]}{inputs}"


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


def field_function(name: str, function: Any, vectorized: bool) -> FieldFunction:
    """A function of states (..., H) whose values are checked copies, made of one of states (H,) if not vectorised."""
    if not callable(function):
        raise TypeError(f"{name} must be a function of (z, x, parameters); got {type(function).__name__}")
    over_points = function if vectorized else partial(_one_by_one, name, function)
    return partial(_call_checked, name, over_points)


def _call_checked(name: str, function: FieldFunction, z: Array, x: Array, parameters: Parameters) -> Any:
    """The value of a function, as arrays of our own."""
    value = function(read_only(z), read_only(x), MappingProxyType(dict(parameters)))
    complex_ = any(np.iscomplexobj(array) for array in (z, x, *parameters.values()))
    if isinstance(value, Mapping):
        return {key: _own(f"{name}[{key!r}]", part, z, complex_) for key, part in value.items()}
    return _own(name, value, z, complex_)


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


def _one_by_one(name: str, function: FieldFunction, z: Array, x: Array, parameters: Parameters) -> Any:
    """A function of one state (H,) at states (..., H)."""
    leading = z.shape[:-1]
    values = [_copied(name, function(z[index], x[index], parameters)) for index in np.ndindex(leading)]
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


def _call(name: str, function: FieldFunction, probe: Probe) -> Any:
    try:
        return function(probe.z, probe.x, probe.parameters)
    except Exception as error:
        if isinstance(error, ValueError) and str(error).startswith(f"the value of {name}"):
            raise  # what it returned was refused in words
        reason = f"{type(error).__name__} ({' '.join(str(error).split())})"
        raise ValueError(
            f"{name} raised {reason} for states of shape {probe.z.shape} and inputs of shape {probe.x.shape}"
        ) from error


def values(function: FieldFunction, probe: Probe) -> Array:
    """f at the points of a probe, checked."""
    value = numeric_array("the value of function", _call("function", function, probe), "biuf")
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


def check_batches(function: FieldFunction, probe: Probe) -> None:
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


def field_value(value: Any, shape: tuple[int, ...]) -> Array:
    """f during use: the shape of the states."""
    array = np.asarray(value)
    _check_value_shape("function", array, shape)
    return array


def supplied_value(name: str, value: Any, shape: tuple[int, ...], parameter: str | None = None) -> Array:
    """A supplied derivative during use: its form, checked."""
    if parameter is not None:
        if not isinstance(value, Mapping) or parameter not in value:
            raise ValueError(f"{name} must return a dict of the trainable parameters; {parameter!r} is missing")
        name, value = f"{name}[{parameter!r}]", value[parameter]
    array = numeric_array(f"the value of {name}", value, "biuf")
    _check_value_shape(name, array, shape)
    return array.astype(np.float64, copy=False)


def supplied(function: FieldFunction, name: str, probe: Probe, shape: tuple[int, ...], parameter: str | None) -> Array:
    """A supplied derivative at the points of a probe, (k, H, \\*shape), its form checked."""

    def evaluate(z: Array, x: Array) -> Array:
        value = _call(name, function, Probe(probe.parameters, z, x))
        return supplied_value(name, value, (*z.shape, *shape), parameter)

    evaluate(probe.z[:, None], probe.x[:, None])
    return evaluate(probe.z, probe.x)


def compare(given: Array, wanted: FiniteDifference, probe: Probe, name: str, argument: str, rule: str) -> float:
    """Refuse a derivative with a wrong entry; returns its distance to the reference, relative to the largest entry."""
    size = np.abs(wanted.value)
    # A formula may lose digits where its terms cancel: an entry that is small beside the others may be off by more.
    allowed = 10 * wanted.error + 1e-7 * size + 1e-11 * size.max(axis=tuple(range(1, size.ndim)), keepdims=True)
    distance = np.abs(given - wanted.value)
    excess = np.where(distance <= allowed, -1.0, np.where(np.isfinite(distance), distance, np.inf))
    if excess.max() >= 0:
        index = tuple(int(i) for i in np.unravel_index(int(np.argmax(excess)), excess.shape))
        entry = f"[{', '.join(map(str, index[2:]))}]" if len(index) > 2 else ""
        raise ValueError(
            f"{name} is wrong: the derivative of f[{index[1]}] by {argument}{entry} is {given[index]!s} by {name} and "
            f"{wanted.value[index]!s} by {rule}, at {probe.at(index[0])}"
        )
    return float(distance.max() / size.max()) if size.max() else float(distance.max())
