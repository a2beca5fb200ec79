"""`kpref.analyze`: from networks and trials to a report, in Python as on the command line."""

from __future__ import annotations

import functools
import html
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kpref._reprs import html_table
from kpref._terminal import Progress, watched
from kpref._validate import flag, function, one_of
from kpref.analysis.folders import require_replaceable, write_folder
from kpref.analysis.request import MOST_SEEN, Request, memory_needed, prepare
from kpref.analysis.sections import Sections
from kpref.analysis.wording import LEVEL, percent, with_interval
from kpref.memory import available_memory
from kpref.threads import get_num_threads, run_blocks, serial_blas
from kpref.trials import Trials

if TYPE_CHECKING:
    from kpref.analysis.checks import Check
    from kpref.analysis.numbers import Analysis
    from kpref.analysis.study import Study

__all__ = ["Report", "analyze", "in_a_line", "perform"]

Tell = Callable[[str], object]
Tick = Callable[[object], object]


class Report:
    """What `kpref.analyze` found; a notebook shows its main numbers as a table.

    Attributes
    ----------
    study : kpref.analysis.study.Study
        Everything that was computed: ``study.analyses[0].ntk_modes.values``, and so on.
    folder : Path or None
        Where the report was written last; None if nowhere.
    """

    def __init__(self, study: Study, started: float) -> None:
        self.study = study
        self.folder: Path | None = None
        self._started = started

    @property
    def metrics(self) -> dict[str, Any]:
        """The numbers as plain data, as in ``metrics.json``."""
        from kpref.analysis.report_data import metrics

        return metrics(self.study)

    @property
    def passed(self) -> bool:
        """Whether all self-checks of all networks are passed: if not, rely on nothing in it."""
        return all(analysis.check.passed for analysis in self.study.analyses)

    @serial_blas
    def save(
        self,
        folder: str | os.PathLike[str],
        figures: str = "png",
        save_modes: bool = False,
        progress: Tick | None = None,
        forked: bool = False,
    ) -> Path:
        """Write the report: ``report.html``, its figures, ``metrics.json``.

        Parameters
        ----------
        folder : path
            Does not exist, or is empty, or is a report of kpref, which is replaced in one step.
        figures : {"png", "svg", "pdf"}
            Format of the figures beside the page.
        save_modes : bool
            Whether to write the eigenfunctions too, to ``modes.npz``.
        progress : callable, optional
            Called now and then with something that means nothing.
        forked : bool
            Whether a forked process may draw half of the figures (on Linux, with several threads). For programs all
            of whose threads are kpref's: a fork while others hold locks may hang.

        Returns
        -------
        Path
            The folder, absolute.

        Raises
        ------
        OSError, ValueError
            If it cannot be written, or holds files that kpref did not write. What was there is still there then.
        """
        from kpref.analysis.report_files import FIGURE_FORMATS, report_files

        one_of("figures", figures, FIGURE_FORMATS)
        save_modes, forked = flag("save_modes", save_modes), flag("forked", forked)
        path = require_replaceable(folder)
        if progress is not None:
            function("progress", progress)
        tick = progress or (lambda _: None)
        files = report_files(self.study, self._started, tick, figures=figures, save_modes=save_modes, forked=forked)
        write_folder(path, files)
        self.folder = path
        return path

    def __repr__(self) -> str:
        where = "" if self.folder is None else f", in {self.folder}"
        return f"Report({'; '.join(map(in_a_line, self.study.analyses))}{where})"

    def _repr_html_(self) -> str:
        """A table with a row a metric and a column a network."""
        from kpref.analysis.quantities import interval_of, quantities

        analyses = self.study.analyses
        rows: dict[str, dict[str, str]] = {"network": {analysis.name: analysis.model for analysis in analyses}}
        for analysis in analyses:
            name, checks = analysis.name, analysis.check.checks
            if analysis.loss is not None:
                rows.setdefault("loss", {})[name] = f"{analysis.loss:.4g}"
            if analysis.accuracy is not None:
                rows.setdefault("accuracy", {})[name] = percent(analysis.accuracy, 2)
            for quantity in quantities(analysis):
                rows.setdefault(quantity.label, {})[name] = with_interval(quantity.value, *interval_of(quantity))
            rows.setdefault("self-checks", {})[name] = _verdict(checks)
        names = [analysis.name for analysis in analyses]
        table = html_table([[label, *(cells.get(name, "–") for name in names)] for label, cells in rows.items()], names)
        note = f"<p>in brackets: intervals at {percent(LEVEL)}</p>"
        where = "" if self.folder is None else f"<p>report: {html.escape(str(self.folder / 'report.html'))}</p>"
        return f"{table}{note}{where}"


