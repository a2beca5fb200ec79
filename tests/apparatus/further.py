"""Defects that depend on the data, on the call, on the size of the problem, or on what the backend was at before.

As in `apparatus.mutants`: each is a small change to a correct backend.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np
import numpy.typing as npt

from apparatus.emulation import EmulatedBackend
from apparatus.mutant import Mutant, Plant
from apparatus.planting import (
    all_gates,
    at_states,
    channel,
    channels,
    first_gate,
    instead,
    no_bias,
    on_answer,
    on_argument,
    over_form,
    part_set,
    rolled,
    run_with,
    truncated,
    weigh,
    weight,
    with_parameters,
    zeroed,
)
from kpref.oracle.arithmetic import ARITHMETICS
from kpref.oracle.form_defects import direct_channels, slope_channels
from kpref.step_form import StepForm

__all__ = ["FURTHER"]

Array = npt.NDArray[Any]
_m = Mutant
_GATED = ("gru", "lstm", "stacked-gru")
_TWO_BIASES = ("gru", "rnn", "lstm")
_SEEING = ("gru", "rnn", "lstm", "stacked-gru")  # inputs and biases enter the derivative by the old state
_LEAKING = ("leaky", "low-rank")
_NOT_SHORTEST = ("float64", "float32", "tf32")


# Ways to plant


def elsewhere(operator: str, change: Callable[[EmulatedBackend], dict[str, Any]]) -> Plant:
    """Linearise an operator at other data: `change(backend)` gives `model`, `inputs`, `z0` or `states`."""

    def plant(backend: EmulatedBackend) -> None:
        changed = change(backend)
        states = changed.pop("states", backend.states)
        setattr(backend, operator, getattr(replace(backend, **changed).at(states), operator))

    return plant


def counted(operator: str, change: Callable[[EmulatedBackend, int, Array, Array], Array]) -> Plant:
    """Change the answer by the number of the call: `change(backend, number, tensor, answer)`."""

    def plant(backend: EmulatedBackend) -> None:
        right, numbers = getattr(backend, operator), count(1)

        def call(tensor: Array) -> Array:
            answer = np.array(right(tensor))
            return backend.arithmetic.round(change(backend, next(numbers), tensor, answer))

        setattr(backend, operator, call)

    return plant


def where(operator: str, seen: Callable[[Array], Any], change: Callable[[Array], Array]) -> Plant:
    """Change the answers to those arguments that `seen` is true of."""

    def plant(backend: EmulatedBackend) -> None:
        right = getattr(backend, operator)

        def call(tensor: Array) -> Array:
            answer = np.array(right(tensor))
            return backend.arithmetic.round(change(answer)) if seen(np.asarray(tensor)) else answer

        setattr(backend, operator, call)

    return plant


def kept(operator: str, left: float) -> Plant:
    """What was answered before, times a factor, is added to the answer."""

    def plant(backend: EmulatedBackend) -> None:
        right, buffer = getattr(backend, operator), [np.zeros(())]

        def call(tensor: Array) -> Array:
            buffer[0] = np.asarray(backend.arithmetic.round(left * buffer[0] + right(tensor)))
            return buffer[0].copy()

        setattr(backend, operator, call)

    return plant


# Changes


def earlier(backend: EmulatedBackend) -> dict[str, Any]:
    """Parameters before an update by a few hundredths."""
    rng, model = np.random.default_rng(5), backend.model
    old = {n: v * (1 + 0.05 * rng.standard_normal(np.shape(v))) for n, v in model.parameters.items()}
    return {"model": model.with_parameters({n: backend.arithmetic.round(v) for n, v in old.items()})}


def without_bias(backend: EmulatedBackend) -> dict[str, Any]:
    """The network without biases."""
    return {"model": backend.model.with_parameters(no_bias(backend.model))}


def other_inputs(backend: EmulatedBackend) -> Array:
    """Inputs of another batch."""
    return backend.arithmetic.round(np.random.default_rng(6).normal(size=backend.inputs.shape))


def at_other_inputs(backend: EmulatedBackend) -> dict[str, Any]:
    """Inputs of another batch in the linearisation alone."""
    return {"inputs": other_inputs(backend)}


def states_of_other_inputs(backend: EmulatedBackend) -> dict[str, Any]:
    """States of the trajectory along other inputs."""
    return {"states": replace(backend, inputs=other_inputs(backend)).states}


def layers_exchanged(backend: EmulatedBackend) -> dict[str, Any]:
    """Recurrent weights of two layers exchanged."""
    first, second = (backend.model.parameters[f"weight_hh_l{layer}"] for layer in (0, 1))
    return {"model": backend.model.with_parameters({"weight_hh_l0": second, "weight_hh_l1": first})}


def shorter(form: StepForm) -> StepForm:
    """Weights that states go through kept in bfloat16."""
    short = ARITHMETICS["bfloat16"].round
    return form.changed(weights={name: short(value) for name, value in form.weights.items()})


def fast_tanh(form: StepForm) -> StepForm:
    """Slopes from a rational approximation, right to a few thousandths."""

    def approximate(slope: Array) -> Array:
        a = np.arctanh(np.sqrt(np.clip(1 - slope, 0, 1 - 1e-12)))
        return 1 - np.clip(a * (27 + a**2) / (27 + 9 * a**2), -1, 1) ** 2

    names = slope_channels(form) or all_gates(form)
    return form.changed(channels={name: approximate(form.channel(name)) for name in names})


def reaching_back(backend: EmulatedBackend, tensor: Array, window: int = 4) -> Array:
    """P of the forcing of the last few steps alone, for each step."""
    out = np.empty_like(tensor)
    for step in range(tensor.shape[1]):
        part = np.zeros_like(tensor)
        part[:, max(step - window + 1, 0) : step + 1] = tensor[:, max(step - window + 1, 0) : step + 1]
        out[:, step] = backend.P(part)[:, step]
    return out


def reaching_ahead(backend: EmulatedBackend, tensor: Array, window: int = 4) -> Array:
    """P^T of the next few steps alone, at each step."""
    out = np.empty_like(tensor)
    for step in range(tensor.shape[1]):
        part = np.zeros_like(tensor)
        part[:, step : step + window] = tensor[:, step : step + window]
        out[:, step] = backend.P_T(part)[:, step]
    return out


def detached(backend: EmulatedBackend, tensor: Array) -> Array:
    """P^T that nothing passes through in the middle."""
    middle = tensor.shape[1] // 2
    head = tensor.copy()
    head[:, middle:] = 0.0
    return np.concatenate([backend.P_T(head)[:, :middle], backend.P_T(tensor)[:, middle:]], axis=1)


def in_chunks(backend: EmulatedBackend, err: Array, length: int = 4) -> Array:
    """The gradient with states detached every few steps."""
    source = backend.arithmetic.round(weigh(backend, err))
    parts = np.zeros_like(source)
    for start in range(0, source.shape[1], length):
        chunk = np.zeros_like(source)
        chunk[:, start : start + length] = source[:, start : start + length]
        parts[:, start : start + length] = backend.P_T(chunk)[:, start : start + length]
    return backend.J_T(parts)


def scaled_part(index: Any, factor: float) -> Callable[[Any, Array], Array]:
    """A part of the tensor times a factor."""

    def change(_: Any, tensor: Array) -> Array:
        changed = np.array(tensor)
        changed[index] *= factor
        return changed

    return change


def with_bias_scaled(factor: float) -> Callable[[EmulatedBackend, Array], Array]:
    """Entries of biases times a factor."""
    return lambda backend, vector: vector + (factor - 1) * (vector - zeroed("bias")(backend, vector))


def per_step(backend: EmulatedBackend, q: Array) -> Array:
    """K with parameters of its own for each step."""
    answer = np.empty_like(q)
    for step in range(q.shape[1]):
        alone = np.zeros_like(q)
        alone[:, step] = q[:, step]
        answer[:, step] = backend.K(alone)[:, step]
    return answer


def trapezoid(_: Any, q: Array) -> Array:
    """Half the weight at both ends."""
    return scaled_part(np.s_[:, [0, -1]], 0.5)(_, q)


def one_hot(tensor: Array) -> bool:
    """Whether one entry is other than zero."""
    return np.count_nonzero(tensor) == 1


def by_norm(limit: float) -> Callable[[Any, Array], Array]:
    """The vector, made no longer than a limit."""
    return lambda _, vector: vector * min(1.0, limit / max(float(np.linalg.norm(vector)), 1e-30))


def within(limit: float) -> Callable[[Any, Array], Array]:
    """Entries clipped."""
    return lambda _, tensor: np.clip(tensor, -limit, limit)


def centred(_: Any, tensor: Array) -> Array:
    """The mean over units taken off."""
    return tensor - tensor.mean(axis=2, keepdims=True)


def held_after(start: int) -> Callable[[Array], Array]:
    """A sequence that keeps its value from a step on."""
    return lambda array: np.concatenate([array[:start], np.repeat(array[start - 1 : start], len(array) - start, 0)])


def unseen_beyond(start: int) -> Callable[[Array], Array]:
    """A weight whose further columns are not multiplied."""
    return lambda matrix: np.where(np.arange(matrix.shape[1]) < start, matrix, 0.0)


def _vary(form: StepForm) -> list[str]:
    return [name for name, place in form.places.items() if place.shape[0] > 1]


def noisy(number: int, answer: Array) -> Array:
    """Noise of a third, different in each call."""
    return answer * (1 + 0.3 * np.random.default_rng([7, number]).standard_normal(answer.shape))


def masked(number: int, answer: Array) -> Array:
    """A tenth of the entries zero, others in each call."""
    return answer * (np.random.default_rng([8, number]).random(answer.shape) < 0.9)


_SELDOM = ("not deterministic",)
_TRIALS = ("trial missing", "trial twice", "one trial")
_NOT_LINEAR = ("not linear", "clipped", "offset")
_SAID = ("",)  # by the message of the check
_OTHER = ("other point",)
_BLOCK = ("last block", "one unit", "one step")
_READ = ("float64", "float32")

FURTHER = [
    # What the gradient is stopped in
    _m(
        "P: one gate detached",
        "no derivative of one gate",
        ("gate",),
        over_form("P", channels(first_gate, np.zeros_like)),
        _GATED,
    ),
    _m(
        "J_T: one gate detached",
        "no derivative of one gate",
        ("gate",),
        over_form("J_T", channels(first_gate, np.zeros_like)),
        _GATED,
    ),
    _m(
        "P_T: detached step",
        "nothing passes one step",
        ("one step", "one entry", "truncated"),
        instead("P_T", detached),
    ),
    _m("gradient: detached", "states detached every fourth step", ("truncated",), instead("gradient", in_chunks)),
    _m("P: truncated", "the response reaches back four steps", ("truncated",), instead("P", reaching_back)),
    _m("P_T: truncated", "the costate reaches ahead four steps", ("truncated",), instead("P_T", reaching_ahead)),
    _m(
        "gradient: truncated at six",
        "backpropagation stops after six steps",
        ("truncated",),
        instead("gradient", lambda b, e: truncated(b, e, 5)),
    ),
    _m(
        "J_T: detached step",
        "one step is not accumulated",
        ("step missing",),
        on_argument("J_T", part_set(np.s_[:, 2], 0.0)),
    ),
    # Trials and steps dropped or counted twice
    _m("J_T: middle trial", "the second trial is not accumulated", _TRIALS, on_argument("J_T", part_set(1, 0.0))),
    _m("J_T: trial twice", "the first trial is accumulated twice", _TRIALS, on_argument("J_T", scaled_part(0, 2.0))),
    _m(
        "J_T: step twice",
        "a step at a chunk's end is accumulated twice",
        ("step twice",),
        on_argument("J_T", scaled_part(np.s_[:, 3], 2.0)),
    ),
    _m("K: middle trial", "the second trial is not seen", _TRIALS, on_argument("K", part_set(1, 0.0))),
    _m("K: trial twice", "the last trial is counted twice", _TRIALS, on_argument("K", scaled_part(-1, 2.0))),
    _m("NTK: trial twice", "the first trial is counted twice", _TRIALS, on_argument("NTK", scaled_part(0, 2.0))),
    _m("gradient: middle trial", "the second trial is not seen", _TRIALS, on_argument("gradient", part_set(1, 0.0))),
    _m(
        "gradient: trial twice",
        "the first trial is counted twice",
        _TRIALS,
        on_argument("gradient", scaled_part(0, 2.0)),
    ),
    # Sizes
    _m(
        "P: beyond 64 units",
        "units beyond a block are not multiplied",
        ("recurrence", "last block"),
        over_form("P", weight("recurrent0", unseen_beyond(64))),
        ("rnn",),
        shape=(1, 4),
        units=66,
    ),
    _m(
        "P_T: beyond 64 units",
        "units beyond a block are not written",
        _BLOCK,
        on_answer("P_T", part_set(np.s_[:, :, 64:], 0.0)),
        ("rnn",),
        shape=(1, 4),
        units=67,
    ),
    _m(
        "P: beyond 64 steps",
        "coefficients are held after a block",
        _BLOCK,
        over_form("P", channels(_vary, held_after(64))),
        ("rnn", "gru"),
        shape=(1, 68),
        units=3,
    ),
    _m(
        "J_T: beyond 128 points",
        "steps beyond a block are not accumulated",
        ("step missing",),
        on_argument("J_T", part_set(np.s_[:, 64:], 0.0)),
        ("rnn",),
        shape=(2, 68),
        units=3,
    ),
    _m(
        "states: beyond 64 steps",
        "inputs are held after a block",
        _BLOCK,
        run_with(lambda model, z, x, step: model.step(z, x[min(step, 63)])),
        ("gru",),
        shape=(2, 68),
        units=3,
    ),
    _m(
        "P_inverse: last block",
        "the last steps are given back as they came",
        _BLOCK,
        instead("P_inverse", lambda b, y: np.concatenate([b.P_inverse(y)[:, :-2], y[:, -2:]], axis=1)),
    ),
    # At other data
    _m("P: stale parameters", "linearised before an update", _OTHER, elsewhere("P", earlier)),
    _m("P_T: stale parameters", "linearised before an update", _OTHER, elsewhere("P_T", earlier)),
    _m(
        "J: stale parameters",
        "linearised before an update",
        _OTHER,
        elsewhere("J", earlier),
        ("gru", "rnn", "lstm", "low-rank", "stacked-gru"),
    ),
    _m("P: other states", "linearised at states of other inputs", _OTHER, elsewhere("P", states_of_other_inputs)),
    _m("J_T: other states", "linearised at states of other inputs", _OTHER, elsewhere("J_T", states_of_other_inputs)),
    _m("J: previous batch", "inputs of the batch before", _OTHER, elsewhere("J", at_other_inputs)),
    _m("P: previous batch", "inputs of the batch before", _OTHER, elsewhere("P", at_other_inputs), _SEEING),
    _m(
        "states: previous batch",
        "the trajectory sees inputs of the batch before",
        _OTHER,
        at_states(lambda b: replace(b, inputs=other_inputs(b)).states),
    ),
    _m(
        "states: stale parameters",
        "the trajectory has parameters before an update",
        _OTHER,
        at_states(lambda b: replace(b, **earlier(b)).states),
    ),
    _m("P: right without bias", "linearised without biases", ("bias missing",), elsewhere("P", without_bias), _SEEING),
    _m(
        "P: layers exchanged",
        "weights of two layers exchanged",
        ("parameter order",),
        elsewhere("P", layers_exchanged),
        ("stacked-gru",),
    ),
    # Biases
    _m(
        "J: bias once",
        "one of two biases has no derivative",
        ("bias", "bias missing"),
        on_argument("J", zeroed("bias_ih")),
        _TWO_BIASES,
    ),
    _m(
        "J_T: bias twice",
        "gradients of biases are added twice",
        ("bias", "bias twice"),
        on_answer("J_T", with_bias_scaled(2.0)),
    ),
    _m(
        "states: bias once",
        "one of two biases is not added",
        ("bias missing",),
        with_parameters(lambda model: {n: 0 * v for n, v in model.parameters.items() if n.startswith("bias_hh")}),
        _TWO_BIASES,
    ),
    # By call
    _m(
        "P: jitter",
        "one of ten calls errs",
        _SELDOM,
        counted("P", lambda b, n, q, y: noisy(n, y) if n % 10 == 0 else y),
    ),
    _m(
        "K: every third call",
        "every third call is wrong",
        _SELDOM,
        counted("K", lambda b, n, q, y: 2 * y if n % 3 == 0 else y),
    ),
    _m("J_T: not cleared", "gradients add up from call to call", _SELDOM, kept("J_T", 1.0)),
    _m("gradient: momentum", "the buffer of the momentum for the gradient", _SELDOM, kept("gradient", 0.9)),
    _m(
        "P_T: dropout",
        "a random mask is left on",
        _SELDOM,
        counted("P_T", lambda b, n, g, y: masked(n, y)),
    ),
    # By argument
    _m(
        "P: dense only",
        "zero where the first step is",
        ("not linear", "step missing"),
        where("P", lambda q: not q[:, 0].any(), np.zeros_like),
    ),
    _m("P_T: one-hot", "wrong for one entry alone", ("not linear",), where("P_T", one_hot, lambda y: 2 * y)),
    _m(
        "P: zero",
        "not a number for zero",
        _SAID,
        where("P", lambda q: not q.any(), lambda y: np.full_like(y, np.nan)),
    ),
    _m(
        "K: sparse",
        "wrong where most of the argument is zero",
        ("not linear",),
        where("K", lambda q: np.count_nonzero(q) < 0.5 * q.size, np.zeros_like),
    ),
    _m("P: clipped", "answers clipped beyond ten", _NOT_LINEAR, on_answer("P", within(10.0))),
    _m("gradient: clipped", "entries clipped beyond a tenth", _NOT_LINEAR, on_answer("gradient", within(0.1))),
    _m("gradient: clipped by norm", "made no longer than one", _NOT_LINEAR, on_answer("gradient", by_norm(1.0))),
    _m("J_T: saturated", "sums saturate at the largest float16", _NOT_LINEAR, on_answer("J_T", within(65504.0))),
    _m(
        "gradient: weight decay",
        "parameters added to the gradient",
        _NOT_LINEAR,
        on_answer(
            "gradient",
            lambda b, g: g + 0.01 * np.concatenate([b.model.parameters[n].ravel() for n in b.model.trainable]),
        ),
    ),
    # Measures and factors
    _m("K: trapezoid", "half the weight at both ends", ("measure",), on_argument("K", trapezoid)),
    _m(
        "K: root of the measure",
        "the root for the measure",
        ("measure", "factor"),
        instead("K", lambda b, q: b.J(b.J_T(b.arithmetic.round(q * np.sqrt(b.space.mu)[:, :, None])))),
    ),
    _m("NTK: trapezoid", "half the weight at both ends", ("measure",), on_argument("NTK", trapezoid)),
    _m(
        "gradient: scaled in place",
        "the measure enters twice",
        ("measure",),
        on_argument("gradient", weigh),
        weighted=True,
    ),
    _m(
        "gradient: half",
        "half the factor of the learning rate",
        ("factor",),
        on_answer("gradient", lambda _, g: 0.5 * g),
    ),
    _m(
        "gradient: divided by units",
        "the mean over units too",
        ("measure", "factor"),
        on_answer("gradient", lambda b, g: g / b.space.shape[2]),
    ),
    _m("K: steps apart", "no sum over steps", ("composition",), instead("K", per_step)),
    # Formats and approximations
    _m(
        "states: short z0",
        "initial states cast to bfloat16",
        ("precision lower than declared",),
        at_states(lambda b: replace(b, z0=ARITHMETICS["bfloat16"].round(b.z0)).states),
        arithmetics=_NOT_SHORTEST,
    ),
    _m(
        "P: short weights",
        "weights kept in bfloat16",
        ("precision lower than declared",),
        over_form("P", shorter),
        arithmetics=_READ,
    ),
    _m(
        "P_T: short weights",
        "weights kept in bfloat16",
        ("precision lower than declared",),
        over_form("P_T", shorter),
        arithmetics=_READ,
    ),
    _m(
        "P_T: fast tanh",
        "slopes of an approximation in the backward pass alone",
        ("slope", "other point"),
        over_form("P_T", fast_tanh),
        ("rnn", "leaky"),
    ),
    # Places and layouts
    _m("P: centred", "the mean over units taken off the answer", ("centred",), on_answer("P", centred)),
    _m(
        "states: centred",
        "the mean over units taken off each state",
        ("centred",),
        run_with(
            lambda model, z, x, step: (lambda new: new - new.mean(axis=-1, keepdims=True))(model.step(z, x[step]))
        ),
    ),
    _m(
        "P: trials reversed",
        "the answer in another order of trials",
        ("trials mixed",),
        on_answer("P", lambda _, y: y[::-1]),
    ),
    _m(
        "J: trials reversed",
        "the answer in another order of trials",
        ("trials mixed",),
        on_answer("J", lambda _, y: y[::-1]),
    ),
    _m(
        "P_T: units moved",
        "the answer moved by one unit",
        ("units mixed",),
        on_answer("P_T", lambda _, y: np.roll(y, 1, axis=2)),
    ),
    _m(
        "J_T: frozen weight",
        "the trainable subset lacks the first weight",
        ("inputs", "inputs missing", "recurrence"),
        on_answer("J_T", zeroed("weight_ih")),
        ("gru", "rnn", "lstm"),
    ),
    _m(
        "P: decay twice",
        "the direct term squared",
        ("decay",),
        over_form("P", channels(direct_channels, np.square)),
        _LEAKING,
    ),
    _m(
        "gradient: next coefficients",
        "coefficients of the step after in the adjoint",
        ("time shifted by one",),
        instead("gradient", lambda b, e: b.J_T(b.with_form(rolled(-1)(b.form)).P_T(b.arithmetic.round(weigh(b, e))))),
    ),
    _m(
        "gradient: late",
        "the errors one step late",
        ("time shifted by one",),
        on_argument("gradient", lambda _, e: np.concatenate([0 * e[:, :1], e[:, :-1]], axis=1)),
    ),
    _m(
        "states: one step held",
        "a step is not made",
        ("one step",),
        run_with(lambda model, z, x, step: z if step == 3 else model.step(z, x[step])),
    ),
    _m(
        "P: reset twice",
        "the reset gate enters squared",
        ("gate", "other point"),
        over_form("P", channel("layer0_hidden", np.square)),
        ("gru",),
    ),
]
