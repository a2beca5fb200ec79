"""Leaky networks along Runge-Kutta steps by compiled code: their states, and their linearisation at the stages.

Networks that state a `kpref.models.base.LeakyForm` with a nonlinearity that `kpref.kernels.pointwise` has are run by
`kpref.kernels.leaky`; all others by their plain NumPy function, which is also what this code is tested against.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from kpref.integrate import Tableau
from kpref.linearize import ParameterLayout, SiteForm
from kpref.models.base import LeakyForm, Model, SiteModel
from kpref.threads import even_blocks, run_blocks

__all__ = ["leaky_form", "linearize_stages", "take_steps"]

Array = npt.NDArray[Any]

_COMPILED = {"tanh": 0, "relu": 1, "identity": 2}

#: Trials that one call of the compiled code handles: fewer make more work for W, which each step reads anew.
_TRIALS_PER_BLOCK = 48


def leaky_form(model: Model) -> LeakyForm | None:
    """The leaky form of a model, if it has one that compiled code can run."""
    if not isinstance(model, SiteModel) or not model.thread_safe:
        return None  # a class of the user's may inherit the form and change the function
    form = model.leaky_form()
    return form if form is not None and form.nonlinearity in _COMPILED else None


def take_steps(model: SiteModel, form: LeakyForm, tableau: Tableau, h: Array, drive: Array, states: Array) -> None:
    """Fill states[1:], (n + 1, B, H), from states[0] by n steps of sizes h.

    Parameters
    ----------
    model : SiteModel
    form : LeakyForm
    tableau : Tableau
    h : ndarray, shape (n,)
    drive : ndarray, shape (n * s, B, n_in + 1)
        Inputs at the stages, and ones.
    states : ndarray, shape (n + 1, B, H)
    """
    from kpref.kernels.leaky import leaky_steps

    arrays = _arrays(model, form)
    blocks = even_blocks(states.shape[1], _TRIALS_PER_BLOCK)
    a, b, h = _writeable(tableau.a), _writeable(tableau.b), _writeable(h)

    def task(index: int) -> None:
        leaky_steps(arrays, a, b, h, drive, states, blocks[index].start, blocks[index].stop)

    run_blocks(task, len(blocks))


def linearize_stages(
    model: SiteModel, form: LeakyForm, tableau: Tableau, h: Array, drive: Array, states: Array
) -> SiteForm:
    """Site form at the stages of n steps that start from states (n, B, H); arguments as for `take_steps`."""
    from kpref.kernels.leaky import leaky_coefficients

    arrays = _arrays(model, form)
    steps, trials, units = states.shape
    rows = steps * tableau.stages
    variable, slope = np.empty((rows, trials, units)), np.empty((rows, trials, units))
    a, h, states = _writeable(tableau.a), _writeable(h), _writeable(states)
    blocks, parts = even_blocks(trials, _TRIALS_PER_BLOCK), even_blocks(steps, 8)

    def task(index: int) -> None:
        block, part = blocks[index % len(blocks)], parts[index // len(blocks)]
        leaky_coefficients(
            arrays, a, h, drive, states, variable, slope, part.start, part.stop, block.start, block.stop
        )  # fmt: skip

    run_blocks(task, len(blocks) * len(parts))
    return SiteForm(
        decay=_writeable(form.decay)[None, None],
        gates=_writeable(form.gate)[None, None, None],
        slope=slope,
        variable=variable,
        drive=drive,
        weight=model.parameters["weight_hh"].copy(),
        layout=ParameterLayout.of(model),
    )


def _arrays(model: SiteModel, form: LeakyForm) -> Any:
    from kpref.kernels.leaky import LeakyArrays
    from kpref.kernels.panels import as_panels

    parameters = model.parameters
    bias = parameters.get("bias", np.zeros(model.n_states))
    return LeakyArrays(
        nonlinearity=_COMPILED[form.nonlinearity],
        decay=_writeable(form.decay),
        gate=_writeable(form.gate),
        weight_transposed=as_panels(parameters["weight_hh"].T),
        drive_transposed=as_panels(np.concatenate([parameters["weight_ih"].T, bias[None]])),
    )


def _writeable(array: Array) -> Array:
    """Contiguous and writeable: a read-only array would be a type of its own to compiled code."""
    return np.require(array, np.float64, ["C", "W"])
