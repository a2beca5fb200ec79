"""Problems whose every number is a whole one, and their answers in integers: where floating point does not round.

A network of relu and of weights, inputs and probes that are small whole numbers has whole states, P, J, K and NTK. Sums
of p-bit floating-point numbers that are multiples of one unit are exact, in whatever order, as long as the sum of their
magnitudes stays below ``2**p`` units. A right backend then agrees to the last bit, and needs no bound.

**Two conditions** make this hold, and a problem without them is refused. No pre-activation is zero, because the
derivative of relu there is a convention. And magnitudes stay below ``2**p``: those of every operator are found by
applying the operator of absolute values ``|A|``, ``|J|`` to the larger of ``|q|`` and 1, so that any order, and any
association of the product (dense Jacobians, products of them, D in place of P and J), is covered.

**Where the integers come from.** The step is affine in every single entry of the state and of the parameters, as long
as no unit passes zero on the way. Its derivatives are therefore *equal* to differences of the plain forward model,

    A e_j = (F(z + h e_j) - F(z)) / h,      h a power of two,

and the differences to both sides agree if and only if no unit passes zero. Neither the kernels nor the coefficients
that models derive by hand take part. The operators are then their definitions, in 64-bit integers. Numbers may also be
multiples of a small power of two, as with a leak of 1/2: an integer then counts multiples of ``2**-bits``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from kpref._types import Array
from kpref._validate import integer, short
from kpref.flow import Flow
from kpref.models.base import Map
from kpref.models.step import StepModel
from kpref.oracle.arithmetic import Arithmetic
from kpref.oracle.evaluation import FACTORS, WEIGHED_AFTER, WEIGHED_BEFORE
from kpref.oracle.problem import MODELS
from kpref.program import Operation

__all__ = ["EXACT_MODELS", "Integers", "NotExact", "integer_flow"]

#: What networks of whole numbers need, of the options that a network has.
_OPTIONS: dict[str, Any] = {"nonlinearity": "relu", "alpha": 1.0}

#: Distance of the differences. A pre-activation is at least one unit from zero, and moves by less.
_STEP = 2.0**-20
#: Most bits behind the binary point: of A, so that products of 53 bits with it fit into 64; and of states.
_MOST_BITS, _MOST_OF_STATES = 8, 16
#: Largest number of units that the differences can be taken at.
_LARGEST = 2.0**18

#: Inputs of a step are drawn as often as this until no pre-activation is zero.
_ATTEMPTS = 1000


class NotExact(ValueError):
    """A problem, or its answers in an arithmetic, are not exact."""


def integer_flow(
    model: str,
    trials: int = 3,
    steps: int = 5,
    states: int = 8,
    inputs: int = 3,
    seed: int = 0,
    measure: str | npt.ArrayLike = "sum",
    zero_start: bool = False,
    **options: Any,
) -> Flow:
    """A random problem of whole numbers.

    Recurrent weights have one entry of 1 or -1 in a row and a few more, so that products of them grow slowly. Inputs
    are drawn step by step, until no pre-activation is zero.

    Parameters
    ----------
    model : str
        One of `kpref.oracle.problem.MODELS` that can have the nonlinearity relu, or none.
    trials, steps, states, inputs : int
        B, T, units (of one layer; of a network of low rank a power of two), n_in.
    seed : int
    measure : {"mean", "sum"} or array_like
        See `kpref.TrajectorySpace`.
    zero_start : bool
        Whether the initial states are zero.
    **options
        Of the model, such as ``bias=False``, or ``alpha=0.5`` of a leaky network.

    Returns
    -------
    Flow

    Raises
    ------
    NotExact
        If a pre-activation is zero whatever the inputs are.
    ValueError
        If the model is not of that kind.
    """
    if model not in EXACT_MODELS:
        raise ValueError(f"problems of whole numbers are of {', '.join(EXACT_MODELS)}; got {short(model)}")
    rng = np.random.default_rng([integer("seed", seed, 0), 5])
    network, scale = _network(model, states, inputs, rng, options)
    starts = scale * rng.choice([-2, -1, 1, 2], size=(trials, network.n_states)) * (not zero_start)
    drawn = _inputs(network, starts, steps, rng, scale)
    return Flow(network, drawn, starts, measure)


def _network(
    model: str, states: int, inputs: int, rng: np.random.Generator, options: dict[str, Any]
) -> tuple[Any, int]:
    """A network of whole numbers, and what its states are a multiple of."""
    known = MODELS[model].init(1, 1, 0).options
    given = {name: value for name, value in _OPTIONS.items() if name in known} | options
    network: Any = MODELS[model].init(inputs, states, 0, **given)
    scale = _scale(network)
    return network.with_parameters(_parameters(network, rng, scale)), scale


def _scale(network: Any) -> int:
    """What states are a multiple of, so that the smallest factor of an array leaves them whole."""
    factors = [np.min(np.abs(entry.factor)) for entry in network.entries() if np.all(entry.factor)]
    return round(1 / min(factors))


def _products(network: Any) -> dict[str, Operation]:
    return {op.name: op for op in network.program.operations if op.kind == "product"}


def _biases(network: Any) -> list[str]:
    """Names of the arrays of one axis that join the currents."""
    entries = [entry.parameter for entry in network.entries() if entry.weight in _products(network)]
    return list(dict.fromkeys(name for name in entries if network.parameters[name].ndim == 1))


def _fractions(shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Numbers between 0 and 1."""
    return rng.integers(1, 256, shape) / 256


