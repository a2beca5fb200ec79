"""Fields of the user's own: a Python function, and its derivatives, checked or found by differences."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from kpref._frozen import FrozenDict
from kpref._validate import finite_array, first_index, flag, integer, place
from kpref.models.base import Array, DenseField, Parameters
from kpref.models.user_checks import (
    FieldFunction,
    Probe,
    check_batches,
    compare,
    field_function,
    field_value,
    named_arrays,
    supplied,
    supplied_value,
    values,
)
from kpref.oracle.finite_difference import FiniteDifference, complex_step, finite_difference

__all__ = ["UserField"]

Rule = Callable[..., FiniteDifference]

#: Points at which a field is checked, unless the user names others.
_N_PROBES = 6

#: Relative error above which central differences say that a function is not smooth.
_ROUGH = 1e-3

#: Relative error up to which short steps tell whether long ones have met the derivative.
_TELLING = 1e-2

#: States beyond which derivatives are tried on two scales.
_FAR = 4.0


class UserField(DenseField):
    """A vector field ``dz/dt = f(z, x, theta)`` given as a Python function.

    Derivatives that come with it are checked at random states, inputs and (a tenth around the given ones) parameters,
    entry by entry, against complex steps, or, where f is not analytic, central differences. Those that do not come
    with it are found in the same way each time they are needed, at the cost of one evaluation of f for each state and
    each trainable parameter, or of 30 with central differences. Whether f is analytic is decided by comparison of
    the two at the same points; a function that is so at some states only, needs derivatives of its own.

    Parameters
    ----------
    function : callable
        ``f(z, x, parameters)`` with states z of shape (..., H), inputs x (..., n_inputs) and a dict of arrays by name,
        to (..., H). Smooth, a function of nothing else, and each state by itself: no trial sees another. It is called
        in the thread that builds or applies, with NumPy's BLAS on one thread; it cannot write to its arguments, and
        what it returns is copied.
    n_states : int
        H.
    n_inputs : int
    parameters : mapping of str to array_like
        At least one; the names are Python identifiers.
    state_jacobian : callable, optional
        ``df/dz``, with the same arguments, to (..., H, H); entry (i, k) is the derivative of f_i by z_k.
    parameter_jacobian : callable, optional
        ``df/d(parameter)``, with the same arguments, to a dict with (..., H, \\*shape of the parameter) for at least
        each trainable parameter.
    trainable : sequence of str, optional
        Names of the trainable parameters; all by default.
    vectorized : bool
        Whether the functions take leading axes, as described. If not, they are called for one state (H,) after
        the other, which is slow.
    check_states : array_like, shape (k, H), optional
        States to check at, for a field that is not defined everywhere; by default standard normal ones.

    Attributes
    ----------
    state_derivative, parameter_derivative : {"supplied", "complex step", "central differences"}
        Where derivatives come from.
    derivative_error : float
        Largest error of both, relative to the largest entry of the derivative: one rounding for complex steps; the
        estimate of central differences, the largest at the points of the check and at all points where derivatives
        have been taken since; and for supplied derivatives their distance to what they were checked against.

    Raises
    ------
    ValueError
        If a function raises, returns another shape or numbers that are not finite, or mixes the states of a batch; if
        a supplied derivative is wrong (names the entry and both values) or f is not smooth; if a parameter is not
        finite.
    TypeError
        If something that must be a function, a mapping or an integer is not one.

    Examples
    --------
    >>> import numpy as np
    >>> def pendulum(z, x, parameters):
    ...     angle, speed = z[..., 0], z[..., 1]
    ...     return np.stack([speed, x[..., 0] - parameters["k"] * np.sin(angle)], axis=-1)
    >>> field = UserField(pendulum, n_states=2, n_inputs=1, parameters={"k": 1.5})
    >>> field.state_derivative
    'complex step'
    """

    def __init__(
        self,
        function: FieldFunction,
        n_states: int,
        n_inputs: int = 0,
        *,
        parameters: Mapping[str, npt.ArrayLike],
        state_jacobian: FieldFunction | None = None,
        parameter_jacobian: FieldFunction | None = None,
        trainable: Sequence[str] | None = None,
        vectorized: bool = True,
        check_states: npt.ArrayLike | None = None,
    ) -> None:
        self.n_states, self.n_inputs = integer("n_states", n_states, 1), integer("n_inputs", n_inputs, 0)
        vectorized = flag("vectorized", vectorized)
        super().__init__(named_arrays(parameters), trainable)
        self._given: dict[str, Any] = {
            "function": function,
            "n_states": n_states,
            "n_inputs": n_inputs,
            "state_jacobian": state_jacobian,
            "parameter_jacobian": parameter_jacobian,
            "vectorized": vectorized,
            "check_states": check_states,
        }
        self._function = field_function("function", function, vectorized)
        self._state_jacobian = state_jacobian and field_function("state_jacobian", state_jacobian, vectorized)
        self._parameter_jacobian = parameter_jacobian and field_function(
            "parameter_jacobian", parameter_jacobian, vectorized
        )
        probes = self._probes(check_states)
        with np.errstate(all="ignore"):  # what is not finite is reported, with its place
            check_batches(self._function, probes[0])
            errors = [self._settle_state_derivative(probes), self._settle_parameter_derivative(probes)]
        self.derivative_error: float = max(errors)

    def _remake(self, parameters: Mapping[str, Any], trainable: Sequence[str] | None) -> Self:
        if trainable != self.trainable:
            return type(self)(**self._given, parameters=parameters, trainable=trainable)
        # The functions are the same, and so is what the checks found: only the numbers are new.
        other = copy.copy(self)
        self._require_known(parameters)
        other._parameters = FrozenDict(
            {name: finite_array(name, parameters[name], shape=own.shape) for name, own in self.parameters.items()}
        )
        return other

    def _evaluate(self, parameters: Parameters, z: Array, x: Array) -> Array:
        shape = (*np.broadcast_shapes(z.shape[:-1], x.shape[:-1]), self.n_states)
        value = field_value(self._function(z, x, parameters), shape)
        return value.astype(np.result_type(value, np.float64), copy=False)

    def state_jacobian(self, z: Array, x: Array) -> Array:
        """``df/dz``, supplied or by differences."""
        if self._state_jacobian:
            value = self._state_jacobian(z, x, self.parameters)
            return supplied_value("state_jacobian", value, (*z.shape, self.n_states))
        found = _by_states(_RULES[self.state_derivative], self._function, Probe(self.parameters, z, x))
        return self._accepted(found, "the states", "state_jacobian")

    def parameter_jacobian(self, z: Array, x: Array) -> dict[str, Array]:
        """``df/d(parameter)`` for each trainable parameter, supplied or by differences."""
        if self._parameter_jacobian:
            found = self._parameter_jacobian(z, x, self.parameters)
            shapes = {name: (*z.shape, *self.parameters[name].shape) for name in self.trainable}
            return {name: supplied_value("parameter_jacobian", found, shapes[name], name) for name in self.trainable}
        rule, probe = _RULES[self.parameter_derivative], Probe(self.parameters, z, x)
        return {
            name: self._accepted(_by_parameter(rule, self._function, probe, name), name, "parameter_jacobian")
            for name in self.trainable
        }

    @property
    def thread_safe(self) -> bool:
        """False: the functions are the user's."""
        return False

    def _accepted(self, found: FiniteDifference, what: str, argument: str) -> Array:
        """A derivative by differences at points where it is used, whose error counts from now on."""
        error = _relative_error(found)
        if not error <= _ROUGH:
            index = first_index(found.error == found.error.max())
            raise ValueError(
                f"central differences of function by {what} have a relative error of {error:.2g} at point "
                f"{place(index[:-1])}, more than the {_ROUGH:g} allowed: give {argument}"
            )
        self.derivative_error = max(self.derivative_error, error)
        return found.value

    # Checks

    def _probes(self, check_states: npt.ArrayLike | None) -> list[Probe]:
        """Random points, at the parameters as given and, if f is finite there, at others near them."""
        rng = np.random.default_rng(0)
        if check_states is None:
            z = rng.normal(size=(_N_PROBES, self.n_states))
        else:
            z = finite_array("check_states", check_states, shape=("k", self.n_states))
            if len(z) == 0:
                raise ValueError("check_states must hold at least one state")
        x = rng.normal(size=(len(z), self.n_inputs))
        for array in (z, x):
            array.setflags(write=False)
        moved = {}
        for name, value in self.parameters.items():
            change = 0.1 * rng.uniform(-1, 1, size=value.shape)
            moved[name] = np.where(value == 0, change, value * (1 + change))
        probes = [Probe(self.parameters, z, x), Probe(moved, z, x)]
        with np.errstate(all="ignore"):
            values(self._function, probes[0])
            try:
                values(self._function, probes[1])
            except ValueError:
                return probes[:1]
        return probes

    def _settle_state_derivative(self, probes: list[Probe]) -> float:
        """Choose the rule for ``df/dz``, check what was supplied; returns the error."""
        found = [_choose(lambda z, p=p: self._function(z, p.x, p.parameters), p.z, "the states") for p in probes]
        self.state_derivative, error = _worst(found)
        if not self._state_jacobian:
            return error
        reference, self.state_derivative, distances = self.state_derivative, "supplied", []
        for probe in probes:
            shape = (self.n_states,)
            given = supplied(self._state_jacobian, "state_jacobian", probe, shape, None)
            wanted = _by_states(_RULES[reference], self._function, probe)
            distances.append(compare(given, wanted, probe, "state_jacobian", "z", reference))
        return max(distances)

    def _settle_parameter_derivative(self, probes: list[Probe]) -> float:
        """As above for ``df/dtheta``."""
        found = []
        for p in probes:
            for name in self.trainable:

                def function(value: Array, p: Probe = p, name: str = name) -> Any:
                    return self._function(p.z, p.x, {**p.parameters, name: value})

                found.append(_choose(function, p.parameters[name], name))
        self.parameter_derivative, error = _worst(found)
        if not self._parameter_jacobian:
            return error
        reference, self.parameter_derivative, distances = self.parameter_derivative, "supplied", []
        for probe in probes:
            for name in self.trainable:
                shape = self.parameters[name].shape
                given = supplied(self._parameter_jacobian, "parameter_jacobian", probe, shape, name)
                wanted = _by_parameter(_RULES[reference], self._function, probe, name)
                distances.append(compare(given, wanted, probe, "parameter_jacobian", name, reference))
        return max(distances)


