"""Defects of backends in continuous time, each a change of a correct one, with the classes that a guess may name."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from apparatus.stage_emulation import StageBackend

__all__ = ["STAGE_MUTANTS", "StageMutant"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class StageMutant:
    """A defect.

    Attributes
    ----------
    name : str
        Operator that it is planted in, colon, defect.
    classes : tuple of str
    plant : callable
        Makes a wrong backend of a correct one.
    several : bool
        Whether it takes a method of several stages to show.
    """

    name: str
    classes: tuple[str, ...]
    plant: Callable[[StageBackend], StageBackend]
    several: bool = False

    @property
    def operator(self) -> str:
        """Where it is planted."""
        return self.name.partition(":")[0]


def _rerun(change: Callable[[StageBackend], None]) -> Callable[[StageBackend], StageBackend]:
    """A trajectory with another integrator, all operators being its own."""

    def plant(backend: StageBackend) -> StageBackend:
        other = copy.copy(backend)
        change(other)
        other.run()
        return other

    return plant


def _operator(name: str, change: Callable[..., Array]) -> Callable[[StageBackend], StageBackend]:
    """An operator replaced by ``change(backend, its argument)``."""

    def plant(backend: StageBackend) -> StageBackend:
        other = copy.copy(backend)
        setattr(other, name, partial(change, backend))
        return other

    return plant


def _over(name: str, change: Callable[[StageBackend], None]) -> Callable[[StageBackend], StageBackend]:
    """An operator of a backend that is otherwise changed, the trajectory being right."""

    def plant(backend: StageBackend) -> StageBackend:
        other, wrong = copy.copy(backend), copy.copy(backend)
        change(wrong)
        setattr(other, name, getattr(wrong, name))
        return other

    return plant


def _set(**values: Callable[[StageBackend], Any]) -> Callable[[StageBackend], None]:
    def change(backend: StageBackend) -> None:
        found = {name: value(backend) for name, value in values.items()}
        for name, value in found.items():
            setattr(backend, name, value)

    return change


def _first_inputs(b: StageBackend) -> Array:
    return np.repeat(b.inputs[:, :, :1], len(b.b), axis=2)


def _late_inputs(b: StageBackend) -> Array:
    inputs = b.inputs.copy()
    inputs[:, :-1, b.tableau.c == 1.0] = inputs[:, 1:, :1]
    return inputs


def _kept_inputs(b: StageBackend) -> Array:
    inputs = b.inputs.copy()
    inputs[:, 1:, 0] = inputs[:, :-1, -1]
    return inputs


def _frozen(backend: StageBackend) -> None:
    starts = np.repeat(backend.states[:, :-1], len(backend.b), axis=1)
    backend.linearize(starts)


def _transposed(backend: StageBackend) -> None:
    points = backend.points = copy.copy(backend.points)
    sourced = {op.name for op in points.form.program.operations if op.kind == "product" and op.source is not None}
    square = {name: w for name, w in points.form.weights.items() if name in sourced and w.shape[0] == w.shape[1]}
    weights = {name: w.T.copy() for name, w in square.items()}
    points.form = points.form.changed(weights=weights)


def _shifted(tensor: Array, shift: int) -> Array:
    moved = np.roll(tensor, shift, axis=1)
    moved[:, 0 if shift > 0 else -1] = 0.0
    return moved


def _entry(tensor: Array) -> Array:
    wrong = np.array(tensor)
    wrong[(0,) * wrong.ndim] *= 2.0
    return wrong


def _by_h(b: StageBackend) -> Array:
    return b.h[None, :, None, None]


def _relinearized(inputs: Callable[[StageBackend], Array]) -> Callable[[StageBackend], None]:
    """The same states of the stages under other inputs."""

    def change(backend: StageBackend) -> None:
        backend.inputs = inputs(backend)
        backend.linearize(backend.stage_states)

    return change


def _from_zero(b: StageBackend) -> Any:
    other = copy.copy(b.flow)
    other.z0 = np.zeros_like(b.flow.z0)
    return other


def _without_bias(b: StageBackend) -> Any:
    return b.model.with_parameters({name: 0 * v for name, v in b.model.parameters.items() if name == "bias"})


def _cut(tensor: Array) -> Array:
    cut = tensor.copy()
    cut[:, -1] = 0.0
    return cut


def _no_first(tensor: Array) -> Array:
    cut = np.array(tensor)
    cut[:, 0] = 0.0
    return cut


def _averaged(tensor: Array) -> Array:
    return np.repeat(tensor.mean(axis=0, keepdims=True), len(tensor), axis=0)


def _no_last(tensor: Array) -> Array:
    cut = np.array(tensor)
    cut[-1] = 0.0
    return cut


_m = StageMutant
STAGE_MUTANTS: dict[str, StageMutant] = {
    mutant.name: mutant
    for mutant in (
        _m("states: Euler", ("tableau",), _rerun(_set(b=lambda b: np.eye(len(b.b))[0])), True),
        _m("states: inputs of the start", ("inputs",), _rerun(_set(inputs=_first_inputs)), True),
        _m("states: inputs of the next step", ("jump",), _rerun(_set(inputs=_late_inputs)), True),
        _m("states: first stage kept", ("jump",), _rerun(_set(inputs=_kept_inputs)), True),
        _m(
            "states: inputs late", ("time shifted by one",), _rerun(_set(inputs=lambda b: np.roll(b.inputs, 1, axis=1)))
        ),
        _m("states: mean step", ("step",), _rerun(_set(h=lambda b: np.full(len(b.h), b.h.mean())))),
        _m("states: z0 dropped", ("z0 dropped",), _rerun(_set(flow=lambda b: _from_zero(b)))),
        _m("states: no bias", ("bias missing",), _rerun(_set(model=lambda b: _without_bias(b)))),
        _m("P_s: sign", ("sign",), _operator("P_s", lambda b, q: -b.P_s(q))),
        _m("P_s: not times h", ("step",), _operator("P_s", lambda b, q: b.P_s(q / _by_h(b)))),
        _m("P_s: stages reversed", ("stages reversed",), _operator("P_s", lambda b, q: b.P_s(q[:, :, ::-1])), True),
        _m("P_s: frozen", ("stale",), _over("P_s", _frozen), True),
        _m("P_s: transposed", ("transpose",), _over("P_s", _transposed)),
        _m("P_s: late", ("time shifted by one",), _operator("P_s", lambda b, q: _shifted(b.P_s(q), 1))),
        _m("P_s_T: not times h", ("step",), _operator("P_s_T", lambda b, g: b.P_s_T(g) / _by_h(b))),
        _m("P_s_T: frozen", ("stale",), _over("P_s_T", _frozen), True),
        _m("P_s_T: not transposed", ("transpose",), _over("P_s_T", _transposed)),
        _m("P_s_T: reversed", ("time reversed",), _operator("P_s_T", lambda b, g: b.P_s_T(g)[:, ::-1])),
        _m(
            "P_s_T: stages reversed",
            ("stages reversed",),
            _operator("P_s_T", lambda b, g: b.P_s_T(g)[:, :, ::-1]),
            True,
        ),
        _m(
            "P_s_T: one entry",
            ("one entry", "one step", "last block"),
            _operator("P_s_T", lambda b, g: _entry(b.P_s_T(g))),
        ),
        _m("J_s: frozen", ("stale",), _over("J_s", _frozen), True),
        _m("J_s: inputs of the start", ("inputs",), _over("J_s", _relinearized(_first_inputs)), True),
        _m("J_s_T: sign", ("sign",), _operator("J_s_T", lambda b, g: -b.J_s_T(g))),
        _m("J_s_T: frozen", ("stale",), _over("J_s_T", _frozen), True),
        _m("K_s: weighed", ("measure", "factor"), _operator("K_s", lambda b, q: b.K_s(q) / b.states[:, :, 0].size)),
        _m("P: late", ("time shifted by one",), _operator("P", lambda b, q: _shifted(b.P(q), 1))),
        _m("P: frozen", ("stale",), _over("P", _frozen), True),
        _m("P_T: transposed", ("transpose",), _over("P_T", _transposed)),
        _m("D: frozen", ("stale",), _over("D", _frozen), True),
        _m("D: inputs of the start", ("inputs",), _over("D", _relinearized(_first_inputs)), True),
        _m("D_T: frozen", ("stale",), _over("D_T", _frozen), True),
        _m("D_T: last time lost", ("step missing",), _operator("D_T", lambda b, g: b.D_T(_cut(g)))),
        _m("D_z0: transposed", ("transpose",), _over("D_z0", _transposed)),
        _m("D_z0_T: transposed", ("transpose",), _over("D_z0_T", _transposed)),
        _m("D_z0_T: frozen", ("stale",), _over("D_z0_T", _frozen), True),
        _m("D_z0_T: row 0 lost", ("start",), _operator("D_z0_T", lambda b, g: b.D_z0_T(_no_first(g)))),
        _m("gradient: summed", ("measure", "factor"), _operator("gradient", lambda b, e: b.gradient(e) * b.h.size)),
        _m("gradient: frozen", ("stale",), _over("gradient", _frozen), True),
        _m(
            "gradient: trials averaged", ("trials mixed",), _operator("gradient", lambda b, e: b.gradient(_averaged(e)))
        ),
        _m("NTK: sign", ("sign",), _operator("NTK", lambda b, q: -b.NTK(q))),
        _m(
            "NTK: one trial",
            ("trial missing", "one trial", "last block"),
            _operator("NTK", lambda b, q: _no_last(b.NTK(q))),
        ),
    )
}
