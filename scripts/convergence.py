"""Draw and print how fast the errors of Runge-Kutta flows fall, and what accuracy costs beside SciPy.

    python scripts/convergence.py [--out FOLDER]

writes two figures to the folder (convergence-report unless told otherwise):

    convergence.png      error against step for states, gradients, P, the adjoints and P K P*, with slopes
    work-precision.png   error against evaluations of the right-hand side on the 25 problems of DETEST

and prints the fitted slopes, and how many evaluations an error of 1e-6 takes beside scipy.integrate.solve_ivp.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter, NullLocator
from scipy.integrate import solve_ivp
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parents[1]))  # this checkout, wherever the script is started from
sys.path.insert(1, str(Path(__file__).parents[1] / "tests"))  # which holds the package `apparatus`

from apparatus.convergence import FLOOR, QUANTITIES, STEPS, errors, fitted_slope
from apparatus.detest import PROBLEMS, reference

from kpref.integrate import TABLEAUS, adaptive

SPAN = 2.0
"""Length of the time that the problem of the convergence study covers."""

COLORS = {1: "#666666", 2: "#E69F00", 3: "#009E73", 4: "#56B4E9", 5: "#0072B2", 8: "#CC3377"}
"""One for each order, told apart by the colour-blind too."""

MARKERS = ("o", "s", "^")
"""Of the methods of one order."""

TOLERANCES = 10.0 ** -np.arange(3, 11)

OURS = {"dopri5": "#0072B2", "tsit5": "#009E73", "dop853": "#CC3377"}
THEIRS = {"RK45": "dopri5", "DOP853": "dop853"}
"""SciPy's solvers, each with our method of the same coefficients."""

TARGET = 1e-6
"""The error at which evaluations are compared."""

Curve = tuple[np.ndarray, np.ndarray]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, draw and print."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("convergence-report"), help="folder for the figures")
    out: Path = parser.parse_args(arguments).out
    out.mkdir(parents=True, exist_ok=True)
    with tqdm(total=len(TABLEAUS) * len(STEPS) + len(PROBLEMS), disable=None, desc="measuring", unit="run") as progress:
        study = converge(progress)
        curves = work(progress)
    print(slope_table(study))
    print()
    print(work_table(curves))
    for name, figure in (("convergence.png", convergence_figure(study)), ("work-precision.png", work_figure(curves))):
        print("wrote", save(figure, out / name))


# Convergence


def converge(progress: tqdm) -> dict[str, dict[str, np.ndarray]]:
    """Errors of all methods on all grids: method, quantity, and one for each of STEPS."""
    study: dict[str, dict[str, np.ndarray]] = {}
    for method in TABLEAUS:
        rows = []
        for steps in STEPS:
            rows.append(errors(method, steps))
            progress.update()
        study[method] = {key: np.array([row[key] for row in rows]) for key in QUANTITIES}
    return study


def slope_table(study: dict[str, dict[str, np.ndarray]]) -> str:
    """Fitted slopes, each with the expected one in brackets."""
    keys = list(QUANTITIES)
    lines = [
        "Slopes of error against step, fitted to the finest grids before rounding; expected ones in brackets.",
        f"{'':9}" + "".join(f"{key:>14}" for key in keys),
    ]
    for method, found in study.items():
        cells = [f"{fitted_slope(STEPS, found[key]):9.2f}  ({QUANTITIES[key].order(method)})" for key in keys]
        lines.append(f"{method:9}" + "".join(f"{cell:>14}" for cell in cells))
    return "\n".join(lines)


def convergence_figure(study: dict[str, dict[str, np.ndarray]]) -> Figure:
    """One panel for each quantity, and the legend in the last place."""
    figure = Figure(figsize=(17, 9.2), dpi=130, layout="constrained")
    figure.suptitle(
        "How errors fall with the step: a rate network of 4 units on [0, 2], driven by sines, 16 trials", fontsize=15
    )
    axes = figure.subplots(2, 4, sharex=True, sharey=True).ravel()
    for panel, (key, quantity) in zip(axes, QUANTITIES.items(), strict=False):
        panel.set_title(quantity.title, fontsize=12)
        for method, found in study.items():
            _draw_errors(panel, method, found[key])
        _draw_guides(panel, key, study)
        panel.axhspan(1e-17, FLOOR, color="0.93", zorder=0)
    first = axes[0]
    first.set(xscale="log", yscale="log", ylim=(2e-16, 3.0))
    first.text(SPAN / STEPS[0], 4e-16, "rounding", fontsize=10, color="0.4", ha="right")
    for panel in axes[:7]:
        panel.grid(color="0.9", linewidth=0.6)
        panel.xaxis.set_minor_locator(NullLocator())
    for panel in (axes[0], axes[4]):
        panel.set_ylabel("relative error")
    for panel in axes[3:7]:
        panel.set_xlabel("step h")
        panel.tick_params(labelbottom=True)
    _convergence_legend(axes[7])
    return figure


