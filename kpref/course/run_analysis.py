"""`analyze_run`: every checkpoint of a training in turn, kept as it is found, so that a kill costs one at most.

    RUN/course/DIGEST/step_00001000.json    the numbers
    RUN/course/DIGEST/step_00001000.npz     leading modes of the NTK, where the search of the next checkpoint begins

The digest is that of all that the numbers follow from: what was asked for, trials, the bytes of the checkpoints, the
version. So an analysis that is resumed comes to the same numbers, and one that is asked for other things does not take
these for them. Modes are written before the numbers, and removed when the next checkpoint has its own.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kpref._archives import replacing
from kpref._types import Array
from kpref._validate import flag, function, integer
from kpref._version import __version__
from kpref.analysis.folders import require_replaceable, write_folder
from kpref.analysis.request import Request, Spelling
from kpref.course.measures import Curve, Number, flow_of, measure
from kpref.course.run_record import RunRecord, read_run, request_of
from kpref.flow import Flow
from kpref.trials import Trials

__all__ = ["Course", "analyze_run"]

Tell = Callable[[str], object]


@dataclass(frozen=True, eq=False)
class Course:
    """What `analyze_run` found: ``course["loss"]`` is a `Curve`; the names are those of `kpref.course.measures`.

    Attributes
    ----------
    path : Path
        Folder of the training.
    curves : mapping of str to Curve
    request : Request
        What was asked for, of the last checkpoint.
    seconds : float
        That it took.
    """

    path: Path
    curves: Mapping[str, Curve]
    request: Request
    seconds: float

    def __getitem__(self, name: str) -> Curve:
        return self.curves[name]

    def __repr__(self) -> str:
        steps = self["dimension_K"].steps
        return f"Course({len(self.curves)} quantities at {len(steps)} checkpoints, of {self.path})"

    @property
    def table(self) -> str:
        """All numbers as CSV: a line for each quantity and checkpoint, nothing where a number is not defined."""
        file = io.StringIO()
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(["step", "quantity", "value", "standard_error", "trial_error"])
        for name, curve in self.curves.items():
            for row in zip(curve.steps, curve.values, curve.errors, curve.trial_errors, strict=True):
                numbers = (repr(float(number)) if math.isfinite(number) else "" for number in row[1:])
                lines.writerow([int(row[0]), name, *numbers])
        return file.getvalue()

    def save(self, folder: str | os.PathLike[str], figures: str = "png") -> Path:
        """Write ``report.html``, its figures, the table ``course.csv`` and ``metrics.json``, as `Report.save` does.

        Parameters
        ----------
        folder : path
            Does not exist, or is empty, or is a report of kpref, which is replaced in one step.
        figures : {"png", "svg", "pdf"}
            Format of the figures beside the page.
        """
        from kpref.course.run_report import report_files

        path = require_replaceable(folder)
        write_folder(path, report_files(self, figures))
        return path


def analyze_run(
    folder: str | os.PathLike[str],
    trials: Trials | str | os.PathLike[str] | None = None,
    *,
    out: str | os.PathLike[str] | None = None,
    checkpoints: int | None = None,
    modes: int | None = None,
    max_trials: int | None = None,
    fast: bool = False,
    thorough: bool = False,
    seed: int = 0,
    figures: str = "png",
    progress: Tell | None = None,
    spell: Spelling = str,
    called: str = "kpref.course.analyze_run",
) -> Course:
    """Analyze checkpoint after checkpoint of a training.

    Parameters
    ----------
    folder : path
        Of `kpref.train`, of a network that PyTorch has names for. Loss, `at` and method are those of the training; the
        regularisers are left out, and operators are those of the parameters that it trained, without z0.
    trials : Trials or path, optional
        By default ``trials.npz`` of the folder: those that it was trained on, or of a task those of the first step.
    out : path, optional
        Folder to write a report to, see `Course.save`.
    checkpoints : int, optional
        How many, evenly spread from the first to the last; by default all.
    modes, max_trials, fast, thorough, seed
        As for `kpref.analyze`.
    figures : {"png", "svg", "pdf"}
    progress : callable, optional
        Is told what is done.
    spell, called
        How arguments, and the whole, are called where they were asked for.

    Returns
    -------
    Course

    Raises
    ------
    ValueError, TypeError, OSError, MemoryError
        If the folder holds no training, something in it is damaged, or an argument is wrong; before anything is
        computed.
    """
    began = time.monotonic()
    checkpoints = None if checkpoints is None else integer(spell("checkpoints"), checkpoints, least=1)
    if progress is not None:
        function("progress", progress, "a text")
    fast, thorough = flag(spell("fast"), fast), flag(spell("thorough"), thorough)
    place = None if out is None else require_replaceable(out)
    run = read_run(folder).spread(checkpoints)
    given: Any = run.path / "trials.npz" if trials is None else trials
    options = {
        "modes": modes, "max_trials": max_trials, "fast": fast, "thorough": thorough, "seed": seed, "called": called,
    }  # fmt: skip
    whole = given if isinstance(given, Trials) else Trials.load(given)
    requests = {step: request_of(run, step, whole, spell, **options) for step in run.checkpoints}
    _require_one_network(run, requests)
    found = dict(_numbers(run, requests, progress or (lambda _: None)))
    course = Course(run.path, _curves(found), requests[max(requests)], time.monotonic() - began)
    if place is not None:
        course.save(place, figures)
    return course


def _require_one_network(run: RunRecord, requests: Mapping[int, Request]) -> None:
    """ValueError, naming the file, unless the arrays of all checkpoints have the shapes of the first one's."""
    (first, *others), kinds = requests, {}
    for step, request in requests.items():
        model, readout = request.networks[0].model, request.networks[0].readout
        shapes = {name: array.shape for name, array in model.parameters.items()}
        kinds[step] = type(model), shapes, None if readout is None else readout.weight.shape
    for step in others:
        if kinds[step] != kinds[first]:
            here, there = (requests[each].networks[0] for each in (step, first))
            raise ValueError(
                f"{run.checkpoints[step]} is of another network, {here.model} with {here.readout}, than "
                f"{run.checkpoints[first].name}, {there.model} with {there.readout}; remove it to analyze the others"
            )


