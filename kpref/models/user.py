"""Models of the user's own: a Python function, and derivatives or products with them, checked or by differences."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from kpref._frozen import FrozenDict
from kpref._validate import finite_array, first_index, flag, integer, place
from kpref.differences import FiniteDifference
from kpref.models.base import Array, DenseField, Map, Parameters, ProductModel
from kpref.models.user_checks import (
    Probe,
    UserFunction,
    check_batches,
    named_arrays,
    state_value,
    supplied_value,
    user_function,
    values,
)
from kpref.models.user_differences import ROUGH, RULES, by_parameter, by_states, choose, relative_error, worst
from kpref.models.user_supplied import check_by_parameters, check_by_states, parameter_columns, state_columns

__all__ = ["UserField", "UserMap", "UserModel"]

#: Points at which a model is checked, unless the user names others.
_N_PROBES = 6


class UserModel(ProductModel):
    """What `UserMap` and `UserField` share: a function ``F(z, x, theta)`` of the user's, and its derivatives.

    Of each of the two derivatives, A = dF/dz and J = dF/dtheta, give whichever form there is:

    ===================================  ==============================================================================
    given                                what becomes of it
    ===================================  ==============================================================================
    ``*_jacobian``                       stored along a trajectory: H x H, or H x M, numbers a point
    ``*_product`` and ``*_transpose``    nothing is stored: each product of an operator calls the functions, those of A
                                         once a time step (and stage) for all trials and vectors, those of J once a
                                         vector for all points
    ``state_product`` or                 stored as above, from its values at unit vectors: one call for H times the
    ``state_transpose`` alone            points; A^T cannot be had from A v for less
    ``parameter_product`` alone          stored as above, by M calls
    nothing                              stored as above, by differences: one evaluation of F for each state and each
                                         trainable entry, or 30 with central differences
    ===================================  ==============================================================================

    ``parameter_transpose`` alone is refused: it is summed over states, so J would take a call for each state and unit.
    What asks for the matrices themselves (exact spectra and traces of K, the trace of P P*, a report) has them written
    out from the products, by H and M calls, if they fit into memory. Products run in the thread that calls and in
    Python: they pay where M or H is large, and a few thousand steps of small systems are faster stored.

    What is given is checked at random states, inputs and (a tenth around the given ones) parameters, entry by entry,
    against complex steps, or, where F is not analytic, central differences. Whether it is analytic is decided by
    comparison of the two at the same points; a function that is so at some states only needs derivatives of its own.
    Of a parameter of more than 1000 entries, 1000 are looked at, and all of them along a random change.

    Parameters
    ----------
    function : callable
        ``F(z, x, parameters)`` with states z of shape (..., H), inputs x (..., n_inputs) and a dict of arrays by name,
        to (..., H). Smooth, a function of nothing else, and each state by itself: no trial sees another. It is called
        in the thread that builds or applies, with NumPy's BLAS on one thread; it cannot write to its arguments, and
        what it returns is copied. The same goes for the others.
    n_states : int
        H.
    n_inputs : int
    parameters : mapping of str to array_like
        At least one; the names are Python identifiers.
    state_jacobian : callable, optional
        ``dF/dz``, with the same arguments, to (..., H, H); entry (i, k) is the derivative of F_i by z_k.
    parameter_jacobian : callable, optional
        ``dF/d(parameter)``, with the same arguments, to a dict with (..., H, \\*shape of the parameter) for at least
        each trainable parameter.
    state_product, state_transpose : callable, optional
        ``(z, x, parameters, v)`` with v of the shape of z, (..., H), to ``A v``, or ``A^T v``, of the same shape.
    parameter_product : callable, optional
        ``(z, x, parameters, changes)`` with a dict of changes of all trainable parameters, each of the shape of its
        parameter, to ``J dtheta``, (..., H): one change for all states.
    parameter_transpose : callable, optional
        ``(z, x, parameters, w)`` with z and w of shape (k, H), x (k, n_inputs), to a dict of ``J^T w`` by trainable
        parameter, each of the shape of its parameter, *summed over the k states*, as reverse-mode automatic
        differentiation has it.
    trainable : sequence of str, optional
        Names of the trainable parameters; all by default.
    vectorized : bool
        Whether the functions take leading axes, as described. If not, they are called for one state (H,) after
        the other, which is slow.
    check_states : array_like, shape (k, H), optional
        States to check at, for a function that is not defined everywhere; by default standard normal ones.

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
        a supplied derivative is wrong (names the function, the entry and both values) or F is not smooth; if a
        parameter is not finite; if a derivative is given both as a Jacobian and by products.
    TypeError
        If something that must be a function, a mapping or an integer is not one.
    """

    def __init__(
        self,
        function: UserFunction,
        n_states: int,
        n_inputs: int = 0,
        *,
        parameters: Mapping[str, npt.ArrayLike],
        state_jacobian: UserFunction | None = None,
        parameter_jacobian: UserFunction | None = None,
        state_product: UserFunction | None = None,
        state_transpose: UserFunction | None = None,
        parameter_product: UserFunction | None = None,
        parameter_transpose: UserFunction | None = None,
        trainable: Sequence[str] | None = None,
        vectorized: bool = True,
        check_states: npt.ArrayLike | None = None,
    ) -> None:
        self.n_states, self.n_inputs = integer("n_states", n_states, 1), integer("n_inputs", n_inputs, 0)
        vectorized = flag("vectorized", vectorized)
        super().__init__(named_arrays(parameters), trainable)
        derivatives = {
            "state_jacobian": state_jacobian,
            "state_product": state_product,
            "state_transpose": state_transpose,
            "parameter_jacobian": parameter_jacobian,
            "parameter_product": parameter_product,
            "parameter_transpose": parameter_transpose,
        }
        self._given: dict[str, Any] = {
            "function": function,
            "n_states": n_states,
            "n_inputs": n_inputs,
            **derivatives,
            "vectorized": vectorized,
            "check_states": check_states,
        }
        self._function = user_function("function", function, vectorized)
        self._derivatives = {
            name: user_function(name, given, vectorized) for name, given in derivatives.items() if given is not None
        }
        _require_one_form(self._derivatives)
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
        value = state_value(self._function(z, x, parameters), shape)
        return value.astype(np.result_type(value, np.float64), copy=False)

    def state_jacobian(self, z: Array, x: Array) -> Array:
        """``dF/dz``, supplied, by products with unit vectors or by differences."""
        probe = Probe(self.parameters, z, x)
        for name, function in self._of("state").items():
            if name != "state_jacobian":
                return state_columns(name, function, probe)
            return supplied_value(name, function(z, x, self.parameters), (*z.shape, self.n_states))
        found = by_states(RULES[self.state_derivative], self._function, probe)
        return self._accepted(found, "the states", "state_jacobian")

    def parameter_jacobian(self, z: Array, x: Array) -> dict[str, Array]:
        """``dF/d(parameter)`` for each trainable parameter, as `state_jacobian`."""
        if "parameter_jacobian" in self._derivatives:
            found = self._derivatives["parameter_jacobian"](z, x, self.parameters)
            shapes = {name: (*z.shape, *self.parameters[name].shape) for name in self.trainable}
            return {name: supplied_value("parameter_jacobian", found, shapes[name], name) for name in self.trainable}
        return {name: self._by_entries(Probe(self.parameters, z, x), name) for name in self.trainable}

    def _by_entries(self, probe: Probe, name: str) -> Array:
        """``dF/d(parameter)``, one entry of it after the other."""
        shape = self.parameters[name].shape
        entries = list(np.ndindex(shape))
        if "parameter_product" in self._derivatives:
            value = parameter_columns(self._derivatives["parameter_product"], probe, self.trainable, name, entries)
        else:
            rule = RULES[self.parameter_derivative]
            value = self._accepted(by_parameter(rule, self._function, probe, name, entries), name, "parameter_jacobian")
        return value.reshape(*probe.z.shape, *shape)

    @property
    def products(self) -> frozenset[str]:
        """The Jacobians of which both products are given."""
        sides = ("state", "parameter")
        return frozenset(side for side in sides if {f"{side}_product", f"{side}_transpose"} <= set(self._derivatives))

    def state_product(self, z: Array, x: Array, v: Array) -> Array:
        """``A v``, supplied."""
        return supplied_value("state_product", self._derivatives["state_product"](z, x, self.parameters, v), z.shape)

    def state_transpose(self, z: Array, x: Array, w: Array) -> Array:
        """``A^T w``, supplied."""
        value = self._derivatives["state_transpose"](z, x, self.parameters, w)
        return supplied_value("state_transpose", value, z.shape)

    def parameter_product(self, z: Array, x: Array, changes: Parameters) -> Array:
        """``J dtheta``, supplied."""
        value = self._derivatives["parameter_product"](z, x, self.parameters, changes)
        return supplied_value("parameter_product", value, z.shape)

    def parameter_transpose(self, z: Array, x: Array, w: Array) -> dict[str, Array]:
        """``J^T w`` summed over states, supplied."""
        found, name = self._derivatives["parameter_transpose"](z, x, self.parameters, w), "parameter_transpose"
        return {key: supplied_value(name, found, self.parameters[key].shape, key) for key in self.trainable}

    @property
    def thread_safe(self) -> bool:
        """False: the functions are the user's."""
        return False

    @property
    def remark(self) -> str:
        """Which derivatives are central differences, and their error so far."""
        sources = {"states": self.state_derivative, "parameters": self.parameter_derivative}
        rough = [f"the {what}" for what, source in sources.items() if source == "central differences"]
        if not rough:
            return ""
        return (
            f"derivatives by {' and '.join(rough)} are central differences, with an estimated error of up to "
            f"{self.derivative_error:.1g} of the largest entry"
        )

    def _of(self, side: str) -> dict[str, UserFunction]:
        """What was given of one of the two derivatives."""
        return {name: function for name, function in self._derivatives.items() if name.startswith(side)}

    def _accepted(self, found: FiniteDifference, what: str, argument: str) -> Array:
        """A derivative by differences at points where it is used, whose error counts from now on."""
        error = relative_error(found)
        if not error <= ROUGH:
            index = first_index(found.error == found.error.max())
            raise ValueError(
                f"central differences of function by {what} have a relative error of {error:.2g} at point "
                f"{place(index[:-1])}, more than the {ROUGH:g} allowed: give {argument}"
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
        """Choose the rule for ``dF/dz``, check what was supplied; returns the error."""
        found = [choose(lambda z, p=p: self._function(z, p.x, p.parameters), p.z, "the states") for p in probes]
        self.state_derivative, error = worst(found)
        given, rule = self._of("state"), self.state_derivative
        if not given:
            return error
        self.state_derivative = "supplied"
        return max(check_by_states(given, self._function, probe, rule) for probe in probes)

    def _settle_parameter_derivative(self, probes: list[Probe]) -> float:
        """As above for ``dF/dtheta``."""
        found = []
        for p in probes:
            for name in self.trainable:

                def function(value: Array, p: Probe = p, name: str = name) -> Any:
                    return self._function(p.z, p.x, {**p.parameters, name: value})

                found.append(choose(function, p.parameters[name], name))
        self.parameter_derivative, error = worst(found)
        given, rule = self._of("parameter"), self.parameter_derivative
        if not given:
            return error
        self.parameter_derivative = "supplied"
        return max(check_by_parameters(given, self._function, probe, rule, self.trainable) for probe in probes)


class UserMap(UserModel, Map):
    """A map ``z[n+1] = F(z[n], x[n], theta)`` given as a Python function; parameters are those of `UserModel`.

    Examples
    --------
    >>> import numpy as np
    >>> def reservoir(z, x, parameters):
    ...     return np.tanh(z @ parameters["W"].T + x)
    >>> weight = np.random.default_rng(0).normal(size=(3, 3))
    >>> model = UserMap(reservoir, n_states=3, n_inputs=3, parameters={"W": weight})
    >>> model.parameter_derivative
    'complex step'

    With products, of which nothing is stored:

    >>> def gain(z, x, parameters):
    ...     return 1 - reservoir(z, x, parameters) ** 2
    >>> model = UserMap(
    ...     reservoir,
    ...     n_states=3,
    ...     n_inputs=3,
    ...     parameters={"W": weight},
    ...     state_product=lambda z, x, p, v: gain(z, x, p) * (v @ p["W"].T),
    ...     state_transpose=lambda z, x, p, w: (gain(z, x, p) * w) @ p["W"],
    ...     parameter_product=lambda z, x, p, changes: gain(z, x, p) * (z @ changes["W"].T),
    ...     parameter_transpose=lambda z, x, p, w: {"W": (gain(z, x, p) * w).T @ z},
    ... )
    >>> sorted(model.products)
    ['parameter', 'state']
    """


class UserField(UserModel, DenseField):
    """A vector field ``dz/dt = F(z, x(t), theta)`` given as a Python function; parameters are those of `UserModel`.

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


def _require_one_form(derivatives: Mapping[str, UserFunction]) -> None:
    for side in ("state", "parameter"):
        products = [name for name in (f"{side}_product", f"{side}_transpose") if name in derivatives]
        if products and f"{side}_jacobian" in derivatives:
            raise ValueError(f"give either {side}_jacobian or {' and '.join(products)}, which say the same")
    if "parameter_transpose" in derivatives and "parameter_product" not in derivatives:
        raise ValueError(
            "parameter_transpose is summed over states, so the derivative by the parameters does not follow from it "
            "alone: give parameter_product too"
        )
