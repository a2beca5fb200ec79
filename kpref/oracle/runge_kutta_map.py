"""One step of a Runge-Kutta method for a network in continuous time, as a network in discrete time.

The step ``z' = z + h sum_i b_i k_i``, ``k_i = f(z + h sum_j a_ij k_j, x_i)`` is a straight-line program if f is
one: s copies of the program of f, each with numbers of its own but all with the same weights, and between them scales
by ``h a_ij`` and ``h b_i``. So all that is known of maps holds of it, and nothing has to be derived again: its
derivative by the parameters is that of the step, ``D = P_s J_s`` is P J, and numbers that carry their errors
(`kpref.oracle.uncertain`) carry them through the stages. Its inputs are those of all stages side by side, and h.

A forcing q_i of the stages is added to k_i: the registers of the k_i are then given as the old state is. Read
backwards they hold ``kappa_i = h b_i lambda + h sum_j a_ji A_j^T kappa_j``, the rows of ``P_s^T`` (Hager, Numerische
Mathematik 87, 2000).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Self

import numpy as np

from kpref._types import Array
from kpref.models.base import Field, Parameters
from kpref.models.step import StepMap, StepModel, StepNumbers
from kpref.program import Builder, Operation, Program, View
from kpref.step_form import Entry, StepForm

__all__ = ["RungeKuttaMap", "stage_name"]


def stage_name(stage: int, name: str) -> str:
    """What a channel or variable of the field is called at a stage."""
    return f"stage{stage}_{name}"


class RungeKuttaMap(StepMap):
    """A step of an explicit method.

    `field`: a network in continuous time. `a`, `b`: shape (s, s), (s,); the weights of the method. `frozen`: take all
    coefficients of the linearisation at the start of the step, a defect; the step itself is not touched by it.
    """

    def __init__(self, field: Any, a: Array, b: Array, frozen: bool = False) -> None:
        if not (isinstance(field, StepModel) and isinstance(field, Field)):
            raise TypeError(f"a step is a program where its field is one; got {field}")
        self.field, self.a, self.b, self.frozen = field, a, b, frozen
        self.n_states, self.n_stages = field.n_states, len(b)
        self.n_inputs = self.n_stages * field.n_inputs + 1
        super().__init__(field.parameters, field.trainable)

    def _remake(self, parameters: Mapping[str, Any], trainable: Sequence[str] | None) -> Self:
        return type(self)(self.field._remake(parameters, trainable), self.a, self.b, self.frozen)

    def with_weights(self, a: Array, b: Array) -> RungeKuttaMap:
        """The same field in steps of another method with as many stages."""
        return RungeKuttaMap(self.field, a, b, self.frozen)

    # Values

    def stages(self, parameters: Parameters, z: Array, x: Array) -> tuple[list[Array], list[Array]]:
        """States Z_i and derivatives k_i of all stages, from states z (..., H) and inputs x (..., n_inputs)."""
        states: list[Array] = []
        slopes: list[Array] = []
        for stage, row in enumerate(self.a):
            state = self._advanced(z, x, row, slopes)
            states.append(state)
            slopes.append(self.field._evaluate(parameters, state, self.inputs_of(x, stage)))
        return states, slopes

    def inputs_of(self, x: Array, stage: int) -> Array:
        """The inputs of one stage."""
        width = self.field.n_inputs
        return x[..., stage * width : (stage + 1) * width]

    @staticmethod
    def _advanced(z: Array, x: Array, weights: Array, slopes: list[Array]) -> Array:
        for weight, slope in zip(weights, slopes, strict=False):
            if weight != 0:
                z = z + (x[..., -1:] * weight) * slope
        return z

    def _evaluate(self, parameters: Parameters, z: Array, x: Array) -> Array:
        return self._advanced(z, x, self.b, self.stages(parameters, z, x)[1])

    def numbers(self, z: Array, x: Array) -> StepNumbers:
        """Those of the field at each stage, and ``h a_ij``, ``h b_i``."""
        field = copy.copy(self.field)
        field._parameters = self._parameters  # which may carry errors, or round
        channels: dict[str, Array] = {}
        variables: dict[str, Array] = {}
        for stage, state in enumerate(self.stages(self._parameters, z, x)[0]):
            at = z if self.frozen else state
            own = field.numbers(at, self.inputs_of(x, stage))
            channels |= {stage_name(stage, name): value for name, value in own.channels.items()}
            of_state = {name: at[..., part] for name, part in field.state_variables.items()}
            variables |= {stage_name(stage, name): value for name, value in (of_state | dict(own.variables)).items()}
        ones = np.ones(self.n_states)
        for name, weight in self._weights.items():
            channels[name] = (x[..., -1:] * weight) * ones
        return StepNumbers(channels, variables)

    @property
    def _weights(self) -> dict[str, float]:
        """The numbers of the tableau that are not zero, by the names of their channels."""
        a, b = self.a, self.b
        found = {f"h_a{i}_{j}": a[i, j] for i in range(len(b)) for j in range(i) if a[i, j] != 0}
        return found | {f"h_b{i}": weight for i, weight in enumerate(b) if weight != 0}

    # The program

    @cached_property
    def _written(self) -> tuple[Program, tuple[View, ...]]:
        build, units, own = Builder(), self.n_states, self.field.program
        old, new = build.state(units)
        starts: list[View] = []
        slopes: list[View] = []

        def advance(out: View, letter: str) -> None:
            """``out = z + sum_j h w_j k_j``. The sum has a register of its own: no number goes on past its end."""
            names = {other: f"h_{letter}{other}" for other in range(len(slopes))}
            known = {other: name for other, name in names.items() if name in self._weights}
            build.gather(out, old)
            if known:
                total = build.register(units)
                for other, name in known.items():
                    build.scale(total, slopes[other], name)
                build.gather(out, total)

        for stage in range(self.n_stages):
            starts.append(build.register(units))
            advance(starts[-1], f"a{stage}_")
            slopes.append(self._copy(build, stage, own, starts[-1]))
        advance(new, "b")
        return replace(build.program(), inner=(*starts, *slopes)), tuple(slopes)

    @staticmethod
    def _copy(build: Builder, stage: int, program: Program, start: View) -> View:
        """The program of the field, from a register of its state to one of its value, parts side by side in both."""
        slope = build.register(program.n_states)
        places: dict[int, View] = {}
        for parts, whole in ((program.old, start), (program.new, slope)):
            first = 0
            for part in parts:
                places[part.register] = View(whole.register, first, part.width)
                first += part.width
        registers = [places.get(index) or build.register(width) for index, width in enumerate(program.widths)]

        def moved(view: View) -> View:
            place = registers[view.register]
            return View(place.register, place.start + view.start, view.width)

        def add(op: Operation) -> None:
            out, source = moved(op.out), None if op.source is None else moved(op.source)
            variable = None if op.variable is None else stage_name(stage, op.variable)
            if op.kind == "scale":
                assert source is not None
                build.scale(out, source, stage_name(stage, op.name))
            elif op.kind in ("product", "unit"):
                getattr(build, op.kind)(out, source, op.name, variable)
            else:
                getattr(build, op.kind)(out, source)

        for op in program.operations:
            add(op)
        return slope

    def _program(self) -> Program:
        return self._written[0]

    def forced(self, form: StepForm) -> StepForm:
        """A linearisation that takes, beside the old state, a forcing of each stage: (R, B, (1 + s) H)."""
        return replace(form, program=replace(form.program, old=(*form.program.old, *self._written[1])))

    def entries(self) -> tuple[Entry, ...]:
        """Those of the field: its stages share the weights."""
        return tuple(self.field.entries())

    def weights(self) -> dict[str, Array]:
        """Those of the field."""
        return dict(self.field.weights())
