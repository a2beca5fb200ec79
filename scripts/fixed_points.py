"""Fixed points of a trained 3-bit flip-flop: what is found, and how long it takes beside Adam on the joint objective.

A GRU of 64 units learns to hold three bits, the task flip_flop (Sussillo and Barak 2013). Its fixed points under no
input are searched from the same states by `kpref.fixed_points`, and, where PyTorch is installed, as FixedPointFinder
does by default (Golub and Sussillo 2018): Adam on the sum of ``q = |F(z) - z|^2 / 2`` over all starts, the learning
rate lowered on a plateau, until every q is below 1e-12 or 5,000 iterations have gone by. The table has seconds by the
clock and of the processor, the share of starts that settled (of Adam: q below 1e-12), and the speed |F(z) - z| there:
ours the largest of fixed points, Adam's the median of all starts.

    python scripts/fixed_points.py [--steps 1000] [--starts 128] [--figure fixed_points.png]
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from typing import Any

import numpy as np

import kpref
from kpref import Flow, Readout, tasks
from kpref.models import GRU, Model

UNITS, STATES = 64, 64
"""Units of the network; trials whose states are begun at."""


def train(steps: int) -> tuple[Model, Readout]:
    """On fresh trials at each step."""
    task = tasks.get("flip_flop")
    inputs, outputs = len(task.inputs), len(task.outputs)
    weight = np.random.default_rng(0).uniform(-1, 1, (outputs, UNITS)) / UNITS**0.5
    result = kpref.train(
        GRU.init(inputs, UNITS, seed=0), Readout(weight, np.zeros(outputs)), task.trials, steps=steps,
        learning_rate=3e-3, batch_size=64, clip=1.0,
    )  # fmt: skip
    print(f"trained: loss {result.history.loss[0]:.3f} to {result.history.loss[-1]:.5f} in {steps} steps", flush=True)
    return result.model, result.readout


def seconds() -> Any:
    """By the clock, and of the processor in all threads."""
    return np.array([time.perf_counter(), time.process_time()])


def by_adam(model: Model, starts: Any, dtype_name: str) -> tuple[Any, Any]:
    """Seconds and the ends of PyTorch's search."""
    import torch

    dtype = getattr(torch, dtype_name)
    cell = torch.nn.GRUCell(model.n_inputs, UNITS).to(dtype)
    with torch.no_grad():
        for name, array in model.parameters.items():
            getattr(cell, name).copy_(torch.from_numpy(array.copy()))
    for parameter in cell.parameters():
        parameter.requires_grad_(False)
    z = torch.tensor(starts, dtype=dtype, requires_grad=True)
    x = torch.zeros(len(starts), model.n_inputs, dtype=dtype)
    optimizer = torch.optim.Adam([z], lr=1e-2)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.95, patience=5, threshold=0.0)
    begin = seconds()
    for _ in range(5000):
        q = 0.5 * (cell(x, z) - z).square().sum(dim=1)
        loss = q.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step(loss.item())
        if q.max().item() < 1e-12:
            break
    return seconds() - begin, z.detach().double().numpy()


def main() -> None:
    """Train, search, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000, help="of the training")
    parser.add_argument("--starts", type=int, default=128)
    parser.add_argument("--figure", help="where to write the figure")
    arguments = parser.parse_args()
    model, readout = train(arguments.steps)
    trials = tasks.flip_flop(STATES, seed=1)
    flow = Flow(model, trials)
    right = np.sign(readout(flow.states)) == trials.targets
    print(f"bits right on fresh trials: {right.mean():.4f}")
    kpref.fixed_points(model, starts=flow, n_starts=2)  # whatever is compiled or loaded once
    begin = seconds()
    found = kpref.fixed_points(model, starts=flow, n_starts=arguments.starts)
    own = seconds() - begin
    print(found)
    fixed = ~found.slow
    print(
        "fixed points by number of unstable directions:",
        dict(sorted(Counter(map(int, found.n_unstable[fixed])).items())),
    )
    print(f"{'search':20} {'clock':>8} {'processor':>10} {'settled':>8} {'speed':>9}")
    row = "{:20} {:7.2f}s {:9.2f}s {:8.1%} {:9.1e}"
    print(row.format("kpref", *own, found.settled.mean(), found.residuals[fixed].max()))
    for dtype in ("float64", "float32"):
        try:
            taken, ends = by_adam(model, found.starts, dtype)
        except ImportError:
            print("PyTorch is not installed: nothing to compare with")
            break
        speeds = np.linalg.norm(model.step(ends, np.zeros((len(ends), model.n_inputs))) - ends, axis=1)
        settled = (speeds**2 / 2 < 1e-12).mean()
        ratios = "{:.0f} and {:.0f} times as long".format(*(taken / own))
        print(row.format(f"Adam, torch {dtype}", *taken, settled, np.median(speeds)), ratios, flush=True)
    if arguments.figure:
        import matplotlib.pyplot as plt

        plt.rcParams.update(kpref.plots.STYLE)
        kpref.plots.plot_fixed_points(found, flow).figure.savefig(arguments.figure)


if __name__ == "__main__":
    main()
