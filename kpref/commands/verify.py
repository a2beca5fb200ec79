"""``kpref verify MODULE:FACTORY``: the oracle's verdict on a backend, which runs in a process of its own.

Exit status 0 if every check that could be made passed, 1 if one found a defect, 2 if a check or the backend could not
run, 3 if the backend is right for the arithmetic that was measured, which is coarser than what it declares. The report
goes to standard output; what the backend prints, and the progress, to standard error.
"""

from __future__ import annotations

import argparse
import math
import sys
from typing import Any

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
from kpref.oracle.exact import verify_exact
from kpref.oracle.grid import MEASURES, Problem, choices
from kpref.oracle.isolation import IsolatedBackend, Worker
from kpref.oracle.problem import MODELS
from kpref.oracle.session import REPEATS
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
        "P_inverse, J, J_T, K, NTK, gradient, D, D_z0, other transposes (X_T) and metrics; the current directory is "
        "importable. The exit status is 0 for a pass, 1 for a defect, 2 if something could not run or is offered and "
        "not judged, 3 for a backend that is right in an arithmetic coarser than it declares."
    )
    parser.add_argument("factory", metavar="MODULE:FACTORY", help="function that makes the backend for a problem")
    add_problem_arguments(parser)
    parser.add_argument(
        "--exact", action="store_true", help="a problem of whole numbers, on which a right backend errs by no bit"
    )
    parser.add_argument("--arithmetic", choices=tuple(ARITHMETICS), help="by default what the backend declares")
    parser.add_argument(
        "--timeout",
        type=number_above(0, 1e9),
        default=60.0,
        metavar="S",
        help="seconds for one call (default: %(default)g)",
    )
    parser.add_argument(
        "--repeats",
        type=positive_integer,
        metavar="N",
        help="how often an answer is asked for again: an operator that is wrong in a tenth of its calls, at random, "
        f"passes in 28 of 100 runs with 8, in one with 40 (default: {REPEATS}; not with --exact)",
    )
    parser.add_argument(
        "--accept-measured", action="store_true", help="exit status 0, not 3, if errors are those of what was measured"
    )
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    add_output_arguments(parser)


