"""What a folder of `kpref.train` says of its training: settings, checkpoints, trials."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors

from kpref._archives import reason
from kpref._validate import path_like
from kpref.analysis.request import Request, Spelling, prepare
from kpref.analysis.runs import evenly_spread

__all__ = ["RunRecord", "read_run", "request_of"]

_NAME = re.compile(r"step_(\d{8,})\.safetensors")


@dataclass(frozen=True)
class RunRecord:
    """A training that is, or was, made in a folder.

    Attributes
    ----------
    path : Path
    settings : mapping
        Of `kpref.train`, as ``run.json`` has them.
    checkpoints : mapping of int to Path
        By the number of steps that had been taken, ascending.
    """

    path: Path
    settings: Mapping[str, Any]
    checkpoints: Mapping[int, Path]

    def spread(self, number: int | None) -> RunRecord:
        """With at most so many checkpoints, evenly spread from the first to the last."""
        steps = list(self.checkpoints)
        chosen = steps if number is None else [steps[index] for index in evenly_spread(len(steps), number)]
        return RunRecord(self.path, self.settings, {step: self.checkpoints[step] for step in chosen})


def read_run(folder: Any) -> RunRecord:
    """Read a folder of `kpref.train`.

    Raises
    ------
    ValueError
        If it is none, or holds no checkpoint that can be loaded.
    OSError
        If it cannot be read.
    """
    path = path_like("folder", folder)
    file = path / "run.json"
    if not file.is_file():
        raise ValueError(f"{path} is no folder of a training by kpref train: it has no run.json")
    try:
        settings = json.loads(file.read_bytes())["settings"]
        settings["loss"], settings["at"], settings["trainable"], settings["options"].items()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} is no record of a training: {reason(error)}") from error
    found = {int(match[1]): entry for entry in path.iterdir() if (match := _NAME.fullmatch(entry.name))}
    if not found:
        why = "none was written yet, or its network is a class of your own, which kpref has no file for"
        raise ValueError(f"the folder {path} holds no checkpoint step_*.safetensors: {why}")
    return RunRecord(path, settings, dict(sorted(found.items())))


def request_of(run: RunRecord, step: int, trials: Any, spell: Spelling, **options: Any) -> Request:
    """One of the checkpoints on trials, with the loss and the method that it was trained with.

    `options`: further arguments of `kpref.analysis.request.prepare`.
    Raises as that does.
    """
    file, settings = run.checkpoints[step], run.settings
    method = {name: ast.literal_eval(text) for name, text in settings["options"].items()}
    if "times" in method:
        raise ValueError(f"the training in {run.path} had times of its own; only those with dt can be analyzed")
    try:
        with safetensors.safe_open(file, "numpy") as arrays:
            has_start = "z0" in arrays.keys()  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise ValueError(f"{file} is damaged: {reason(error)}") from error
    return prepare(
        [file], trials, loss=settings["loss"], at=settings["at"], spell=spell,
        loading={"z0": "z0"} if has_start else {}, **method, **options,
    )  # fmt: skip
