"""``kpref bench``: how fast the operators are, against the machine's matrix products, JAX, diffrax and PyTorch.

`kpref.bench.timing` says what is measured, and what the floor is.
"""

from __future__ import annotations

import argparse
import importlib.util

from kpref._arguments import path, positive_integer, require_writable
from kpref._terminal import Progress, say
from kpref.bench.peers import CONTENDERS
from kpref.bench.steps import STEPS
from kpref.bench.timing import format_report, measure, write_json
from kpref.bench.workload import MODELS, Problem
from kpref.integrate import TABLEAUS
from kpref.memory import require_memory

__all__ = ["add_arguments", "is_installed", "read_problem", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``kpref bench``."""
    add = parser.add_argument
    add("--trials", type=positive_integer, default=100, metavar="B", help="number of trials (default %(default)s)")
    add("--steps", type=positive_integer, metavar="N", help="time steps of a trial (default 90; rate: 200)")
    add(
        "--states",
        dest="units",
        type=positive_integer,
        metavar="H",
        help="units of each layer (default 128; rate: 256)",
    )
    add("--inputs", type=positive_integer, default=3, metavar="N", help="inputs of the network (default %(default)s)")
    add("--model", choices=MODELS, default="gru", help="kind of network (default %(default)s)")
    add("--method", choices=TABLEAUS, help="Runge-Kutta method of a rate network (default rk4)")
    add("--dtype", choices=("float64", "float32"), default="float64", help="of kpref and JAX (default %(default)s)")
    add("--repeats", type=positive_integer, default=7, metavar="N", help="rounds of timings (default %(default)s)")
    add("--no-peers", action="store_true", help="leave JAX, diffrax and PyTorch out")
    text = "time a report on the networks that come with kpref, part by part, in place of operators"
    add("--report", action="store_true", help=text)
    add("--fast", action="store_true", help="with --report: a first look")
    add("--thorough", action="store_true", help="with --report: a thorough one")
    add("--quiet", action="store_true", help="show no progress")
    add("--json", type=path, metavar="FILE", help="write all timings to this file too")


def read_problem(args: argparse.Namespace) -> Problem:
    """The problem of the command line; sizes that are not given depend on the kind of network."""
    in_continuous_time = MODELS[args.model].is_continuous
    if args.method is not None and not in_continuous_time:
        raise ValueError(f"--method is for networks in continuous time; {args.model} is a map")
    steps, units, method = (200, 256, args.method or "rk4") if in_continuous_time else (90, 128, None)
    return Problem(args.model, args.trials, args.steps or steps, args.units or units, args.inputs, args.dtype, method)


def is_installed(package: str | None) -> bool:
    """Whether the package of a peer is there; kpref itself, which needs none, is no peer."""
    return package is not None and importlib.util.find_spec(package) is not None


def run(args: argparse.Namespace) -> int:
    """Run ``kpref bench``: print the table, and write the JSON file if one is asked for."""
    if args.report:
        return _run_report(args)
    if args.fast or args.thorough:
        raise ValueError("--fast and --thorough are for --report")
    if args.json is not None:
        require_writable(args.json)
    problem = read_problem(args)
    sizes = problem.units + problem.inputs
    numbers = 10 * problem.trials * problem.steps * sizes + 4 * problem.units * sizes  # tensors, and weights
    require_memory(8.0 * numbers, f"a {problem.model} of {problem.units} units on {problem.trials} trials")
    names = ["kpref"]
    if not args.no_peers and problem.model in STEPS:
        names += [name for name, kind in CONTENDERS.items() if kind.columns(problem) and is_installed(kind.package)]
    with Progress(not args.quiet) as bar:
        benchmark = measure(problem, names, args.repeats, bar)
    if benchmark.records["kpref"].error is not None:
        raise ValueError(f"kpref itself failed on this problem: {benchmark.records['kpref'].error}")
    say(format_report(benchmark))
    if args.json is not None:
        write_json(benchmark, args.json)
    return 0


def _run_report(args: argparse.Namespace) -> int:
    """On the networks that come with kpref, compiled code and matplotlib loaded by a small analysis before."""
    import kpref.analysis.figures  # noqa: F401
    from kpref._allocator import keep_freed_memory
    from kpref.analysis.api import perform
    from kpref.analysis.request import prepare
    from kpref.bench.reports import time_report

    if args.json is not None:
        raise ValueError("--json holds timings of operators; --report prints those of a report")
    keep_freed_memory()  # as `kpref analyze` does
    request = prepare(fast=args.fast, thorough=args.thorough, spell="--{}".format)
    with Progress(not args.quiet) as bar:
        perform(prepare(max_trials=2, fast=True), 0.0, bar.phase, str)
        found = time_report(request, bar.phase)
    say(str(found))
    return 0