# Differentiation


def _by_complex_step(function: Any, point: Array, direction: Array) -> FiniteDifference:
    value = complex_step(function, point, direction)
    return FiniteDifference(value, np.zeros_like(value))


_RULES: dict[str, Rule] = {"complex step": _by_complex_step, "central differences": finite_difference}


def _by_states(rule: Rule, function: FieldFunction, probe: Probe) -> FiniteDifference:
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


def _along_units(rule: Rule, function: FieldFunction, probe: Probe, scale: Array) -> FiniteDifference:
    parameters, z, x = probe
    found = []
    for unit in range(z.shape[-1]):
        direction = np.zeros_like(z)
        direction[..., unit] = scale[..., unit]
        found.append(rule(lambda moved: field_value(function(moved, x, parameters), z.shape), z, direction))
    per_unit = scale[..., None, :]
    return FiniteDifference(
        np.stack([part.value for part in found], axis=-1) / per_unit,
        np.stack([part.error for part in found], axis=-1) / per_unit,
    )


def _by_parameter(rule: Rule, function: FieldFunction, probe: Probe, name: str) -> FiniteDifference:
    """``df/d(parameter)``, (..., H, \\*shape of the parameter)."""
    parameters, z, x = probe
    point = parameters[name]
    value, error = np.empty((*z.shape, *point.shape)), np.empty((*z.shape, *point.shape))
    for index in np.ndindex(point.shape):
        scale = max(1.0, abs(float(point[index])))
        direction = np.zeros_like(point)
        direction[index] = scale
        found = rule(lambda moved: field_value(function(z, x, {**parameters, name: moved}), z.shape), point, direction)
        value[(..., *index)], error[(..., *index)] = found.value / scale, found.error / scale
    return FiniteDifference(value, error)


def _choose(function: Any, point: Array, what: str) -> tuple[str, float]:
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
            return "complex step", float(np.finfo(float).eps)
    error = _relative_error(differences)
    if not error <= _ROUGH:
        raise ValueError(
            f"function is not smooth enough to be differentiated by {what}: central differences have a relative "
            f"error of {error:.2g}"
        )
    return "central differences", error


def _relative_error(found: FiniteDifference) -> float:
    """Largest error over the largest entry."""
    largest = float(np.abs(found.value).max(initial=0.0))
    return float(found.error.max(initial=0.0)) / (largest or 1.0)


def _worst(found: list[tuple[str, float]]) -> tuple[str, float]:
    """Central differences if any of the parts needs them."""
    return max(found, key=lambda part: (part[0] == "central differences", part[1]))
