"""Networks run by compiled code: their states, and their linearisation along the way or at given states.

Networks that name compiled functions of a unit (`kpref.models.step.Pointwise`) are run by `kpref.kernels.network`; all
others, classes of the user's among them, by their plain NumPy function, which is also what this code is tested against.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
import numpy.typing as npt

from kpref.models.base import Model
from kpref.models.step import Pointwise, StepModel
from kpref.step_form import StepForm
from kpref.threads import even_blocks, run_blocks

if TYPE_CHECKING:
    from kpref.kernels.network import Network

__all__ = ["evaluate_points", "is_compiled", "run_map"]

Array = npt.NDArray[Any]

#: Trials that one call of the compiled code takes through time: fewer make more work for the weights, which each step
#: reads anew, more do not fit into the cache.
_TRIALS_PER_BLOCK = 48
#: Points that one call handles where states are given.
_POINTS_PER_BLOCK = 128


def is_compiled(model: Model) -> TypeGuard[StepModel]:
    """Whether compiled code can run the model."""
    # A class of the user's may inherit the functions and change the model.
    return isinstance(model, StepModel) and model.thread_safe and model.pointwise is not None


def run_map(
    model: StepModel,
    trajectory: Array,
    inputs: Array,
    lengths: npt.NDArray[np.int64],
    form: StepForm | None = None,
) -> tuple[bool, bool]:
    """Fill trajectory[1:], (T + 1, B, S), from trajectory[0], and, in the same pass, the coefficients of a form.

    Parameters
    ----------
    model : StepModel
    trajectory : ndarray, shape (T + 1, B, S)
    inputs : ndarray, shape (T, B, n_inputs)
        What comes after the end of a trial is its last row that exists.
    lengths : ndarray of int, shape (B,)
    form : StepForm, optional
        Of the trajectory's starts; its states are left alone.

    Returns
    -------
    bool, bool
        Whether the states are finite, and whether the coefficients are.
    """
    from kpref.kernels.network import no_target, run, target

    net, drive = _network(model, trajectory[:1, :1], inputs), _drive(model, inputs)
    lengths = np.require(lengths, np.int64, ["C", "W"])  # a read-only array is another type
    aim = no_target() if form is None else target(form, _functions(model))
    blocks = even_blocks(trajectory.shape[1], _TRIALS_PER_BLOCK)
    found = np.zeros((len(blocks), 2), dtype=bool)

    def task(index: int) -> None:
        block = blocks[index]
        found[index] = run(net, drive, lengths, trajectory, form is not None, aim, block.start, block.stop)

    run_blocks(task, len(blocks))
    return bool(found[:, 0].all()), bool(found[:, 1].all())


def evaluate_points(model: StepModel, form: StepForm, states: Array, inputs: Array) -> bool:
    """Fill the coefficients and variables of a form at states (R, B, S); whether they are finite."""
    from kpref.kernels.network import coefficients, target

    net = _network(model, states[:1, :1], inputs)
    points = states.shape[0] * states.shape[1]
    flat = np.require(states, np.float64, ["C", "W"]).reshape(points, -1)
    drive = _drive(model, inputs).reshape(points, -1)
    aim = target(form, _functions(model))
    blocks = even_blocks(points, _POINTS_PER_BLOCK)
    found = np.zeros(len(blocks), dtype=bool)

    def task(index: int) -> None:
        found[index] = coefficients(net, flat, drive, aim, blocks[index].start, blocks[index].stop)

    run_blocks(task, len(blocks))
    return bool(found.all())


def _functions(model: StepModel) -> list[tuple[str, tuple[str, ...]]]:
    found: tuple[Pointwise, ...] = model.pointwise or ()
    return [(one.function, one.channels) for one in found]


def _drive(model: StepModel, inputs: Array) -> Array:
    """What comes from the inputs alone, side by side."""
    return np.concatenate(list(model.drives(inputs).values()), axis=-1, dtype=np.float64)


def _network(model: StepModel, states: Array, inputs: Array) -> Network:
    from kpref.kernels.network import network

    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is reported where all is
        sample = model.numbers(states, inputs[:1, :1])
        weights = model.weights()
    constants = {name: value for name, value in sample.channels.items() if value.ndim == 1}
    return network(model.program, _functions(model), constants, weights, model.drives(inputs[:1, :1]))
