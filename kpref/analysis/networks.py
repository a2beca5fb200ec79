"""Networks on the command line: options that say what the arrays of a checkpoint are, and what comes of them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from kpref.checkpoints import Checkpoint, load_checkpoint
from kpref.trials import Trials

__all__ = ["add_network_arguments", "check_initial_states", "load_networks", "network_notes"]


def add_network_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options that say what the arrays of a checkpoint are."""
    options = parser.add_argument_group(
        "what the arrays of a checkpoint are",
        "Every array must be part of the recurrent layer or the readout, or be named here; the names are those of the "
        "file.",
    )
    options.add_argument("--readout", metavar="NAME", help="the readout, where there are several or it is not found")
    options.add_argument("--z0", metavar="NAME", help="the learnt initial state; by default initial states are zero")
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
        help="say which array is weight_ih, weight_hh, bias_ih, bias_hh, readout.weight or readout.bias; NAME.T for "
        "its transpose; may be given several times",
    )
    options.add_argument(
        "--trainable",
        metavar="NAME[,NAME]",
        type=_names,
        help="the parameters that are trained, by the keys of --map (bias for both biases of a network in continuous "
        "time); all by default",
    )


def load_networks(args: argparse.Namespace, paths: Sequence[Path], continuous: bool) -> list[Checkpoint]:
    """Read the checkpoints as the arguments say.

    Parameters
    ----------
    args : Namespace
        With the options of `add_network_arguments`, `nonlinearity` and `tau`.
    paths : sequence of Path
    continuous : bool
        Whether the networks are rate networks in continuous time.

    Raises
    ------
    ValueError, OSError, ImportError, MemoryError
        As `load_checkpoint`; also if two options say what one array is.
    """
    assigned: dict[str, str] = {}
    for key, name in args.map:
        if key in assigned:
            raise ValueError(f"--map says twice what {key} is: {assigned[key]!r} and {name!r}")
        assigned[key] = name
    return [
        load_checkpoint(
            path,
            trainable=args.trainable,
            nonlinearity=args.nonlinearity,
            readout=args.readout,
            continuous=continuous,
            tau=args.tau,
            z0=args.z0,
            ignore=args.ignore,
            map=assigned,
        )
        for path in paths
    ]


def check_initial_states(paths: Sequence[Path], networks: Sequence[Checkpoint], trials: Trials) -> None:
    """Raise ValueError if there is an initial state for each of so many trials, and another number of trials."""
    for path, network in zip(paths, networks, strict=True):
        if network.z0 is not None and network.z0.ndim == 2 and len(network.z0) != trials.n_trials:
            raise ValueError(
                f"the initial states (--z0) in {path} are those of {len(network.z0)} trials, and {trials.n_trials} "
                "trials are analyzed"
            )


def network_notes(names: Sequence[str], networks: Sequence[Checkpoint]) -> list[str]:
    """What the report should say about how the networks were read, each thing once."""
    told: dict[str, list[str]] = {}
    for name, network in zip(names, networks, strict=True):
        for note in network.notes:
            told.setdefault(note, []).append(name)
    return [f"{', '.join(named)}: {note}." for note, named in told.items()]


def _assignment(text: str) -> tuple[str, str]:
    key, equals, name = text.partition("=")
    if not (key and equals and name):
        raise argparse.ArgumentTypeError(f"expected KEY=NAME, as in weight_hh=cell.kernel; got {text!r}")
    return key, name


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise argparse.ArgumentTypeError(f"expected names with commas between them; got {text!r}")
    return names