def in_a_line(analysis: Analysis) -> str:
    """A network's loss, its accuracy, and how its self-checks ended."""
    parts = [f"{analysis.name}:"]
    if analysis.loss is not None:
        parts.append(f"loss {analysis.loss:.4g},")
    if analysis.accuracy is not None:
        parts.append(f"accuracy {percent(analysis.accuracy, 2)},")
    return " ".join([*parts, _verdict(analysis.check.checks)])


def _verdict(checks: Sequence[Check]) -> str:
    failed = [check.name for check in checks if not check.passed]
    idle = sum(check.idle for check in checks if check.passed)
    passed = f"{len(checks) - len(failed) - idle} of {len(checks)} self-checks passed"
    passed += f" ({idle} had nothing to test)" if idle else ""
    return passed + (f"; FAILED: {', '.join(failed)}" if failed else "")


def analyze(
    checkpoints: Any = None,
    trials: Trials | str | os.PathLike[str] | None = None,
    *,
    out: str | os.PathLike[str] | None = None,
    readout: str | None = None,
    loss: str = "auto",
    at: str = "auto",
    modes: int | None = None,
    measure: str = "mean",
    max_trials: int | None = None,
    fast: bool = False,
    thorough: bool = False,
    seed: int = 0,
    nonlinearity: str | None = None,
    dt: float | None = None,
    method: str | None = None,
    tau: Any = None,
    input_kind: str | None = None,
    progress: bool | Tell | None = None,
    **loading: Any,
) -> Report:
    """Analyze what gradient descent does to the states of trained networks: ``kpref analyze`` from Python.

    Parameters
    ----------
    checkpoints : checkpoint or list of checkpoints, optional
        Each is a file or a folder, which stands for its first and its last checkpoint; or, in memory, what
        `load_checkpoint` takes, a model, or a pair (model, readout). By default the example that comes with kpref.
    trials : Trials or path, optional
        By default ``trials.npz`` of the folder.
    out : path, optional
        Folder to write the report to, as with `Report.save`. Nothing is written without it.
    readout : str, optional
        As for `load_checkpoint`.
    loss : {"auto", "mse", "cross_entropy"}
        By default mse for targets, else cross_entropy for labels.
    at : {"auto", "all", "last"}
        Steps that the loss counts: by default the last one for cross_entropy with one label a trial, else all.
    modes : int, optional
        Leading modes: by default 10; 3 with `fast`, 20 with `thorough`.
    measure : {"mean", "sum"}
        Weights of trials and steps.
    max_trials : int, optional
        Use so many trials, evenly spread: by default all, or 20 with `fast`.
    fast : bool
        Few trials and modes, and no Schmidt ranks: a first look, in about a third of the time.
    thorough : bool
        More modes, four times as many random vectors behind each estimate, and Schmidt ranks on more of the trials:
        half the standard errors, for more time.
    seed : int
        Of starting vectors and probes.
    nonlinearity, tau
        As for `load_checkpoint`.
    dt : float, optional
        For networks in continuous time, the time from one row of the trials to the next.
    method, input_kind : str, optional
        With `dt`: the Runge-Kutta method (default "rk4"), and inputs between the times (default "hold").
    progress : bool or callable, optional
        True: lines on standard error; a callable: is told each phase; by default lines where somebody looks on, in a
        terminal or a notebook.
    **loading
        Further arguments of `load_checkpoint`.

    Returns
    -------
    Report

    Raises
    ------
    TypeError, ValueError, OSError, MemoryError, ImportError
        For anything wrong in what is given, before anything is computed or written.
    RuntimeError
        If an eigensolver does not converge.

    Examples
    --------
    >>> report = kpref.analyze("run/", out="report")  # doctest: +SKIP
    >>> report.metrics["checkpoints"][0]["loss"]  # doctest: +SKIP
    """
    started = time.monotonic()
    if progress is not None and not isinstance(progress, bool) and not callable(progress):
        raise TypeError(f"progress must be True, False or a function of a text; got {type(progress).__name__}")
    if readout is not None:
        loading["readout"] = readout
    folder = None if out is None else require_replaceable(out)
    request = prepare(
        checkpoints, trials, loss=loss, at=at, modes=modes, measure=measure, max_trials=max_trials, fast=fast,
        thorough=thorough, seed=seed, nonlinearity=nonlinearity, dt=dt, method=method, tau=tau, input_kind=input_kind,
        loading=loading,
    )  # fmt: skip
    if callable(progress):
        return _finished(request, folder, started, progress, lambda _: None, here=True)
    shown = watched(sys.stderr) if progress is None else progress
    with Progress() if shown else nullcontext() as bar:
        tell, tick = (lambda _: None, lambda _: None) if bar is None else (bar.phase, bar.tick)
        return _finished(request, folder, started, tell, tick)


