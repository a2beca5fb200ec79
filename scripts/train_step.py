"""What a step of training costs in kpref and in PyTorch: forward pass, gradient and update by Adam.

    python scripts/train_step.py [--rounds 21] [--threads 2] [--models gru,lstm,rnn] [--only kpref|torch]

The four contenders, kpref and PyTorch in float32 and float64, take turns in every round, so that what else the machine
does meets them all. Medians in milliseconds, and the median of the ratios kpref / PyTorch within rounds. `memory` is
regression at all of 90 steps (B 100, H 128), `digits` classification at the last of 8 (B 64, H 64).
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

import kpref
from kpref.models import GRU, LSTM, RNN
from kpref.training import Adam, Objective

MODELS = {"gru": (GRU, torch.nn.GRU), "lstm": (LSTM, torch.nn.LSTM), "rnn": (RNN, torch.nn.RNN)}
#: Trials, steps, units, inputs, outputs.
PROBLEMS = {"memory": (100, 90, 128, 3, 2), "digits": (64, 8, 64, 8, 10)}
RATE = 1e-3
#: Seconds of steps before the one that is timed.
WARM = 0.03


def ours(model: str, problem: str, dtype: str) -> Callable[[], float]:
    """A step of kpref."""
    trials, steps, units, inputs, outputs = PROBLEMS[problem]
    rng = np.random.default_rng(0)
    x = rng.normal(size=(trials, steps, inputs))
    if problem == "memory":
        drawn, loss, at = kpref.Trials(x, targets=rng.normal(size=(trials, steps, outputs))), "mse", "all"
    else:
        drawn, loss, at = kpref.Trials(x, labels=rng.integers(outputs, size=trials)), "cross_entropy", "last"
    readout = kpref.Readout(rng.normal(size=(outputs, units)) / np.sqrt(units), np.zeros(outputs))
    objective = Objective(MODELS[model][0].init(inputs, units, seed=0), readout, drawn, loss=loss, at=at, dtype=dtype)
    vector, adam = objective.vector.astype(dtype), Adam()
    state = adam.start(vector)

    def step() -> float:
        value, gradient = objective.value_and_gradient(vector)
        adam.update(vector, gradient, state, RATE)
        return value

    return step


def theirs(model: str, problem: str, dtype: str) -> Callable[[], float]:
    """A step of PyTorch."""
    trials, steps, units, inputs, outputs = PROBLEMS[problem]
    kind = getattr(torch, dtype)
    rnn = MODELS[model][1](inputs, units, batch_first=True).to(kind)
    readout = torch.nn.Linear(units, outputs).to(kind)
    adam = torch.optim.Adam([*rnn.parameters(), *readout.parameters()], lr=RATE)
    x, y = torch.randn(trials, steps, inputs, dtype=kind), torch.randn(trials, steps, outputs, dtype=kind)
    labels = torch.randint(outputs, (trials,))

    def step() -> float:
        adam.zero_grad()
        z = rnn(x)[0]
        if problem == "memory":
            loss = torch.nn.functional.mse_loss(readout(z), y)
        else:
            loss = torch.nn.functional.cross_entropy(readout(z[:, -1]), labels)
        loss.backward()
        adam.step()
        return float(loss.item())

    return step


def seconds(step: Callable[[], float]) -> float:
    """Of a step after others of its kind, as in a training: they wake its threads and fill the cache.

    They go on until the threads of the contender before, which spin for milliseconds after their last work, sleep.
    """
    began = time.perf_counter()
    while time.perf_counter() - began < WARM:
        step()
    started = time.perf_counter()
    step()
    return time.perf_counter() - started


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--problems", default=",".join(PROBLEMS))
    parser.add_argument(
        "--only", choices=("kpref", "torch"), help="times of one alone, whom nothing of the other meets"
    )
    chosen = parser.parse_args(arguments)
    kpref.set_num_threads(chosen.threads)
    torch.set_num_threads(chosen.threads)
    print(
        f"{chosen.rounds} rounds, {chosen.threads} threads of {os.cpu_count()} cores, PyTorch {torch.__version__}; ms"
    )
    if not chosen.only:
        print(
            f"{'':14} {'kpref f32':>10} {'torch f32':>10} {'ratio':>6} {'kpref f64':>10} {'torch f64':>10} {'ratio':>6}"
        )
    for problem in chosen.problems.split(","):
        for model in chosen.models.split(","):
            if chosen.only:
                make = ours if chosen.only == "kpref" else theirs
                alone = [make(model, problem, dtype) for dtype in ("float32", "float64")]
                found = 1e3 * np.median([[seconds(step) for step in alone] for _ in range(chosen.rounds)], axis=0)
                print(f"{problem:7} {model:6} {chosen.only}: {found[0]:.2f} in float32, {found[1]:.2f} in float64")
                continue
            steps = [make(model, problem, dtype) for dtype in ("float32", "float64") for make in (ours, theirs)]
            for step in steps:
                step()
            times = np.array([[seconds(step) for step in steps] for _ in range(chosen.rounds)])
            (k32, t32, k64, t64), ratios = 1e3 * np.median(times, axis=0), np.median(times[:, ::2] / times[:, 1::2], 0)
            print(
                f"{problem:7} {model:6} {k32:10.2f} {t32:10.2f} {ratios[0]:6.2f} {k64:10.2f} {t64:10.2f} "
                f"{ratios[1]:6.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
