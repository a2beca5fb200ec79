"""Derivatives that come with the function of a `UserModel`, held against differences entry by entry.

A Jacobian, the product with it and the product with its transpose are one matrix in three forms: products give it by
their values at unit vectors, a column or a row at a time. That they are linear and take vectors in batches is seen
where they are applied to random ones. Of a parameter of many entries some, chosen at random, are looked at one by one,
and all of them along a random change.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from kpref.differences import FiniteDifference
from kpref.models.base import Array
from kpref.models.user_checks import Entry, Probe, UserFunction, supplied_value
from kpref.models.user_differences import RULES, along_parameters, by_parameter, by_states

__all__ = ["check_by_parameters", "check_by_states", "parameter_columns", "state_columns"]

#: Entries of one parameter, and rows of a transposed product, that are looked at one by one.
_MOST_ENTRIES = 1000
_MOST_ROWS = 64


def state_columns(name: str, function: UserFunction, probe: Probe) -> Array:
    """``dF/dz`` (..., H, H) by products of it or of its transpose with all unit vectors, in one call."""
    parameters, z, x = probe
    units = z.shape[-1]
    several = (units, *z.shape)
    basis = np.broadcast_to(np.eye(units).reshape(units, *[1] * (z.ndim - 1), units), several)
    value = function(np.broadcast_to(z, several), np.broadcast_to(x, (units, *x.shape)), parameters, basis)
    return np.moveaxis(supplied_value(name, value, several), 0, -1 if name == "state_product" else -2)


def parameter_columns(
    function: UserFunction, probe: Probe, trainable: Sequence[str], name: str, entries: Sequence[Entry]
) -> Array:
    """``dF/d(entry)``, (..., H, number of entries), by products of ``dF/dtheta`` with unit vectors, a call each."""
    parameters, z, x = probe
    changes = {key: np.zeros(parameters[key].shape) for key in trainable}
    columns = np.empty((*z.shape, len(entries)))
    for column, entry in enumerate(entries):
        changes[name][entry] = 1.0
        columns[..., column] = supplied_value("parameter_product", function(z, x, parameters, changes), z.shape)
        changes[name][entry] = 0.0
    return columns


def check_by_states(given: Mapping[str, UserFunction], function: UserFunction, probe: Probe, rule: str) -> float:
    """Hold ``dF/dz``, or products with it, against differences at the points of a probe.

    Returns the largest distance between them, relative to the largest entry.

    Raises
    ------
    ValueError
        If one is wrong: with its name, the entry, both values and the point.
    """
    wanted = by_states(RULES[rule], function, probe)
    vector = np.random.default_rng(2).normal(size=probe.z.shape)
    distances = []
    for name, derivative in given.items():
        if name == "state_jacobian":
            found = _in_any_batch(name, derivative, probe, (probe.z.shape[1],))
        else:
            found = state_columns(name, derivative, probe)
        entry = "the derivative of f[{1}] by z[{2}]"
        distances.append(_compare(found, wanted, name, rule, entry.format, probe))
        if name == "state_product":
            along, what = _contracted("kij,kj->ki", wanted, vector), "the derivative of f[{1}] by z along a random v"
        elif name == "state_transpose":
            along, what = _contracted("kij,ki->kj", wanted, vector), "the derivative of w . f, w random, by z[{1}]"
        else:
            continue
        _compare(_in_any_batch(name, derivative, probe, (), vector), along, name, rule, what.format, probe)
    return max(distances)


def check_by_parameters(
    given: Mapping[str, UserFunction], function: UserFunction, probe: Probe, rule: str, trainable: Sequence[str]
) -> float:
    """As `check_by_states`, for ``dF/dtheta``."""
    generator = np.random.default_rng(3)
    distances = []
    for parameter in trainable:
        entries = _some_entries(probe.parameters[parameter].shape, generator)
        wanted = by_parameter(RULES[rule], function, probe, parameter, entries)
        labels = [f"{parameter}{list(entry) if entry else ''}" for entry in entries]

        def entry(*index: int, labels: list[str] = labels) -> str:
            return f"the derivative of f[{index[1]}] by {labels[index[2]]}"

        for name, derivative in given.items():
            if name == "parameter_jacobian":
                whole = _in_any_batch(name, derivative, probe, probe.parameters[parameter].shape, of=parameter)
                flat = whole.reshape(*probe.z.shape, -1)
                found = flat[..., [np.ravel_multi_index(index, whole.shape[2:]) for index in entries]]
            elif name == "parameter_product":
                found = parameter_columns(derivative, probe, trainable, parameter, entries)
            else:
                _check_rows(derivative, probe, parameter, entries, wanted, rule, labels, generator)
                continue
            distances.append(_compare(found, wanted, name, rule, entry, probe))
    if "parameter_product" in given:
        _check_along_change(given["parameter_product"], function, probe, rule, trainable, generator)
    return max(distances)


def _check_along_change(
    product: UserFunction,
    function: UserFunction,
    probe: Probe,
    rule: str,
    trainable: Sequence[str],
    generator: np.random.Generator,
) -> None:
    """All parameters at once along a random change."""
    changes = {name: generator.normal(size=probe.parameters[name].shape) for name in trainable}
    found = _in_any_batch("parameter_product", product, probe, (), changes)
    wanted = along_parameters(RULES[rule], function, probe, changes)
    what = "the derivative of f[{1}] along a random change of all parameters"
    _compare(found, wanted, "parameter_product", rule, what.format, probe)


def _check_rows(
    transpose: UserFunction,
    probe: Probe,
    parameter: str,
    entries: Sequence[Entry],
    wanted: FiniteDifference,
    rule: str,
    labels: list[str],
    generator: np.random.Generator,
) -> None:
    """``(dF/dtheta)^T w`` is summed over states: rows by one state and one unit at a time, then a random w at all."""
    name, parameters = "parameter_transpose", probe.parameters
    shape, (points, units) = parameters[parameter].shape, probe.z.shape

    def of(derivative: Array) -> Array:
        return np.stack([derivative[index] for index in entries])

    pairs = [(point, unit) for point in range(points) for unit in range(units)]
    if len(pairs) > _MOST_ROWS:
        pairs = [pairs[i] for i in sorted(generator.choice(len(pairs), _MOST_ROWS, replace=False))]
    for point, unit in pairs:
        one, w = probe.row(point), np.zeros((1, units))
        w[0, unit] = 1.0
        value = supplied_value(name, transpose(one.z, one.x, parameters, w), shape, parameter)
        row = FiniteDifference(wanted.value[[point], [unit]], wanted.error[[point], [unit]])
        what = f"the derivative of f[{unit}] by "
        _compare(of(value)[None], row, name, rule, lambda *i, what=what: what + labels[i[1]], one)
    w = generator.normal(size=probe.z.shape)
    value = supplied_value(name, transpose(probe.z, probe.x, parameters, w), shape, parameter)
    total = _contracted("kie,ki->e", wanted, w)
    what = f"the derivative of w . f, w random, summed over {points} states, by "
    _compare(
        of(value)[None], FiniteDifference(*(part[None] for part in total)), name, rule, lambda *i: what + labels[i[1]]
    )


def _some_entries(shape: tuple[int, ...], generator: np.random.Generator) -> list[Entry]:
    """All indices of an array, or some of many."""
    size = math.prod(shape)
    flat = np.arange(size) if size <= _MOST_ENTRIES else generator.choice(size, _MOST_ENTRIES, replace=False)
    return [tuple(int(i) for i in np.unravel_index(index, shape)) for index in flat]


def _in_any_batch(
    name: str,
    derivative: UserFunction,
    probe: Probe,
    trailing: tuple[int, ...],
    multiplied: Any = None,
    of: str | None = None,
) -> Array:
    """A derivative at the points of a probe, (k, H, \\*trailing), where its form is right for two leading axes too."""
    parameters, z, x = probe

    def evaluate(z: Array, x: Array, multiplied: Any) -> Array:
        more = () if multiplied is None else (multiplied,)
        return supplied_value(name, derivative(z, x, parameters, *more), (*z.shape, *trailing), of)

    deep = multiplied[:, None] if isinstance(multiplied, np.ndarray) else multiplied
    evaluate(z[:, None], x[:, None], deep)
    return evaluate(z, x, multiplied)


def _contracted(subscripts: str, wanted: FiniteDifference, vector: Array) -> FiniteDifference:
    return FiniteDifference(
        np.einsum(subscripts, wanted.value, vector), np.einsum(subscripts, wanted.error, np.abs(vector))
    )


def _compare(
    found: Array, wanted: FiniteDifference, name: str, rule: str, what: Callable[..., str], probe: Probe | None = None
) -> float:
    """Refuse a derivative with a wrong entry; returns its distance to the reference, relative to the largest entry."""
    size = np.abs(wanted.value)
    # A formula may lose digits where its terms cancel: an entry that is small beside the others may be off by more.
    allowed = 10 * wanted.error + 1e-7 * size + 1e-11 * size.max(axis=tuple(range(1, size.ndim)), keepdims=True)
    distance = np.abs(found - wanted.value)
    excess = np.where(distance <= allowed, -1.0, np.where(np.isfinite(distance), distance, np.inf))
    if excess.max() >= 0:
        index = tuple(int(i) for i in np.unravel_index(int(np.argmax(excess)), excess.shape))
        at = "" if probe is None else f", at {probe.at(index[0])}"
        raise ValueError(
            f"{name} is wrong: {what(*index)} is {found[index]!s} by {name} and {wanted.value[index]!s} by {rule}{at}"
        )
    return float(distance.max() / size.max()) if size.max() else float(distance.max())