def _numbers(run: RunRecord, requests: Mapping[int, Request], tell: Tell) -> Iterator[tuple[int, dict[str, Number]]]:
    """Of one checkpoint after another, from the folder where they are known."""
    kept = run.path / "course" / _key(run, requests)
    kept.mkdir(parents=True, exist_ok=True)
    trainable, first_step, last_step = run.settings["trainable"], min(requests), max(requests)
    ends: dict[int, Flow] = {}  # made when the first number is missing
    before: Path | None = None
    for count, (step, request) in enumerate(requests.items(), 1):
        file, modes = kept / f"step_{step:08d}.json", kept / f"step_{step:08d}.npz"
        numbers = _read(file)
        if numbers is None:
            tell(f"step {step:,}, checkpoint {count} of {len(requests)}")
            if not ends:
                ends.update({end: flow_of(requests[end], trainable) for end in (first_step, last_step)})
            flow = ends[step] if step in ends else flow_of(request, trainable)
            start = None if before is None else _modes(before)
            numbers, vectors = measure(request, flow, ends[first_step], ends[last_step], start)
            with replacing(modes) as opened:
                np.savez(opened, modes=vectors)
            _write(file, numbers)
        if before is not None:
            before.unlink(missing_ok=True)
        before = modes
        yield step, numbers
    if before is not None:
        before.unlink(missing_ok=True)


def _modes(file: Path) -> Array | None:
    """Those of the checkpoint before: they are there whenever the next numbers are not, unless somebody took them."""
    if not file.exists():
        return None
    with np.load(file, allow_pickle=False) as arrays:
        return np.asarray(arrays["modes"])


def _key(run: RunRecord, requests: Mapping[int, Request]) -> str:
    request = requests[min(requests)]
    asked = (
        __version__, request.objective, request.integration, request.modes, request.measure, request.seed,
        request.effort, run.settings["trainable"],
    )  # fmt: skip
    digest = hashlib.sha256(repr(asked).encode())
    for name, array in sorted(request.trials.arrays.items()):
        digest.update(f"{name}{array.dtype}{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    for file in run.checkpoints.values():
        digest.update(f"{file.name}{hashlib.sha256(file.read_bytes()).hexdigest()}".encode())
    return digest.hexdigest()[:16]


def _read(file: Path) -> dict[str, Number] | None:
    """What is kept of a checkpoint; None if nothing is, or it is damaged."""
    try:
        return {
            name: Number(*(math.nan if part is None else float(part) for part in parts))
            for name, parts in json.loads(file.read_bytes()).items()
        }
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def _write(file: Path, numbers: Mapping[str, Number]) -> None:
    plain = {
        name: [part if math.isfinite(part) else None for part in (one.value, one.error, one.trial_error)]
        for name, one in numbers.items()
    }
    with replacing(file) as opened:
        opened.write(json.dumps(plain, indent=1).encode())


def _curves(found: Mapping[int, Mapping[str, Number]]) -> dict[str, Curve]:
    steps = np.array(list(found))
    unknown = Number(math.nan)

    def curve(name: str) -> Curve:
        numbers = [of.get(name, unknown) for of in found.values()]
        columns = (np.array([getattr(one, part) for one in numbers]) for part in ("value", "error", "trial_error"))
        return Curve(steps, *columns)

    names = dict.fromkeys(name for of in found.values() for name in of)
    return {name: curve(name) for name in names}
