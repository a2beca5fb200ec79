"""Errors of steps of many stages, from random runs of them (`kpref.oracle.noisy`).

The rows of a linearisation become trials of one step, so that a run is a few operations on all of them. Each run draws
errors of the numbers of the linearisation, stage after stage, and of every operation of a product with it. The root
mean square over the runs stands for the deviation; of few runs all may err little in an entry, and its neighbours then
say how much they should.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from kpref._types import Array
from kpref.kernels import plain_program
from kpref.models.step import StepModel
from kpref.oracle.arithmetic import Arithmetic
from kpref.oracle.noisy import Jump, Noise, Noisy
from kpref.oracle.uncertain import Uncertain
from kpref.program import Operation, Program
from kpref.step_form import StepForm, allot

__all__ = ["RandomSteps"]

#: Runs.
_RUNS = 16


class RandomSteps:
    """Linearised steps as a backend may have them.

    Attributes
    ----------
    known : bool
        Whether there are any: not where a function has a jump, which few runs may all miss.
    value : ndarray, shape (R, B, H)
        Deviation of the step itself.
    numbers : mapping of str to ndarray
        Deviations of channels and variables.
    """

    def __init__(self, model: StepModel, form: StepForm, states: Array, inputs: Any, arithmetic: Arithmetic) -> None:
        self._noise = Noise(arithmetic, np.random.default_rng(2))
        self._points = states.shape[:2]
        try:
            runs = [self._run(model, states, inputs) for _ in range(_RUNS)]
        except Jump:
            self.known = False
            return
        right = np.asarray(model.evaluate(states, getattr(inputs, "value", inputs)))
        self.known, self.value = True, _root_mean_square(np.stack([value for value, _ in runs]) - right)
        self._exact, self._form = (_at_once(form, count) for count in (1, _RUNS))
        drawn = {name: np.stack([numbers[name] for _, numbers in runs]) for name in runs[0][1]}
        self.numbers = {name: self._deviation(name, values) for name, values in drawn.items()}
        flat = {name: values.reshape(1, -1, values.shape[-1]) for name, values in drawn.items()}
        self._form = self._form.changed(
            channels={name: flat[name] for name in form.places if name in flat},
            variables={name: flat[name] for name, known in form.known.items() if name in flat and not known.of_state},
        )

    def _run(self, model: StepModel, states: Array, inputs: Any) -> tuple[Array, dict[str, Array]]:
        """A random run of the step, (R, B, H), and of the numbers of its linearisation."""
        noise, twin = self._noise, copy.copy(model)
        twin._parameters = {name: Noisy.of(value, noise) for name, value in model.parameters.items()}  # type: ignore[misc]
        if isinstance(inputs, Uncertain):
            inputs = inputs.value + noise.generator.choice((-1.0, 1.0), inputs.shape) * inputs.spread.deviation
        z, x = Noisy.of(states, noise), Noisy.of(inputs, noise)
        value, numbers = twin._evaluate(twin._parameters, z, x), twin.numbers(z, x)
        each = {name: np.asarray(number) for name, number in {**numbers.channels, **numbers.variables}.items()}
        return np.asarray(value), {
            name: np.broadcast_to(number, (*self._points, number.shape[-1])) for name, number in each.items()
        }

    def _deviation(self, name: str, drawn: Array) -> Array:
        form = self._exact
        right = form.channel(name) if name in form.places else form.variable(name)
        return _root_mean_square(drawn - right.reshape(*self._points, -1))

    def forward(self, program: Program, x: Array | None, changes: Mapping[str, Array]) -> Array:
        """Deviation (R, B, H) of ``A x + J dtheta``, x of shape (R, B, H), by a program of these numbers."""
        given = np.zeros((*self._points, program.n_states)) if x is None else x
        packed = {name: change[None] for name, change in changes.items()}
        return self._of_runs(lambda form, point, lift: plain_program.run(form, 0, point, packed, lift), program, given)

    def backward(self, program: Program, x: Array) -> Array:
        """Deviation (R, B, H) of ``A^T x``, x of shape (R, B, H)."""
        return self._of_runs(
            lambda form, point, lift: plain_program.run_transposed(form, 0, point, None, lift), program, x
        )

    def products(self, program: Program, g: Array) -> Iterator[Array]:
        """Errors (R B, M) of what each point adds to ``J^T g``, g of shape (R, B, H), a run at a time.

        All stages of a step come together: what their cotangents and their states err by goes back to the same
        roundings, and cancels between them in part.
        """
        points = g.reshape(1, -1, g.shape[-1])
        exact, form = (replace(one, program=program) for one in (self._exact, self._form))
        noise = self._noise._replace(jacobians=True)
        right, erring = dict[Operation, Array](), dict[Operation, Array]()
        plain_program.run_transposed(exact, 0, points, cotangents=right)
        plain_program.run_transposed(
            form, 0, np.tile(points, (1, _RUNS, 1)), None, lambda values: Noisy.of(values, noise), erring
        )
        value, count = _terms(exact, right, slice(None)), points.shape[1]
        for run in range(_RUNS):
            yield _terms(form, erring, slice(run * count, (run + 1) * count)) - value

    def _of_runs(self, apply: Callable[..., Array], program: Program, x: Array) -> Array:
        """Deviation of a product with x."""
        exact, form = (replace(one, program=program) for one in (self._exact, self._form))
        points = x.reshape(1, -1, x.shape[-1])
        right, noise = apply(exact, points, np.asarray), self._noise._replace(jacobians=True)
        found = np.asarray(apply(form, np.tile(points, (1, _RUNS, 1)), lambda values: Noisy.of(values, noise)))
        return _root_mean_square((found.reshape(_RUNS, *right.shape[1:]) - right).reshape(_RUNS, *self._points, -1))


def _terms(form: StepForm, cotangents: Mapping[Operation, Array], part: slice) -> Array:
    """What some of the points, here trials of one step, add to the gradient each: (points, M)."""
    found: dict[str, Array] = {}
    for op, cotangent in cotangents.items():
        if op.name not in form.trained:
            continue
        terms, m = np.asarray(cotangent)[0, part, :, None], form.variable(op.variable or "")[0, part, None]
        own = terms * m if op.kind == "product" else (terms[..., 0] * m[:, 0])[:, None]
        found[op.name] = found[op.name] + own if op.name in found else own
    return form.unpack(found)


def _at_once(form: StepForm, count: int) -> StepForm:
    """All points, and so many copies of them, as trials of one step."""
    points = count * form.n_steps * form.n_trials
    places, size = allot({name: (1, points, place.shape[2]) for name, place in form.places.items()}, 1, points)
    numbers = np.empty(size)
    for name, place in places.items():
        place.view(numbers).reshape(count, form.n_steps, form.n_trials, -1)[...] = form.channel(name)
    states, variables = (
        np.tile(array.reshape(1, points // count, array.shape[2]), (1, count, 1))
        for array in (form.states, form.variables)
    )
    return replace(form, numbers=numbers, places=places, states=states, variables=variables)


def _root_mean_square(errors: Array) -> Array:
    """Over the runs, first axis; and over the units of a point where that is more."""
    squares = np.mean(np.square(errors), axis=0)
    return np.asarray(np.sqrt(np.maximum(squares, squares.mean(axis=-1, keepdims=True))))
