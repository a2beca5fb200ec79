r"""Teachers: networks with a known solution, whose outputs a student learns to give.

`teacher_linear`, `teacher_tanh` and `teacher_fixed_points` draw trials; `linear_teacher`, `tanh_teacher` and
`fixed_point_teacher` give the teachers themselves, from which a student may start, and with which it is compared.

**Planted fixed points.** For k states that are the columns of X, entries +-a, and any biases b, ``tanh(W x + b) = x``
holds at all of them if and only if ``W X = arctanh(X) - b 1^T``, of which

    W = (arctanh(X) - b 1^T) X^+ + R (I - X X^+)

is the general solution: the first term is the projection rule of Personnaz, Guyon and Dreyfus (1985), R is free. A
quarter of the units are +a in all of the points and have the bias arctanh(a); the others are random and have none. So
differences of points are eigenvectors of W, of eigenvalue ``arctanh(a) / a``; modulo these W is R, but for a change of
rank one. As all entries have one modulus, the Jacobian is ``(1 - a^2) W`` at each of the points, and
``(1 - a^2) arctanh(a) / a`` is below 1 for every a: 0.31 for a = 0.9, where the points attract strongly. (That no other
eigenvalue is larger is measured, not derived.) The units that all points share are there because tanh is odd: without
them -x would be fixed too. A network whose W is R alone, of a gain below 1, has one fixed point.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from kpref._types import Array
from kpref._validate import integer, real_number
from kpref.memory import require_memory
from kpref.models import RNN, Linear
from kpref.models.base import Map
from kpref.readout import Readout
from kpref.tasks.catalogue import task
from kpref.tasks.sampling import balanced, blank, generator, with_noise
from kpref.threads import serial_blas
from kpref.trials import Trials

__all__ = [
    "Teacher",
    "fixed_point_teacher",
    "linear_teacher",
    "tanh_teacher",
    "teacher_fixed_points",
    "teacher_linear",
    "teacher_tanh",
]

MODULUS = 0.9
"""Of the entries of planted fixed points."""

KPFLOW = "Hazelden, Driscoll, Shlizerman, Shea-Brown, The global empirical NTK, arXiv:2605.08746"


class Teacher(NamedTuple):
    """A teacher.

    Attributes
    ----------
    model : Map
    readout : Readout
    fixed_points : ndarray, shape (k, H)
        States that are known to be fixed, under no input.
    """

    model: Map
    readout: Readout
    fixed_points: Array


def linear_teacher(
    n_inputs: int = 100, n_outputs: int = 100, n_states: int = 100, gain: float = 1.0, teacher_seed: int = 0
) -> Teacher:
    """The linear network ``z' = W z + U x``, ``y = V z``, with normal entries: of W, of variance gain**2 / H.

    Entries of U have variance 1 / n_inputs, those of V 1 / n_outputs. For any gain below 1 and most of 1 its only fixed
    point is 0.
    """
    rng, (inputs, outputs, states) = _sizes(teacher_seed, n_inputs, n_outputs, n_states)
    recurrent = rng.standard_normal((states, states)) * (real_number("gain", gain, least=0) / states**0.5)
    drive = rng.standard_normal((states, inputs)) / inputs**0.5
    readout = Readout(rng.standard_normal((outputs, states)) / outputs**0.5)
    return Teacher(Linear(drive, recurrent), readout, np.zeros((1, states)))


def tanh_teacher(
    n_inputs: int = 16, n_outputs: int = 1, n_states: int = 64, gain: float = 1.2, teacher_seed: int = 0
) -> Teacher:
    """The network ``z' = tanh(W z + U x)``, ``y = V z``, with W orthogonal times the gain.

    Entries of U and V are normal, of variance 2 / (rows + columns). The origin is fixed, and unstable for gains above
    1.
    """
    rng, (inputs, outputs, states) = _sizes(teacher_seed, n_inputs, n_outputs, n_states)
    recurrent = real_number("gain", gain, least=0) * np.linalg.qr(rng.standard_normal((states, states)))[0]
    drive = rng.standard_normal((states, inputs)) * (2 / (states + inputs)) ** 0.5
    readout = Readout(rng.standard_normal((outputs, states)) * (2 / (states + outputs)) ** 0.5)
    return Teacher(RNN(drive, recurrent), readout, np.zeros((1, states)))


@serial_blas
def fixed_point_teacher(
    points: int = 5, n_outputs: int = 3, n_states: int = 64, gain: float = 0.5, teacher_seed: int = 0
) -> Teacher:
    """The network ``z' = tanh(W z + X u + b)``, ``y = V z`` with planted fixed points X, as this module derives it.

    `points` of them, at most a third of the states, are planted, and have an input each, which drives towards it;
    `gain` is that of R. Entries of V are normal, of variance 1 / H. Without planted points W is R, there are no biases,
    and the only input has normal weights.
    """
    number = integer("points", points, 0)
    rng, (_, outputs, states) = _sizes(teacher_seed, max(number, 1), n_outputs, n_states)
    if number > states // 3:
        raise ValueError(f"points must be at most a third of n_states = {states}; got {number}")
    free = rng.standard_normal((states, states)) * (real_number("gain", gain, least=0, below=1) / states**0.5)
    readout = Readout(rng.standard_normal((outputs, states)) / states**0.5)
    if not number:
        return Teacher(RNN(rng.standard_normal((states, 1)), free), readout, np.zeros((1, states)))
    planted, bias = MODULUS * (2.0 * rng.integers(0, 2, size=(states, number)) - 1.0), np.zeros(states)
    planted[: states // 4], bias[: states // 4] = MODULUS, np.arctanh(MODULUS)
    inverse = np.linalg.pinv(planted)
    recurrent = (np.arctanh(planted) - bias[:, None]) @ inverse + free - (free @ planted) @ inverse
    return Teacher(RNN(planted, recurrent, bias_hh=bias), readout, planted.T)


@task(
    inputs=tuple(f"x_{channel}" for channel in range(1, 101)),
    outputs=tuple(f"y_{channel}" for channel in range(1, 101)),
    sources=(f"{KPFLOW}; github.com/meeree/kpflow, custom_tasks/low_rank_forecast.py at 697e090, without its noise",),
)
@serial_blas
def teacher_linear(
    n_trials: int = 100,
    *,
    seed: int = 0,
    steps: int = 30,
    n_inputs: int = 100,
    n_outputs: int = 100,
    n_states: int = 100,
    gain: float = 1.0,
    teacher_seed: int = 0,
) -> Trials:
    """Answer white noise as a linear teacher does.

    Inputs are independent standard normal numbers; targets are what `linear_teacher` makes of them. All steps are
    scored.

    Parameters
    ----------
    n_trials : int
    seed : int
        Of the inputs.
    steps : int
    n_inputs, n_outputs, n_states, gain, teacher_seed
        Of the teacher: the same for trials of one teacher.

    Returns
    -------
    Trials
    """
    n_trials, rng = generator(n_trials, seed)
    teacher = linear_teacher(n_inputs, n_outputs, n_states, gain, teacher_seed)
    inputs = blank(n_trials, integer("steps", steps, 1), teacher.model.n_inputs)
    inputs += rng.standard_normal(inputs.shape)
    return Trials(inputs, _answers(teacher, inputs))


@task(
    inputs=tuple(f"x_{channel}" for channel in range(1, 17)),
    outputs=("y",),
    sources=(
        "Hazelden, Shea-Brown, State-space NTK collapse near bifurcations, arXiv:2605.12763; github.com/meeree/kpflow, "
        "examples/rnn_student_teacher/main.py at 697e090, from which all numbers",
    ),
)
@serial_blas
def teacher_tanh(
    n_trials: int = 128,
    *,
    seed: int = 0,
    steps: int = 40,
    rank: int = 4,
    n_inputs: int = 16,
    n_outputs: int = 1,
    n_states: int = 64,
    gain: float = 1.2,
    teacher_seed: int = 0,
) -> Trials:
    """Answer white noise of few dimensions as a tanh network beyond its first bifurcation does.

    Inputs are normal numbers in a random subspace of as many dimensions as `rank` says, of total variance 1 at each
    step; targets are what `tanh_teacher` makes of them. All steps are scored.

    Parameters
    ----------
    n_trials : int
    seed : int
        Of the inputs.
    steps : int
    rank : int
        Dimensions of the inputs, at most `n_inputs`.
    n_inputs, n_outputs, n_states, gain, teacher_seed
        Of the teacher, and of the subspace: the same for trials of one teacher.

    Returns
    -------
    Trials
    """
    n_trials, rng = generator(n_trials, seed)
    teacher = tanh_teacher(n_inputs, n_outputs, n_states, gain, teacher_seed)
    rank = integer("rank", rank, 1, teacher.model.n_inputs)
    of_subspace = np.random.default_rng([teacher_seed, 1])
    basis = np.linalg.qr(of_subspace.standard_normal((teacher.model.n_inputs, rank)))[0]
    inputs = blank(n_trials, integer("steps", steps, 1), teacher.model.n_inputs)
    inputs += rng.standard_normal((*inputs.shape[:2], rank)) / rank**0.5 @ basis.T
    return Trials(inputs, _answers(teacher, inputs))


@task(
    inputs=tuple(f"point_{point}" for point in range(1, 6)),
    outputs=("y_1", "y_2", "y_3"),
    sources=(
        f"{KPFLOW}, for the idea; the teacher is kpref's own, by the rule of Personnaz, Guyon, Dreyfus, Information "
        "storage and retrieval in spin-glass like neural networks, Journal de Physique Lettres 1985",
    ),
)
@serial_blas
def teacher_fixed_points(
    n_trials: int = 100,
    *,
    seed: int = 0,
    stimulus: int = 5,
    response: int = 35,
    points: int = 5,
    n_outputs: int = 3,
    n_states: int = 64,
    gain: float = 0.5,
    noise: float = 0.1,
    teacher_seed: int = 0,
) -> Trials:
    """Come to rest as a teacher does at one of its planted fixed points.

    During the stimulus the input of one point is 1, and all have noise; then they are 0. Targets are what
    `fixed_point_teacher` makes of them. All steps are scored. Conditions are the points, counted from 1, in equal
    numbers; there are none if none are planted, and the teacher forgets its only input.

    Parameters
    ----------
    n_trials : int
    seed : int
        Of the order of the points, and the noise.
    stimulus, response : int
        Steps with inputs, and without.
    points, n_outputs, n_states, gain, teacher_seed
        Of the teacher: the same for trials of one teacher.
    noise : float
        Standard deviation of the noise in every input during the stimulus; so much as half lets the teacher go astray.

    Returns
    -------
    Trials
    """
    n_trials, rng = generator(n_trials, seed)
    teacher = fixed_point_teacher(points, n_outputs, n_states, gain, teacher_seed)
    channels, pushed = teacher.model.n_inputs, integer("stimulus", stimulus, 1)
    steps = pushed + integer("response", response, 1)
    inputs, point = blank(n_trials, steps, channels), balanced(rng, channels, n_trials)
    inputs[:, :pushed] = np.eye(channels)[point][:, None]
    inputs = with_noise(inputs, noise, rng, np.full(n_trials, pushed))
    return Trials(inputs, _answers(teacher, inputs), conditions=point + 1 if points else None)


def _sizes(seed: int, *sizes: int) -> tuple[np.random.Generator, list[int]]:
    names = ("n_inputs", "n_outputs", "n_states")
    checked = [integer(name, size, 1) for name, size in zip(names, sizes, strict=True)]
    return np.random.default_rng(integer("teacher_seed", seed, 0)), checked


def _answers(teacher: Teacher, inputs: Array) -> Array:
    """Outputs (B, T, n_out) of a teacher that starts at rest."""
    trials, steps, _ = inputs.shape
    states = teacher.model.n_states
    require_memory(
        16.0 * trials * steps * states, f"a teacher of {states} states over {trials} trials of {steps} steps"
    )
    return teacher.readout(teacher.model.iterate(np.zeros((trials, states)), inputs))