def add_problem_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments that choose a problem."""
    add = parser.add_argument
    add("--model", choices=tuple(MODELS), help="kind of random network (default: gru; with --exact rnn)")
    add("--trials", type=positive_integer, metavar="B", help="trials (default: 20; with --exact 3)")
    add("--steps", type=positive_integer, metavar="T", help="steps of a trial (default: 60; with --exact 5)")
    add("--states", type=positive_integer, metavar="H", help="units of a layer (default: 64; with --exact 8)")
    add("--inputs", type=positive_integer, default=3, metavar="N", help="input channels (default: %(default)s)")
    add(
        "--gain",
        type=number_above(-math.inf),
        default=1.0,
        metavar="G",
        help="of the recurrent weights (default: %(default)s)",
    )
    add(
        "--measure",
        choices=tuple(MEASURES),
        help="weights of trials and steps: mean (default), sum (default with --exact), or random ones, zero at a third "
        "of the points, in the interior, or trailing",
    )
    add("--seed", type=seed, default=0, help="of the network, the trials and the probes (default: %(default)s)")
    add("--checkpoint", type=path, metavar="FILE", help="a trained network instead of a random one")
    add("--trials-file", type=path, metavar="FILE", help="npz file with the inputs of the trained network")
    add(
        "--nonlinearity",
        choices=NONLINEARITIES,
        help="of a random network (with --exact relu), or of an RNN in the checkpoint; by default as recorded, or tanh",
    )
    random = parser.add_argument_group(
        "options of a random network", "Where it has them; --alpha, --leak and --trainable are of random ones too."
    )
    random.add_argument("--no-bias", action="store_true", help="no biases")
    random.add_argument("--zero-start", action="store_true", help="initial states of zero")
    random.add_argument("--layers", type=positive_integer, metavar="L", help="layers of a stacked network")
    random.add_argument("--train-alpha", action="store_true", help="trained leaks, one a unit")
    random.add_argument("--constrained", action="store_true", help="sparse connectivity and Dale's law")
    parser.set_defaults(exact=False)
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
    if args.exact and args.repeats is not None:
        raise ValueError(f"--repeats {args.repeats} is for certificates; with --exact answers are asked for once")
    flow = make_flow(args)
    report = _verify(args, flow)
    say(str(report))
    write_results(report, args)
    return 0 if args.accept_measured and report.outcome == "right as measured" else report.exit_status


def make_flow(args: argparse.Namespace) -> Flow:
    """The problem that the arguments choose.

    Raises ValueError or OSError if files do not fit each other or cannot be read.
    """
    return _random_flow(args) if args.checkpoint is None else _flow_of_checkpoint(args)


def _random_flow(args: argparse.Namespace) -> Flow:
    shared = ("alpha", "leak", "trainable")
    named = [name for name, value in loading(args).items() if value and name not in shared]
    if named:
        raise ValueError(f"--{named[0]} is about the network of a checkpoint, and needs --checkpoint")
    if args.trials_file is not None:
        raise ValueError("--trials-file needs --checkpoint, the network that takes these inputs")
    if args.exact and args.measure not in (None, "sum"):
        raise ValueError(f"a problem of whole numbers (--exact) has the measure sum; got --measure {args.measure}")
    model = args.model or ("rnn" if args.exact else "gru")
    sizes = _sizes(args)
    _require_room(model, **sizes, inputs=args.inputs)
    problem = Problem(
        "command line", model, **sizes, inputs=args.inputs, gain=args.gain, zero_start=args.zero_start,
        measure=args.measure or "mean", options=_options(args, model), trainable=tuple(args.trainable or ()) or "all",
        exact=args.exact,
    )  # fmt: skip
    return problem.build(args.seed)


def _sizes(args: argparse.Namespace) -> dict[str, int]:
    usual = (3, 5, 8) if args.exact else (20, 60, 64)
    names = ("trials", "steps", "states")
    return {name: getattr(args, name) or size for name, size in zip(names, usual, strict=True)}


def _options(args: argparse.Namespace, model: str) -> dict[str, Any]:
    """Options of a random network, all of which it must have."""
    given = {
        "nonlinearity": args.nonlinearity,
        "leak": args.leak,
        "alpha": args.alpha,
        "train_alpha": args.train_alpha or None,
        "constrained": args.constrained or None,
        "n_layers": args.layers,
    }
    chosen = {name: value for name, value in given.items() if value is not None}
    for name in chosen:
        if choices(model)[name] == (None,):
            flag = "layers" if name == "n_layers" else name.replace("_", "-")
            raise ValueError(f"--{flag} is an option that networks of kind {model} do not have")
    return chosen | ({"bias": False} if args.no_bias else {})


def _flow_of_checkpoint(args: argparse.Namespace) -> Flow:
    random = {
        name: getattr(args, name) for name in ("exact", "no_bias", "zero_start", "layers", "train_alpha", "constrained")
    }
    named = [name.replace("_", "-") for name, value in random.items() if value]
    if named:
        raise ValueError(f"--{named[0]} is about a random network, and --checkpoint gives another")
    require_file("the checkpoint", args.checkpoint)
    if args.trials_file is not None:
        require_file("the trials file", args.trials_file)
    network = load_checkpoint(args.checkpoint, nonlinearity=args.nonlinearity, **loading(args))
    model = network.model
    if isinstance(model, Field):
        raise ValueError(f"{args.checkpoint} holds a network in continuous time; only maps can be verified")
    generator = np.random.default_rng(args.seed)
    if args.trials_file is not None:
        inputs = Trials.load(args.trials_file).inputs
    else:
        sizes = _sizes(args)
        _require_room("network", sizes["trials"], sizes["steps"], model.n_states, model.n_inputs)
        inputs = generator.normal(size=(sizes["trials"], sizes["steps"], model.n_inputs))
    return Flow(model, inputs, network.z0, MEASURES[args.measure or "mean"](generator, inputs.shape[:2]))


def _require_room(model: str, trials: int, steps: int, states: int, inputs: int) -> None:
    """See that a problem fits into memory before its numbers are drawn: inputs, states, and weights of four gates."""
    numbers = trials * steps * (states + inputs) + 4 * states * (states + inputs)
    require_memory(8.0 * numbers, f"a {model} of {states} states on {trials} trials of {steps} steps")


def require_outputs(args: argparse.Namespace) -> None:
    """Make sure, before any work, that the files of results can be put where they are wanted."""
    if args.json is not None and args.figure is not None and args.json.absolute() == args.figure.absolute():
        raise ValueError(f"--json and --figure are both {args.json}; name two files")
    if args.figure is not None and args.figure.suffix.lower() != ".png":
        raise ValueError(f"--figure is a picture in a file named *.png; got {args.figure}")
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
                if args.exact:
                    return verify_exact(make(flow), flow, seed=args.seed)
                return verify(None, flow, seed=args.seed, factory=make, repeats=args.repeats or REPEATS)
        except BackendFault as fault:
            check = Check(
                "backend.factory", "backend", "the factory makes a backend", "", "could not run", message=str(fault)
            )
            return Report(
                (check,), args.arithmetic or "arithmetic unknown", repr(flow), unmeasured="as there is no backend"
            )
