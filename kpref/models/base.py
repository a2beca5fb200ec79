"""What all models share: named parameters, and the interface that the rest of kpref uses.

A model is a function F(z, x, theta) of states, inputs and parameters: of a map ``z[n+1] = F(z[n], x[n], theta)``, or
of a vector field ``dz/dt = F(z, x(t), theta)``. It is written twice by hand: the plain NumPy function, and its
linearisation: that of networks is a program (`kpref.models.step`), that of small systems full Jacobians.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from kpref._foreign import is_ours, read_only, returned
from kpref._frozen import FrozenDict, MadeOfFunctions
from kpref._types import Array
from kpref._validate import check_shape, finite_array, numeric_array, short
from kpref.threads import serial_blas

__all__ = ["DenseField", "DenseModel", "Field", "Map", "Model", "ProductModel"]

Parameters = Mapping[str, Array]


class Model(MadeOfFunctions, ABC):
    """A function F(z, x, theta) with named parameters and a hand-derived linearisation; immutable.

    Attributes
    ----------
    n_inputs, n_states : int
    parameters : mapping of str to ndarray
        Read-only: float64 arrays in declared order.
    trainable : tuple of str
        Names of the parameters that training moves, in declared order: the axes of the parameter space.
    """

    n_states: int
    n_inputs: int

    def __init__(self, parameters: Mapping[str, npt.ArrayLike], trainable: Sequence[str] | None) -> None:
        self._parameters: Parameters = FrozenDict(
            {name: finite_array(name, value) for name, value in parameters.items()}
        )
        self.trainable: tuple[str, ...] = self._trainable(trainable)

    @property
    def parameters(self) -> Parameters:
        """Read-only float64 arrays by name, in declared order."""
        return self._parameters

    def _trainable(self, names: Sequence[str] | None) -> tuple[str, ...]:
        if names is None:
            return tuple(self.parameters)
        if isinstance(names, str):
            raise TypeError(f"trainable must be a sequence of parameter names; got the string {names!r}")
        if not isinstance(names, Iterable):
            raise TypeError(f"trainable must be a sequence of parameter names; got {short(names)}")
        names = tuple(names)
        if not names or not all(isinstance(name, str) and name in self.parameters for name in names):
            raise ValueError(f"trainable must name some of {', '.join(self.parameters)}; got {short(list(names))}")
        return tuple(name for name in self.parameters if name in names)

    @abstractmethod
    def _evaluate(self, parameters: Parameters, z: Array, x: Array) -> Array:
        """F, in plain NumPy, analytic in all arguments."""

    def _options(self) -> dict[str, Any]:
        return {}

    @property
    def options(self) -> dict[str, Any]:
        """Constructor arguments beside parameters and trainable."""
        return self._options()

    def _remake(self, parameters: Mapping[str, Any], trainable: Sequence[str] | None) -> Self:
        """A model of the same kind and options with these parameters."""
        return type(self)(**parameters, trainable=trainable, **self._options())

    @property
    def observed(self) -> slice:
        """Columns of the state that readouts and losses see: all, but for networks with states of several parts."""
        return slice(0, self.n_states)

    @property
    def start(self) -> Array:
        """Where trials start unless somebody says otherwise, (H,): zero, where that is a state like others."""
        return np.zeros(self.n_states)

    @property
    def parts(self) -> dict[str, slice]:
        """Columns of the state by what they are, each with one for each unit: of an LSTM "h" and "c"."""
        return {"z": slice(0, self.n_states)}

    @property
    def n_units_in_all(self) -> int:
        """Units of all layers; of an LSTM, whose units keep h and c, half as many as there are states."""
        return self.n_states

    @property
    def multiplications(self) -> tuple[int, int]:
        """Multiply-adds that matrix products take at one state: of a product with A, and of one with J."""
        return self.n_states**2, self.n_states * self.n_parameters

    @property
    def in_words(self) -> str:
        """What it is, how large, and of what kind of units, for reports."""
        return f"{type(self).__name__} of {self.n_states} units"

    @property
    def n_parameters(self) -> int:
        """Number M of trainable parameters."""
        return sum(self.parameters[name].size for name in self.trainable)

    @property
    def vector(self) -> Array:
        """The trainable parameters, raveled and concatenated in declared order: shape (M,)."""
        return self.flatten(self.parameters)

    @serial_blas
    def evaluate(self, z: npt.ArrayLike, x: npt.ArrayLike, parameters: Parameters | None = None) -> Array:
        """F at states and inputs.

        Parameters
        ----------
        z : array_like, shape (..., H)
        x : array_like, shape (..., n_inputs)
            The leading axes of both are broadcast: one input for many states, or one state under many inputs.
        parameters : mapping, optional
            Replaces some of the model's own; may be complex, as may z and x.

        Returns
        -------
        ndarray, shape (..., H)
        """
        own: Parameters = self.parameters
        if parameters is not None:
            self._require_known(parameters)
            own = {**own, **parameters}
        states, inputs = self._points(z, x)
        value = self._evaluate(own, states, inputs)
        if is_ours(type(self)):
            return value
        complex_ = any(np.iscomplexobj(array) for array in (states, inputs, *own.values()))
        shape = (*np.broadcast_shapes(states.shape[:-1], inputs.shape[:-1]), self.n_states)
        return returned(f"{type(self).__name__}._evaluate", value, shape, "biufc" if complex_ else "biuf")

    def _points(self, z: npt.ArrayLike, x: npt.ArrayLike) -> tuple[Array, Array]:
        """States and inputs with the right last axes and the same leading ones; a user's class cannot write to them."""
        arrays = []
        for name, value, length in (("z", z, self.n_states), ("x", x, self.n_inputs)):
            array = numeric_array(name, value, "biufc")
            if array.ndim == 0 or array.shape[-1] != length:
                raise ValueError(f"{name} must have shape (..., {length}) for {self}; got {array.shape}")
            arrays.append(array)
        try:
            leading = np.broadcast_shapes(*(array.shape[:-1] for array in arrays))
        except ValueError:
            shapes = " and ".join(str(array.shape) for array in arrays)
            raise ValueError(f"z and x must have leading axes that fit each other; got {shapes}") from None
        states, inputs = (
            array if array.shape[:-1] == leading else np.broadcast_to(array, (*leading, array.shape[-1]))
            for array in arrays
        )
        return (states, inputs) if is_ours(type(self)) else (read_only(states), read_only(inputs))

    @property
    def thread_safe(self) -> bool:
        """Whether all code of the model is this package's: only then does it run on our threads, or compiled."""
        return is_ours(type(self))

    @property
    def remark(self) -> str:
        """What a reader of results must know of the derivatives, in a sentence; empty where they are exact."""
        return ""

    def flatten(self, parameters: Parameters) -> Array:
        """Trainable parameters (or perturbations of them) by name, as a vector (M,)."""
        self._require_mapping(parameters)
        missing = [name for name in self.trainable if name not in parameters]
        if missing:
            raise ValueError(f"parameters must hold {', '.join(self.trainable)}; {missing[0]!r} is missing")
        return np.concatenate([np.ravel(numeric_array(name, parameters[name], "biufc")) for name in self.trainable])

    def _require_known(self, parameters: Mapping[str, Any]) -> None:
        self._require_mapping(parameters)
        unknown = [name for name in parameters if name not in self.parameters]
        if unknown:
            names = ", ".join(map(str, unknown))
            raise ValueError(f"parameters must be among {', '.join(self.parameters)}; got {names}")

    @staticmethod
    def _require_mapping(parameters: object) -> None:
        if not isinstance(parameters, Mapping):
            raise TypeError(f"parameters must be a mapping of names to arrays; got {short(parameters)}")

    def unflatten(self, vector: npt.ArrayLike) -> dict[str, Array]:
        """A vector (M,), real or complex, as trainable parameters by name."""
        vector = numeric_array("vector", vector, "biufc")
        if vector.shape != (self.n_parameters,):
            raise ValueError(f"vector must have shape ({self.n_parameters},), the parameters; got {vector.shape}")
        ends = np.cumsum([self.parameters[name].size for name in self.trainable])
        pieces = np.split(vector, ends[:-1])
        return {
            name: piece.reshape(self.parameters[name].shape) for name, piece in zip(self.trainable, pieces, strict=True)
        }

    def with_parameters(self, parameters: Mapping[str, npt.ArrayLike]) -> Self:
        """A model of the same kind with some parameters replaced.

        Raises
        ------
        ValueError
            For a name the model does not have, or a shape that does not match.
        """
        self._require_known(parameters)
        return self._remake({**self.parameters, **parameters}, self.trainable)

    def with_vector(self, vector: npt.ArrayLike) -> Self:
        """A model of the same kind whose trainable parameters are `vector`, shape (M,)."""
        return self.with_parameters(self.unflatten(vector))

    def with_trainable(self, trainable: Sequence[str] | None) -> Self:
        """The same model with another trainable subset (None: all)."""
        return self._remake(self.parameters, trainable)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.n_inputs} inputs, {self.n_states} states, {self.n_parameters} trainable)"


