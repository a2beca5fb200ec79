"""Where the time of a report goes, part by part."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from kpref.analysis.api import perform
from kpref.analysis.report_files import report_files
from kpref.analysis.request import Request
from kpref.analysis.sections import Sections, together
from kpref.threads import get_num_threads

__all__ = ["ReportTimes", "time_report"]

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

    def __str__(self) -> str:
        rows = sorted(self.seconds.items(), key=lambda row: -row[1])
        whole = sum(self.seconds.values()) or 1.0
        lines = [f"{part:26s} {seconds:7.2f} s {100 * seconds / whole:5.0f} %" for part, seconds in rows]
        head = f"a report on {self.networks} networks, {get_num_threads()} threads: {self.total:.1f} s"
        head += "" if self.processor is None else f", {self.processor:.1f} s of processor"
        return "\n".join([head, "each part, networks added:", *lines])


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
    return ReportTimes(len(study.analyses), together(parts), total, used)


def _processor() -> float | None:
    """Seconds that this process has used, and those of its children that have ended; None on Windows."""
    try:
        import resource
    except ImportError:
        return None
    used = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)
