"""How good the estimators of traces are, and their intervals.

    python scripts/estimators.py [--checkpoint FOLDER] [--figure PATH] [--seeds N]
    python scripts/estimators.py --coverage [--seeds N] [--only NAME] [--workers N]
    python scripts/estimators.py --prices [--checkpoint FOLDER] [--seeds N]

The third prints what an error of the trace of the NTK costs in products and in seconds, for the first and the last
checkpoint in FOLDER: trial by trial, and by methods that see nothing but products.

The second prints how often the 95 % intervals of everything that is estimated contain the truth, and how wide they are,
see `calibration`: a row as each cell is done, the same for any number of workers. It ends with exit status 1 if a cell
fails.

The first prints, for small flows, the bias of each estimator in standard errors of the mean over N seeds, and the
standard error that it states (root mean square) over the standard deviation of its values; then, for the NTK of a
trained network, the relative error against the number of products with the operator, and draws it. The network is the
last checkpoint in FOLDER with all trials of its ``trials.npz``, by default the bundled example. As only the spectrum
matters to these methods, they run once more, with many more seeds, on a diagonal matrix with the leading eigenvalues of
the NTK and a tail with the rest of its trace: the error that is to be expected.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from time import perf_counter

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter
from scipy.optimize import brentq
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parents[1]))  # this checkout, wherever the script is started from

from black_box import xnystrace, xtrace
from calibration import table
from lyapunov_cells import lyapunov_cells
from ratio_cells import ratio_cells
from trace_cells import trace_cells
from trial_cells import trial_cells

from kpref import Flow, load_checkpoint
from kpref.data import example_folder
from kpref.models import GRU, RNN, Rate
from kpref.operators import TensorOperator
from kpref.plots import STYLE
from kpref.space import EuclideanSpace
from kpref.spectra.eigen import eigh
from kpref.spectra.estimate import Estimate
from kpref.spectra.exact_traces import ntk_trace_exact
from kpref.spectra.symmetric import SymmetricForm
from kpref.spectra.trace_methods import METHODS
from kpref.spectra.traces import adjoint_trace, frobenius_squared, trace
from kpref.threads import get_num_threads
from kpref.trials import Trials

Array = npt.NDArray[np.float64]
Curves = dict[str, dict[int, float]]

FAMILIES = (trace_cells, trial_cells, ratio_cells, lyapunov_cells)
"""Of cells whose coverage is measured."""

TRACES = {"krylov": "Krylov", "hutch++": "Hutch++", "hutchinson": "Hutchinson"}
SHARES = {"krylov": (1 / 2, 1.0), "hutch++": (1 / 3, 1 / 3)}
"""For each product, the eigenvectors that are found at best, and the random vectors that serve the rest."""

COLORS = {
    "krylov": "#1b1f24",
    "hutch++": "#E69F00",
    "hutchinson": "#CC3377",
}
"""Told apart by the colour-blind too."""

COUNTS = (6, 12, 18, 24, 36, 48)
REPEATS = 24
EXPECTED_REPEATS = 400
TARGET = 0.01
ROUNDING = 1e-11
LEADING, TAIL = 60, 4000
"""Eigenvalues that are computed, and those of the tail that stands for all others."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and draw; the exit status."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, default=example_folder(), help="folder of a trained network")
    parser.add_argument("--figure", type=Path, default=Path("estimators.png"), help="where the figure goes")
    parser.add_argument("--methods", nargs="+", choices=TRACES, default=list(TRACES), help="estimators of the trace")
    parser.add_argument("--coverage", action="store_true", help="how often intervals contain the truth; nothing else")
    parser.add_argument("--prices", action="store_true", help="products and seconds of an error; nothing else")
    parser.add_argument("--only", default="", metavar="NAME", help="cells of --coverage whose name contains this")
    parser.add_argument(
        "--workers", type=int, default=get_num_threads(), help="processes of --coverage; by default all usable cores"
    )
    parser.add_argument(
        "--seeds",
        type=int,
        help="runs of each estimator: 500 with --coverage, 200 with --prices, else 2000; 0 leaves the table out",
    )
    options = parser.parse_args(arguments)
    if options.coverage:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # what is printed then stands, and no worker is left
        return table(FAMILIES, options.seeds or 500, options.only, options.workers)
    if options.prices:
        for row in prices(options.checkpoint, options.seeds or 200):
            print(row, flush=True)
        return 0
    seeds = 2000 if options.seeds is None else options.seeds
    if seeds:
        print(f"{seeds} seeds\n| system | products | estimator | relative deviation | bias | stated / observed |")
        print("| --- | --- | --- | --- | --- | --- |")
        for row in small_systems(seeds, options.methods):
            print(row, flush=True)
    flow = trained(options.checkpoint)
    truth = ntk_trace_exact(flow)
    print(f"\ntr NTK of {flow.model}, states {flow.states.shape}: {truth:.6g} (exact)")
    errors = against_products(flow.NTK, options.methods, truth, REPEATS)
    print(f"root mean square relative error over {REPEATS} seeds; interpolated products for {TARGET:.0%}")
    show(errors)
    values = eigh(flow.NTK, LEADING, tol=1e-6).values
    expected = against_products(like_spectrum(values, truth), options.methods, truth, EXPECTED_REPEATS)
    print(f"of a diagonal matrix with its spectrum, over {EXPECTED_REPEATS} seeds")
    show(expected)
    print(f"with the leading eigenvectors known exactly, {TARGET:.0%} would take no less than")
    for method in (method for method in options.methods if method in SHARES):
        print(f"  {TRACES[method]:10}  {least(values, truth, *SHARES[method]):.0f} products")
    print("wrote", draw(errors, expected, flow, options.figure))
    return 0


