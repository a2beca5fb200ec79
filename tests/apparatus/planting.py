"""Small changes to a correct backend, and ways to plant them: the material of `apparatus.mutants`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from apparatus.emulation import EmulatedBackend
from kpref.oracle.arithmetic import ARITHMETICS
from kpref.oracle.form_defects import driven_columns, gate_groups, square_blocks, state_variables
from kpref.step_form import StepForm

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


def over_form(operators: str, change: Callable[[StepForm], StepForm]) -> Plant:
    """Run some operators over another linearisation: `change` makes it of the right one."""

    def plant(backend: EmulatedBackend) -> None:
        form = change(backend.form)
        store = backend.arithmetic.round
        weights = {name: store(weight) for name, weight in form.weights.items()}
        form = replace(form, numbers=store(form.numbers), variables=store(form.variables), weights=weights)
        other = backend.with_form(form)
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

Change = Callable[[StepForm], StepForm]


def channel(name: str, change: Callable[[Array], Array], source: str = "") -> Change:
    """One channel changed, or made of another."""
    return lambda form: form.changed(channels={name: change(form.channel(source or name))})


def channels(names: Callable[[StepForm], list[str]], change: Callable[[Array], Array]) -> Change:
    """Several channels changed."""
    return lambda form: form.changed(channels={name: change(form.channel(name)) for name in names(form)})


def weight(name: str, change: Callable[[Array], Array]) -> Change:
    """One weight changed."""
    return lambda form: form.changed(weights={name: change(form.weights[name])})


def all_gates(form: StepForm) -> list[str]:
    """Channels that take currents to the new state."""
    return [name for group in gate_groups(form) for name in group]


def first_gate(form: StepForm) -> list[str]:
    """The first of them."""
    return all_gates(form)[:1]


def last_gate(form: StepForm) -> list[str]:
    """The last of them."""
    return all_gates(form)[-1:]


def varying(form: StepForm) -> list[str]:
    """Channels that are not the same at all steps."""
    return [name for name, place in form.places.items() if place.shape[0] > 1]


def transposed(form: StepForm) -> StepForm:
    """Each block of the weights that states go through transposed."""
    return form.changed(weights={name: _turned(form.weights[name]) for name in _recurrent(form)})


def exchanged(form: StepForm) -> StepForm:
    """Two blocks of the weights that states go through exchanged."""
    weights = {}
    for name in _recurrent(form):
        blocks = square_blocks(form.weights[name]).copy()
        blocks[[0, 1]] = blocks[[1, 0]]
        weights[name] = blocks.reshape(form.weights[name].shape)
    return form.changed(weights=weights)


def _recurrent(form: StepForm) -> list[str]:
    return [op.name for op in form.program.operations if op.kind == "product" and op.source is not None]


def _turned(weight: Array) -> Array:
    return square_blocks(weight).swapaxes(1, 2).reshape(weight.shape)


def of_first_trial(form: StepForm) -> StepForm:
    """Channels of the first trial for all."""
    names = [name for name, place in form.places.items() if place.shape[1] > 1]
    return form.changed(channels={name: np.repeat(form.channel(name)[:, :1], form.n_trials, 1) for name in names})


def of_first_step(array: Array) -> Array:
    """What it is at the first step, throughout."""
    return np.repeat(array[:1], len(array), axis=0)


def rolled(shift: int) -> Change:
    """Channels moved along time."""
    return channels(varying, lambda array: np.roll(array, shift, axis=0))


def variables(change: Callable[[Array], Array]) -> Change:
    """What the weights of states multiply, changed."""
    return lambda form: form.changed(variables={name: change(form.variable(name)) for name in state_variables(form)})


def zero_at_first(array: Array) -> Array:
    """Zero at the first step."""
    changed = np.array(array)
    changed[0] = 0.0
    return changed


def drive(missing: str) -> Change:
    """Columns of inputs, or ones, set to zero: "inputs" or "bias"."""

    def change(form: StepForm) -> StepForm:
        (columns,) = (found for words, found in driven_columns(form).items() if words.startswith(missing))
        cut = {name: form.variable(name).copy() for name in columns}
        for name, which in columns.items():
            cut[name][..., which] = 0.0
        return form.changed(variables=cut)

    return change


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


def names(backend: EmulatedBackend) -> list[tuple[str, Array]]:
    """Trainable parameters and their positions in the vector."""
    parameters = [(name, backend.model.parameters[name]) for name in backend.model.trainable]
    ends = np.cumsum([value.size for _, value in parameters])
    positions = np.split(np.arange(ends[-1]), ends[:-1])
    return [
        (name, position.reshape(value.shape)) for (name, value), position in zip(parameters, positions, strict=True)
    ]


def weights_exchanged(backend: EmulatedBackend, vector: Array) -> Array:
    """The first two arrays in the other order."""
    parts = [position for _, position in names(backend)]
    return vector[np.concatenate([position.ravel() for position in (parts[1], parts[0], *parts[2:])])]


def by_columns(backend: EmulatedBackend, vector: Array) -> Array:
    """Every matrix in Fortran order."""
    return vector[np.concatenate([position.ravel(order="F") for _, position in names(backend)])]


def gates_exchanged(backend: EmulatedBackend, vector: Array) -> Array:
    """The first two blocks of each parameter exchanged."""
    count = backend.model.cell.rows  # type: ignore[attr-defined]
    order = [1, 0, *range(2, count)]
    blocks = [position.reshape(count, -1)[order].ravel() for _, position in names(backend)]
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


def slope_of_value(backend: EmulatedBackend) -> None:
    """The derivative of tanh taken at its value."""
    value = np.moveaxis(backend.states, 1, 0)
    over_form("P", lambda form: form.changed(channels={"layer0_slope": 1.0 - np.square(np.tanh(value))}))(backend)


def states_for_variables(backend: EmulatedBackend) -> None:
    """z for phi(z)."""
    before = np.moveaxis(np.concatenate([backend.z0[:, None], backend.states[:, :-1]], axis=1), 1, 0)
    over_form("J", lambda form: form.changed(variables={name: before for name in state_variables(form)}))(backend)


def variant(words: str) -> Plant:
    """A trajectory of the network as others define it: see `kpref.models.StepModel.variants`."""

    def advance(model: Any, z: Array, x: Array, step: int) -> Array:
        found: Array = next(states for label, states in model.variants(z, x[step]) if words in label)
        return found

    return run_with(advance)


def run_with(advance: Callable[..., Array]) -> Plant:
    """A trajectory computed by another step."""
    return at_states(lambda backend: backend.run(advance))


def with_parameters(change: Callable[[Any], dict[str, Array]]) -> Plant:
    """A trajectory of the map with parameters changed."""
    return run_with(lambda model, z, x, step: model.step(z, x[step], change(model)))


def block_transposed(model: Any) -> dict[str, Array]:
    """Each block of the weights that states go through transposed."""
    through = {op.name for op in model.program.operations if op.kind == "product" and op.source is not None}
    names = {entry.parameter for entry in model.entries() if entry.weight in through}
    return {name: _turned(model.parameters[name]) for name in names}


def gates_of_all(model: Any) -> dict[str, Array]:
    """The first two blocks of all parameters exchanged."""
    count = model.cell.rows
    order = [1, 0, *range(2, count)]
    return {n: v.reshape(count, -1)[order].reshape(v.shape) for n, v in model.parameters.items()}


def factors_exchanged(model: Any) -> dict[str, Array]:
    """Left and right vectors of a network of low rank."""
    return {"m": model.parameters["n"], "n": model.parameters["m"]}


def no_bias(model: Any) -> dict[str, Array]:
    """All biases zero."""
    return {n: 0 * v for n, v in model.parameters.items() if n.startswith("bias")}
