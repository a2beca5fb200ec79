"""Pictures of every registered network: one figure each of a random one's trajectory, NTK modes and spectrum of K.

python scripts/gallery.py FOLDER [--models NAME ...]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tqdm import tqdm

import kpref
from kpref.models.registry import Registration, registered
from kpref.plots import plot_modes_over_time, plot_spectrum

TRIALS, STEPS, UNITS, INPUTS, MODES = 5, 120, 12, 2, 4
#: Steps of the input, after which there is none.
DRIVEN = STEPS // 3
#: Length of the trials of a field, in steps that resolve it.
SPAN = 300
#: States that are larger belong to a network that explodes, of which nothing is to be seen.
LARGEST = 1e3
#: Colours of parts of the state, and how lines of its units are drawn.
COLORS = matplotlib.colormaps["tab10"].colors  # type: ignore[attr-defined]
STYLES = ("solid", "dashed", "dotted")
#: Names of the axis of time, where it has a unit or is none.
TIMES = {"hodgkin-huxley": "time (ms)", "mlp": "layer"}
#: Layers of a perceptron, each a step.
LAYERS = 24


def driven(known: Registration) -> kpref.Flow:
    """A random network under inputs that end after a third of the time, of a gain at which it does not explode."""
    for gain in (1.2, 0.6, 0.3, 0.1):
        flow = flow_of(known, gain)
        if np.abs(flow.states).max() < LARGEST:
            break
    return flow


def flow_of(known: Registration, gain: float) -> kpref.Flow:
    """Trials from where the network starts, or, if that is zero, from around it; a perceptron's are data."""
    rng = np.random.default_rng(0)
    if known.name == "mlp":
        perceptron = known.init(LAYERS, UNITS, 0, gain=gain)
        return kpref.Flow(perceptron, np.tile(np.eye(LAYERS), (TRIALS, 1, 1)), rng.normal(size=(TRIALS, UNITS)))
    model = known.init(INPUTS, UNITS, 0, gain=gain)
    inputs = np.zeros((TRIALS, STEPS, INPUTS))
    inputs[:, :DRIVEN] = rng.normal(size=(TRIALS, 1, INPUTS))
    z0 = model.start if model.start.any() else 0.1 * rng.normal(size=(TRIALS, model.n_states))
    if not known.is_continuous:
        return kpref.Flow(model, inputs, z0)
    times = known.dt * np.linspace(0, SPAN, STEPS)
    return kpref.Flow(model, inputs, z0, times=times, method="dopri5", rtol=1e-5, atol=1e-6)


def draw(known: Registration, flow: kpref.Flow) -> Figure:
    """The figure of one network."""
    figure = Figure(figsize=(14, 4.6), layout="constrained")
    figure.get_layout_engine().set(wspace=0.06)
    left, middle, right = figure.subplots(1, 3, width_ratios=(1.3, 1, 1))
    times = flow.solution.times if known.is_continuous else np.arange(1, flow.states.shape[1] + 1)
    trajectory(left, flow, times)
    modes = kpref.eigh(flow.NTK, MODES)
    given = times if known.is_continuous else None
    plot_modes_over_time(modes.vectors, modes.values, "length over units, rms over trials", given, middle)
    middle.set_title("leading modes of the NTK")
    for ax in (left, middle):
        ax.set_xlabel(TIMES.get(known.name, "time" if known.is_continuous else "step"))
        if known.name != "mlp":
            first, last = (times[0], times[DRIVEN]) if known.is_continuous else (0.5, DRIVEN + 0.5)
            ax.axvspan(first, last, color="0.92", zorder=0, label="input on")
        below(ax)
    spectrum = kpref.kernel_spectrum(flow)
    values = spectrum.values[spectrum.values > 1e-12 * spectrum.values[0]]
    plot_spectrum([("eigenvalues of K", values)], dimensions=[spectrum.effective_dimension], ax=right)
    right.set_title(f"spectrum of K, {len(values)} eigenvalues")
    right.lines[-1].set_label(f"effective dimension, {spectrum.effective_dimension:.1f}")
    below(right)
    figure.suptitle(f"{known.name}: {flow.model.in_words}, random; {TRIALS} trials")
    return figure


def below(ax: Axes) -> None:
    """The legend, where it hides nothing."""
    ax.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=3, frameon=False)


def trajectory(ax: Axes, flow: kpref.Flow, times: np.ndarray) -> None:
    """Each part of the state of three units in one trial, a part to its largest size; one part as it is."""
    parts = flow.model.parts
    for number, (name, columns) in enumerate(parts.items()):
        values = flow.states[0][:, columns][:, : len(STYLES)]
        size = np.abs(values).max() or 1.0
        for unit, line in enumerate((values if len(parts) == 1 else values / size).T):
            label = f"unit {unit + 1}" if len(parts) == 1 else f"{name}, up to {size:.3g}" if unit == 0 else None
            color = COLORS[unit if len(parts) == 1 else number % len(COLORS)]
            style = STYLES[0 if len(parts) == 1 else unit]
            ax.plot(times, line, color=color, linewidth=1.3, linestyle=style, label=label)
    if len(parts) > 1:
        for unit, style in enumerate(STYLES):
            ax.plot([], [], color="0.3", linestyle=style, label=f"unit {unit + 1}")
    ax.set_ylabel("state" if len(parts) == 1 else "state, over the largest of its part")
    ax.set_title("states of three units in one trial")


def main() -> None:
    """Draw all, or those that are named."""
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="for the pictures, NAME.png")
    parser.add_argument("--models", nargs="+", choices=registered(), default=list(registered()))
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for name in tqdm(arguments.models, disable=None):
        known = registered()[name]
        draw(known, driven(known)).savefig(arguments.folder / f"{name}.png", dpi=80)


if __name__ == "__main__":
    main()
