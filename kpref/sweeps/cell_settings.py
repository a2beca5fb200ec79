"""The settings of a cell: their names, which are those of `kpref train`, what they may be, and their defaults."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from kpref._arguments import MOST_SEED
from kpref._validate import integer, near, real_number, short
from kpref.integrate import TABLEAUS
from kpref.loss import LOSSES
from kpref.models.registry import registered
from kpref.rules import RULES
from kpref.tasks import TASKS
from kpref.training import OPTIMIZERS
from kpref.training.ingredients import BATCH
from kpref.training.objective import AT

__all__ = ["FILES", "SETTINGS", "completed", "require_one_source"]

#: Settings that name a file.
FILES = ("trials", "checkpoint")

Check = Callable[[str, object], Any]


@dataclass(frozen=True)
class Setting:
    """A setting: ``check(name, value)`` returns the value in its normal form, or raises ValueError or TypeError."""

    check: Check
    default: Any = None
    #: Whether it says how a network is made and trained, and so has no part in what is measured of a checkpoint.
    of_training: bool = True


def _one_of(known: Collection[str]) -> Check:
    def check(name: str, value: object) -> str:
        if not isinstance(value, str) or value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}; got {short(value)}{near(value, known)}")
        return value

    return check


def _count(least: int) -> Check:
    return lambda name, value: integer(name, value, least=least, most=MOST_SEED)


def _positive(name: str, value: object) -> float:
    return real_number(name, value, above=0)


def _not_negative(name: str, value: object) -> float:
    return real_number(name, value, least=0)


def _file(name: str, value: object) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise TypeError(f"{name} must be a path; got {short(value)}")
    return value


def _names(name: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not value or not all(isinstance(one, str) for one in value):
        raise TypeError(f"{name} must be a list of names of parameters; got {short(value)}")
    return tuple(value)


SETTINGS: Mapping[str, Setting] = {
    "task": Setting(_one_of(TASKS), of_training=False),
    "trials": Setting(_file, of_training=False),
    "checkpoint": Setting(_file, of_training=False),
    "model": Setting(_one_of(registered()), "gru"),
    "units": Setting(_count(1), 64),
    "gain": Setting(_positive, 1.0),
    "steps": Setting(_count(0)),
    "batch_size": Setting(_count(1)),
    "optimizer": Setting(_one_of(tuple(OPTIMIZERS)), "adam"),
    "rule": Setting(_one_of(RULES)),
    "learning_rate": Setting(_positive, 1e-3),
    "clip": Setting(_positive),
    "weight_decay": Setting(_not_negative, 0.0),
    "activity": Setting(_not_negative, 0.0),
    "trainable": Setting(_names, of_training=False),
    "loss": Setting(_one_of(LOSSES), of_training=False),
    "at": Setting(_one_of(AT), of_training=False),
    "dtype": Setting(_one_of(("float32", "float64")), "float32"),
    "dt": Setting(_positive, of_training=False),
    "method": Setting(_one_of(TABLEAUS), of_training=False),
    "seed": Setting(_count(0), 0, of_training=False),
    "fresh_trials": Setting(_count(1), 100, of_training=False),
}
"""By name; the default None stands for what `kpref train` does without the option.

`fresh_trials` of a task, which no training has seen, are what metrics are of. `checkpoint` stands in place of a
training.
"""


def require_one_source(names: Collection[str]) -> None:
    """See that settings of these names say what network is measured, and on what.

    Raises ValueError if they do not, or say it twice.
    """
    if ("task" in names) == ("trials" in names):
        many = "both are" if "task" in names else "neither is"
        raise ValueError(f"either task or trials must be given, in [grid] or [fixed]; {many}")
    if "trials" in names and "fresh_trials" in names:
        raise ValueError("fresh_trials are drawn from a task; trials of a file are all measured")
    if "checkpoint" not in names:
        if "steps" not in names:
            raise ValueError("steps are needed, in [grid] or [fixed], where no checkpoint is given (0: none)")
        return
    for name in names:
        if SETTINGS[name].of_training:
            raise ValueError(f"{name} is of a training, in whose place a checkpoint stands: give one of the two")


def completed(chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with the defaults of those that were not given and have a part."""
    whole = dict(chosen)
    for name, setting in SETTINGS.items():
        if setting.default is None or (setting.of_training and "checkpoint" in chosen):
            continue
        if name == "fresh_trials" and "trials" in chosen:
            continue
        whole.setdefault(name, setting.default)
    if "task" in chosen and "checkpoint" not in chosen:
        whole.setdefault("batch_size", BATCH)
    return whole
