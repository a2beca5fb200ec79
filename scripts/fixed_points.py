"""Fixed points of a trained 3-bit flip-flop: what is found, and how long it takes beside Adam on the joint objective.

A GRU of 64 units learns to hold the sign of the last pulse of each of three channels (Sussillo and Barak 2013). Its
fixed points under no input are searched from the same states by `kpref.fixed_points`, and, where PyTorch is installed,
as FixedPointFinder does by default (Golub and Sussillo 2018): Adam on the sum of ``q = |F(z) - z|^2 / 2`` over all
starts, the learning rate lowered on a plateau, until every q is below 1e-12 or 5,000 iterations have gone by. The table
has seconds by the clock and of the processor, the share of starts that settled (of Adam: q below 1e-12), and the speed
|F(z) - z| there: ours the largest, Adam's the median of all starts.

    python scripts/fixed_points.py [--steps 1500] [--starts 128] [--figure fixed_points.png]
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from typing import Any

import numpy as np

import kpref
from kpref import Flow, Readout, Trials
from kpref.models import GRU

BITS, UNITS, TRIALS, STEPS = 3, 64, 64, 60


def flip_flop(seed: int) -> Trials:
    """Pulses of +1 and -1, one in eight steps of a channel; targets hold the sign of the last, 0 before the first."""
    rng = np.random.default_rng(seed)
    pulses = rng.choice([-1.0, 0.0, 1.0], p=[1 / 16, 7 / 8, 1 / 16], size=(TRIALS, STEPS, BITS))
    targets, held = np.zeros_like(pulses), np.zeros((TRIALS, BITS))
    for step in range(STEPS):
        held = np.where(pulses[:, step] != 0, pulses[:, step], held)
        targets[:, step] = held
    return Trials(pulses, targets=targets)


def train(steps: int) -> tuple[GRU, Readout]:
    """Adam on fresh trials each step, with gradients of kpref alone."""
    model = GRU.init(BITS, UNITS, seed=0)
    rng = np.random.default_rng(0)
    readout = Readout(rng.normal(size=(BITS, UNITS)) / UNITS**0.5)
    theta = np.concatenate([model.vector, readout.weight.ravel()])
    first, second = np.zeros((2, theta.size))
    for step in range(1, steps + 1):
        trials = flip_flop(step)
        flow = Flow(model, trials)
        gradient = flow.gradient_flow(readout, targets=trials.targets)
        outer = np.einsum("bto,bth,bt->oh", gradient.loss_value.output_gradient, flow.states, flow.space.mu)
        slope = np.concatenate([gradient.grad_theta, outer.ravel()])
        slope /= max(1.0, float(np.linalg.norm(slope)))
        first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope**2
        rate = 5e-3 * 0.5 * (1 + np.cos(np.pi * step / steps))
        theta -= rate * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
        model = model.with_vector(theta[: model.n_parameters])
        readout = Readout(theta[model.n_parameters :].reshape(BITS, UNITS))
        if step % 100 == 0:
            print(f"step {step}: loss {gradient.loss:.5f}", flush=True)
    return model, readout


def seconds() -> Any:
    """By the clock, and of the processor in all threads."""
    return np.array([time.perf_counter(), time.process_time()])


def by_adam(model: GRU, starts: Any, dtype_name: str) -> tuple[Any, Any]:
    """Seconds and the ends of PyTorch's search."""
    import torch

    dtype = getattr(torch, dtype_name)
    cell = torch.nn.GRUCell(BITS, UNITS).to(dtype)
    with torch.no_grad():
        for name, array in model.parameters.items():
            getattr(cell, name).copy_(torch.from_numpy(array.copy()))
    for parameter in cell.parameters():
        parameter.requires_grad_(False)
    z = torch.tensor(starts, dtype=dtype, requires_grad=True)
    x = torch.zeros(len(starts), BITS, dtype=dtype)
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
    parser.add_argument("--steps", type=int, default=1500, help="of the training")
    parser.add_argument("--starts", type=int, default=128)
    parser.add_argument("--figure", help="where to write the figure")
    arguments = parser.parse_args()
    model, readout = train(arguments.steps)
    trials = flip_flop(0)
    flow = Flow(model, trials)
    right = np.sign(readout(flow.states)) == trials.targets
    print(f"bits right on fresh trials: {right[trials.targets != 0].mean():.4f}")
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
        speeds = np.linalg.norm(model.step(ends, np.zeros((len(ends), BITS))) - ends, axis=1)
        settled = (speeds**2 / 2 < 1e-12).mean()
        ratios = "{:.0f} and {:.0f} times as long".format(*(taken / own))
        print(row.format(f"Adam, torch {dtype}", *taken, settled, np.median(speeds)), ratios, flush=True)
    if arguments.figure:
        import matplotlib.pyplot as plt

        plt.rcParams.update(kpref.plots.STYLE)
        kpref.plots.plot_fixed_points(found, flow).figure.savefig(arguments.figure)


if __name__ == "__main__":
    main()
