"""The networks of ``kpref bench`` once more, for another array library: what its contenders differentiate."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kpref.models import Model
from kpref.models.registry import registration_of

__all__ = ["STEPS", "Library", "make_step"]

Step = Callable[[Mapping[str, Any], Any, Any], Any]


@dataclass(frozen=True)
class Library:
    """Functions of an array library."""

    tanh: Callable[[Any], Any]
    sigmoid: Callable[[Any], Any]
    concatenate: Callable[[Sequence[Any]], Any]  # of a list of arrays, along their last axis


def make_step(model: Model, library: Library) -> Step:
    """Write the map or the vector field of a model as ``step(parameters, z, x)`` for another array library."""
    known = registration_of(model)
    if known is None or known.name not in STEPS:
        raise ValueError(f"{model} is not written for other libraries; those that are: {', '.join(STEPS)}")
    return STEPS[known.name](model, library)


def _layers(
    cell: Callable[[Library, Any, Any, Sequence[Any]], list[Any]], parts: int
) -> Callable[[Any, Library], Step]:
    """Layers of a cell, each above the new state of the one before."""

    def make(model: Any, library: Library) -> Step:
        def step(parameters: Mapping[str, Any], z: Any, x: Any) -> Any:
            suffixes = [name.removeprefix("weight_hh") for name in parameters if name.startswith("weight_hh")]
            units, new = z.shape[-1] // (parts * len(suffixes)), []
            for layer, suffix in enumerate(suffixes):
                first = layer * parts * units
                state = [z[..., first + part * units : first + (part + 1) * units] for part in range(parts)]
                a = state[0] @ parameters[f"weight_hh{suffix}"].T + parameters[f"bias_hh{suffix}"]
                c = x @ parameters[f"weight_ih{suffix}"].T + parameters[f"bias_ih{suffix}"]
                found = cell(library, a, c, state)
                x = found[0]
                new += found
            return new[0] if len(new) == 1 else library.concatenate(new)

        return step

    return make


def _rnn(library: Library, a: Any, c: Any, state: Sequence[Any]) -> list[Any]:
    return [library.tanh(a + c)]


def _gru(library: Library, a: Any, c: Any, state: Sequence[Any]) -> list[Any]:
    (h,) = state
    n = h.shape[-1]
    reset = library.sigmoid(a[..., :n] + c[..., :n])
    update = library.sigmoid(a[..., n : 2 * n] + c[..., n : 2 * n])
    candidate = library.tanh(c[..., 2 * n :] + reset * a[..., 2 * n :])
    return [(1 - update) * candidate + update * h]


def _lstm(library: Library, a: Any, c: Any, state: Sequence[Any]) -> list[Any]:
    n, total = state[0].shape[-1], a + c
    i, f, g, o = (total[..., k * n : (k + 1) * n] for k in range(4))
    cell = library.sigmoid(f) * state[1] + library.sigmoid(i) * library.tanh(g)
    return [library.sigmoid(o) * library.tanh(cell), cell]


def _leaky(model: Any, library: Library) -> Step:
    alpha = model.alpha

    def step(parameters: Mapping[str, Any], z: Any, x: Any) -> Any:
        return (1 - alpha) * z + alpha * _current(library, parameters, z, x)

    return step


def _rate(model: Any, library: Library) -> Step:  # of time constant one
    def step(parameters: Mapping[str, Any], z: Any, x: Any) -> Any:
        return _current(library, parameters, z, x) - z

    return step


def _current(library: Library, parameters: Mapping[str, Any], z: Any, x: Any) -> Any:
    return library.tanh(z) @ parameters["weight_hh"].T + x @ parameters["weight_ih"].T + parameters["bias"]


def _low_rank(model: Any, library: Library) -> Step:
    alpha = model.alpha

    def step(parameters: Mapping[str, Any], z: Any, x: Any) -> Any:
        kappa = library.tanh(z) @ parameters["n"] / z.shape[-1]
        current = kappa @ parameters["m"].T + x @ parameters["weight_ih"].T + parameters["bias"]
        return (1 - alpha) * z + alpha * current

    return step


STEPS: dict[str, Callable[[Any, Library], Step]] = {
    "gru": _layers(_gru, 1),
    "rnn": _layers(_rnn, 1),
    "lstm": _layers(_lstm, 2),
    "stacked-gru": _layers(_gru, 1),
    "stacked-rnn": _layers(_rnn, 1),
    "stacked-lstm": _layers(_lstm, 2),
    "low-rank": _low_rank,
    "leaky": _leaky,
    "rate": _rate,
}
"""By the names under which networks are registered."""
