"""Leaky networks along Runge-Kutta steps by compiled code: their states, and their linearisation at the stages.

Networks of `kpref.models.leaky` whose nonlinearity `kpref.kernels.pointwise` has are run by `kpref.kernels.leaky`; all
others by their plain NumPy function, which is also what this code is tested against.
"""

from __future__ import annotations

from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt

from kpref.integrate import Tableau
from kpref.linearize import empty_step_form
from kpref.models.base import Model
from kpref.models.leaky import LeakyField
from kpref.step_form import StepForm
from kpref.threads import even_blocks, run_blocks

__all__ = ["is_compiled", "linearize_stages", "take_steps"]

Array = npt.NDArray[Any]

_COMPILED = {"tanh": 0, "relu": 1, "identity": 2}

#: Trials that one call of the compiled code handles: fewer make more work for W, which each step reads anew.
_TRIALS_PER_BLOCK = 48


def is_compiled(model: Model) -> TypeGuard[LeakyField]:
    """Whether compiled code can run a model; a class of the user's may change the function that it inherits."""
    return isinstance(model, LeakyField) and model.thread_safe and model.nonlinearity.name in _COMPILED


def take_steps(model: LeakyField, tableau: Tableau, h: Array, drive: Array, states: Array) -> None:
    """Fill states[1:], (n + 1, B, H), from states[0] by n steps of sizes h.

    Parameters
    ----------
    model : LeakyField
    tableau : Tableau
    h : ndarray, shape (n,)
    drive : ndarray, shape (n * s, B, n_in + 1)
        Inputs at the stages, and ones.
    states : ndarray, shape (n + 1, B, H)
    """
    from kpref.kernels.leaky import leaky_steps

    arrays = _arrays(model)
    blocks = even_blocks(states.shape[1], _TRIALS_PER_BLOCK)
    a, b, h = _writeable(tableau.a), _writeable(tableau.b), _writeable(h)

    def task(index: int) -> None:
        leaky_steps(arrays, a, b, h, drive, states, blocks[index].start, blocks[index].stop)

    run_blocks(task, len(blocks))


def linearize_stages(model: LeakyField, tableau: Tableau, h: Array, drive: Array, states: Array) -> StepForm:
    """The linearisation at the stages of n steps that start from states (n, B, H); arguments as for `take_steps`."""
    from kpref.kernels.leaky import leaky_coefficients

    arrays = _arrays(model)
    steps, trials, units = states.shape
    rows = steps * tableau.stages
    form = empty_step_form(model, rows, trials, np.float64)
    identity = model.nonlinearity.name == "identity"
    for name in ("decay", "gate"):
        form.channel(name)[...] = getattr(model, name)
    form.variable("drive")[...] = drive[:, :, : form.known["drive"].width]
    values = form.states if identity else form.variables
    slopes = np.empty((rows, trials, 0 if identity else units)) if identity else form.channel("slope")
    a, h, states = _writeable(tableau.a), _writeable(h), _writeable(states)
    blocks, parts = even_blocks(trials, _TRIALS_PER_BLOCK), even_blocks(steps, 8)

    def task(index: int) -> None:
        block, part = blocks[index % len(blocks)], parts[index // len(blocks)]
        leaky_coefficients(arrays, a, h, drive, states, values, slopes, part.start, part.stop, block.start, block.stop)

    run_blocks(task, len(blocks) * len(parts))
    return form


def _arrays(model: LeakyField) -> Any:
    from kpref.kernels.leaky import LeakyArrays
    from kpref.kernels.panels import as_panels

    parameters = model.parameters
    bias = parameters.get("bias", np.zeros(model.n_states))
    return LeakyArrays(
        nonlinearity=_COMPILED[model.nonlinearity.name],
        decay=_writeable(model.decay),
        gate=_writeable(model.gate),
        weight_transposed=as_panels(model.weights()["recurrent"].T),
        drive_transposed=as_panels(np.concatenate([parameters["weight_ih"].T, bias[None]])),
    )


def _writeable(array: Array) -> Array:
    """Contiguous and writeable: a read-only array would be a type of its own to compiled code."""
    return np.require(array, np.float64, ["C", "W"])
