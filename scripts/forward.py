"""How long the forward pass and the coefficients of networks take, over the floor of the matrix products and over JAX.

    python scripts/forward.py [--rounds 15] [--trials 200 --steps 90 --states 256] [--models gru,lstm]

Each round measures one after the other, in this process:

- floor: a product of large square matrices, scaled to the floating-point operations of the products with both weights;
- memory: as many bytes as the coefficients and states have, written once to new memory, by as many threads;
- forward: the states;
- build: the states and the coefficients of the linearisation;
- JAX: the states of the same network as a jitted scan, in float64;
- JAX's build: the same scan under `jax.vjp` by parameters and initial state, jitted. What comes back is its states and
  its pullback not yet applied, which holds all that the linearisation needs, stacked along time: JAX's coefficients.

Ratios pair the timings of a round. The first line of a network has their medians, by the clock and, in brackets, by the
processor time of all threads, which other work on the machine disturbs less; the second the ratios of the least times.
Build over floor cannot be below one and what memory takes over the floor.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np
from threadpoolctl import threadpool_limits

import kpref
from kpref.bench.timing import SETTLE
from kpref.dynamics import MapDynamics
from kpref.models import GRU, LSTM, RNN, Rate
from kpref.runge_kutta import integrate
from kpref.threads import run_blocks

SQUARE = 1500
H_STEP = 0.1

#: Ratios of the table, and what they are called there.
PAIRS = (
    ("forward", "floor"), ("build", "floor"), ("memory", "floor"), ("JAX", "floor"), ("JAX's build", "floor"),
    ("forward", "JAX"), ("build", "JAX's build"),
)  # fmt: skip
TITLES = ("forward/floor", "build/floor", "memory/floor", "JAX/floor", "JAX b./floor", "forward/JAX", "build/JAX b.")

jax.config.update("jax_enable_x64", True)


def gru(p: Any, z: Any, x: Any) -> Any:
    """A step of a GRU; p are its parameters."""
    a_r, a_u, a_n = jnp.split(z @ p["weight_hh"].T + p["bias_hh"], 3, axis=-1)
    c_r, c_u, c_n = jnp.split(x @ p["weight_ih"].T + p["bias_ih"], 3, axis=-1)
    u = jax.nn.sigmoid(a_u + c_u)
    return (1 - u) * jnp.tanh(c_n + jax.nn.sigmoid(a_r + c_r) * a_n) + u * z


def rnn(p: Any, z: Any, x: Any) -> Any:
    """A step of an RNN."""
    return jnp.tanh(z @ p["weight_hh"].T + p["bias_hh"] + x @ p["weight_ih"].T + p["bias_ih"])


def lstm(p: Any, z: Any, x: Any) -> Any:
    """A step of an LSTM."""
    h, c = jnp.split(z, 2, axis=-1)
    currents = h @ p["weight_hh"].T + p["bias_hh"] + x @ p["weight_ih"].T + p["bias_ih"]
    i, f, g, o = jnp.split(currents, 4, axis=-1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jnp.concatenate([jax.nn.sigmoid(o) * jnp.tanh(c), c], axis=-1)


def rate(p: Any, z: Any, x: Any) -> Any:
    """A step of the classical Runge-Kutta method, inputs held."""

    def velocity(z: Any) -> Any:
        return jnp.tanh(z) @ p["weight_hh"].T + x @ p["weight_ih"].T + p["bias"] - z

    k1 = velocity(z)
    k2 = velocity(z + H_STEP / 2 * k1)
    k3 = velocity(z + H_STEP / 2 * k2)
    k4 = velocity(z + H_STEP * k3)
    return z + H_STEP / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


#: Class, step in JAX, gates of the weights, evaluations in a step.
NETWORKS: dict[str, tuple[Any, Callable[..., Any], int, int]] = {
    "gru": (GRU, gru, 3, 1),
    "rnn": (RNN, rnn, 1, 1),
    "lstm": (LSTM, lstm, 4, 1),
    "rate": (Rate, rate, 1, 4),
}


def tasks(name: str, trials: int, steps: int, states: int, inputs: int) -> tuple[dict[str, Callable[[], Any]], float]:
    """What is timed, and the floating-point operations of its products."""
    kind, step, gates, evaluations = NETWORKS[name]
    model = kind.init(inputs, states, seed=0)
    generator = np.random.default_rng(1)
    x = generator.normal(size=(trials, steps, inputs))
    z0 = 0.5 * generator.normal(size=(trials, model.n_states))
    if name == "rate":
        times, signal_inputs = H_STEP * np.arange(steps + 1), np.concatenate([x, x[:, -1:]], axis=1)
        build = partial(kpref.Flow, model, signal_inputs, times=times, z0=z0, method="rk4", input_kind="hold")
        dynamics: Any = build()._dynamics
        forward = partial(integrate, model, dynamics.signal, times, z0, dynamics.tableau, None)
        forms, found = [dynamics.system.form(segment) for segment in dynamics.system.segments], forward().states[1:]
    else:
        build = partial(MapDynamics, model, x, z0, "mean", np.float64)
        dynamics = build()
        forward = partial(dynamics.rerun, model)
        forms, found = [dynamics.linearization], forward().swapaxes(0, 1)
    scan, scan_and_pullback = in_jax(step, model, z0, x)
    agreement = np.abs(np.asarray(scan()) - found).max()
    assert agreement < 1e-8, f"{name} and JAX differ by {agreement}"
    # States are among the coefficients where weights multiply them.
    size = sum(form.nbytes - form.states.nbytes for form in forms) + dynamics.states.nbytes
    calls = {
        "memory": partial(written, size),
        "forward": forward,
        "build": build,
        "JAX": scan,
        "JAX's build": scan_and_pullback,
    }
    return calls, 2.0 * trials * steps * evaluations * gates * states * (states + inputs)


def in_jax(step: Callable[..., Any], model: Any, z0: np.ndarray, x: np.ndarray) -> tuple[Callable[[], Any], ...]:
    """The scan, and the scan with its pullback."""
    parameters = {key: jnp.asarray(value) for key, value in model.parameters.items()}
    rows, start = jnp.asarray(x.swapaxes(0, 1)), jnp.asarray(z0)

    def states(p: Any, z: Any, rows: Any) -> Any:
        def advance(z: Any, row: Any) -> Any:
            z = step(p, z, row)
            return z, z

        return jax.lax.scan(advance, z, rows)[1]

    scan = jax.jit(states)
    both = jax.jit(lambda p, z, rows: jax.vjp(lambda p, z: states(p, z, rows), p, z))
    return (
        lambda: jax.block_until_ready(scan(parameters, start, rows)),
        lambda: jax.block_until_ready(both(parameters, start, rows)),
    )


def written(size: int) -> np.ndarray:
    """New memory of so many bytes, each thread having written its share."""
    memory = np.empty(size // 8)
    parts = np.array_split(memory, kpref.get_num_threads())
    run_blocks(lambda index: parts[index].fill(1.0), len(parts))
    return memory


def timed(call: Callable[[], Any]) -> np.ndarray:
    """Seconds by the clock, and of processor time."""
    time.sleep(SETTLE)
    wall, cpu = time.perf_counter(), time.process_time()
    kept = call()
    found = np.array([time.perf_counter() - wall, time.process_time() - cpu])
    del kept
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    for name, value in (("rounds", 15), ("trials", 200), ("steps", 90), ("states", 256), ("inputs", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--models", default=",".join(NETWORKS))
    args = parser.parse_args()
    size = (args.trials, args.steps, args.states, args.inputs)
    matrix = np.random.default_rng(0).random((SQUARE, SQUARE))
    print(f"{' x '.join(map(str, size))} inputs, {kpref.get_num_threads()} threads, {args.rounds} rounds")
    print("network  floor ms" + "".join(f"{title:>16}" for title in TITLES))
    for name in args.models.split(","):
        calls, operations = tasks(name, *size)
        for call in calls.values():
            call()
        seconds: dict[str, list[Any]] = {key: [] for key in ("floor", *calls)}
        for _ in range(args.rounds):
            with threadpool_limits(kpref.get_num_threads(), "blas"):
                seconds["floor"].append(timed(lambda: matrix @ matrix) * operations / (2 * SQUARE**3))
            for key, call in calls.items():
                seconds[key].append(timed(call))
        taken = {key: np.array(value) for key, value in seconds.items()}
        medians = [np.median(taken[a] / taken[b], axis=0) for a, b in PAIRS]
        least = [taken[a].min(axis=0) / taken[b].min(axis=0) for a, b in PAIRS]
        for label, own, ratios in ((name, np.median, medians), ("  least", np.min, least)):
            cells = "".join(f"{wall:8.2f} ({cpu:5.2f})" for wall, cpu in ratios)
            print(f"{label:8} {1e3 * own(taken['floor'][:, 0]):8.1f}{cells}", flush=True)


if __name__ == "__main__":
    main()