class Map(Model):
    """A model in discrete time, ``z[n+1] = F(z[n], x[n], theta)``."""

    def step(self, z: npt.ArrayLike, x: npt.ArrayLike, parameters: Parameters | None = None) -> Array:
        """One application of the map: `Model.evaluate` under the name that a map has for it."""
        return self.evaluate(z, x, parameters)

    def iterate(self, z0: npt.ArrayLike, inputs: npt.ArrayLike, parameters: Parameters | None = None) -> Array:
        """Run the map over inputs: the plain, slow, obvious forward pass, real or complex.

        Parameters
        ----------
        z0 : array_like, shape (B, H)
        inputs : array_like, shape (B, T, n_inputs)
        parameters : mapping, optional
            As for `evaluate`.

        Returns
        -------
        ndarray, shape (B, T, H)
            z[1..T].
        """
        z, states = numeric_array("z0", z0, "biufc"), []
        given = numeric_array("inputs", inputs, "biufc")
        check_shape("inputs", given, shape=("B", "T", self.n_inputs))
        check_shape("z0", z, shape=(len(given), self.n_states))
        if given.shape[1] == 0:
            raise ValueError(f"inputs must have at least one step; got shape {given.shape}")
        for x in np.moveaxis(given, 1, 0):
            z = self.step(z, x, parameters)
            states.append(z)
        return np.stack(states, axis=1)


