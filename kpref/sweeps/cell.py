"""One cell of a sweep: a network is made and trained, or read, and measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from kpref.analysis.settings import Objective
from kpref.checkpoints import load_checkpoint
from kpref.rules import get as get_rule
from kpref.spectra import Estimate
from kpref.sweeps.cell_metrics import METRICS, Measured
from kpref.threads import serial_blas
from kpref.training import train
from kpref.training.ingredients import Given, fresh_trials, given, random_network
from kpref.trials import Trials

__all__ = ["Numbers", "run_cell"]

#: Metrics by name: each a value and its standard error, 0 of what is exact; None of what is not finite.
Numbers = dict[str, tuple[float | None, float | None]]


def run_cell(settings: Mapping[str, Any], metrics: Sequence[str]) -> Numbers:
    """Metrics of the network of a cell, whose settings are complete (`kpref.sweeps.cell_settings.completed`).

    Raises whatever comes of making, training and measuring it.
    """
    what = given(settings.get("task"), settings.get("trials"), settings.get("loss"), settings.get("at"))
    measured = _read(settings, what) if "checkpoint" in settings else _trained(settings, what)
    return {name: _numbers(serial_blas(METRICS[name].function)(measured)) for name in metrics}


def _trained(settings: Mapping[str, Any], what: Given) -> Measured:
    model, readout = random_network(settings["model"], what, settings["units"], settings["seed"], settings["gain"])
    rule = settings.get("rule")
    names = ("steps", "batch_size", "optimizer", "learning_rate", "clip", "weight_decay", "activity", "dtype", "seed")
    result = train(
        model, readout, what.source, loss=what.loss, at=what.at, rule=None if rule is None else get_rule(rule),
        trainable=settings.get("trainable"), **{name: settings[name] for name in names if name in settings},
        **_options(settings),
    )  # fmt: skip
    history = result.history.loss
    return Measured(
        result.model, result.readout, result.z0, first=model, first_z0=model.start,
        training_loss=float(history[-1]) if len(history) else math.nan, **_shared(settings, what),
    )  # fmt: skip


def _read(settings: Mapping[str, Any], what: Given) -> Measured:
    found = load_checkpoint(settings["checkpoint"])
    return Measured(found[0], found[1], found.z0, **_shared(settings, what))


def _shared(settings: Mapping[str, Any], what: Given) -> dict[str, Any]:
    trainable = settings.get("trainable")
    return {
        "trials": _trials(settings, what),
        "objective": Objective(what.loss, what.at),
        "trainable": None if trainable is None else tuple(trainable),
        "options": _options(settings),
        "seed": settings["seed"],
    }


def _trials(settings: Mapping[str, Any], what: Given) -> Trials:
    if isinstance(what.source, Trials):
        return what.source
    return fresh_trials(settings["task"], settings["fresh_trials"], settings["seed"])


def _options(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: settings[name] for name in ("dt", "method") if name in settings}


def _numbers(found: float | Estimate) -> tuple[float | None, float | None]:
    value, error = (found.value, found.standard_error) if isinstance(found, Estimate) else (found, 0.0)
    return _finite(value), _finite(error)


def _finite(number: float) -> float | None:
    return float(number) if math.isfinite(number) else None
