"""``kpref analyze``: a report on what gradient descent does to the states of a trained network."""

from __future__ import annotations

import argparse
import functools
import math
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from kpref.analysis.alignments import MOST_TASKS
from kpref.analysis.comparison import Study, compare_all
from kpref.analysis.files import FIGURE_FORMATS, report_files
from kpref.analysis.folders import require_replaceable, write_folder
from kpref.analysis.numbers import STAGES, Analysis, analyze_checkpoint
from kpref.analysis.provenance import fingerprints
from kpref.analysis.request import (
    check_fit,
    choose_integration,
    choose_objective,
    find_files,
    short_names,
    thinned,
)
from kpref.analysis.settings import Integration, Objective
from kpref.analysis.symptoms import symptoms
from kpref.checkpoints import load_checkpoint
from kpref.integrate import TABLEAUS
from kpref.memory import require_memory
from kpref.models.nonlinearity import NONLINEARITIES
from kpref.trials import Trials

__all__ = ["add_arguments", "run"]

_MEASURES = ("mean", "sum")
_INPUT_KINDS = ("hold", "linear", "cubic")
_LANCZOS_EXTRA = 24  # tensors beyond three for each mode that the analysis of a checkpoint holds at its peak
_FLOW_TENSORS = 11  # of a checkpoint that is kept for comparisons: states, outputs, coefficients of the operators


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``kpref analyze``."""
    parser.epilog = (
        "Without CHECKPOINT, the example that comes with kpref is analyzed: a GRU before and after it learned to hold "
        "an angle in memory. The exit status is 0 if all self-checks are passed, 1 if one is not, 2 after an error."
    )
    parser.add_argument(
        "checkpoints",
        nargs="*",
        type=Path,
        metavar="CHECKPOINT",
        help="a safetensors, npz or PyTorch file; a folder stands for its first and its last checkpoint",
    )
    parser.add_argument(
        "--trials",
        type=Path,
        metavar="FILE",
        help="npz file with inputs and targets or labels; by default trials.npz of the folder",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("kpref-report"), metavar="DIR", help="folder to write (default: %(default)s)"
    )
    parser.add_argument(
        "--loss",
        choices=("auto", "mse", "cross_entropy"),
        default="auto",
        help="by default mse for targets, cross_entropy for labels",
    )
    parser.add_argument(
        "--at",
        choices=("auto", "all", "last"),
        default="auto",
        help="steps that the loss counts: by default the last one if there is one label a trial, else all",
    )
    parser.add_argument("--modes", type=_positive, default=10, metavar="K", help="leading modes (default: %(default)s)")
    parser.add_argument("--measure", choices=_MEASURES, default="mean", help="weights of trials and steps")
    parser.add_argument("--max-trials", type=_positive, metavar="N", help="use N trials, evenly spread over the file")
    parser.add_argument("--seed", type=_seed, default=0, help="of starting and test vectors (default: %(default)s)")
    parser.add_argument(
        "--nonlinearity",
        choices=NONLINEARITIES,
        help="of an RNN or a rate network; by default what the file recorded, or tanh",
    )
    parser.add_argument(
        "--figures", choices=FIGURE_FORMATS, default="png", help="format of the figures' files (default: %(default)s)"
    )
    parser.add_argument("--save-modes", action="store_true", help="write the eigenfunctions too, to modes.npz")
    time_options = parser.add_argument_group(
        "continuous time", "Weights of an RNN as a rate network, tau dz/dt = -z + W phi(z) + U x + b."
    )
    time_options.add_argument("--dt", type=_positive_number, help="time from one row of the trials to the next")
    time_options.add_argument("--method", choices=TABLEAUS, help="Runge-Kutta method (default: rk4)")
    time_options.add_argument(
        "--tau", type=_positive_number, help="time constant; by default what the file recorded, or 1"
    )
    time_options.add_argument(
        "--input-kind", choices=_INPUT_KINDS, help="inputs between the times of the trials (default: hold)"
    )


def run(args: argparse.Namespace) -> int:
    """Analyze, write the folder, and say where it is.

    Returns
    -------
    int
        0 if all self-checks are passed, 1 if not.

    Raises
    ------
    ValueError, OSError, MemoryError
        For bad input, before anything is computed or written.
    """
    started = time.monotonic()
    integration = choose_integration(args)
    out = require_replaceable(args.out)
    paths, trials_path = find_files(args.checkpoints, args.trials)
    trials = thinned(Trials.load(trials_path), args.max_trials)
    networks = [
        load_checkpoint(path, nonlinearity=args.nonlinearity, continuous=integration is not None, tau=args.tau)
        for path in paths
    ]
    notes = check_fit(paths, networks, trials, integration)
    objective = choose_objective(trials, args.loss, args.at)
    if objective is None:
        notes.append("The trials have neither targets nor labels: all that needs a loss is left out.")
    for path, (_, readout) in zip(paths, networks, strict=True):
        if readout is None and objective is not None:
            notes.append(f"{path.name} has no readout: all that needs a loss is left out for it.")
    notes += _note_on_tasks(trials, objective)
    largest = max(model.n_states for model, _ in networks)
    tensors = len(paths) * (args.modes + _FLOW_TENSORS) + 3 * args.modes + _LANCZOS_EXTRA
    require_memory(8.0 * tensors * trials.n_trials * trials.n_steps * largest, "this analysis")

    names = short_names(paths)
    analyses: list[Analysis] = []
    total = len(paths) * STAGES + 2
    with tqdm(
        total=total,
        unit="stage",
        leave=False,
        miniters=0,
        mininterval=0.2 if sys.stderr.isatty() else 10.0,  # a log file needs few lines
        file=sys.stderr,
        bar_format="{l_bar}{bar}| {elapsed}",
    ) as bar:

        def tell(stage: str) -> None:
            bar.update(1 if bar.desc else 0)
            bar.set_description(stage)

        def tick(_: object) -> None:  # nothing is counted; the clock goes on
            bar.update(0)

        for name, (model, readout) in zip(names, networks, strict=True):
            tell_of = functools.partial(_prefixed, tell, name)
            analyses.append(
                analyze_checkpoint(
                    name,
                    model,
                    readout,
                    trials,
                    objective,
                    args.modes,
                    args.measure,
                    args.seed,
                    tell_of,
                    tick,
                    integration,
                )
            )
        tell("comparisons")
        comparisons = compare_all(analyses, args.seed)
        tell("figures and report")
        study = Study(
            analyses=tuple(analyses),
            comparisons=comparisons,
            trials=trials,
            objective=objective,
            measure=args.measure,
            integration=integration,
            facts=_facts(args, paths, trials_path, trials, integration),
            notes=tuple(notes),
        )
        write_folder(out, report_files(study, started, tick, figures=args.figures, save_modes=args.save_modes))
    return _summary(study, out)


def _prefixed(tell: Callable[[str], object], name: str, stage: str) -> None:
    tell(f"{name}: {stage}")


def _note_on_tasks(trials: Trials, objective: Objective | None) -> list[str]:
    """Why the alignment of sub-tasks is left out, where it is and nothing else says so."""
    if objective is None:
        return []
    if trials.groups is None:
        return [
            "The trials do not carry one condition or label each, which would say what the sub-tasks are: their "
            "alignment is left out."
        ]
    number, what = len(np.unique(trials.groups)), "labels" if trials.conditions is None else "conditions"
    if number > MOST_TASKS:
        return [
            f"The trials have {number} different {what}: alignment of more than {MOST_TASKS} sub-tasks is left out."
        ]
    return []


def _facts(
    args: argparse.Namespace,
    paths: Sequence[Path],
    trials_path: Path,
    trials: Trials,
    integration: Integration | None,
) -> dict[str, str]:
    return {
        "command line": shlex.join(["kpref", *args.argv]),
        "checkpoints": ", ".join(str(path) for path in paths),
        "trials": f"{trials_path} ({trials.in_words()}, {trials.n_inputs} inputs)",
        "time": "discrete" if integration is None else integration.in_words(),
        "initial states": "zero",
        "measure": args.measure,
        "seed": str(args.seed),
        **fingerprints([*paths, trials_path]),
    }


def _summary(study: Study, out: Path) -> int:
    for analysis in study.analyses:
        parts = [f"{analysis.name}:"]
        if analysis.loss is not None:
            parts.append(f"loss {analysis.loss:.4g},")
        if analysis.accuracy is not None:
            parts.append(f"accuracy {analysis.accuracy:.2%},")
        checks = analysis.check.checks
        failed = [check for check in checks if not check.passed]
        idle = sum(check.idle for check in checks if check.passed)
        parts.append(f"{len(checks) - len(failed) - idle} of {len(checks)} self-checks passed")
        parts += [f"({idle} had nothing to test)"] if idle else []
        print(" ".join(parts) + (f"; FAILED: {', '.join(check.name for check in failed)}" if failed else ""))
        for sentence in (*symptoms(analysis), *(f"{check.name}: {check.verdict}" for check in failed if check.verdict)):
            print(f"  {sentence}")
    print(f"report: {out / 'report.html'}")
    return 0 if all(analysis.check.passed for analysis in study.analyses) else 1


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a positive integer, got {text!r}")
    return int(text)


def _positive_number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a positive number, got {text!r}")
    return value


def _seed(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"expected a non-negative integer, got {text!r}")
    return int(text)
