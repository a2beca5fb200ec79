"""How separable is K, and P K P*, as a network grows? Prints effective Schmidt ranks, exact for K, sampled for others.

``python scripts/schmidt.py --figure schmidt.png`` from a checkout. K is a Kronecker product, of an operator over trials
and time with one over units, if and only if its rank is one. Hazelden et al. (arXiv:2507.06381) conjecture that the
rank of a GRU's K tends to one with the size of the network. Networks are at initialisation, their inputs are normal.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from kpref import Flow, models
from kpref.plots import STYLE
from kpref.spectra import effective_schmidt_rank, schmidt_spectrum

SIZES = (16, 32, 64, 128, 256)
SEEDS = range(5)
N_INPUTS = 3
BLUE, ORANGE, GREEN = "#0072b2", "#d55e00", "#009e73"


def pytorch_init(kind: type, units: int, seed: int) -> models.StepMap:
    """All parameters uniform in +-H^(-1/2), as torch.nn.GRU and torch.nn.RNN draw them."""
    model = kind.init(N_INPUTS, units, seed)
    generator = np.random.default_rng([seed, units])
    return model.with_vector(generator.uniform(-1, 1, model.n_parameters) / np.sqrt(units))


NETWORKS = {
    "GRU, PyTorch's initialisation": (lambda units, seed: pytorch_init(models.GRU, units, seed), BLUE, "o-"),
    "GRU, input weights N(0, 1/n_in)": (lambda units, seed: models.GRU.init(N_INPUTS, units, seed), BLUE, "s--"),
    "tanh RNN, PyTorch's initialisation": (lambda units, seed: pytorch_init(models.RNN, units, seed), ORANGE, "o-"),
    "tanh RNN, input weights N(0, 1/n_in)": (lambda units, seed: models.RNN.init(N_INPUTS, units, seed), ORANGE, "s--"),
    "leaky RNN": (lambda units, seed: models.LeakyRNN.init(N_INPUTS, units, seed), GREEN, "o-"),
}


def make_flow(make, units: int, seed: int, trials: int, steps: int) -> Flow:
    """A network on normal inputs."""
    return Flow(make(units, seed), np.random.default_rng([seed, 7]).normal(size=(trials, steps, N_INPUTS)))


def kernel_ranks(trials: int, steps: int) -> tuple[dict[str, np.ndarray], dict[int, np.ndarray]]:
    """Effective ranks of K, (seeds, sizes) for each network; Schmidt values of one GRU of each size."""
    ranks, values = {}, {}
    print(f"Effective Schmidt rank of K, exact; B = {trials}, T = {steps}; mean +- std over {len(SEEDS)} seeds\n")
    print("| network | " + " | ".join(f"H = {units}" for units in SIZES) + " |")
    print("| --- " * (len(SIZES) + 1) + "|")
    for name, (make, *_) in NETWORKS.items():
        table = np.empty((len(SEEDS), len(SIZES)))
        for column, units in enumerate(SIZES):
            for row, seed in enumerate(SEEDS):
                spectrum = schmidt_spectrum(make_flow(make, units, seed, trials, steps))
                table[row, column] = spectrum.effective_rank
                if name == next(iter(NETWORKS)) and row == 0:
                    values[units] = spectrum.values
        ranks[name] = table
        cells = (f"{mean:.5f} +- {std:.5f}" for mean, std in zip(table.mean(0), table.std(0, ddof=1), strict=True))
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    print("\nSlope of log(rank - 1) against log H, least squares over the five sizes, and over the last two:\n")
    for name, table in ranks.items():
        excess = table.mean(axis=0) - 1
        if (excess > 1e-12).all():
            slope = np.polyfit(np.log(SIZES), np.log(excess), 1)[0]
            last = np.log(excess[-1] / excess[-2]) / np.log(SIZES[-1] / SIZES[-2])
            print(f"  {name}: {slope:+.2f}, {last:+.2f}")
        else:
            print(f"  {name}: rank 1 exactly")
    return ranks, values


def operator_ranks(trials: int, steps: int, units: int = 32) -> None:
    """Sampled ranks of all operators of one network of each kind, K's beside its exact value."""
    print(f"\nEffective Schmidt rank of the operators at H = {units}, sampled with 24 probes of H products each\n")
    print("| network | K (exact) | K | P | P K P* |\n| --- | --- | --- | --- | --- |")
    for name, (make, *_) in NETWORKS.items():
        flow = make_flow(make, units, 0, trials, steps)
        estimates = (effective_schmidt_rank(op, probes=24) for op in (flow.K, flow.P, flow.NTK))
        cells = (f"{estimate.value:.4f} +- {estimate.standard_error:.4f}" for estimate in estimates)
        print(f"| {name} | {schmidt_spectrum(flow).effective_rank:.4f} | " + " | ".join(cells) + " |", flush=True)


def draw(ranks: dict[str, np.ndarray], values: dict[int, np.ndarray], path: Path, setting: str) -> None:
    """Ranks against H, and the Schmidt values behind them."""
    with rc_context(STYLE):
        figure = Figure(figsize=(11, 4.6), layout="constrained")
        left, right = figure.subplots(1, 2)
        for name, table in ranks.items():
            _, color, style = NETWORKS[name]
            if (table == 1).all():
                left.text(
                    0.03, 0.03, f"{name}: exactly 1 at every H, below this plot", color=color, transform=left.transAxes
                )
                continue
            mean, above = table.mean(axis=0) - 1, name.startswith("GRU")
            left.errorbar(SIZES, mean, table.std(axis=0, ddof=1), fmt=style, color=color, ms=5, capsize=2)
            point, align, offset = (SIZES[1], "left", 8) if above else (SIZES[3], "right", -12)
            place = {"textcoords": "offset points", "ha": align, "va": "bottom" if above else "top", "color": color}
            left.annotate(name, (point, mean[SIZES.index(point)]), (0, offset), **place)
        left.set(xscale="log", yscale="log", xlabel="number of units H", ylabel="effective Schmidt rank of K, minus 1")
        left.set_ylim(3e-4, 20)
        left.set_xticks(SIZES, [str(units) for units in SIZES])
        left.minorticks_off()
        left.set_title("How far K is from one Kronecker product")
        for units, color in zip(values, ("#9ecae1", "#6baed6", "#4292c6", "#2171b5", "#08306b"), strict=True):
            shown = values[units][: min(units, 100)] / values[units][0]
            right.plot(np.arange(1, len(shown) + 1), shown, color=color, label=f"H = {units}")
        right.set(xscale="log", yscale="log", xlabel="index i", ylabel="Schmidt value $s_i / s_1$", ylim=(1e-5, 2))
        right.legend(loc="lower left")
        right.set_title("Schmidt values of K, GRU as PyTorch draws it")
        figure.supxlabel(setting, fontsize=9.5)
        figure.savefig(path)


def main() -> None:
    """Print the tables and draw the figure."""
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--figure", type=Path)
    arguments = parser.parse_args()
    ranks, values = kernel_ranks(arguments.trials, arguments.steps)
    operator_ranks(arguments.trials, arguments.steps)
    if arguments.figure:
        setting = (
            f"At initialisation, {arguments.trials} trials of {arguments.steps} steps, normal inputs; mean and "
            f"standard deviation over {len(SEEDS)} seeds (right: one of them)"
        )
        draw(ranks, values, arguments.figure, setting)


if __name__ == "__main__":
    main()
