"""``kpref verify MODULE:FACTORY``: the oracle's verdict on a backend, which runs in a process of its own.

Exit status 0 if every check that could be made passed, 1 if one found a defect, 2 if a check or the backend could not
run, 3 if the backend is right for the arithmetic that was measured, which is coarser than what it declares. The report
goes to standard output; what the backend prints, and the progress, to standard error.
"""

from __future__ import annotations

import argparse
import math
import sys

import numpy as np

from kpref._archives import replacing
from kpref._arguments import number_above, path, positive_integer, require_file, require_writable, seed
from kpref._terminal import Progress, say
from kpref.checkpoints import load_checkpoint
from kpref.commands.network_options import add_network_arguments, loading
from kpref.flow import Flow
from kpref.memory import require_memory
from kpref.models import Field
from kpref.models.nonlinearity import NONLINEARITIES
from kpref.oracle.arithmetic import ARITHMETICS
from kpref.oracle.backend import BackendFault
from kpref.oracle.grid import Problem
from kpref.oracle.isolation import IsolatedBackend, Worker
from kpref.oracle.problem import MODELS
from kpref.oracle.verdict import Check, Report
from kpref.oracle.verification import verify
from kpref.trials import Trials

__all__ = [
    "add_arguments",
    "add_output_arguments",
    "add_problem_arguments",
    "make_flow",
    "require_outputs",
    "run",
    "write_results",
]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``kpref verify``."""
    parser.epilog = (
        "FACTORY is a function of a kpref.Flow, the problem, that returns an object with some of states, P, P_T, "
        "P_inverse, J, J_T, K, NTK, gradient and metrics; the current directory is importable. The exit status is 0 "
        "for a pass, 1 for a defect, 2 if something could not run, 3 for a backend that is right in an arithmetic "
        "coarser than it declares."
    )
    parser.add_argument("factory", metavar="MODULE:FACTORY", help="function that makes the backend for a problem")
    add_problem_arguments(parser)
    parser.add_argument("--arithmetic", choices=tuple(ARITHMETICS), help="by default what the backend declares")
    parser.add_argument(
        "--timeout",
        type=number_above(0, 1e9),
        default=60.0,
        metavar="S",
        help="seconds for one call (default: %(default)g)",
    )
    parser.add_argument(
        "--accept-measured", action="store_true", help="exit status 0, not 3, if errors are those of what was measured"
    )
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    add_output_arguments(parser)


def add_problem_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments that choose a problem."""
    add = parser.add_argument
    add("--model", choices=tuple(MODELS), default="gru", help="kind of random network (default: %(default)s)")
    add("--trials", type=positive_integer, default=20, metavar="B", help="trials (default: %(default)s)")
    add("--steps", type=positive_integer, default=60, metavar="T", help="steps of a trial (default: %(default)s)")
    add("--states", type=positive_integer, default=64, metavar="H", help="units (default: %(default)s)")
    add("--inputs", type=positive_integer, default=3, metavar="N", help="input channels (default: %(default)s)")
    add(
        "--gain",
        type=number_above(-math.inf),
        default=1.0,
        metavar="G",
        help="of the recurrent weights (default: %(default)s)",
    )
    add("--measure", choices=("mean", "sum"), default="mean", help="weights of trials and steps")
    add("--seed", type=seed, default=0, help="of the network, the trials and the probes (default: %(default)s)")
    add("--checkpoint", type=path, metavar="FILE", help="a trained network instead of a random one")
    add("--trials-file", type=path, metavar="FILE", help="npz file with the inputs of the trained network")
    add("--nonlinearity", choices=NONLINEARITIES, help="of an RNN in the checkpoint; by default as recorded, or tanh")
    add_network_arguments(parser)


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments for files of results."""
    parser.add_argument("--json", type=path, metavar="FILE", help="write the report to this file too")
    parser.add_argument("--figure", type=path, metavar="FILE.png", help="draw where the errors are")


def run(args: argparse.Namespace) -> int:
    """Verify, print the report, write the files.

    Returns the report's exit status.
    Raises ValueError or OSError for a problem that cannot be made, or a file that cannot be written.
    """
    require_outputs(args)
    flow = make_flow(args)
    report = _verify(args, flow)
    say(str(report))
    write_results(report, args)
    return 0 if args.accept_measured and report.outcome == "right as measured" else report.exit_status


def make_flow(args: argparse.Namespace) -> Flow:
    """The problem that the arguments choose.

    Raises ValueError or OSError if files do not fit each other or cannot be read.
    """
    chosen = {"nonlinearity": args.nonlinearity, **loading(args)}
    if args.checkpoint is None:
        named = [name for name, value in chosen.items() if value]
        if named:
            raise ValueError(f"--{named[0]} is about the network of a checkpoint, and needs --checkpoint")
        _require_room(args.model, args.trials, args.steps, args.states, args.inputs)
        if args.trials_file is not None:
            raise ValueError("--trials-file needs --checkpoint, the network that takes these inputs")
        sizes = {name: getattr(args, name) for name in ("trials", "steps", "states", "inputs", "gain", "measure")}
        return Problem("command line", args.model, **sizes).build(args.seed)
    require_file("the checkpoint", args.checkpoint)
    if args.trials_file is not None:
        require_file("the trials file", args.trials_file)
    network = load_checkpoint(args.checkpoint, **chosen)
    model = network.model
    if isinstance(model, Field):
        raise ValueError(f"{args.checkpoint} holds a network in continuous time; only maps can be verified")
    if args.trials_file is not None:
        inputs = Trials.load(args.trials_file).inputs
    else:
        _require_room(args.model, args.trials, args.steps, model.n_states, model.n_inputs)
        inputs = np.random.default_rng(args.seed).normal(size=(args.trials, args.steps, model.n_inputs))
    return Flow(model, inputs, network.z0, args.measure)


def _require_room(model: str, trials: int, steps: int, states: int, inputs: int) -> None:
    """See that a problem fits into memory before its numbers are drawn: inputs, states, and weights of four gates."""
    numbers = trials * steps * (states + inputs) + 4 * states * (states + inputs)
    require_memory(8.0 * numbers, f"a {model} of {states} states on {trials} trials of {steps} steps")


def require_outputs(args: argparse.Namespace) -> None:
    """Make sure, before any work, that the files of results can be put where they are wanted."""
    if args.json is not None and args.figure is not None and args.json.absolute() == args.figure.absolute():
        raise ValueError(f"--json and --figure are both {args.json}; name two files")
    for file in (args.json, args.figure):
        if file is not None:
            require_writable(file)


def write_results(report: Report, args: argparse.Namespace) -> None:
    """Write the JSON file and the figure, where they are asked for."""
    if args.json is not None:
        with replacing(args.json) as file:
            file.write(report.to_json().encode())
    if args.figure is not None:
        from kpref.oracle.figure import draw_report  # matplotlib is slow to import

        try:
            image = draw_report(report)
        except ValueError as error:
            print(f"kpref: no figure: {error}", file=sys.stderr)
            return
        with replacing(args.figure) as file:
            file.write(image)


def _verify(args: argparse.Namespace, flow: Flow) -> Report:
    asked: set[str] = set()
    with Progress(not args.quiet) as bar:
        bar.phase(f"making {args.factory}")

        def tell(operator: str) -> None:
            bar.tick()
            if operator not in asked:
                asked.add(operator)
                bar.phase(operator)

        def make(problem: Flow) -> IsolatedBackend:
            return IsolatedBackend(args.factory, problem, args.arithmetic, args.timeout, tell, worker)

        try:
            with Worker() as worker:
                return verify(None, flow, seed=args.seed, factory=make)
        except BackendFault as fault:
            check = Check(
                "backend.factory", "backend", "the factory makes a backend", "", "could not run", message=str(fault)
            )
            return Report((check,), args.arithmetic or "arithmetic unknown", repr(flow))
