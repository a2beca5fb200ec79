"""What ``kpref analyze`` is asked for: the files, the loss and the method behind its arguments, and if they fit."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kpref.analysis.settings import Integration, Objective
from kpref.data import example_folder
from kpref.models import Field, Model
from kpref.readout import Readout
from kpref.trials import Trials

__all__ = ["check_fit", "choose_integration", "choose_objective", "find_files", "short_names", "thinned"]

_SUFFIXES = (".safetensors", ".npz", ".pt")


def choose_integration(args: argparse.Namespace) -> Integration | None:
    """How to solve networks in continuous time; None without ``--dt``."""
    chosen = {name: getattr(args, name) for name in ("method", "input_kind") if getattr(args, name) is not None}
    if args.dt is not None:
        return Integration(args.dt, **chosen)
    for name in ("method", "tau", "input_kind"):
        if getattr(args, name) is not None:
            raise ValueError(
                f"--{name.replace('_', '-')} is for networks in continuous time and needs --dt, the time from one row "
                "of the trials to the next"
            )
    return None


def choose_objective(trials: Trials, loss: str = "auto", at: str = "auto") -> Objective | None:
    """Which loss fits the trials; None if they have neither targets nor labels.

    Raises
    ------
    ValueError
        If a loss is asked for that the trials have no answers for.
    """
    if loss == "auto":
        if trials.targets is None and trials.labels is None:
            return None
        loss = "mse" if trials.targets is not None else "cross_entropy"
    if loss == "mse" and trials.targets is None:
        raise ValueError("the loss mse needs targets, which the trials do not have")
    if loss == "cross_entropy" and trials.labels is None:
        raise ValueError("the loss cross_entropy needs labels, which the trials do not have")
    if at == "auto":
        at = "last" if trials.labels is not None and trials.labels.ndim == 1 else "all"
    return Objective(loss, at)


def find_files(checkpoints: Sequence[Path], trials: Path | None) -> tuple[list[Path], Path]:
    """The checkpoint files, folders expanded, and the trials file."""
    if not checkpoints:
        checkpoints = [example_folder()]
    paths: list[Path] = []
    for checkpoint in checkpoints:
        if not checkpoint.is_dir():
            paths.append(checkpoint)
            continue
        found = _checkpoints_in(checkpoint)
        if not found:
            raise ValueError(f"the folder {checkpoint} holds no checkpoint ({', '.join(_SUFFIXES)})")
        paths += [found[0], found[-1]] if len(found) > 1 else found
        if trials is None:
            trials = checkpoint / "trials.npz"
    if trials is None:
        raise ValueError(
            "--trials is needed where the checkpoints are files: an npz file with inputs and targets or labels"
        )
    return paths, trials


def _checkpoints_in(folder: Path) -> list[Path]:
    """Checkpoint files of a folder, one of each stem, in the order of the numbers in their names."""
    by_stem: dict[str, Path] = {}
    for suffix in reversed(_SUFFIXES):  # the first suffix wins
        for path in folder.glob(f"*{suffix}"):
            if path.name != "trials.npz":
                by_stem[path.stem] = path
    return [by_stem[stem] for stem in sorted(by_stem, key=_natural)]


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort key under which 2 comes before 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"([0-9]+)", name) if part]


def short_names(paths: Sequence[Path]) -> list[str]:
    """A short name for each checkpoint, different from the others'."""
    stems = [path.stem for path in paths]
    names = [
        stem if stems.count(stem) == 1 else f"{path.resolve().parent.name}-{stem}"
        for stem, path in zip(stems, paths, strict=True)
    ]
    return [name if names.count(name) == 1 else f"{name}-{index + 1}" for index, name in enumerate(names)]


def thinned(trials: Trials, most: int | None) -> Trials:
    """At most so many trials, evenly spread over all, without steps that exist in none of them."""
    if most is not None and most < trials.n_trials:
        trials = trials.subset(np.linspace(0, trials.n_trials - 1, most).round().astype(int))
    return trials.trimmed()


def check_fit(
    paths: Sequence[Path],
    networks: Sequence[tuple[Model, Readout | None]],
    trials: Trials,
    integration: Integration | None,
) -> list[str]:
    """Compare trials with networks before anything is computed; returns what the report should say about it."""
    if integration is not None and trials.lengths.min() < 2:
        raise ValueError(f"--dt needs trials of at least 2 times; got 1 at trial {trials.lengths.argmin()}")
    for path, (model, readout) in zip(paths, networks, strict=True):
        if isinstance(model, Field) and integration is None:
            raise ValueError(
                f"the network in {path} is one in continuous time: --dt is needed, the time from one row of the "
                "trials to the next"
            )
        if trials.n_inputs != model.n_inputs:
            raise ValueError(
                f"the trials have {trials.n_inputs} input channels, but the network in {path} takes {model.n_inputs}"
            )
        if readout is None:
            continue
        if trials.targets is not None and trials.targets.shape[2] != readout.n_outputs:
            raise ValueError(
                f"the trials have {trials.targets.shape[2]} target channels, but the readout in {path} gives "
                f"{readout.n_outputs}"
            )
        if trials.labels is not None and trials.labels.max() >= readout.n_outputs:
            raise ValueError(
                f"the trials have the label {trials.labels.max()}, but the readout in {path} has {readout.n_outputs} "
                f"outputs (labels 0 to {readout.n_outputs - 1})"
            )
    notes, sizes = list(trials.notes), {model.n_states for model, _ in networks}
    if len(sizes) > 1:
        notes.append(
            "The checkpoints have different numbers of units: those that differ from the first are not compared."
        )
    return notes
