"""A large Hodgkin-Huxley network in little memory: coefficients are computed anew for each pass, in segments.

A hundred neurons in ten trials of one second, in steps of 0.01 ms of the classical method, have coefficients of some
60 GB. What is kept are the states at the steps, 4 GB; tensors have a row for each millisecond, in which the inputs are
constant and at which a loss is taken. Its gradient goes backwards through all steps, segment by segment. The script
runs the first part of it that so many minutes allow, with a limit on the memory that the process may have, and says
what the whole needs.

    python scripts/hodgkin_huxley.py [--neurons N] [--trials B] [--duration MS] [--minutes M] [--memory GB]
"""

from __future__ import annotations

import argparse
import resource
import time
from dataclasses import replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from kpref.integrate import InputSignal, fixed_steps
from kpref.models import HodgkinHuxley
from kpref.operators import parameter_sensitivity
from kpref.runge_kutta import StageSystem
from kpref.space import TrajectorySpace

Array = npt.NDArray[Any]

#: Bytes for coefficients that may be kept: none, so that every pass computes them.
KEPT = 0.0


def stages(model: HodgkinHuxley, trials: int, milliseconds: int, per_millisecond: int) -> StageSystem:
    """The classical method's steps, so many in each interval of a grid of milliseconds, and their stages."""
    grid = np.arange(milliseconds + 1.0)
    inputs = np.random.default_rng(1).normal(size=(trials, len(grid), model.n_inputs))
    signal = InputSignal(grid, inputs)

    def velocity(t: float, z: Array, interval: int) -> Array:
        return model.velocity(z, signal(t, interval))

    times = np.linspace(0.0, milliseconds, milliseconds * per_millisecond + 1)
    states = np.empty((len(times), trials, model.n_states))
    fine = fixed_steps(
        lambda t, z, step: velocity(t, z, step // per_millisecond),
        times,
        np.tile(model.start, (trials, 1)),
        "rk4",
        states,
    )
    at = per_millisecond * np.arange(len(grid))
    solution = replace(fine, times=grid, interval=fine.interval // per_millisecond, grid_index=at, rhs=velocity)
    return StageSystem(model, signal, solution, memory=KEPT)


def run(model: HodgkinHuxley, trials: int, milliseconds: int, per_millisecond: int) -> Run:
    """The states, the gradient of the mean square of s, and seconds for both."""
    began = time.perf_counter(), time.process_time()
    system = stages(model, trials, milliseconds, per_millisecond)
    forward = time.perf_counter(), time.process_time()
    space = TrajectorySpace((trials, milliseconds + 1, model.n_states), "mean", system.solution.times)
    err = system.solution.states.swapaxes(0, 1).copy()
    err[..., : model.observed.start] = 0.0
    gradient = parameter_sensitivity(system, space).T(space.weigh(err))
    end = time.perf_counter(), time.process_time()
    return Run(system, gradient, forward[0] - began[0], forward[1] - began[1], end[0] - forward[0], end[1] - forward[1])


class Run(NamedTuple):
    """What came of it; seconds by the clock, and of the processor."""

    system: StageSystem
    gradient: Array
    forward: float
    forward_cpu: float
    backward: float
    backward_cpu: float


def coefficients(model: HodgkinHuxley) -> float:
    """Bytes of channels and variables at one stage of one trial."""
    numbers = model.numbers(np.zeros((1, model.n_states)), np.zeros((1, model.n_inputs)))
    arrays = (numbers.channels | numbers.variables).values()
    return 8.0 * sum(value.shape[-1] for value in arrays if value.ndim == 2)


def main() -> None:
    """Print seconds, memory, and the whole's by proportion."""
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__.splitlines()[0])
    parser.add_argument("--neurons", type=int, default=100)
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--duration", type=int, default=1000, help="in ms (default: 1000)")
    parser.add_argument("--steps", type=int, default=100, help="of a millisecond (default: 100)")
    parser.add_argument("--minutes", type=float, default=5.0, help="for the part that is run (default: 5)")
    parser.add_argument("--memory", type=float, default=8.0, help="that the process may have, in GB (default: 8)")
    arguments = parser.parse_args()
    limit = int(arguments.memory * 1e9)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    model = HodgkinHuxley.init(2, arguments.neurons, 0, n_inhibitory=arguments.neurons // 5)
    trials, each, whole = arguments.trials, arguments.steps, arguments.duration
    run(model, trials, 1, each)  # compiles, and fills caches
    first = run(model, trials, 3, each)
    part = min(whole, max(3, int(3 * 60 * arguments.minutes / (first.forward + first.backward))))
    found = run(model, trials, part, each)
    voltage = found.system.solution.z_steps[:, :, : model.n_units]
    spikes = sum(np.count_nonzero((one < 0) & (other >= 0)) for one, other in pairwise(voltage))
    print(f"{model.in_words}, {trials} trials of {whole} ms, {each} steps a ms; run here: {part} ms")
    print(f"{'':<28}{'here':>12}{'whole':>12}")
    for name, value in found._asdict().items():
        if isinstance(value, float):
            print(f"{f'{name}, s':<28}{value:>12.1f}{value * whole / part:>12.0f}")
    rows = trials * each
    for name, size in (
        ("coefficients", 4 * rows * coefficients(model)), ("states", 8.0 * rows * model.n_states)
    ):  # fmt: skip
        print(f"{f'{name}, GB':<28}{size * part / 1e9:>12.2f}{size * whole / 1e9:>12.2f}")
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"{'largest memory, GB':<28}{peak / 1e9:>12.2f}")
    print(f"spikes: {spikes}; length of the gradient: {np.linalg.norm(found.gradient):.6g}")


if __name__ == "__main__":
    main()
