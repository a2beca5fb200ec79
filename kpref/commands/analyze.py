"""``kpref analyze``: a report on what gradient descent does to the states of a trained network.

Only the arguments, and what is printed; the work is that of `kpref.analyze`.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from kpref._arguments import number_above, path, positive_integer, seed
from kpref._terminal import Progress, say

if TYPE_CHECKING:
    from kpref.analysis.numbers import Analysis
    from kpref.analysis.request import Request

__all__ = ["add_arguments", "run"]


#: Options that --run takes from the training, or does not know.
_NOT_OF_RUNS = (
    "model", "loss", "at", "measure", "save_modes", "plan", "nonlinearity", "dt", "method", "tau", "input_kind",
    "readout", "z0", "ignore", "map", "alpha", "leak", "trainable",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``kpref analyze``."""
    from kpref.analysis.effort import DEFAULT, FAST, THOROUGH
    from kpref.analysis.report_files import FIGURE_FORMATS
    from kpref.analysis.request import AT, INPUT_KINDS, MEASURES
    from kpref.commands.network_options import add_network_arguments
    from kpref.integrate import TABLEAUS
    from kpref.loss import LOSSES
    from kpref.models.nonlinearity import NONLINEARITIES

    parser.epilog = (
        "Without CHECKPOINT, the example that comes with kpref is analyzed: a GRU before and after it learned to hold "
        "an angle in memory. The exit status is 0 if all self-checks are passed, 1 if one is not, 2 after an error."
    )
    add = parser.add_argument
    text = "a safetensors, npz or PyTorch file; a folder stands for its first and its last checkpoint"
    add("checkpoints", nargs="*", type=path, metavar="CHECKPOINT", help=text)
    text = (
        "in place of checkpoints: a function without arguments in a module, or in FILE.py, that returns a model of "
        "kpref.models, or a tuple of it and perhaps a kpref.Readout, kpref.Trials and an array of initial states"
    )
    add("--model", metavar="MODULE:FACTORY", help=text)
    text = "npz file with inputs, targets or labels, and lengths, conditions, mask; by default trials.npz of the folder"
    add("--trials", type=path, metavar="FILE", help=text)
    text = "CHECKPOINT is a folder of kpref train: quantities against training steps, for all of its checkpoints"
    add("--run", dest="whole_run", action="store_true", help=text)
    text = "with --run: so many of its checkpoints, evenly spread"
    add("--checkpoints", dest="n_checkpoints", type=positive_integer, metavar="N", help=text)
    text = "folder to write (default: %(default)s)"
    add("--out", type=path, default=Path("kpref-report"), metavar="DIR", help=text)
    text = "by default mse for targets, cross_entropy for labels"
    add("--loss", choices=("auto", *LOSSES), default="auto", help=text)
    text = "steps that the loss counts: by default the last one for cross_entropy of one label a trial, else all"
    add("--at", choices=AT, default="auto", help=text)
    add(
        "--modes",
        type=positive_integer,
        metavar="K",
        help=f"leading modes (default: {DEFAULT.modes}; {FAST.modes} with --fast, {THOROUGH.modes} with --thorough)",
    )
    add("--measure", choices=MEASURES, default="mean", help="weights of trials and steps")
    text = "use N trials, evenly spread over the file"
    add("--max-trials", type=positive_integer, metavar="N", help=text)
    text = f"a first look: {FAST.trials} trials, {FAST.modes} modes, no Schmidt ranks"
    add("--fast", action="store_true", help=text)
    times = THOROUGH.probes // DEFAULT.probes
    text = f"{THOROUGH.modes} modes, {times} times the random vectors, and Schmidt ranks on more of the trials"
    add("--thorough", action="store_true", help=text)
    add("--seed", type=seed, default=0, help="of starting and test vectors (default: %(default)s)")
    text = "of an RNN or a rate network; by default what the file recorded, or tanh"
    add("--nonlinearity", choices=NONLINEARITIES, help=text)
    text = "format of the figures' files (default: %(default)s)"
    add("--figures", choices=FIGURE_FORMATS, default="png", help=text)
    add("--save-modes", action="store_true", help="write the eigenfunctions too, to modes.npz")
    add("--plan", action="store_true", help="say what the run would need in memory and time, and do no more")
    add("--quiet", action="store_true", help="print nothing but errors and failed self-checks")

    add_network_arguments(parser)
    text = "Weights of an RNN as a rate network, tau dz/dt = -z + W phi(z) + U x + b."
    add = parser.add_argument_group("continuous time", text).add_argument
    positive = number_above(0)
    add("--dt", type=positive, help="time from one row of the trials to the next")
    add("--method", choices=TABLEAUS, help="Runge-Kutta method (default: rk4)")
    add("--tau", type=positive, help="time constant; by default what the file recorded, or 1")
    add("--input-kind", choices=INPUT_KINDS, help="inputs between the times of the trials (default: hold)")


