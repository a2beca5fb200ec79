"""Whether intervals contain the truth as often as they say: cells of an experiment, the tests on them, the table.

A *cell* is one estimator at one setting on one system whose truth is known. Over many seeds,

- the number of intervals that contain the truth is binomial; a cell fails if it is significantly below the level, by a
  one-sided test with Holm's correction over all cells (*Scand. J. Statist.* 6, 1979), which keeps the chance that any
  of them fails without cause below 5 %;
- the median width is compared with the *ideal*, that of the shortest interval of a normal estimate whose standard
  deviation is known: 2 x 1.96 times the deviation of the values over the seeds.

(Not called coverage.py: Numba would import that in place of the package of this name.)
"""

from __future__ import annotations

import math
import multiprocessing
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import binom, norm
from tqdm import tqdm

from kpref import Flow, load_checkpoint
from kpref.data import example_folder
from kpref.models import RNN, Rate
from kpref.operators import TensorOperator
from kpref.space import EuclideanSpace
from kpref.spectra.estimate import Estimate
from kpref.trials import Trials

__all__ = ["Cell", "Row", "dense_copy", "diagonal", "holm", "measure", "networks", "spectra", "table"]

Array = npt.NDArray[np.float64]

LEVEL = 0.95
ALPHA = 0.05
WIDEST = 1.5
"""Median width allowed, relative to the ideal."""
ROUNDING = 1e-11
"""Relative deviation over the seeds below which chance plays no part; a width has then nothing to be compared with."""
TRIED = 3
"""Seeds after which a cell that did not reach its tolerance is given up."""
AHEAD = 4
"""Cells that a worker may be ahead of the slowest."""
HEADER = (
    "| cell | seeds | coverage | p | median width / ideal | median products |\n| --- | --- | --- | --- | --- | --- |"
)


@dataclass(frozen=True)
class Cell:
    """One estimator at one setting on one system.

    Attributes
    ----------
    name : str
        Such as ``"trace hutch++, tol 0.03, tail 1/i"``.
    run : callable
        From a seed to an `Estimate`; may raise RuntimeError where it does not reach its tolerance.
    truth : float
    random : bool
        Whether values differ from seed to seed by chance. Where only what has not converged is left of an error, its
        width has no ideal.
    """

    name: str
    run: Callable[[int], Estimate]
    truth: float
    random: bool = True


Family = Callable[[], Iterable[Cell]]
"""Makes cells, a system once its first cell is asked for; for several workers a function of a module."""


@dataclass(frozen=True)
class Row:
    """What came out for one cell: of `seeds` runs that ended, `covered` intervals contain the truth."""

    name: str
    seeds: int
    covered: int
    width: float
    products: float
    bound: bool = False

    @property
    def coverage(self) -> float:
        """Share of the intervals that contain the truth."""
        return self.covered / self.seeds if self.seeds else math.nan

    @property
    def p_value(self) -> float:
        """Chance of so few, were each as likely to contain the truth as it says."""
        return float(binom.cdf(self.covered, self.seeds, LEVEL)) if self.seeds else 1.0

    @property
    def wide(self) -> bool:
        """Whether intervals are wider than they may be."""
        return self.width > WIDEST


class Runs(NamedTuple):
    """Estimates of one cell by the seeds at which it ended; sets of them can be joined."""

    cell: str
    truth: float
    random: bool
    estimates: dict[int, Estimate]


def run(cell: Cell, seeds: Iterable[int]) -> Runs:
    """The runs of a cell that end; none where those of the first few seeds do not reach their tolerance."""
    found: dict[int, Estimate] = {}
    if _ends(cell):
        for seed in seeds:
            with suppress(RuntimeError):
                found[seed] = cell.run(seed)
    return Runs(cell.name, cell.truth, cell.random, found)


def _ends(cell: Cell) -> bool:
    """Whether one of the first seeds does: the same whichever seeds a worker has."""
    for seed in range(TRIED):
        with suppress(RuntimeError):
            cell.run(seed)
            return True
    return False


