"""Trains networks from scratch on four tasks of `kpref.tasks`, and tries them on trials that they have not seen.

    python scripts/train_tasks.py [--threads 2] [--rows digits-gru,flip-flop,...]

One line a row: the task, the network, steps, seconds, processor seconds of all threads, the loss on fresh trials, and
what the task asks for: of digits the share that is told rightly, of the flip-flop that of the bits whose sign is right,
of the others the loss. Adam in float32, batches of 64, gradients clipped to a norm of 1.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import kpref
from kpref import Readout, Trials, tasks
from kpref.models import GRU, LSTM, Model, Rate
from kpref.training import Objective, TrainingResult

FRESH, SEED = 1000, 0


@dataclass(frozen=True)
class Row:
    """A training, and what its network is asked for on fresh trials."""

    task: str
    network: Callable[[int], Model]  # from the number of inputs
    steps: int
    rate: float
    wanted: str
    options: dict[str, Any] = field(default_factory=dict)


def held(n_inputs: int, units: int, longest: int) -> GRU:
    """A GRU whose update gates start with memories of random length, up to `longest` steps.

    Tallec and Ollivier, Can recurrent neural networks warp time? (2018): b = log(time - 1).
    """
    model = GRU.init(n_inputs, units, SEED)
    bias = np.zeros_like(model.parameters["bias_ih"])
    bias[units : 2 * units] = np.log(np.random.default_rng(SEED).uniform(1, longest - 1, units))
    return model.with_parameters({"bias_ih": bias, "bias_hh": np.zeros_like(bias)})


ROWS = {
    "digits-gru": Row("digits", lambda n: GRU.init(n, 64, SEED), 1500, 3e-3, "right > 95 %"),
    "digits-lstm": Row("digits", lambda n: LSTM.init(n, 64, SEED), 1500, 3e-3, "right > 95 %"),
    "flip-flop": Row("flip_flop", lambda n: GRU.init(n, 64, SEED), 1000, 3e-3, "bits > 95 %"),
    "sine": Row("sine_generation", lambda n: Rate.init(n, 64, SEED, gain=1.5), 4000, 3e-3, "loss",
                {"dt": 0.2, "method": "euler"}),
    "memory-pro": Row("memory_pro", lambda n: held(n, 128, 90), 3000, 1e-3, "loss < 0.005"),
}  # fmt: skip


def train(row: Row) -> tuple[TrainingResult, Trials]:
    """Train, and draw the trials to be tried on."""
    task = tasks.get(row.task)
    fresh: dict[str, Any] = {"n_trials": FRESH, "seed": SEED + 1}
    if task.held_out:
        fresh = {"n_trials": task.held_out, "part": "test"}
    first = task.trials(1)
    model = row.network(first.n_inputs)
    seen = model.observed.stop - model.observed.start
    weight = np.random.default_rng(SEED).uniform(-1, 1, (len(task.outputs), seen)) / np.sqrt(seen)
    result = kpref.train(
        model, Readout(weight, np.zeros(len(weight))), task.trials, steps=row.steps, learning_rate=row.rate,
        batch_size=64, clip=1.0, loss=task.loss, at=task.at, **row.options,
    )  # fmt: skip
    return result, task.trials(**fresh)


def tried(row: Row, result: TrainingResult, fresh: Trials) -> tuple[float, str]:
    """The loss on fresh trials, and what is asked for."""
    task = tasks.get(row.task)
    objective = Objective(result.model, result.readout, fresh, loss=task.loss, at=task.at, z0=result.z0, **row.options)
    found = objective.metrics(objective.vector)
    if found.accuracy is not None:
        return found.loss, f"{found.accuracy:.2%}"
    if row.task == "flip_flop":
        assert fresh.targets is not None
        outputs = result.readout(kpref.Flow(result.model, fresh).states)
        return found.loss, f"{np.mean(np.sign(outputs) == fresh.targets):.2%}"
    return found.loss, f"{found.loss:.2g}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rows", default=",".join(ROWS))
    chosen = parser.parse_args(arguments)
    kpref.set_num_threads(chosen.threads)
    print(f"{'task':16} {'network':32} {'steps':>6} {'s':>7} {'cpu s':>7} {'loss':>9} {'found':>8}  asked for")
    for name in chosen.rows.split(","):
        row = ROWS[name]
        began, busy = time.perf_counter(), time.process_time()
        result, fresh = train(row)
        seconds, cpu = time.perf_counter() - began, time.process_time() - busy
        loss, found = tried(row, result, fresh)
        network = f"{type(result.model).__name__}, {result.readout.n_states} units"
        print(
            f"{row.task:16} {network:32} {row.steps:6} {seconds:7.1f} {cpu:7.1f} {loss:9.4g} {found:>8}  {row.wanted}",
            flush=True,
        )


if __name__ == "__main__":
    main()