def run(args: argparse.Namespace) -> int:
    """Analyze, write the folder, and say where it is.

    Returns 0 if all self-checks are passed, 1 if not.
    Raises ValueError, TypeError, OSError, MemoryError, ImportError for bad input, before anything is computed or
    written; RuntimeError if an eigensolver does not converge.
    """
    # Here and not above: these import all of kpref, and matplotlib, whose troubles should come before the work.
    try:
        import kpref.analysis.figures  # noqa: F401
    except Exception as error:
        raise ImportError(f"matplotlib, which draws the figures, cannot be loaded: {error}") from error
    from kpref._allocator import keep_freed_memory
    from kpref.analysis.api import perform
    from kpref.analysis.folders import require_replaceable, sweep
    from kpref.analysis.request import prepare

    keep_freed_memory()
    if args.whole_run or args.n_checkpoints is not None:
        return _run_of_training(args)
    from kpref.analysis.symptoms import rising_loss
    from kpref.commands.network_options import chosen_networks, loading

    started = time.monotonic()
    out = require_replaceable(args.out)
    request = prepare(
        chosen_networks(args), args.trials, loss=args.loss, at=args.at, modes=args.modes, measure=args.measure,
        max_trials=args.max_trials, fast=args.fast, thorough=args.thorough, seed=args.seed,
        nonlinearity=args.nonlinearity, dt=args.dt, method=args.method, tau=args.tau, input_kind=args.input_kind,
        loading=loading(args), spell=_spell, called=shlex.join(["kpref", *args.argv]),
    )  # fmt: skip
    if args.plan:
        _print_plan(request, out)
        return 0
    sweep(out)
    with Progress(not args.quiet) as bar:
        report = perform(request, started, bar.phase, bar.tick)
        bar.phase("figures and report")
        # A factory may have started threads of its own, which a fork does not go with.
        report.save(out, args.figures, args.save_modes, bar.tick, forked=args.model is None)
    found = {analysis: _findings(analysis) for analysis in report.study.analyses}
    if not args.quiet:
        lines = [*(line for lines in found.values() for line in lines), *rising_loss(report.study.analyses)]
        say("\n".join([*request.assumptions, *lines, f"report: {out / 'report.html'}"]))
    else:
        failed = [line for analysis, lines in found.items() if not analysis.check.passed for line in lines]
        print(*failed, sep="\n", end="\n" if failed else "", file=sys.stderr)
    return 0 if report.passed else 1


def _run_of_training(args: argparse.Namespace) -> int:
    """Analyze all checkpoints of a training, and write the folder.

    Raises ValueError for options that have no meaning there.
    """
    from kpref.course import analyze_run

    if not args.whole_run:
        raise ValueError("--checkpoints is for --run, the analysis of all checkpoints of a training")
    if len(args.checkpoints) != 1:
        raise ValueError(f"--run takes one CHECKPOINT, the folder of a training; got {len(args.checkpoints)}")
    unused = [_spell(name) for name in _NOT_OF_RUNS if getattr(args, name) not in (None, False, [], "auto", "mean")]
    if unused:
        raise ValueError(f"{unused[0]} has no meaning with --run: what the training was made with holds")
    with Progress(not args.quiet) as bar:
        course = analyze_run(
            args.checkpoints[0], args.trials, out=args.out, checkpoints=args.n_checkpoints, modes=args.modes,
            max_trials=args.max_trials, fast=args.fast, thorough=args.thorough, seed=args.seed, figures=args.figures,
            progress=bar.phase, spell=_spell, called=shlex.join(["kpref", *args.argv]),
        )  # fmt: skip
    if not args.quiet:
        say(f"{course}\nreport: {Path(args.out).resolve() / 'report.html'}")
    return 0


def _findings(analysis: Analysis) -> list[str]:
    """What is printed of a network: one line, and what is wrong with it or with the analysis, each in a sentence."""
    from kpref.analysis.api import in_a_line
    from kpref.analysis.symptoms import symptoms

    verdicts = [
        f"{check.name}: {check.verdict}" for check in analysis.check.checks if not check.passed and check.verdict
    ]
    return [in_a_line(analysis), *(f"  {sentence}" for sentence in (*symptoms(analysis), *verdicts))]


def _spell(name: str) -> str:
    """How an argument is called on the command line."""
    return f"--{name.replace('_', '-')}"


def _print_plan(request: Request, out: Path) -> None:
    from kpref.analysis.planning import make_plan

    trials, objective = request.trials, request.objective
    lines = [
        *(f"network   {network.name}: {network.model}, readout {network.readout}" for network in request.networks),
        f"trials    {trials.in_words()}, {trials.n_inputs} inputs",
        f"dynamics  {request.facts['time']}",
        f"loss      {'none' if objective is None else objective.in_words(trials)}",
        str(make_plan(request)),
        f"output    {out}, {'which is replaced' if out.exists() else 'new'}",
        *(f"note      {note}" for note in request.notes),
    ]
    say("\n".join(lines))
