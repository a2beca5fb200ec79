"""Where the time of a report goes, part by part."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from kpref.analysis.api import perform
from kpref.analysis.report_files import report_files
from kpref.analysis.request import Request
from kpref.analysis.sections import Sections, together
from kpref.analysis.study import Study
from kpref.operators import TensorOperator
from kpref.operators.precision import in_single
from kpref.threads import get_num_threads

__all__ = ["ReportTimes", "time_report"]

_REPEATS = 5
Tell = Callable[[str], object]


@dataclass(frozen=True)
class ReportTimes:
    """Seconds of a report."""

    networks: int
    seconds: Mapping[str, float]  # of each part, those of all networks added, which are worked on side by side
    total: float  # by the clock on the wall, from the first network to the last file
    # of all threads, and of the process that draws figures, in the same time: it tells a busy machine from much work;
    # None where the system does not say
    processor: float | None = None
    # products in the searches for modes of the NTK and of P P*, and the processor's seconds of as many at what one of
    # them takes alone: no search that makes so many takes less
    products: int = 0
    least: float = 0.0

    def __str__(self) -> str:
        rows = sorted(self.seconds.items(), key=lambda row: -row[1])
        whole = sum(self.seconds.values()) or 1.0
        lines = [f"{part:26s} {seconds:7.2f} s {100 * seconds / whole:5.0f} %" for part, seconds in rows]
        head = f"a report on {self.networks} networks, {get_num_threads()} threads: {self.total:.1f} s"
        head += "" if self.processor is None else f", {self.processor:.1f} s of processor"
        least = (
            f"modes of the NTK and of P P*: {self.products} products, {self.least:.1f} s of processor for these alone"
        )
        return "\n".join([head, "each part, networks added:", *lines, least])


def time_report(request: Request, tell: Tell = str) -> ReportTimes:
    """Make a report, and throw it away. `tell`: told each phase."""
    started, before = time.monotonic(), _processor()
    study = perform(request, started, tell, str).study
    pages = Sections(tell)
    pages("figures and report")
    report_files(study, started, str, forked=True)
    parts = [*(analysis.seconds for analysis in study.analyses), study.seconds, pages.closed()]
    total, after = time.monotonic() - started, _processor()
    used = None if before is None or after is None else after - before
    return ReportTimes(len(study.analyses), together(parts), total, used, *_products_of_modes(study))


def _products_of_modes(study: Study) -> tuple[int, float]:
    """How many there were, and the processor's seconds of as many."""
    number, seconds = 0, 0.0
    for analysis in study.analyses:
        ntk, modes = analysis.flow.NTK, analysis.ntk_modes
        for op, count in (
            (ntk, modes.n_products - modes.n_single),
            (in_single(ntk), modes.n_single),
            (analysis.flow.P.gram(), analysis.propagator_modes.n_products),
        ):
            if op is not None and count:
                number, seconds = number + count, seconds + count * _seconds_of_one(op)
    return number, seconds


def _seconds_of_one(op: TensorOperator) -> float:
    """Of the processor, for a product with random numbers: the least of a few."""
    tensor = np.random.default_rng(0).standard_normal(op.shape_in).astype(op.dtype)
    seconds = []
    for _ in range(_REPEATS):
        before = time.process_time()
        op(tensor)
        seconds.append(time.process_time() - before)
    return min(seconds)


def _processor() -> float | None:
    """Seconds that this process has used, and those of its children that have ended; None on Windows."""
    try:
        import resource
    except ImportError:
        return None
    used = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)