def _finished(
    request: Request, folder: Path | None, started: float, tell: Tell, tick: Tick, here: bool = False
) -> Report:
    report = perform(request, started, tell, tick, here)
    if folder is not None:
        tell("figures and report")
        report.save(folder, progress=tick)
    return report


@serial_blas
def perform(request: Request, started: float, tell: Tell, tick: Tick, here: bool = False) -> Report:
    """Make an analysis.

    `started`: `time.monotonic` at the start of the work. `tell`, `tick`: told each phase; called now and then while it
    lasts. `here`: one network after another, in the calling thread, where a function of the user's is told.
    """
    from kpref.analysis.study import Study, compare_all

    analyses = _analyses(request, tell, tick, here)
    sections = Sections(tell)
    sections("comparisons")
    comparisons = compare_all(analyses, request.seed, request.effort.probes)
    study = Study(
        analyses=tuple(analyses),
        comparisons=comparisons,
        trials=request.trials,
        objective=request.objective,
        measure=request.measure,
        integration=request.integration,
        facts=dict(request.facts),
        notes=(*request.notes, *_remarks(analyses)),
        seconds=sections.closed(),
    )
    return Report(study, started)


def _analyses(request: Request, tell: Tell, tick: Tick, here: bool) -> list[Analysis]:
    """Of all networks: side by side where there are threads, and memory, for several of them.

    Much of an analysis is the work of one thread; two networks at once take little longer than one.
    """
    from kpref.analysis.numbers import analyze_checkpoint

    found: list[Analysis | None] = [None] * len(request.networks)

    def task(index: int) -> None:
        network = request.networks[index]
        found[index] = analyze_checkpoint(
            network.name,
            network.model,
            network.readout,
            request.trials,
            request.objective,
            request.modes,
            request.measure,
            request.seed,
            functools.partial(_tell_of, tell, network.name),
            tick,
            request.integration,
            z0=network.z0,
            effort=request.effort,
            compared=1 < len(request.networks) <= MOST_SEEN,
        )

    run_blocks(task, len(found), here=here or not _side_by_side(request))
    return [analysis for analysis in found if analysis is not None]


def _side_by_side(request: Request) -> bool:
    """Whether networks may be worked on at once: none of them calls the user's functions, and memory suffices."""
    at_once, available = min(len(request.networks), get_num_threads()), available_memory()
    needed = memory_needed(request.networks, request.trials, request.modes, at_once, request.effort.probes)
    enough = available is None or needed <= available
    return enough and all(network.model.thread_safe for network in request.networks)


def _remarks(analyses: Sequence[Analysis]) -> list[str]:
    """What is known of the derivatives only now that they have been taken."""
    told = ((analysis.name, analysis.flow.model.remark) for analysis in analyses)
    return [f"{name}: {remark}." for name, remark in told if remark]


def _tell_of(tell: Tell, name: str, phase: str) -> None:
    tell(f"{name}: {phase}")