def _parameters(network: Any, rng: np.random.Generator, scale: int) -> dict[str, Array]:
    """Whole numbers for all arrays that enter products."""
    products = _products(network)
    driven = {None, *network.program.new}  # what passes through once a step: inputs, and the layer below
    drawn: dict[str, Array] = {}
    biases: dict[tuple[str, int], int] = {}
    for entry in network.entries():
        name, array = entry.parameter, network.parameters[entry.parameter]
        if entry.weight not in products or name in drawn:
            continue
        if array.ndim == 1:  # 1, 2, 4, ... or minus that: no sum of biases is zero
            place = entry.weight, entry.rows.start
            biases[place] = 2 * biases.get(place, 0) or 1
            drawn[name] = scale * biases[place] * rng.choice([-1.0, 1.0], array.shape)
        elif products[entry.weight].source in driven:
            drawn[name] = rng.choice([-1.0, 1.0], array.shape)
        else:
            drawn[name] = _sparse(array.shape, rng) / entry.factor
    return drawn


def _sparse(shape: tuple[int, int], rng: np.random.Generator) -> Array:
    """1 or -1 at places of which no two share a row or a column, mostly 1 lest units fall silent, and at a few more."""
    weight = np.zeros(shape)
    count, extra = min(shape), 1 + max(shape) // 4
    rows, columns = rng.permutation(shape[0])[:count], rng.permutation(shape[1])[:count]
    weight[rows, columns] = rng.choice([-1.0, 1.0, 1.0, 1.0], count)
    weight[rng.integers(shape[0], size=extra), rng.integers(shape[1], size=extra)] = rng.choice([-1.0, 1.0], extra)
    return weight


def _inputs(network: Any, z: Array, steps: int, rng: np.random.Generator, scale: int) -> Array:
    """Inputs (B, T, n_in) along which no pre-activation is zero; more units need a wider choice."""
    largest, shape = 3 + network.n_states // 16, (len(z), network.n_inputs)
    # With biases that are no whole numbers, only what is a unit of the state itself is zero in the next step.
    aside = network.with_parameters(
        {name: network.parameters[name] + _fractions(network.parameters[name].shape, rng) for name in _biases(network)}
    )
    found = []
    for step in range(steps):
        x, bad = np.zeros(shape), np.ones(len(z), bool)
        for _ in range(_ATTEMPTS):
            x[bad] = scale * rng.integers(-largest, largest + 1, shape)[bad]
            new = network.step(z, x)
            bad = _at_zero(network, z, x, rng) | _at_zero(aside, new, x + _fractions(shape, rng), rng)
            if not bad.any():
                break
        else:
            raise NotExact(
                f"trial {np.argmax(bad)}, step {step}: a pre-activation is zero whatever the inputs are, where the "
                f"derivative of relu is a convention; give another seed, fewer units, or biases"
            )
        z = new
        found.append(x)
    return np.stack(found, axis=1)


