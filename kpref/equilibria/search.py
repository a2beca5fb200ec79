"""`fixed_points`: the search for them, from states of a flow or given ones."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kpref._types import Array
from kpref._validate import finite_array, instance, integer, real_number, within_floats
from kpref.equilibria.jacobians import state_jacobians
from kpref.equilibria.points import FixedPoints, unique_states
from kpref.equilibria.solver import SLOW, UNSETTLED, Descent, descend
from kpref.flow import Flow
from kpref.lengths import points as existing
from kpref.memory import require_memory
from kpref.models.base import Field, Model
from kpref.threads import even_blocks, run_blocks

__all__ = ["fixed_points"]

#: Entries of the Jacobians that one block of starts holds: they stay in cache.
_BLOCK_ENTRIES = 1 << 18


def fixed_points(
    model: Model,
    inputs: npt.ArrayLike | None = None,
    starts: npt.ArrayLike | Flow | None = None,
    *,
    n_starts: int = 256,
    seed: int = 0,
    tol: float = 1e-12,
    distance: float = 1e-6,
    max_iterations: int = 200,
) -> FixedPoints:
    """Fixed points of a model under constant input, stable or not, and slow points where there is none nearby.

    Roots of ``F(z, x) - z`` of a map, or of ``f(z, x)`` of a field, by Newton's method with the exact Jacobian, and by
    that of Levenberg and Marquardt where Newton fails or the Jacobian is singular, as on a line attractor: see
    `kpref.equilibria.solver`. All starts run in one batch, and none depends on the others.

    Parameters
    ----------
    model : Model
    inputs : array_like, shape (n_inputs,) or (n, n_inputs), optional
        The constant input, for all starts or one each; zero by default.
    starts : array_like, shape (n, S), or Flow
        Where to begin. Of a flow, a random choice of the states that it visits; all if there are no more.
    n_starts : int
        How many states are chosen of a flow.
    seed : int
        Of that choice.
    tol : float
        Largest |F(z) - z|, or |f(z)|, of a fixed point; the last steps then take it to rounding.
    distance : float
        Points that are no further apart, relative to 1 + |z|, are one.
    max_iterations : int
        Jacobians for each start. One that has not settled then, or has run off before, is told
        (`FixedPoints.settled`).

    Returns
    -------
    FixedPoints

    Raises
    ------
    TypeError
        If the model or a number is something else.
    ValueError
        For shapes that do not match, numbers that are not finite, or starts where the model overflows.
    MemoryError
        Before anything is allocated, if the Jacobians of all points would not fit.

    References
    ----------
    Sussillo and Barak, Opening the black box, Neural Computation 25 (2013).

    Examples
    --------
    >>> import kpref
    >>> found = kpref.fixed_points(kpref.models.Pitchfork(1.0), starts=[[-2.0], [0.1], [3.0]])
    >>> found
    FixedPoints(2 stable, 1 unstable; 3 starts)
    >>> found.points[:, 0].round(12) + 0.0
    array([-1.,  1.,  0.])
    """
    instance("model", model, Model, "one of kpref.models")
    n_starts, seed = integer("n_starts", n_starts, 1), integer("seed", seed, 0)
    tol, distance = real_number("tol", tol, above=0), real_number("distance", distance, least=0)
    most = integer("max_iterations", max_iterations, 1)
    z = _starts(starts, model, n_starts, seed)
    x = _inputs(inputs, model, len(z))
    require_memory(8.0 * z.size * (model.n_states + 8), f"the Jacobians at {len(z)} points")
    size = max(1, _BLOCK_ENTRIES // model.n_states**2)
    blocks = even_blocks(len(z), size)
    here = not model.thread_safe
    found: list[Descent] = [None] * len(blocks)  # type: ignore[list-item]

    def search(index: int) -> None:
        found[index] = _from(model, z[blocks[index]], x[blocks[index]], tol, most)

    run_blocks(search, len(blocks), here=here)
    ended = Descent(*(np.concatenate(parts) for parts in zip(*found, strict=True)))
    return _described(model, z, x, ended, distance)


def _from(model: Model, starts: Array, inputs: Array, tol: float, most: int) -> Descent:
    moved = 0.0 if isinstance(model, Field) else 1.0

    def residual(z: Array, which: npt.NDArray[np.intp]) -> Array:
        return model.evaluate(z, inputs[which]) - moved * z

    def jacobian(z: Array, which: npt.NDArray[np.intp]) -> Array:
        return state_jacobians(model, z, inputs[which]) - moved * np.eye(z.shape[1])

    with np.errstate(over="ignore", invalid="ignore"):
        within_floats(f"{model} at the starts", model.evaluate(starts, inputs))
    return descend(residual, jacobian, starts, tol, most)


def _described(model: Model, starts: Array, inputs: Array, ended: Descent, distance: float) -> FixedPoints:
    """The different points, in order, with their linearisation."""
    speeds = np.sqrt(np.square(ended.residuals).sum(axis=1))
    settled = np.flatnonzero(ended.kinds != UNSETTLED)
    chosen = settled[unique_states(ended.states[settled], inputs[settled], speeds[settled], distance)]
    points = np.unique(chosen)
    jacobians, eigenvalues = _spectra(model, ended.states[points], inputs[points])
    values = (starts, ended.states, speeds, np.full(len(starts), -1), ended.iterations)

    def made(order: npt.NDArray[np.intp]) -> FixedPoints:
        which = points[order]
        return FixedPoints(
            model, ended.states[which], inputs[which], speeds[which], ended.kinds[which] == SLOW, jacobians[order],
            eigenvalues[order], *values,
        )  # fmt: skip

    first = made(np.arange(len(points)))
    order = np.lexsort((*first.points.T[::-1], first.n_unstable, first.slow))
    values[3][settled] = np.argsort(order)[np.searchsorted(points, chosen)]
    return made(order)


def _spectra(model: Model, points: Array, inputs: Array) -> tuple[Array, npt.NDArray[np.complex128]]:
    """A at each point, and its eigenvalues, the fastest growing first."""
    number, size = points.shape
    jacobians, eigenvalues = np.empty((number, size, size)), np.empty((number, size), dtype=complex)
    blocks = even_blocks(number, max(1, _BLOCK_ENTRIES // size**2))

    def task(index: int) -> None:
        block = blocks[index]
        jacobians[block] = state_jacobians(model, points[block], inputs[block])
        values = np.linalg.eigvals(jacobians[block]).astype(complex)
        growth = values.real if isinstance(model, Field) else np.abs(values)
        order = np.lexsort((-values.imag, -values.real, -growth), axis=1)
        eigenvalues[block] = np.take_along_axis(values, order, axis=1)

    run_blocks(task, len(blocks), here=not model.thread_safe)
    return jacobians, eigenvalues


def _starts(starts: npt.ArrayLike | Flow | None, model: Model, number: int, seed: int) -> Array:
    if starts is None:
        raise TypeError("starts must be states (n, S) to begin at, or a kpref.Flow that visits some; got None")
    if not isinstance(starts, Flow):
        given = finite_array("starts", starts, shape=("n", model.n_states), axes=("start", "state"))
        if not len(given):
            raise ValueError(f"starts must be states (n, {model.n_states}) with n at least 1; got shape {given.shape}")
        return given
    states = starts.states
    if states.shape[2] != model.n_states:
        raise ValueError(f"starts must be a flow with the {model.n_states} states of {model}; got {starts}")
    if starts.space.lengths is None:
        visited = states.reshape(-1, model.n_states)
    else:
        visited = states[existing(starts.space.lengths, states.shape[1])]
    chosen = np.random.default_rng(seed).permutation(len(visited))[:number]
    return np.asarray(visited[np.sort(chosen)], dtype=float)


def _inputs(inputs: npt.ArrayLike | None, model: Model, number: int) -> Array:
    if inputs is None:
        return np.zeros((number, model.n_inputs))
    given = finite_array("inputs", inputs)
    if given.shape not in ((model.n_inputs,), (number, model.n_inputs)):
        raise ValueError(
            f"inputs must have shape ({model.n_inputs},), or ({number}, {model.n_inputs}) for one a start; got "
            f"{given.shape}"
        )
    return np.array(np.broadcast_to(given, (number, model.n_inputs)))
