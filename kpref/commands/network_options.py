"""Networks on the command line: options that say what the arrays of a checkpoint are."""

from __future__ import annotations

import argparse
import math
from typing import Any

from kpref._arguments import names

__all__ = ["add_network_arguments", "chosen_networks", "loading"]

#: Options that say what an array of a checkpoint is.
_OF_ARRAYS = ("nonlinearity", "tau", "readout", "z0", "ignore", "map", "trainable")


def add_network_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options that say what the arrays of a checkpoint are."""
    options = parser.add_argument_group(
        "what the arrays of a checkpoint are",
        "Every array must be part of the recurrent layer or the readout, or be named here; the names are those of the "
        "file.",
    )
    options.add_argument("--readout", metavar="NAME", help="the readout, where there are several or it is not found")
    options.add_argument(
        "--z0",
        metavar="NAME[,NAME]",
        type=names,
        help="the learnt initial state, of an LSTM both h and c; by default initial states are zero",
    )
    options.add_argument(
        "--ignore",
        metavar="NAME",
        action="append",
        default=[],
        help="set an array aside; * and ? stand for any letters; may be given several times",
    )
    options.add_argument(
        "--map",
        metavar="KEY=NAME",
        type=_assignment,
        action="append",
        default=[],
        help="say which array is weight_ih, weight_hh, bias_ih, bias_hh (weight_ih_l1, ... of further layers), "
        "readout.weight or readout.bias; NAME.T for its transpose; may be given several times",
    )
    options.add_argument(
        "--alpha", metavar="A", type=_leak, help="read weights of an RNN as a leaky network of this leak, in (0, 1]"
    )
    options.add_argument(
        "--leak",
        choices=("outside", "inside"),
        help="of a leaky network: its nonlinearity is around the states (default), or around the currents",
    )
    options.add_argument(
        "--reset",
        choices=("before", "after"),
        help="of a GRU of Keras without biases: where its reset gate stands, before or after the recurrent product",
    )
    options.add_argument(
        "--trainable",
        metavar="NAME[,NAME]",
        type=names,
        help="the parameters that are trained, by the keys of --map (bias for both biases of a network in continuous "
        "time); all by default",
    )


def loading(args: argparse.Namespace) -> dict[str, Any]:
    """Arguments of `load_checkpoint`, by the options of `add_network_arguments`.

    Raises ValueError if two options say what one array is.
    """
    assigned: dict[str, str] = {}
    for key, name in args.map:
        if key in assigned:
            raise ValueError(f"--map says twice what {key} is: {assigned[key]!r} and {name!r}")
        assigned[key] = name
    names = ("trainable", "readout", "z0", "ignore", "alpha", "leak", "reset")
    return {"map": assigned, **{name: getattr(args, name) for name in names}}


def chosen_networks(args: argparse.Namespace) -> list[Any] | None:
    """What ``kpref analyze`` is given: checkpoints, or what the factory of ``--model`` made; None for the example.

    Raises ValueError, TypeError, OSError if both are given, or the factory does not make a network.
    """
    if args.model is None:
        return args.checkpoints or None
    if args.checkpoints:
        raise ValueError(f"--model stands in place of checkpoints; got {args.checkpoints[0]} too")
    for name in _OF_ARRAYS:
        if getattr(args, name) not in (None, []):
            raise ValueError(f"--{name} says what is in a checkpoint; --model makes the network itself")
    from kpref.analysis.factories import make  # which brings the models

    return [make(args.model)]


def _assignment(text: str) -> tuple[str, str]:
    key, equals, name = text.partition("=")
    if not (key and equals and name):
        raise argparse.ArgumentTypeError(f"expected KEY=NAME, as in weight_hh=cell.kernel; got {text!r}")
    return key, name


def _leak(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number above 0 and at most 1; got {text!r}")
    return value
