"""Networks run by compiled code: their states, and their linearisation along the way or at given states.

Networks that name compiled functions of a unit (`kpref.models.step.Pointwise`) are run by `kpref.kernels.network`; all
others, classes of the user's among them, by their plain NumPy function, which is also what this code is tested against.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kpref._types import Array
from kpref.integrate import Tableau
from kpref.models.base import Model
from kpref.models.step import StepModel
from kpref.step_form import StepForm
from kpref.threads import even_blocks, run_blocks, trial_blocks

__all__ = ["CompiledNetwork", "compiled_network"]

#: Trials that one call of the compiled code takes through time: fewer make more work for the weights, which each step
#: reads anew, more do not fit into the cache.
_TRIALS_PER_BLOCK = 48
#: Points that one call handles where all states are known, and steps where those of the stages are not.
_POINTS_PER_BLOCK, _STEPS_PER_BLOCK = 128, 8
#: Entries of all registers of these points, if they are wide: more would leave the caches.
_REGISTER_ENTRIES = 1 << 19


def compiled_network(model: Model, dtype: npt.DTypeLike = np.float64) -> CompiledNetwork | None:
    """A network with its weights for compiled code, in a precision; None where there is none for it."""
    if not isinstance(model, StepModel) or not model.thread_safe or model.pointwise is None:
        return None  # a class of the user's may inherit the functions and change the model
    from kpref.kernels.network_tables import network, written

    z, x = np.zeros((1, 1, model.n_states)), np.zeros((1, 1, model.n_inputs))
    constants = {name: value for name, value in model.numbers(z, x).channels.items() if value.ndim == 1}
    functions, drives = list(model.pointwise), model.drives(x)
    net = network(model.program, functions, constants, model.weights(), drives, dtype)
    return CompiledNetwork(model, constants, *written(model.program, functions, drives), net)


@dataclass(frozen=True, eq=False)
class CompiledNetwork:
    """A network for compiled code.

    Forms that are filled here are those of `kpref.linearize.empty_step_form`; all that varies along the trajectory is
    written but the states at which it is taken.
    """

    model: StepModel
    constants: Mapping[str, Array]  # (width,): channels that are the same everywhere
    channels: list[str]  # that vary, and variables that functions of a unit compute, in the order of compiled code
    computed: list[str]
    net: Any

    def run(
        self, trajectory: Array, inputs: Array, lengths: npt.NDArray[np.int64], form: StepForm | None = None
    ) -> tuple[bool, bool]:
        """Fill trajectory[1:], (T + 1, B, S), from trajectory[0], and a form along it in the same pass.

        `trajectory`: shape (T + 1, B, S). `inputs`: shape (T, B, n_inputs); what comes after the end of a trial is its
        last row that exists. `lengths`: shape (B,); steps of each trial: then its states are zero, and its coefficients
        those of its last step. `form`: of T rows.
        Returns whether the states are finite, and whether the coefficients are.
        """
        from kpref.kernels.network import run

        (drive, sound), aim, lengths = self._drive(inputs, form), self._target(form), _writeable(lengths)
        blocks = trial_blocks(trajectory.shape[1], _TRIALS_PER_BLOCK, trajectory.size)
        found = np.zeros((len(blocks), 2), dtype=bool)

        def task(index: int) -> None:
            block = blocks[index]
            full = form is not None
            found[index] = run(self.net, drive, lengths, trajectory, False, full, aim, block.start, block.stop)

        run_blocks(task, len(blocks))
        return bool(found[:, 0].all()), sound and bool(found[:, 1].all())

    def fill(self, form: StepForm, states: Array, inputs: Array) -> bool:
        """Fill a form at states (R, B, S) under inputs (R, B, n_inputs); whether it is finite."""
        from kpref.kernels.network import run

        points, lengths = states.shape[0] * states.shape[1], np.zeros(0, dtype=np.int64)
        # Of no step does anything follow here: all points are one.
        flat = _writeable(states).reshape(1, points, -1)
        (drive, sound), aim = self._drive(inputs, form), self._target(form)
        drive = drive.reshape(1, points, -1)
        most = _REGISTER_ENTRIES // int(self.net.strides.sum())
        blocks = even_blocks(points, min(_POINTS_PER_BLOCK, max(1, most)))
        found = np.zeros(len(blocks), dtype=bool)

        def task(index: int) -> None:
            block = blocks[index]
            found[index] = run(self.net, drive, lengths, flat, True, True, aim, block.start, block.stop)[1]

        run_blocks(task, len(blocks))
        return sound and bool(found.all())

    def take_steps(
        self,
        tableau: Tableau,
        h: Array,
        inputs: Array,
        lengths: npt.NDArray[np.int64],
        states: Array,
        form: StepForm | None = None,
    ) -> bool:
        """Fill states[1:], (n + 1, B, S), from states[0] by Runge-Kutta steps, and a form along them in the same pass.

        `h`: shape (n,). `inputs`: shape (n * s, B, n_inputs); at the stages, rows ordered (step, stage). `lengths`:
        shape (B,); rows of the states that each trial has: it stands still afterwards. `states`: shape (n + 1, B, S).
        `form`: of n * s rows; its states are filled too.
        Returns whether the form is finite.
        """
        return self._steps(tableau, h, inputs, lengths, states, form, given=False)

    def fill_stages(self, form: StepForm, tableau: Tableau, h: Array, inputs: Array, states: Array) -> bool:
        """Fill a form, states included, at the stages of steps from states (n, B, S), as `take_steps`."""
        return self._steps(tableau, h, inputs, np.zeros(0, dtype=np.int64), states, form, given=True)

    def _steps(
        self,
        tableau: Tableau,
        h: Array,
        inputs: Array,
        lengths: npt.NDArray[np.int64],
        states: Array,
        form: StepForm | None,
        *,
        given: bool,
    ) -> bool:
        """Blocks of trials, and of steps where the states that these start from are given."""
        from kpref.kernels.network import take_steps

        a, b, h = (_writeable(array, np.float64) for array in (tableau.a, tableau.b, h))
        states = _writeable(states) if given else states
        (drive, sound), aim, lengths = self._drive(inputs, form), self._target(form), _writeable(lengths)
        own, full = np.empty((0, 0, 0)) if form is None else form.states, form is not None
        if given:
            trials, steps = even_blocks(states.shape[1], _TRIALS_PER_BLOCK), even_blocks(len(h), _STEPS_PER_BLOCK)
        else:
            trials, steps = trial_blocks(states.shape[1], _TRIALS_PER_BLOCK, len(b) * states.size), [slice(0, len(h))]
        found = np.zeros(len(trials) * len(steps), dtype=bool)

        def task(index: int) -> None:
            part, block = steps[index // len(trials)], trials[index % len(trials)]
            found[index] = take_steps(
                self.net, a, b, h, drive, lengths, states, given, full, aim, own, part.start, part.stop, block.start,
                block.stop,
            )  # fmt: skip

        run_blocks(task, len(found))
        return sound and bool(found.all())

    def _drive(self, inputs: Array, form: StepForm | None) -> tuple[Array, bool]:
        """What comes from the inputs alone, side by side, also in the variables of a form; whether it is finite there.

        Inputs are finite; in the precision of a form they may not be.
        """
        drives, sound = self.model.drives(inputs), True
        if form is not None:
            for name in drives.keys() & form.known.keys():  # compiled code writes channels
                value, variable = drives[name], form.variable(name)
                with np.errstate(over="ignore"):  # reported with all that is not finite
                    variable[...] = value
                sound = sound and (variable.dtype == value.dtype or bool(np.isfinite(variable).all()))
        # What NumPy joins may keep the order in memory of its parts; products read rows.
        return np.ascontiguousarray(np.concatenate(list(drives.values()), axis=-1, dtype=np.float64)), sound

    def _target(self, form: StepForm | None) -> Any:
        from kpref.kernels.network_tables import no_target, target

        return no_target() if form is None else target(form, self.channels, self.computed)


def _writeable(array: Array, dtype: npt.DTypeLike | None = None) -> Array:
    """Contiguous and writeable: a read-only array would be a type of its own to compiled code."""
    return np.require(array, dtype, ["C", "W"])
