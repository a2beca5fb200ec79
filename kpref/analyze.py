"""``kpref analyze``: a report on what gradient descent does to the states of a trained network."""

from __future__ import annotations

import argparse
import functools
import io
import json
import re
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from kpref._folders import require_replaceable, write_folder
from kpref.analysis import STAGES, Analysis, Objective, analyze_checkpoint
from kpref.checkpoints import load_checkpoint
from kpref.comparison import Study, compare_all
from kpref.data import example_folder
from kpref.memory import require_memory
from kpref.models.base import Model
from kpref.readout import Readout
from kpref.trials import Trials

__all__ = ["add_arguments", "run"]

_SUFFIXES = (".safetensors", ".npz", ".pt")
_MEASURES = ("mean", "sum")
_LANCZOS_EXTRA = 24  # tensors beyond three for each mode that the analysis of a checkpoint holds at its peak


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
    out = require_replaceable(args.out)
    paths, trials_path = _sources(args.checkpoints, args.trials)
    trials = _thinned(Trials.load(trials_path), args.max_trials)
    networks = [load_checkpoint(path) for path in paths]
    notes = _check_fit(paths, networks, trials)
    objective = choose_objective(trials, args.loss, args.at)
    if objective is None:
        notes.append("The trials have neither targets nor labels: all that needs a loss is left out.")
    for path, (_, readout) in zip(paths, networks, strict=True):
        if readout is None and objective is not None:
            notes.append(f"{path.name} has no readout: all that needs a loss is left out for it.")
    largest = max(model.n_states for model, _ in networks)
    tensors = len(paths) * (args.modes + 3) + 3 * args.modes + _LANCZOS_EXTRA
    require_memory(8.0 * tensors * trials.n_trials * trials.n_steps * largest, "this analysis")

    names = _names(paths)
    analyses: list[Analysis] = []
    total = len(paths) * STAGES + 1
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
                    name, model, readout, trials, objective, args.modes, args.measure, args.seed, tell_of, tick
                )
            )
        tell("figures and report")
        facts = _facts(args, paths, trials_path, trials)
        study = Study(tuple(analyses), compare_all(analyses), trials, objective, args.measure, facts, tuple(notes))
        write_folder(out, _files(study, started, tick))
    return _summary(study, out)


def _prefixed(tell: Callable[[str], object], name: str, stage: str) -> None:
    tell(f"{name}: {stage}")


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


def _sources(checkpoints: Sequence[Path], trials: Path | None) -> tuple[list[Path], Path]:
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


def _names(paths: Sequence[Path]) -> list[str]:
    """A short name for each checkpoint, different from the others'."""
    stems = [path.stem for path in paths]
    names = [
        stem if stems.count(stem) == 1 else f"{path.resolve().parent.name}-{stem}"
        for stem, path in zip(stems, paths, strict=True)
    ]
    return [name if names.count(name) == 1 else f"{name}-{index + 1}" for index, name in enumerate(names)]


def _thinned(trials: Trials, most: int | None) -> Trials:
    if most is None or most >= trials.n_trials:
        return trials
    return trials.subset(np.linspace(0, trials.n_trials - 1, most).round().astype(int))


def _check_fit(paths: Sequence[Path], networks: Sequence[tuple[Model, Readout | None]], trials: Trials) -> list[str]:
    """Compare trials with networks before anything is computed; returns what the report should say about it."""
    for path, (model, readout) in zip(paths, networks, strict=True):
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
    sizes = {model.n_states for model, _ in networks}
    if len(sizes) > 1:
        return ["The checkpoints have different numbers of units: those that differ from the first are not compared."]
    return []


def _facts(args: argparse.Namespace, paths: Sequence[Path], trials_path: Path, trials: Trials) -> dict[str, str]:
    return {
        "command line": shlex.join(["kpref", *args.argv]),
        "checkpoints": ", ".join(str(path) for path in paths),
        "trials": f"{trials_path} ({trials.n_trials} trials, {trials.n_steps} steps, {trials.n_inputs} inputs)",
        "initial states": "zero",
        "measure": args.measure,
        "seed": str(args.seed),
    }


def _files(study: Study, started: float, tick: Callable[[object], object]) -> dict[str, bytes]:
    """Every file of the report, by name."""
    # Here and not above: matplotlib is slow to import, and `kpref analyze --help` does not need it.
    from kpref.figures import draw_exhibits
    from kpref.metrics import metrics
    from kpref.report import render

    exhibits = draw_exhibits(study, tick)
    files = {panel.name: panel.png for exhibit in exhibits for panel in exhibit.panels}
    study.facts["seconds"] = f"{time.monotonic() - started:.0f}"
    files["modes.npz"] = _modes_file(study.analyses)
    files["report.html"] = render(study, exhibits).encode()
    names = sorted([*files, "metrics.json"])
    content = {"program": "kpref", "files": names, **metrics(study)}
    files["metrics.json"] = json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False).encode()
    return files


def _modes_file(analyses: Sequence[Analysis]) -> bytes:
    arrays: dict[str, Any] = {}
    for analysis in analyses:
        prefix = f"{analysis.name}/"
        arrays[f"{prefix}mu"] = analysis.space.mu
        arrays[f"{prefix}ntk_values"] = analysis.ntk_modes.values
        # Single precision halves a large file; the eigenfunctions are orthonormal to 1e-7 all the same.
        arrays[f"{prefix}ntk_modes"] = analysis.ntk_modes.vectors.astype(np.float32)
        arrays[f"{prefix}propagator_values"] = analysis.propagator_modes.values
        arrays[f"{prefix}propagator_modes"] = analysis.propagator_modes.vectors.astype(np.float32)
        arrays[f"{prefix}propagator_trials"] = analysis.propagator_modes.blocks
        arrays[f"{prefix}kernel_values"] = analysis.kernel.values
        arrays[f"{prefix}kernel_modes"] = analysis.kernel_modes.vectors.astype(np.float32)
        arrays[f"{prefix}kernel_units"] = analysis.kernel_modes.blocks
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def _summary(study: Study, out: Path) -> int:
    for analysis in study.analyses:
        parts = [f"{analysis.name}:"]
        if analysis.loss is not None:
            parts.append(f"loss {analysis.loss:.4g},")
        if analysis.accuracy is not None:
            parts.append(f"accuracy {analysis.accuracy:.2%},")
        checks = analysis.check.checks
        failed = [check.name for check in checks if not check.passed]
        parts.append(f"{len(checks) - len(failed)} of {len(checks)} self-checks passed")
        print(" ".join(parts) + (f"; FAILED: {', '.join(failed)}" if failed else ""))
    print(f"report: {out / 'report.html'}")
    return 0 if all(analysis.check.passed for analysis in study.analyses) else 1


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a positive integer, got {text!r}")
    return int(text)


def _seed(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"expected a non-negative integer, got {text!r}")
    return int(text)
