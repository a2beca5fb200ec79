"""Derivatives of the functions of a `UserModel` by differences: complex steps where they do, else central ones."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from kpref.differences import FiniteDifference, complex_step, finite_difference
from kpref.models.base import Array, Parameters
from kpref.models.user_checks import Probe, UserFunction, state_value

__all__ = [
    "ROUGH",
    "RULES",
    "Rule",
    "along_parameters",
    "by_parameter",
    "by_states",
    "choose",
    "relative_error",
    "worst",
]

Rule = Callable[..., FiniteDifference]

#: Relative error above which central differences say that a function is not smooth.
ROUGH = 1e-3

#: Relative error up to which short steps tell whether long ones have met the derivative.
_TELLING = 1e-2

#: States beyond which derivatives are tried on two scales.
_FAR = 4.0


def _by_complex_step(function: Any, point: Array, direction: Array) -> FiniteDifference:
    value = complex_step(function, point, direction)
    return FiniteDifference(value, np.zeros_like(value))


RULES: dict[str, Rule] = {"complex step": _by_complex_step, "central differences": finite_difference}


def by_states(rule: Rule, function: UserFunction, probe: Probe) -> FiniteDifference:
    """``df/dz``, (..., H, H): one derivative of all points at once for each state.

    Far from zero a function may vary on the scale of the state, or on that of one. Long steps lose less to rounding,
    but two of them may agree by chance where the function swings between them: they count only where they are within
    the error of the short ones, and this says something.
    """
    size = np.abs(probe.z)
    found = _along_units(rule, function, probe, np.maximum(1.0, size))
    if rule is finite_difference and (size > _FAR).any():
        near = _along_units(rule, function, probe, np.ones(size.shape))
        told = near.error <= _TELLING * np.abs(near.value)
        refined = told & (np.abs(found.value - near.value) <= 3 * near.error) & (found.error < near.error)
        found = FiniteDifference(*(np.where(refined, *parts) for parts in zip(found, near, strict=True)))
    return found


def _along_units(rule: Rule, function: UserFunction, probe: Probe, scale: Array) -> FiniteDifference:
    parameters, z, x = probe
    found = []
    for unit in range(z.shape[-1]):
        direction = np.zeros_like(z)
        direction[..., unit] = scale[..., unit]
        found.append(rule(lambda moved: state_value(function(moved, x, parameters), z.shape), z, direction))
    per_unit = scale[..., None, :]
    return FiniteDifference(
        np.stack([part.value for part in found], axis=-1) / per_unit,
        np.stack([part.error for part in found], axis=-1) / per_unit,
    )


def by_parameter(
    rule: Rule, function: UserFunction, probe: Probe, name: str, entries: Sequence[tuple[int, ...]]
) -> FiniteDifference:
    """``dF/d(entry)`` for entries of a parameter, (..., H, number of entries)."""
    parameters, z, x = probe
    point = parameters[name]
    found = []
    for index in entries:
        scale = max(1.0, abs(float(point[index])))
        direction = np.zeros_like(point)
        direction[index] = scale
        along = rule(lambda moved: state_value(function(z, x, {**parameters, name: moved}), z.shape), point, direction)
        found.append(FiniteDifference(along.value / scale, along.error / scale))
    return FiniteDifference(
        np.stack([part.value for part in found], axis=-1), np.stack([part.error for part in found], axis=-1)
    )


def along_parameters(rule: Rule, function: UserFunction, probe: Probe, changes: Parameters) -> FiniteDifference:
    """``dF/dtheta dtheta`` for a change of several parameters at once, (..., H)."""
    parameters, z, x = probe

    def moved(step: Array) -> Array:
        """F where the parameters have gone a part of the way."""
        there = {name: parameters[name] + step * change for name, change in changes.items()}
        return state_value(function(z, x, {**parameters, **there}), z.shape)

    return rule(moved, np.zeros(()), np.ones(()))


def choose(function: Any, point: Array, what: str) -> tuple[str, float]:
    """Complex steps if they agree with central differences along a random direction; and the error of the choice."""
    direction = np.random.default_rng(1).normal(size=point.shape) * np.maximum(1.0, np.abs(point))
    differences = finite_difference(function, point, direction)
    largest = np.abs(differences.value).max()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", np.exceptions.ComplexWarning)
            exact = complex_step(function, point, direction)
    except Exception:  # whatever a function that was not written for complex numbers makes of them
        exact = np.full((), np.nan)
    if exact.shape == differences.value.shape:
        allowed = 10 * differences.error + 1e-10 * largest
        if (np.abs(exact - differences.value) <= allowed).all():
            return "complex step", float(np.finfo(exact.dtype).eps)  # that of what the function returns
    error = relative_error(differences)
    if not error <= ROUGH:
        raise ValueError(
            f"function is not smooth enough to be differentiated by {what}: central differences have a relative "
            f"error of {error:.2g}"
        )
    return "central differences", error


def relative_error(found: FiniteDifference) -> float:
    """Largest error over the largest entry."""
    largest = float(np.abs(found.value).max(initial=0.0))
    return float(found.error.max(initial=0.0)) / (largest or 1.0)


def worst(found: list[tuple[str, float]]) -> tuple[str, float]:
    """Central differences if any of the parts needs them."""
    return max(found, key=lambda part: (part[0] == "central differences", part[1]))