def _at_zero(network: Any, z: Array, x: Array, rng: np.random.Generator) -> Array:
    """Which trials have a pre-activation of zero: the step, as a function of states and inputs, has a kink there."""
    dz, dx = (_STEP * rng.integers(1, 1000, value.shape) / 1024 for value in (z, x))
    gap = network.step(z + dz, x + dx) + network.step(z - dz, x - dx) - 2 * network.step(z, x)
    return np.asarray(gap.any(axis=1))


@dataclass(frozen=True, eq=False)
class Integers:
    """The linearisation of a problem of whole numbers, and its operators by their definitions.

    Built by `Integers.of`.

    Attributes
    ----------
    states : ndarray, shape (B, T, H), float64
    state_magnitudes : ndarray, shape (B, T, H), float64
        Sums of magnitudes that lead to them.
    jacobians : ndarray, shape (T, B, H, H)
        A, in multiples of ``2**-bits["A"]``.
    parameter_jacobian : sparse array, shape (B T H, M)
        J, in multiples of ``2**-bits["J"]``.
    mu : ndarray, shape (B, T)
        Weights of the measure, in multiples of ``2**-bits["mu"]``.
    bits : dict of str to int
        Bits behind the binary point, of "states" too.
    sign : int
        Of A in the inverse of P; 1 among magnitudes.
    """

    states: Array
    state_magnitudes: Array
    jacobians: Any
    parameter_jacobian: Any
    mu: Any
    bits: dict[str, int]
    sign: int = -1

    @classmethod
    def of(cls, flow: Flow) -> Integers:
        """The integers of a flow of a network in discrete time.

        Raises NotExact if its numbers are not whole, or a pre-activation is zero.
        """
        from scipy import sparse

        model: Any = flow.model
        if not (isinstance(model, Map) and isinstance(model, StepModel)):
            raise TypeError(f"exact problems are those of networks in discrete time; got {model}")
        z0, inputs = np.asarray(flow.z0, float), np.asarray(flow.inputs, float)
        for name, value in (*model.parameters.items(), ("inputs", inputs), ("z0", z0)):
            _bits(name, value)
        states = np.asarray(model.iterate(z0, inputs))
        starts = np.concatenate([z0[:, None], states[:, :-1]], axis=1)
        small = {name: np.abs(value) for name, value in model.parameters.items()}
        magnitudes = np.asarray(model.with_parameters(small).evaluate(np.abs(starts), np.abs(inputs)))
        bits = {
            "states": _bits("states", states, _MOST_OF_STATES),
            "mu": _bits("the weights of the measure", flow.space.mu),
        }
        if max(magnitudes.max(), np.abs(inputs).max()) * 2.0 ** bits["states"] > _LARGEST:
            raise NotExact(
                f"states and the sums that lead to them must stay below 2**18 units for exact differences; got "
                f"2**{np.log2(magnitudes.max()) + bits['states']:.1f}: take fewer steps"
            )
        value = model.evaluate(starts, inputs)
        jacobians = np.stack(
            [_difference(value, *_both(model, starts, inputs, unit)) for unit in range(model.n_states)], axis=-1
        )
        rows, numbers = [], []
        for sides in _by_parameters(model, starts, inputs):
            column = _difference(value, *sides).reshape(-1)
            rows.append(np.flatnonzero(column))
            numbers.append(column[rows[-1]])
        found = np.concatenate(numbers)
        bits["A"], bits["J"] = _bits("A", jacobians), _bits("J", found, _MOST_OF_STATES)
        ends = np.cumsum([0, *(len(part) for part in rows)])
        parameter_jacobian = sparse.csc_array(
            (_whole(found, bits["J"]), np.concatenate(rows), ends), shape=(value.size, len(rows))
        )
        return cls(
            states, magnitudes, _whole(np.moveaxis(jacobians, 1, 0), bits["A"]), parameter_jacobian,
            _whole(flow.space.mu, bits["mu"]), bits,
        )  # fmt: skip

    @property
    def shape(self) -> tuple[int, int, int]:
        """(B, T, H)."""
        trials, steps, units = self.states.shape
        return trials, steps, units

    def magnitudes(self) -> Integers:
        """The same with absolute values, in float64."""
        return replace(
            self,
            jacobians=np.abs(self.jacobians).astype(float),
            parameter_jacobian=abs(self.parameter_jacobian).astype(float),
            mu=self.mu.astype(float),
            sign=1,
        )

    def apply(self, operator: str, tensor: Array) -> Iterator[tuple[str, Array, int]]:
        """What arises on the way to the value of an operator, and the value itself last.

        Yields the factor of the product that it came from, integers, and the bits behind their binary point.
        """
        bits = 0
        if operator in WEIGHED_BEFORE:
            tensor, bits = tensor * self.mu[:, :, None], self.bits["mu"]
        for factor in FACTORS.get(operator, (operator,)):
            tensor, more = getattr(self, f"_{factor}")(tensor)
            bits += more
            yield factor, tensor, bits
        if operator in WEIGHED_AFTER:
            yield "Mu", tensor * self.mu[:, :, None], bits + self.bits["mu"]

    def answer(self, operator: str, tensor: Array) -> Array:
        """The value of an operator, as float64."""
        *_, (_, value, bits) = self.apply(operator, tensor.astype(np.int64))
        return np.ldexp(value.astype(float), -bits)

    def require(self, operators: Iterable[str], probes: Iterable[Array], arithmetic: Arithmetic) -> None:
        """Raise NotExact unless an arithmetic holds the states, and all that leads to these operators' answers."""
        sums = 1 / max(arithmetic.unit, arithmetic.accumulate, arithmetic.result)
        operand = min(sums, 1 / (arithmetic.operand or arithmetic.unit))
        self._fit("states", self.state_magnitudes.max() * 2.0 ** self.bits["states"], operand, arithmetic)
        absolute = self.magnitudes()
        for operator, probe in zip(operators, probes, strict=True):
            last = len(FACTORS.get(operator, (operator,))) - 1
            for place, (factor, size, _) in enumerate(absolute.apply(operator, np.maximum(np.abs(probe), 1.0))):
                # What a later product multiplies must be an operand of it.
                limit = sums if place >= last and factor not in ("P", "P_T") else operand
                self._fit(operator, size.max(), limit, arithmetic)

    @staticmethod
    def _fit(what: str, size: float, limit: float, arithmetic: Arithmetic) -> None:
        if size >= limit:
            raise NotExact(
                f"the magnitudes of {what} add up to 2**{np.log2(size):.1f} units, and {arithmetic.name} holds whole "
                f"numbers below 2**{np.log2(limit):.0f}: take fewer trials, steps or units, or a wider arithmetic"
            )

    # Definitions, each with the bits that it adds; the products of dense Jacobians are those of integers

    def _P(self, q: Array) -> tuple[Array, int]:
        """``y[n] = A[n] y[n-1] + q[n]``."""
        more = self.bits["A"] * (self.shape[1] - 1)
        y = q * 2**more
        for step in range(1, self.shape[1]):
            y[:, step] += self._carry("bij,bj->bi", step, y[:, step - 1])
        return y, more

    def _P_T(self, g: Array) -> tuple[Array, int]:
        """``l[n] = A[n+1]^T l[n+1] + g[n]``."""
        more = self.bits["A"] * (self.shape[1] - 1)
        costate = g * 2**more
        for step in range(self.shape[1] - 1, 0, -1):
            costate[:, step - 1] += self._carry("bij,bi->bj", step, costate[:, step])
        return costate, more

    def _carry(self, indices: str, step: int, value: Array) -> Array:
        return np.asarray(np.einsum(indices, self.jacobians[step], value) // 2 ** self.bits["A"])

    def _P_inverse(self, y: Array) -> tuple[Array, int]:
        """``q[n] = y[n] - A[n] y[n-1]``."""
        q = y * 2 ** self.bits["A"]
        q[:, 1:] += self.sign * np.einsum("nbij,bnj->bni", self.jacobians[1:], y[:, :-1])
        return q, self.bits["A"]

    def _P_inverse_T(self, g: Array) -> tuple[Array, int]:
        """``q[n] = g[n] - A[n+1]^T g[n+1]``."""
        q = g * 2 ** self.bits["A"]
        q[:, :-1] += self.sign * np.einsum("nbij,bni->bnj", self.jacobians[1:], g[:, 1:])
        return q, self.bits["A"]

    def _D_z0(self, start: Array) -> tuple[Array, int]:
        """``P`` of ``A[0] start`` in the first step."""
        forcing = np.zeros(self.shape, start.dtype)
        forcing[:, 0] = np.einsum("bij,bj->bi", self.jacobians[0], start)
        y, more = self._P(forcing)
        return y, more + self.bits["A"]

    def _D_z0_T(self, g: Array) -> tuple[Array, int]:
        costate, more = self._P_T(g)
        return np.einsum("bij,bi->bj", self.jacobians[0], costate[:, 0]), more + self.bits["A"]

    def _J(self, theta: Array) -> tuple[Array, int]:
        return (self.parameter_jacobian @ theta).reshape(self.shape), self.bits["J"]

    def _J_T(self, g: Array) -> tuple[Array, int]:
        return self.parameter_jacobian.T @ g.reshape(-1), self.bits["J"]


def _both(model: Any, starts: Array, inputs: Array, unit: int) -> tuple[Array, Array]:
    """The step with one unit of all states moved, to both sides."""
    move = _STEP * (np.arange(model.n_states) == unit)
    return model.evaluate(starts + move, inputs), model.evaluate(starts - move, inputs)


def _by_parameters(model: Any, starts: Array, inputs: Array) -> Iterator[tuple[Array, Array]]:
    """The step with each trainable parameter moved in turn, to both sides."""
    for name in model.trainable:
        changed = np.array(model.parameters[name])
        for place in range(changed.size):
            right, sides = changed.flat[place], []
            for moved in (right + _STEP, right - _STEP):
                changed.flat[place] = moved
                sides.append(model.evaluate(starts, inputs, {name: changed}))
            changed.flat[place] = right
            yield sides[0], sides[1]


def _difference(value: Array, above: Array, below: Array) -> Array:
    """The derivative; NotExact where that to one side is another than that to the other."""
    kink = above + below != 2 * value
    if kink.any():
        step, trial, unit = (int(i) for i in np.argwhere(np.moveaxis(kink, 1, 0))[0])
        raise NotExact(
            f"at trial {trial}, step {step}, unit {unit} a pre-activation is zero, or the step is not of relu: exact "
            "problems have derivatives that are no matter of convention; give another seed, or make the problem by "
            "kpref.oracle.integer_flow"
        )
    return np.asarray((above - value) / _STEP)


def _bits(name: str, values: Array, most: int = _MOST_BITS) -> int:
    """Bits behind the binary point of all these numbers."""
    for bits in range(most + 1):
        scaled = np.ldexp(values, bits)
        if np.array_equal(scaled, np.rint(scaled)):
            return bits
    wrong = values[np.ldexp(values, most) != np.rint(np.ldexp(values, most))][0]
    raise NotExact(f"{name} must be whole numbers, or multiples of 2**-{most}, for an exact answer; got {wrong}")


def _whole(values: Array, bits: int) -> Array:
    return np.ascontiguousarray(np.ldexp(values, bits).astype(np.int64))


def _is_piecewise_affine(model: str) -> bool:
    """Whether a network, of relu if it can be, is affine around points where no pre-activation is zero.

    Of both signs, so that what is behind a relu is seen too.
    """
    rng = np.random.default_rng(0)
    network, _ = _network(model, 1, 1, rng, {})
    signs = np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    states, inputs = 0.3125 * np.tile(signs[:, :1], network.n_states), 0.78125 * signs[:, 1:]
    return not _at_zero(network, states, inputs, rng).any()


#: Networks that `integer_flow` makes problems of: those of relu, and linear ones.
EXACT_MODELS = tuple(model for model in MODELS if _is_piecewise_affine(model))