def show(errors: Curves) -> None:
    """Print a line for each method."""
    for method, curve in errors.items():
        shown = "  ".join(f"{count}: {error:.1e}" for count, error in curve.items())
        print(f"  {TRACES[method]:10}  {shown}  |  {needed(curve):.1f}", flush=True)


# Small systems


def flows() -> Iterator[tuple[str, Flow]]:
    """Maps and an ODE, with from 40 to 390 states."""
    rng = np.random.default_rng(0)
    yield "RNN, 2 x 5 x 4", Flow(RNN.init(2, 4, 4, gain=1.2), rng.normal(size=(2, 5, 2)))
    yield "GRU, 3 x 4 x 4", Flow(GRU.init(2, 4, 3), rng.normal(size=(3, 4, 2)))
    yield "RNN, 5 x 6 x 5", Flow(RNN.init(2, 5, 2, gain=1.4), rng.normal(size=(5, 6, 2)))
    yield "GRU, 4 x 8 x 8", Flow(GRU.init(2, 8, 1), rng.normal(size=(4, 8, 2)))
    yield "rate ODE, 5 x 13 x 6", Flow(Rate.init(2, 6, 1), rng.normal(size=(5, 13, 2)), dt=0.15)


def small_systems(seeds: int, methods: Sequence[str]) -> Iterator[str]:
    """Rows of the table."""
    for name, flow in flows():
        values = np.linalg.eigvals(flow.NTK.to_dense()).real
        total, squares = float(values.sum()), float(np.square(values).sum())
        for probes in (max(6, flow.states.size // 8), min(64, max(9, flow.states.size // 4))):
            for label, estimate, truth in estimators(flow, methods, probes, total, squares):
                found = [
                    estimate(seed) for seed in tqdm(range(seeds), disable=None, desc=f"{name} {label}", leave=False)
                ]
                means = np.array([one.value for one in found])
                stated = np.sqrt(np.mean([one.standard_error**2 for one in found]))
                deviation = means.std(ddof=1)
                bias = (means.mean() - truth) / (deviation / seeds**0.5)
                ratios = f"{deviation / truth:.1e} | {bias:+.1f} | {stated / deviation:.2f}"
                if deviation < ROUNDING * truth:  # more vectors than the rank: nothing is left to chance
                    ratios += " (rounding only)"
                yield f"| {name} | {probes} | {label} | {ratios} |"


Runs = list[tuple[str, Callable[[int], Estimate], float]]


def estimators(flow: Flow, methods: Sequence[str], probes: int, total: float, squares: float) -> Runs:
    """All estimators as functions of a seed, each with the exact value."""
    runs: Runs = [
        (TRACES[method], lambda seed, method=method: trace(flow.NTK, method, probes, seed=seed), total)  # type: ignore[misc]
        for method in methods
    ]
    runs.append(("tr D D* by D*", lambda seed: adjoint_trace(flow.D, probes, seed=seed), total))
    runs.append(("Frobenius", lambda seed: frobenius_squared(flow.NTK, probes, seed=seed), squares))
    return runs


# A trained network


def trained(folder: Path) -> Flow:
    """The last checkpoint of a folder on its trials."""
    checkpoints = sorted(folder.glob("*.safetensors"))
    if not checkpoints:
        raise SystemExit(f"no checkpoints (*.safetensors) in {folder}")
    model, _ = load_checkpoint(checkpoints[-1])
    return Flow(model, Trials.load(folder / "trials.npz").inputs)


def prices(folder: Path, seeds: int) -> Iterator[str]:
    """Rows of a table: the error of each estimator, what it states, its products and its seconds."""
    yield "| checkpoint | estimator | rms error | stated | intervals that hold | products | passes (fw, bw) | seconds |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    trials = Trials.load(folder / "trials.npz").inputs
    for path in sorted(folder.glob("*.safetensors"))[:: max(1, len(list(folder.glob("*.safetensors"))) - 1)]:
        flow = Flow(load_checkpoint(path)[0], trials)
        truth = ntk_trace_exact(flow)
        for label, run in priced(flow.NTK):
            run(0)  # compiles
            begin = perf_counter()
            found = [run(seed) for seed in tqdm(range(seeds), disable=None, desc=label, leave=False)]
            seconds = (perf_counter() - begin) / seeds
            errors = np.array([float(one) for one in found]) / truth - 1.0
            cells = [path.stem, label, f"{100 * np.sqrt(np.mean(errors**2)):.2f} %", *_said(found, truth)]
            yield f"| {' | '.join(cells)} | {seconds:.3f} |"


def _said(found: Sequence[Estimate | float], truth: float) -> list[str]:
    """What estimates say of themselves; nothing of plain numbers."""
    told = [one for one in found if isinstance(one, Estimate)]
    if not told:
        return ["", "", "", ""]
    stated = 100 * np.sqrt(np.mean([one.standard_error**2 for one in told])) / truth
    hold = np.mean([one.interval()[0] <= truth <= one.interval()[1] for one in told])
    products, forward, backward = (
        np.mean([getattr(one, name) for one in told]) for name in ("n_products", "forward", "backward")
    )
    passes = f"{forward:.1f}, {backward:.1f}" if backward > 0 else ""
    return [f"{stated:.2f} %", f"{hold:.0%}", f"{products:.1f}", passes]


def priced(op: TensorOperator) -> Iterator[tuple[str, Callable[[int], Estimate | float]]]:
    """Estimators as functions of a seed."""
    form = SymmetricForm(op)
    yield "trial by trial, tol 1 %", lambda seed: trace(op, "trials", tol=TARGET, seed=seed)
    for count in (2, 4, 6):
        yield f"trial by trial, {count} products", lambda seed, count=count: trace(op, "trials", count, seed=seed)  # type: ignore[misc]
    for count in (6, 16, 32):
        for method in ("krylov", "hutch++"):
            words = f"{TRACES[method]}, {count} products"
            yield words, lambda seed, method=method, count=count: trace(op, method, count, seed=seed)  # type: ignore[misc]
        for name, estimate in (("XTrace", xtrace), ("XNysTrace", xnystrace)):
            words = f"{name}, {count} products"
            yield words, lambda seed, estimate=estimate, count=count: estimate(form, form.size, count, seed)  # type: ignore[misc]


def like_spectrum(leading: Array, total: float) -> TensorOperator:
    """A diagonal matrix with these eigenvalues, and a tail by a power law with the rest of the trace."""
    rest, last = total - leading.sum(), leading[-1]
    places = np.arange(1, TAIL + 1) / len(leading) + 1

    def tail(power: float) -> Array:
        return last * places**-power

    power = brentq(lambda p: tail(p).sum() - rest, 0.0, 100.0)
    root = np.sqrt(np.append(leading, tail(power)))
    space = EuclideanSpace(root.shape)
    return TensorOperator(lambda rows: rows * root, lambda rows: rows * root, space, space, name="diagonal").gram()


def against_products(op: TensorOperator, methods: Sequence[str], truth: float, repeats: int) -> Curves:
    """For each method the error at each number of products."""
    errors: Curves = {}
    work = repeats * len(methods) * max(COUNTS)
    with tqdm(total=work, disable=None, desc=f"products with {op.name}", unit="product") as progress:
        for method in methods:
            start, values = METHODS[method].start, []
            for seed in range(repeats):
                form = SymmetricForm(op, progress.update)
                grow = start(form, form.size, seed, op, progress.update)  # each result builds on the products before
                values.append([grow(count).mean.value for count in COUNTS])
            rms = np.sqrt(np.square(np.array(values) / truth - 1.0).mean(axis=0))
            errors[method] = dict(zip(COUNTS, rms.tolist(), strict=True))
    return errors


def least(values: Array, total: float, found: float, tests: float) -> float:
    """Products below which a method cannot reach the target, however well it finds the leading eigenvectors.

    Of m products it knows m * found eigenvectors, and the variance of the estimate is 2 |S_rest|_F^2 / (m * tests); the
    eigenvalues beyond those that are given are left out.
    """
    for count in range(1, len(values)):
        if np.sqrt(2 * np.square(values[count:]).sum() * found / (count * tests)) <= TARGET * total:
            return count / found
    return np.inf


def needed(curve: dict[int, float]) -> float:
    """Products at which the error crosses the target, by a power law between, or beyond, the measured numbers."""
    counts, errors = np.log(list(curve)), np.log(list(curve.values()))
    below = np.flatnonzero(errors <= np.log(TARGET))
    index = min(max(int(below[0]) if below.size else len(counts) - 1, 1), len(counts) - 1)
    slope = (errors[index] - errors[index - 1]) / (counts[index] - counts[index - 1])
    return float(np.exp(counts[index] + (np.log(TARGET) - errors[index]) / slope))


def draw(errors: Curves, expected: Curves, flow: Flow, path: Path) -> Path:
    """Error against products, one line for each method, labelled at its end; what is expected in thin lines."""
    import matplotlib as mpl

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.5, 4.8), layout="constrained")
        axes = figure.subplots()
        for method, curve in errors.items():
            axes.plot(*zip(*curve.items(), strict=True), "o-", color=COLORS[method], lw=1.8, ms=5)
            axes.plot(*zip(*expected[method].items(), strict=True), ":", color=COLORS[method], lw=1.2)
        ends = sorted((curve[COUNTS[-1]], method) for method, curve in errors.items())
        heights: list[float] = []
        for error, _ in ends:  # labels of lines that end together are set apart
            heights.append(max(error, 1.35 * heights[-1]) if heights else error)
        for (error, method), height in zip(ends, heights, strict=True):
            axes.annotate(
                TRACES[method], (COUNTS[-1], error), xytext=(COUNTS[-1] * 1.12, height), va="center",
                color=COLORS[method], fontweight="bold", annotation_clip=False,
            )  # fmt: skip
        axes.axhline(TARGET, color="#5b6470", lw=1, ls="--")
        axes.text(COUNTS[0], TARGET * 1.06, "1 % error", color="#5b6470", va="bottom")
        axes.set(xscale="log", yscale="log", xlabel="Products with the NTK", ylabel="Relative error of the trace (rms)")
        axes.set_xlim(COUNTS[0] * 0.9, COUNTS[-1] * 1.7)
        axes.set_xticks(COUNTS, [str(count) for count in COUNTS])
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda error, _: f"{100 * error:g} %"))
        trials, steps, units = flow.states.shape
        axes.set_title(
            f"Error of the estimated trace of the NTK of a trained network\n"
            f"{trials} trials x {steps} steps x {units} units, {REPEATS} seeds; dotted: expected"
        )
        figure.savefig(path)
    return path


if __name__ == "__main__":
    sys.exit(main())
