"""How far training leaves the linearised network, against width: lazy or rich.

Tanh RNNs of growing width learn random targets by gradient descent on all weights, the readout's among them, in small
steps (a twentieth of the fastest mode's time) until the linearised network, of which everything is known in closed
form, has lost half of the loss that it can lose. A row has the width; the steps; the loss before and after, and after
by the linearisation; the *deviation* of outputs, |y - y_lin| / |y_lin - y0|, which is the number that tells lazy from
rich; and the alignment of the output NTK after training with that before. The NTK of a wide feedforward network moves
by a multiple of 1 / width (Dyer and Gur-Ari, arXiv:1909.11304): if that of a recurrent one does too, the deviation
falls as the width to the power -1. The last line has that power: the slope of the logarithm of the deviation, by least
squares over all widths and seeds, with its standard error.

    python scripts/lazy_or_rich.py [--widths 16 32 64 128 256] [--figure lazy_or_rich.png]
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from scipy.stats import linregress

import kpref
from kpref import Flow, Readout
from kpref.learning import LinearisedTraining, linearised_training, output_ntk
from kpref.models import RNN

TRIALS, STEPS, INPUTS, OUTPUTS, SEEDS = 6, 8, 3, 2, 3


def network(width: int, seed: int) -> tuple[Flow, Readout, Any]:
    """On inputs and targets that are the same for all widths."""
    rng = np.random.default_rng([seed, 0])
    inputs, targets = rng.normal(size=(TRIALS, STEPS, INPUTS)), rng.normal(size=(TRIALS, STEPS, OUTPUTS))
    own = np.random.default_rng([seed, width])
    model = RNN.init(INPUTS, width, seed, bias=False)
    return Flow(model, inputs), Readout(own.normal(size=(OUTPUTS, width)) / width**0.5), targets


def half_time(linear: LinearisedTraining) -> float:
    """When the linearised loss is half way to its end."""
    times = np.geomspace(1e-3, 1e5, 400) / linear.rates[0]
    loss = linear.loss(times)
    return float(times[np.argmax(loss <= (linear.loss(0.0) + loss[-1]) / 2)])


def train(flow: Flow, readout: Readout, targets: Any, rate: float, steps: int) -> tuple[Flow, Readout, list[float]]:
    """Gradient descent on all weights; flow and readout after it, and the loss at each step."""
    losses = []
    for step in range(steps + 1):
        gradient = flow.gradient_flow(readout, targets=targets)
        losses.append(gradient.loss)
        if step == steps:
            break
        slope = np.einsum("bto,bth->oh", flow.space.weigh(gradient.loss_value.output_gradient), flow.states)
        flow = Flow(flow.model.with_vector(flow.model.vector - rate * gradient.grad_theta), flow.inputs)
        readout = Readout(readout.weight - rate * slope)
    return flow, readout, losses


def main() -> None:
    """Train all widths, print the table, draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=int, nargs="+", default=[16, 32, 64, 128, 256])
    parser.add_argument("--figure", help="where to write the figure")
    arguments = parser.parse_args()
    print(
        f"{'width':>6} {'seed':>5} {'steps':>6} {'before':>8} {'after':>8} {'linear':>8} {'deviation':>10} {'NTKs':>6}"
    )
    curves, found = [], []
    for width in arguments.widths:
        deviations = []
        for seed in range(SEEDS):
            flow, readout, targets = network(width, seed)
            linear = linearised_training(flow, readout, targets)
            time = half_time(linear)
            steps = int(np.ceil(20 * time * linear.rates[0]))
            after, moved, losses = train(flow, readout, targets, time / steps, steps)
            deviations.append(linear.deviation(moved(after.states), time))
            kernels = [output_ntk(flow, readout).to_dense(), output_ntk(after, moved).to_dense()]
            alignment = np.vdot(*kernels) / np.prod([np.linalg.norm(kernel) for kernel in kernels])
            print(f"{width:6} {seed:5} {steps:6} {losses[0]:8.4f} {losses[-1]:8.4f} {float(linear.loss(time)):8.4f} "
                  f"{deviations[-1]:10.4f} {alignment:6.3f}", flush=True)  # fmt: skip
            if seed == 0:
                times = np.linspace(0, time, steps + 1)
                share = times * linear.rates[0]  # so that widths share an axis
                curves.append((f"{width} units", share, np.array(losses), linear.loss(times)))
        found += [(width, deviation) for deviation in deviations]
        error = np.std(deviations, ddof=1) / SEEDS**0.5
        print(f"{width:6}  mean deviation {np.mean(deviations):.4f} (standard error {error:.4f})")
    if len(set(arguments.widths)) > 1:
        fit = linregress(*np.log(np.array(found)).T)
        print(f"deviation ~ width^({fit.slope:.3f} +- {fit.stderr:.3f})")
    if arguments.figure:
        import matplotlib.pyplot as plt

        plt.rcParams.update(kpref.plots.STYLE)
        ax = kpref.plots.plot_lazy_or_rich(curves)
        ax.set_xlabel("time, in units of the fastest mode's")
        ax.figure.savefig(arguments.figure)


if __name__ == "__main__":
    main()