class DenseModel(Model):
    """A small system that states its Jacobians as full arrays."""

    @abstractmethod
    def state_jacobian(self, z: Array, x: Array) -> Array:
        """``dF/dz`` at states z (..., H) under inputs x (..., n_inputs): shape (..., H, H)."""

    @abstractmethod
    def parameter_jacobian(self, z: Array, x: Array) -> dict[str, Array]:
        """``dF/d(parameter)`` for each parameter by name: shape (..., H, \\*shape of the parameter)."""

    @property
    def n_stored(self) -> int:
        """Numbers that its linearisation stores for each state."""
        return self.n_states + self.n_parameters


class ProductModel(DenseModel):
    """A system that may state products with its Jacobians in place of the Jacobians, which it then has by columns."""

    @property
    @abstractmethod
    def products(self) -> frozenset[str]:
        """Which Jacobians are to be applied by products and not stored: some of "state" and "parameter"."""

    @property
    def n_stored(self) -> int:
        """Numbers that its linearisation stores for each state: the state, or the rows of Jacobians."""
        by_products = self.products
        return max(
            1, self.n_states * ("state" not in by_products) + self.n_parameters * ("parameter" not in by_products)
        )

    @abstractmethod
    def state_product(self, z: Array, x: Array, v: Array) -> Array:
        """``dF/dz v``, (..., H), at states z, inputs x and for v (..., H)."""

    @abstractmethod
    def state_transpose(self, z: Array, x: Array, w: Array) -> Array:
        """``(dF/dz)^T w``, (..., H)."""

    @abstractmethod
    def parameter_product(self, z: Array, x: Array, changes: Parameters) -> Array:
        """``dF/dtheta dtheta``, (..., H), for one change of the trainable parameters, by name."""

    @abstractmethod
    def parameter_transpose(self, z: Array, x: Array, w: Array) -> dict[str, Array]:
        """``sum (dF/dtheta)^T w`` over all states, by the name of the parameter."""


class Field(Model):
    """A model in continuous time, ``dz/dt = F(z, x(t), theta)``."""

    def velocity(self, z: npt.ArrayLike, x: npt.ArrayLike, parameters: Parameters | None = None) -> Array:
        """The vector field: `Model.evaluate` under the name that a field has for it."""
        return self.evaluate(z, x, parameters)


class DenseField(Field, DenseModel):
    """A small system in continuous time."""