def _style(method: str) -> dict[str, str]:
    order = TABLEAUS[method].order
    peers = [name for name, tableau in TABLEAUS.items() if tableau.order == order]
    return {"color": COLORS[order], "marker": MARKERS[peers.index(method)]}


def _draw_errors(panel: Axes, method: str, values: np.ndarray) -> None:
    """Errors against step; those of rounding fainter."""
    h = SPAN / np.array(STEPS)
    last = int(np.sum(values > FLOOR))
    panel.plot(h[:last], values[:last], **_style(method), markersize=4, linewidth=1.2, alpha=0.9)
    panel.plot(h[last:], values[last:], **_style(method), markersize=2.5, linewidth=0, alpha=0.35)


def _draw_guides(panel: Axes, key: str, study: dict[str, dict[str, np.ndarray]]) -> None:
    """For each order of a panel a line of exactly that slope, below the best method of that order."""
    h = SPAN / np.array(STEPS)
    for order in sorted({QUANTITIES[key].order(method) for method in study}):
        these = [found[key] for method, found in study.items() if QUANTITIES[key].order(method) == order]
        values = np.min(these, axis=0)
        fine = np.flatnonzero(values > FLOOR)[-1]
        start = int(np.searchsorted(-h, -2.5 * h[fine]))
        line = 0.4 * values[fine] * (h[[start, fine]] / h[fine]) ** order
        panel.plot(h[[start, fine]], line, color="black", linewidth=1.0, linestyle=(0, (4, 2)), zorder=4)
        panel.annotate(
            f"$h^{order}$", (h[fine], line[1]), xytext=(1, -1), textcoords="offset points", ha="left", va="top",
            fontsize=10, zorder=5,
        )  # fmt: skip


def _convergence_legend(panel: Axes) -> None:
    panel.set_axis_off()
    handles = [
        Line2D([], [], **_style(method), markersize=6, label=f"{method}, order {tableau.order}")
        for method, tableau in TABLEAUS.items()
    ]
    handles.append(Line2D([], [], color="black", linestyle=(0, (4, 2)), label="exactly this slope"))
    panel.legend(handles=handles, loc="upper left", frameon=False, fontsize=11, ncols=2, columnspacing=1.0)
    panel.text(
        0.02, 0.40,
        "Everywhere the order of the method, except where\n"
        "a forcing on the time grid is interpolated to the\n"
        "stages: at most 2 by lines, 4 by cubics.\n\n"
        "Gradient: exact for the discrete flow.\n"
        "P* g: the adjoint equation solved backwards along\n"
        "the trajectory, minus that of the discrete flow.\n"
        "NTK: dZ/dtheta (dZ/dtheta)*, exact.",
        transform=panel.transAxes, va="top", fontsize=11, linespacing=1.35,
    )  # fmt: skip


# Work and precision


def work(progress: tqdm) -> dict[str, dict[str, Curve]]:
    """Evaluations and errors over TOLERANCES, by problem and solver."""
    curves: dict[str, dict[str, Curve]] = {}
    for name in PROBLEMS:
        runs = {solver: [_run(name, solver, rtol) for rtol in TOLERANCES] for solver in (*OURS, *THEIRS)}
        curves[name] = {solver: (np.array(run)[:, 0], np.array(run)[:, 1]) for solver, run in runs.items()}
        progress.update()
    return curves


