"""``kpref train``: train a network on a task or on trials, in a folder that `kpref analyze` reads and that resumes.

Only the arguments, and what is printed; the work is that of `kpref.train`.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kpref._arguments import names, number_above, path, positive_integer, seed
from kpref._terminal import Progress, say

if TYPE_CHECKING:
    from kpref.training import History

__all__ = ["add_arguments", "run"]

#: Trials that a network is tried on at the end.
_FRESH = 1000
_BETWEEN_LINES = 0.2  # seconds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``kpref train``."""
    from kpref.integrate import TABLEAUS
    from kpref.loss import LOSSES
    from kpref.models.registry import registered
    from kpref.rules import RULES
    from kpref.training import OPTIMIZERS
    from kpref.training.ingredients import BATCH
    from kpref.training.objective import AT

    parser.epilog = (
        "The folder of a training that was stopped is gone on with; with other settings it is refused. "
        "`kpref analyze RUN` analyzes its first and its last checkpoint, `kpref analyze RUN --run` all of them."
    )
    add = parser.add_argument
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--task", metavar="NAME", help="a task, of which fresh trials are drawn for each step")
    what.add_argument("--trials", type=path, metavar="FILE", help="npz file with inputs and targets or labels")
    add("-o", "--out", type=path, required=True, metavar="RUN", help="folder of the training")
    add("--model", choices=registered(), default="gru", help="kind of network (default %(default)s)")
    add("--units", type=positive_integer, default=64, metavar="H", help="units of each layer (default %(default)s)")
    add("--gain", type=number_above(0), default=1.0, help="of the initial recurrent weights (default %(default)s)")
    add("--steps", type=positive_integer, required=True, metavar="N", help="steps of the optimiser, in all")
    text = f"trials of a step: by default {BATCH} of a task, all of a file"
    add("--batch-size", type=positive_integer, metavar="B", help=text)
    add("--optimizer", choices=OPTIMIZERS, default="adam", help="(default %(default)s)")
    text = "a learning rule, whose direction the optimiser takes in place of the gradient by the network's parameters"
    add("--rule", choices=RULES, help=text)
    text = "learning rate (default %(default)s)"
    add("--learning-rate", type=number_above(0), default=1e-3, metavar="RATE", help=text)
    add("--clip", type=number_above(0), metavar="NORM", help="the largest norm of a gradient")
    add("--weight-decay", type=number_above(0), default=0.0, metavar="W", help="w / 2 |parameters|^2 in the loss")
    add("--activity", type=number_above(0), default=0.0, metavar="A", help="a / 2 mean(states^2) in the loss")
    text = "names of what is trained, such as weight_hh,readout.weight,z0 (default: all but z0)"
    add("--trainable", type=names, metavar="NAME[,NAME]", help=text)
    add("--loss", choices=LOSSES, help="by default mse for targets, cross_entropy for labels")
    add("--at", choices=AT, help="steps that the loss counts: by default what the task says, else all")
    add("--dtype", choices=("float32", "float64"), default="float32", help="precision (default %(default)s)")
    add("--dt", type=number_above(0), help="of a network in continuous time: time from a row of the trials to the next")
    add("--method", choices=TABLEAUS, help="its Runge-Kutta method (default rk4)")
    text = "steps from a checkpoint to the next (default: a tenth of all)"
    add("--checkpoint-every", type=positive_integer, metavar="N", help=text)
    add("--seed", type=seed, default=0, help="of initial weights and trials (default %(default)s)")
    add("--parquet", action="store_true", help="write the metrics as metrics.parquet too, at the end (needs pyarrow)")
    add("--quiet", action="store_true", help="print nothing but errors")


def run(args: argparse.Namespace) -> int:
    """Train, and say what came of it.

    Raises ValueError, TypeError, OSError, ImportError, MemoryError for bad input, before anything is written;
    TrainingDiverged, a RuntimeError, if a number is not finite any more.
    """
    from kpref import rules
    from kpref._parquet import require_parquet
    from kpref.training import train
    from kpref.training.ingredients import BATCH, given, random_network

    if args.parquet:
        require_parquet()
    what = given(args.task, args.trials, args.loss, args.at)
    about: dict[str, Any] = {"loss": what.loss, "at": what.at}
    model, readout = random_network(args.model, what, args.units, args.seed, args.gain)
    options: dict[str, Any] = {
        name: getattr(args, name) for name in ("dt", "method") if getattr(args, name) is not None
    }
    with Progress(not args.quiet) as bar:
        result = train(
            model, readout, what.source, steps=args.steps, optimizer=args.optimizer, learning_rate=args.learning_rate,
            batch_size=BATCH if args.batch_size is None and args.task else args.batch_size, seed=args.seed,
            dtype=args.dtype, trainable=args.trainable, weight_decay=args.weight_decay, activity=args.activity,
            clip=args.clip, rule=rules.get(args.rule) if args.rule else None, folder=args.out,
            checkpoint_every=args.checkpoint_every, progress=_telling(bar, args.steps), **about, **options,
        )  # fmt: skip
    if args.parquet:
        _save_metrics(result.history, args.out)
    if not args.quiet:
        history = result.history
        say(f"{model}: loss {history.loss[0]:.4g} at first, {history.loss[-1]:.4g} after {args.steps} steps")
        if args.task:
            say(_fresh(args, result, about | options))
        say(f"training: {args.out}")
    return 0


def _save_metrics(history: History, folder: Path) -> None:
    """The columns of metrics.csv, with nothing where an accuracy is not defined."""
    from kpref._parquet import write_parquet

    columns = {field.name: getattr(history, field.name).tolist() for field in fields(history)}
    columns["accuracy"] = [None if math.isnan(value) else value for value in columns["accuracy"]]
    write_parquet(
        folder / "metrics.parquet",
        {name: (int if name == "step" else float, values) for name, values in columns.items()},
    )


def _fresh(args: argparse.Namespace, result: Any, about: dict[str, Any]) -> str:
    """The loss on trials that the network has not seen."""
    from kpref.training import Objective
    from kpref.training.ingredients import fresh_trials

    trials = fresh_trials(args.task, _FRESH, args.seed)
    objective = Objective(
        result.model, result.readout, trials, z0=result.z0, trainable=args.trainable, dtype=args.dtype, **about
    )
    found = objective.metrics(objective.vector)
    right = "" if found.accuracy is None else f", {found.accuracy:.1%} right"
    return f"on {trials.n_trials:,} fresh trials: loss {found.loss:.4g}{right}"


def _telling(bar: Progress, steps: int) -> Callable[[int, float], None]:
    """A line every now and then where somebody looks on, else ten in all."""
    last = 0.0

    def tell(step: int, loss: float) -> None:
        nonlocal last
        now = time.monotonic()
        if (bar.live and now - last > _BETWEEN_LINES) or step % max(1, steps // 10) == 0:
            last = now
            bar.phase(f"step {step:,} of {steps:,}, loss {loss:.4g}")

    return tell
