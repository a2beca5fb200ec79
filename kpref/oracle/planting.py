"""Small changes to a correct backend, and ways to plant them: the material of `kpref.oracle.mutants`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from kpref.models.nonlinearity import sigmoid
from kpref.oracle.arithmetic import ARITHMETICS
from kpref.oracle.emulation import EmulatedBackend
from kpref.site_view import SiteForm, gru_currents, network_current

Array = npt.NDArray[Any]
Plant = Callable[[EmulatedBackend], None]

#: What a backend computes in when it declares more.
COARSER = {"float64": "float32", "float32": "tf32", "tf32": "bfloat16"}


# Ways to plant


def on_answer(operator: str, change: Callable[..., Array]) -> Plant:
    """Change the answer: `change(backend, answer)`."""

    def plant(backend: EmulatedBackend) -> None:
        right = getattr(backend, operator)
        setattr(backend, operator, lambda tensor: backend.arithmetic.round(change(backend, right(tensor))))

    return plant


def on_argument(operator: str, change: Callable[..., Array]) -> Plant:
    """Change what the operator is applied to."""

    def plant(backend: EmulatedBackend) -> None:
        right = getattr(backend, operator)
        setattr(backend, operator, lambda tensor: right(backend.arithmetic.round(change(backend, tensor))))

    return plant


def instead(operator: str, compute: Callable[..., Array]) -> Plant:
    """Compute something else: `compute(backend as it was, tensor)`."""

    def plant(backend: EmulatedBackend) -> None:
        right = backend.with_form(backend.form)
        setattr(backend, operator, lambda tensor: backend.arithmetic.round(compute(right, tensor)))

    return plant


def over_form(operators: str, **changes: Callable[[EmulatedBackend], Array]) -> Plant:
    """Change coefficients for some operators: each change makes a new array for the coefficient of its name."""

    def plant(backend: EmulatedBackend) -> None:
        arrays: dict[str, Any] = {name: backend.wrap(change(backend)) for name, change in changes.items()}
        other = backend.with_form(replace(backend.form, **arrays))
        for operator in operators.split():
            setattr(backend, operator, getattr(other, operator))

    return plant


def metric_instead(name: str, compute: Callable[[EmulatedBackend], npt.ArrayLike]) -> Plant:
    """Compute another number or matrix for a metric: `compute(backend as it was)`."""

    def plant(backend: EmulatedBackend) -> None:
        right = backend.with_form(backend.form)

        def metric(asked: str) -> Array:
            return backend.store(compute(right)) if asked == name else right.metric(asked)

        setattr(backend, "metric", metric)  # noqa: B010 - a method of this one backend

    return plant


def at_states(change: Callable[[EmulatedBackend], Array]) -> Plant:
    """Change the trajectory; the operators are linearised there."""

    def plant(backend: EmulatedBackend) -> None:
        other = backend.at(change(backend))
        backend.states, backend.form = other.states, other.form

    return plant


def computed_coarser(operator: str) -> Plant:
    """Compute in a coarser arithmetic than declared."""

    def plant(backend: EmulatedBackend) -> None:
        arithmetic = ARITHMETICS[COARSER[backend.arithmetic.name]]
        other = replace(backend, arithmetic=arithmetic)
        if operator == "states":
            moved = backend.at(other.states)
            backend.states, backend.form = moved.states, moved.form
        else:
            setattr(backend, operator, getattr(other.at(backend.states), operator))

    return plant


# Changes


def full_gates(backend: EmulatedBackend) -> Array:
    """The gates, as an ordinary array."""
    return np.array(backend.form.gates)


def gate(index: int, change: Callable[[Array], Array]) -> Callable[[EmulatedBackend], Array]:
    """Gates of which one is changed: `change` is given them all."""

    def gates(backend: EmulatedBackend) -> Array:
        changed = full_gates(backend)
        changed[:, :, index] = change(changed)
        return changed

    return gates


def no_decay(backend: EmulatedBackend) -> Array:
    """The direct term left out."""
    return np.zeros(backend.form.decay.shape)


def complement(backend: EmulatedBackend) -> Array:
    """One minus the direct term."""
    return 1.0 - np.asarray(backend.form.decay)


def of_first_trial(name: str) -> Callable[[EmulatedBackend], Array]:
    """A coefficient of the first trial for all."""

    def change(backend: EmulatedBackend) -> Array:
        array = np.asarray(getattr(backend.form, name))
        return np.repeat(array[:, :1], array.shape[1], axis=1)

    return change


def blocks(form: SiteForm) -> Array:
    """The recurrent weight, (k_r, H, H)."""
    return np.asarray(form.weight).reshape(-1, form.n_states, form.n_states)


def transposed(backend: EmulatedBackend) -> Array:
    """Each block of the recurrent weight transposed."""
    return blocks(backend.form).swapaxes(1, 2).reshape(backend.form.weight.shape)


def exchanged(backend: EmulatedBackend) -> Array:
    """The first two blocks of the recurrent weight exchanged."""
    return blocks(backend.form)[[1, 0, 2]].reshape(backend.form.weight.shape)


def rolled(name: str, shift: int) -> Callable[[EmulatedBackend], Array]:
    """A coefficient moved along time."""
    return lambda backend: np.roll(np.asarray(getattr(backend.form, name)), shift, axis=0)


def shifted(_: Any, tensor: Array, shift: int = 1) -> Array:
    """The tensor moved along time, zeros following."""
    moved = np.roll(tensor, shift, axis=1)
    moved[:, 0 if shift > 0 else -1] = 0.0
    return moved


def part_set(index: Any, value: Any) -> Callable[[Any, Array], Array]:
    """The tensor with a part set to a value."""

    def change(_: Any, tensor: Array) -> Array:
        changed = np.array(tensor)
        changed[index] = value
        return changed

    return change


def averaged(_: Any, tensor: Array) -> Array:
    """The mean over trials for each."""
    return np.repeat(tensor.mean(axis=0, keepdims=True), len(tensor), axis=0)


def one_entry(_: Any, tensor: Array) -> Array:
    """The largest entry doubled."""
    changed = np.array(tensor)
    changed.flat[np.argmax(np.abs(changed))] *= 2
    return changed


def variable_from(step: int) -> Callable[[EmulatedBackend], Array]:
    """What the weight multiplies, zero at a step."""

    def variable(backend: EmulatedBackend) -> Array:
        changed = np.array(backend.form.variable)
        changed[step] = 0.0
        return changed

    return variable


def drive(columns: slice, value: float) -> Callable[[EmulatedBackend], Array]:
    """Inputs and ones, some columns set to a value."""

    def changed_drive(backend: EmulatedBackend) -> Array:
        changed = np.array(backend.form.drive)
        changed[..., columns] = value
        return changed

    return changed_drive


def names(backend: EmulatedBackend) -> list[tuple[str, Array]]:
    """Trainable parameters and their positions in the vector."""
    parameters = [(name, backend.model.parameters[name]) for name in backend.model.trainable]
    ends = np.cumsum([value.size for _, value in parameters])
    positions = np.split(np.arange(ends[-1]), ends[:-1])
    return [
        (name, position.reshape(value.shape)) for (name, value), position in zip(parameters, positions, strict=True)
    ]


def weights_exchanged(backend: EmulatedBackend, vector: Array) -> Array:
    """The two weights in the other order."""
    parts = dict(names(backend))
    order = ["weight_hh", "weight_ih", *(name for name in parts if not name.startswith("weight"))]
    return vector[np.concatenate([parts[name].ravel() for name in order])]


def by_columns(backend: EmulatedBackend, vector: Array) -> Array:
    """Every matrix in Fortran order."""
    return vector[np.concatenate([position.ravel(order="F") for _, position in names(backend)])]


def gates_exchanged(backend: EmulatedBackend, vector: Array) -> Array:
    """Blocks of reset and update gate exchanged in all parameters."""
    blocks = [position.reshape(3, -1)[[1, 0, 2]].ravel() for _, position in names(backend)]
    return vector[np.concatenate(blocks)]


def zeroed(kind: str) -> Callable[[EmulatedBackend, Array], Array]:
    """The vector with parameters of a kind set to zero."""

    def change(backend: EmulatedBackend, vector: Array) -> Array:
        changed = np.array(vector)
        for name, position in names(backend):
            if name.startswith(kind):
                changed[position] = 0.0
        return changed

    return change


def weigh(backend: EmulatedBackend, tensor: Array) -> Array:
    """The tensor times the measure."""
    return backend.space.weigh(tensor)


def points(backend: EmulatedBackend) -> int:
    """Number of trials times steps."""
    return backend.space.shape[0] * backend.space.shape[1]


def per_trial(backend: EmulatedBackend, q: Array) -> Array:
    """K with parameters of its own for each trial."""
    answer = np.empty_like(q)
    for trial in range(len(q)):
        alone = np.zeros_like(q)
        alone[trial] = q[trial]
        answer[trial] = backend.K(alone)[trial]
    return answer


def truncated(backend: EmulatedBackend, err: Array, window: int = 3) -> Array:
    """Backpropagation that stops after a few steps."""
    source = backend.arithmetic.round(weigh(backend, err))
    costate = source
    for _ in range(window - 1):
        back = [backend.retreat(step, costate[None, :, step])[0] for step in range(1, source.shape[1])]
        costate = source + np.concatenate([np.stack(back, axis=1), np.zeros_like(source[:, :1])], axis=1)
    return backend.J_T(costate)


def interrupted(backend: EmulatedBackend, q: Array) -> Array:
    """P that loses its state between two chunks of time."""
    middle = q.shape[1] // 2
    tail = np.zeros_like(q)
    tail[:, middle:] = q[:, middle:]
    return np.concatenate([backend.P(q)[:, :middle], backend.P(tail)[:, middle:]], axis=1)


def forced_early(backend: EmulatedBackend, q: Array) -> Array:
    """``y[n] = A[n] (y[n-1] + q[n])``."""
    forcing = [np.asarray(backend.advance(step, q[None, :, step])[0]) for step in range(q.shape[1])]
    return backend.P(np.stack(forcing, axis=1))


def own_step(backend: EmulatedBackend, y: Array) -> Array:
    """``y[n] - A[n] y[n]``."""
    product = [np.asarray(backend.advance(step, y[None, :, step])[0]) for step in range(y.shape[1])]
    return y - np.stack(product, axis=1)


def slope_of_value(backend: EmulatedBackend) -> Array:
    """The derivative of the nonlinearity taken at its value."""
    states = np.moveaxis(backend.states, 1, 0)
    return (1.0 - np.square(np.tanh(states)))[:, :, None]


def reset_before(model: Any, h: Array, x: Array, step: int) -> Array:
    """A gated unit whose reset gate acts before the product, as other libraries define it."""
    reset, update, _, c_n = gru_currents(model.parameters, h, x[step])
    units = model.n_states
    r, u = sigmoid(np.asarray(reset)), sigmoid(np.asarray(update))
    a_n = (r * h) @ model.parameters["weight_hh"][2 * units :].T + model.parameters["bias_hh"][2 * units :]
    return (1 - u) * np.tanh(c_n + a_n) + u * h


def complemented(model: Any, h: Array, x: Array, step: int) -> Array:
    """A gated unit whose update gate says how much is new."""
    _, update, _, _ = gru_currents(model.parameters, h, x[step])
    u = sigmoid(np.asarray(update))
    new = (model.step(h, x[step]) - u * h) / (1 - u)
    return u * new + (1 - u) * h


def run_with(advance: Callable[..., Array]) -> Plant:
    """A trajectory computed by another step."""
    return at_states(lambda backend: backend.run(advance))


def with_parameters(change: Callable[[Any], dict[str, Array]]) -> Plant:
    """A trajectory of the map with parameters changed."""
    return run_with(lambda model, z, x, step: model.step(z, x[step], change(model)))


def block_transposed(model: Any) -> dict[str, Array]:
    """Each block of the recurrent weight transposed."""
    weight = model.parameters["weight_hh"]
    blocks = weight.reshape(-1, weight.shape[1], weight.shape[1])
    return {"weight_hh": blocks.swapaxes(1, 2).reshape(weight.shape)}


def gates_of_all(model: Any) -> dict[str, Array]:
    """Blocks of reset and update gate exchanged in all parameters."""
    return {n: v.reshape(3, -1)[[1, 0, 2]].reshape(v.shape) for n, v in model.parameters.items()}


def no_bias(model: Any) -> dict[str, Array]:
    """All biases zero."""
    return {n: 0 * v for n, v in model.parameters.items() if n.startswith("bias")}


def linear_step(model: Any, z: Array, x: Array, step: int) -> Array:
    """The step without its nonlinearity."""
    return network_current(model.parameters, z, x[step])