def row(runs: Runs) -> Row:
    """Coverage and width of what was run; the width is NaN where nothing is left to chance."""
    found = [estimate for _, estimate in sorted(runs.estimates.items())]
    if not found:
        return Row(runs.cell, 0, 0, math.nan, math.nan)
    values, (low, high) = np.array([each.value for each in found]), np.array([each.interval(LEVEL) for each in found]).T
    covered = int(np.count_nonzero((low <= runs.truth) & (runs.truth <= high)))
    deviation = values.std(ddof=1) if len(found) > 1 else 0.0
    chance = runs.random and deviation > ROUNDING * np.abs(values).max()
    width = float(np.median(high - low) / (2 * norm.ppf((1 + LEVEL) / 2) * deviation)) if chance else math.nan
    bound, products = all(each.bound for each in found), float(np.median([each.n_products for each in found]))
    return Row(runs.cell, len(found), covered, math.nan if bound else width, products, bound)


def measure(cell: Cell, seeds: int) -> Row:
    """Run a cell with the seeds 0, 1, ..."""
    return row(run(cell, range(seeds)))


def holm(rows: Sequence[Row]) -> list[bool]:
    """Whether each row passes: a p-value fails as long as all smaller ones do and it is below ALPHA over those left."""
    passes, failing = [True] * len(rows), True
    for rank, index in enumerate(sorted(range(len(rows)), key=lambda i: rows[i].p_value)):
        failing = failing and rows[index].p_value <= ALPHA / (len(rows) - rank)
        passes[index] = not failing
    return passes


def table(families: Sequence[Family], seeds: int, only: str = "", workers: int = 1) -> int:
    """Measure the cells whose name contains `only`, print a row as each is done, then which of them fail.

    The rows do not depend on the number of worker processes. After an interrupt the verdict is on the rows so far.
    Returns the exit status, 1 if a cell fails.
    """
    rows: list[Row] = []
    print(HEADER, flush=True)
    interrupted = ""
    try:
        with closing(_all_runs(families, seeds, only, workers)) as found:
            for runs in tqdm(found, desc="cells", leave=False, disable=None):
                rows.append(row(runs))
                tqdm.write(_line(rows[-1]))
                sys.stdout.flush()
    except KeyboardInterrupt:
        interrupted = ", interrupted"
    low = [each for each, passes in zip(rows, holm(rows), strict=True) if not passes]
    wide = [each for each in rows if each.wide]
    covered, tried = (sum(getattr(each, name) for each in rows) for name in ("covered", "seeds"))
    print(
        f"\n{len(rows)} cells, {seeds} seeds{interrupted}: {len(low)} significantly below {LEVEL:.0%} (Holm, "
        f"{ALPHA:.0%}), {len(wide)} wider than {WIDEST} times the ideal; {covered / max(tried, 1):.1%} of all "
        "intervals contain the truth"
    )
    for what, failing in (("below", low), ("wide", wide)):
        for each in failing:
            print(f"{what}: {each.name}")
    return 1 if low or wide or interrupted or not rows else 0


def _line(row: Row) -> str:
    if not row.seeds:
        return f"| {row.name} | 0 | tolerance not reached | | | |"
    width = "rounding only" if math.isnan(row.width) else f"{row.width:.2f}" + " (wide)" * row.wide
    if row.bound:
        width = "a bound"
    return f"| {row.name} | {row.seeds} | {row.coverage:.1%} | {row.p_value:.2g} | {width} | {row.products:.0f} |"


# Worker processes: each makes all cells, one after another, and runs its share of the seeds of each


def _chosen(families: Sequence[Family], only: str) -> Iterator[Cell]:
    return (cell for family in families for cell in family() if only in cell.name)


def _all_runs(families: Sequence[Family], seeds: int, only: str, workers: int) -> Iterator[Runs]:
    """Runs of one cell after another."""
    if workers == 1:
        for cell in _chosen(families, only):
            yield run(cell, range(seeds))
        return
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "KPREF_NUM_THREADS"):
        os.environ[name] = "1"  # of the workers, which inherit it
    context = multiprocessing.get_context("spawn")
    pools = [ProcessPoolExecutor(1, context, _open, (families, only)) for _ in range(workers)]
    shares = [range(worker, seeds, workers) for worker in range(workers)]
    ahead: deque[list[Future[Runs | None]]] = deque()
    try:
        while True:
            while len(ahead) < AHEAD:
                ahead.append([pool.submit(_run_next, share) for pool, share in zip(pools, shares, strict=True)])
            parts = [future.result() for future in ahead.popleft()]
            if (first := parts[0]) is None:
                return
            yield first._replace(estimates={s: e for part in parts if part for s, e in part.estimates.items()})
    finally:
        for pool in pools:
            pool.shutdown(wait=False, cancel_futures=True)
        for child in multiprocessing.active_children():
            child.terminate()