def _run(name: str, solver: str, tolerance: float) -> tuple[float, float]:
    """Evaluations, and the largest error at the end relative to the largest component."""
    problem, exact = PROBLEMS[name], reference(name)
    span = (0.0, problem.t_end)
    if solver in OURS:
        solution = adaptive(problem.rhs, span, problem.z0[None], solver, rtol=tolerance, atol=tolerance)
        end, evaluations = solution.states[-1, 0], solution.n_evaluations
    else:
        result = solve_ivp(problem.f, span, problem.z0, method=solver, rtol=tolerance, atol=tolerance)
        end, evaluations = result.y[:, -1], result.nfev
    return float(evaluations), float(np.max(np.abs(end - exact)) / max(1.0, np.max(np.abs(exact))))


def evaluations_for(curve: Curve, error: float) -> float:
    """Evaluations at which a curve reaches an error, by lines through its logarithms; NaN where it does not."""
    evaluations, found = np.log(curve[0]), np.log(np.maximum(np.minimum.accumulate(curve[1]), 1e-300))
    if not found[-1] <= np.log(error) <= found[0]:
        return np.nan
    return float(np.exp(np.interp(-np.log(error), -found, evaluations)))


def work_table(curves: dict[str, dict[str, Curve]]) -> str:
    """Evaluations for an error of TARGET, ours by SciPy's, over the problems."""
    lines = [f"Evaluations that an error of {TARGET:g} takes, kpref / SciPy, over the problems of DETEST:"]
    for ours, theirs in (("dopri5", "RK45"), ("tsit5", "RK45"), ("dop853", "DOP853")):
        ratios = np.array(
            [evaluations_for(found[ours], TARGET) / evaluations_for(found[theirs], TARGET) for found in curves.values()]
        )
        ratios = ratios[np.isfinite(ratios)]
        lines.append(
            f"{ours:7} / {theirs:7} median {np.median(ratios):.2f}, from {ratios.min():.2f} to {ratios.max():.2f} "
            f"({len(ratios)} problems where both curves cross it)"
        )
    return "\n".join(lines)


def work_figure(curves: dict[str, dict[str, Curve]]) -> Figure:
    """Five rows of five problems, classes A to E from top to bottom."""
    figure = Figure(figsize=(16, 16), dpi=120, layout="constrained")
    figure.suptitle(
        "What accuracy costs: the 25 problems of DETEST, tolerances of 1e-3 to 1e-10, one point each\n"
        "Lower and further left is better. SciPy's RK45 has the coefficients of dopri5, its DOP853 those of dop853.",
        fontsize=14,
    )  # fmt: skip
    axes = figure.subplots(5, 5, sharex=True, sharey=True)
    for panel, (name, found) in zip(axes.ravel(), curves.items(), strict=True):
        panel.set_title(f"{name}  {PROBLEMS[name].title}", fontsize=10.5)
        for solver, (evaluations, values) in found.items():
            panel.plot(evaluations, np.maximum(values, 1e-16), **_solver_style(solver), linewidth=1.3)
        panel.grid(color="0.9", linewidth=0.6)
    axes[0, 0].set(xscale="log", yscale="log", ylim=(1e-14, 30.0))
    axes[0, 0].yaxis.set_major_locator(LogLocator(numticks=8))
    axes[0, 0].yaxis.set_minor_formatter(NullFormatter())
    for panel in axes[:, 0]:
        panel.set_ylabel("error at the end")
    for panel in axes[-1]:
        panel.set_xlabel("evaluations of the right-hand side")
    labels = {name: f"kpref {name}" for name in OURS} | {name: f"SciPy {name}" for name in THEIRS}
    handles = [Line2D([], [], **_solver_style(solver), label=label) for solver, label in labels.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=5, frameon=False, fontsize=12)
    return figure


def _solver_style(solver: str) -> dict[str, object]:
    if solver in OURS:
        return {"color": OURS[solver], "marker": "o", "markersize": 4, "linestyle": "-"}
    return {
        "color": OURS[THEIRS[solver]], "marker": "x", "markersize": 5, "linestyle": (0, (3, 2)), "alpha": 0.75,
    }  # fmt: skip


def save(figure: Figure, path: Path) -> Path:
    """Write a figure under a temporary name, then rename it."""
    partial = path.with_name(f".{path.name}.part")
    figure.savefig(partial, format="png")
    os.replace(partial, path)
    return path


if __name__ == "__main__":
    main()
