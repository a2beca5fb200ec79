"""How long the forward pass and the coefficients of networks take, over the floor of the matrix products and over JAX.

    python scripts/forward.py [--rounds 15] [--trials 200 --steps 90 --states 256] [--models gru,lstm]

Each round measures one after the other, in this process: the rate of a product of large square matrices, the forward
pass, the forward pass with the coefficients of the linearisation (build), and the same network as a jitted scan in JAX.
Ratios pair the timings of a round; the table has their medians, by the clock and, in brackets, by the processor time of
all threads, which other work on the machine disturbs less. The floor is the time of the products with both weights.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np
from threadpoolctl import threadpool_limits

import kpref
from kpref.dynamics import MapDynamics
from kpref.models import GRU, LSTM, RNN, Rate
from kpref.runge_kutta import integrate

SQUARE = 1500
H_STEP = 0.1

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
    parameters = {key: jnp.asarray(value) for key, value in model.parameters.items()}
    rows, start = jnp.asarray(x.swapaxes(0, 1)), jnp.asarray(z0)

    def advance(z: Any, row: Any) -> Any:
        z = step(parameters, z, row)
        return z, z

    scan = jax.jit(lambda z, rows: jax.lax.scan(advance, z, rows)[1])
    if name == "rate":
        grid = H_STEP * np.arange(steps + 1)
        signal_inputs = np.concatenate([x, x[:, -1:]], axis=1)
        flow = kpref.Flow(model, signal_inputs, times=grid, z0=z0, method="rk4", input_kind="hold")
        dynamics: Any = flow._dynamics
        ours = {
            "forward": lambda: integrate(model, dynamics.signal, grid, z0, dynamics.tableau, None),
            "build": lambda: stage_forms(kpref.Flow(model, signal_inputs, times=grid, z0=z0, method="rk4")),
        }
    else:
        dynamics = MapDynamics(model, x, z0, "mean", np.float64)
        ours = {
            "forward": lambda: dynamics.rerun(model),
            "build": lambda: MapDynamics(model, x, z0, "mean", np.float64),
        }
    operations = 2.0 * trials * steps * evaluations * gates * states * (states + inputs)
    agreement = np.abs(np.asarray(scan(start, rows)).swapaxes(0, 1) - states_of(ours["forward"]())).max()
    assert agreement < 1e-8, f"{name} and JAX differ by {agreement}"
    return {**ours, "JAX": lambda: scan(start, rows).block_until_ready()}, operations


def stage_forms(flow: Any) -> None:
    """The coefficients at all stages."""
    system = flow._dynamics.system
    for segment in system.segments:
        system.form(segment)


def states_of(result: Any) -> Any:
    """States after each step, (B, T, S)."""
    return result if isinstance(result, np.ndarray) else result.z_steps[1:].swapaxes(0, 1)


def timed(call: Callable[[], Any]) -> np.ndarray:
    """Seconds by the clock, and of processor time."""
    time.sleep(0.05)
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
    print("network  floor ms   forward/floor    build/floor     JAX/floor     forward/JAX     build/JAX")
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
        pairs = (("forward", "floor"), ("build", "floor"), ("JAX", "floor"), ("forward", "JAX"), ("build", "JAX"))
        ratios = [np.median(taken[a] / taken[b], axis=0) for a, b in pairs]
        cells = "".join(f"{wall:8.2f} ({cpu:4.2f})" for wall, cpu in ratios)
        print(f"{name:8} {1e3 * np.median(taken['floor'][:, 0]):8.1f} {cells}", flush=True)


if __name__ == "__main__":
    main()