_cells: Iterator[Cell] = iter(())
"""Of a worker: those that are left."""


def _open(families: Sequence[Family], only: str) -> None:
    global _cells
    _cells = _chosen(families, only)


def _run_next(seeds: Iterable[int]) -> Runs | None:
    """The next cell's, None after the last."""
    cell = next(_cells, None)
    return None if cell is None else run(cell, seeds)


# Systems


def dense_copy(op: TensorOperator, factored: bool = True) -> TensorOperator:
    """The same operator as a matrix, on the same spaces: cheap to apply many times.

    Of a Gram operator the factor is replaced by a square root, from a Euclidean space of as many dimensions, which may
    be far fewer: no estimator can tell. It is left out, at half the cost, if not `factored`.
    """
    inward, outward = op.space_in.shape, op.space_out.shape
    if op.factor is not None and factored:
        values, vectors = np.linalg.eigh(symmetrised(op))
        root, space = vectors * np.sqrt(np.maximum(values, 0.0)), EuclideanSpace((len(values),))
        return TensorOperator(
            lambda batch: op.space_out.scale((batch @ root.T).reshape(-1, *outward), -0.5),
            lambda batch: op.space_out.scale(batch, -0.5).reshape(len(batch), -1) @ root,
            space,
            op.space_out,
            name=op.factor.name,
        ).gram()
    matrix = op.to_dense()
    return TensorOperator(
        lambda batch: (batch.reshape(len(batch), -1) @ matrix.T).reshape(-1, *outward),
        lambda batch: (batch.reshape(len(batch), -1) @ matrix).reshape(-1, *inward),
        op.space_in,
        op.space_out,
        op.dtype,
        op.name,
        op.structure,
    )


def symmetrised(op: TensorOperator) -> Array:
    """``W_out^(1/2) A W_in^(-1/2)`` as a matrix, for weights that are positive."""
    root_out, root_in = (
        np.ones(space.size) if space.weights is None else np.sqrt(np.broadcast_to(space.weights, space.shape)).ravel()
        for space in (op.space_out, op.space_in)
    )
    return np.asarray(root_out[:, None] * op.to_dense() / root_in)


def diagonal(values: Array) -> TensorOperator:
    """``A A*`` with these eigenvalues, A known."""
    root, space = np.sqrt(values), EuclideanSpace(np.shape(values))
    return TensorOperator(lambda rows: rows * root, lambda rows: rows * root, space, space, name="diagonal").gram()


def spectra(size: int = 300) -> Iterator[tuple[str, Array]]:
    """Eigenvalues that decay fast, slowly, and not at all but for a few."""
    places = np.arange(size)
    yield "decay 0.7^i", 0.7**places
    yield "tail 1/i", 1.0 / (1 + places)
    yield "flat + 5 spikes", np.where(places < 5, 30.0, 1.0)


@cache
def networks() -> tuple[tuple[str, Flow], ...]:
    """A trained GRU on two of its trials, a random RNN and a rate model in continuous time."""
    rng = np.random.default_rng(0)
    trained, _ = load_checkpoint(sorted(example_folder().glob("*.safetensors"))[-1])
    inputs: Any = Trials.load(example_folder() / "trials.npz").inputs
    return (
        ("trained GRU 2x3x128", Flow(trained, inputs[:2, :3])),
        ("RNN 6x10x6", Flow(RNN.init(2, 6, 2, gain=1.4), rng.normal(size=(6, 10, 2)))),
        ("rate ODE 5x13x6", Flow(Rate.init(2, 6, 1), rng.normal(size=(5, 13, 2)), dt=0.15)),
    )
