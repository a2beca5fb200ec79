"""Networks as plain data, and back: a name by which they are registered, options as JSON has them, arrays by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from kpref.models.base import Array, Model
from kpref.models.registry import registered, registration_of

__all__ = ["OPTION", "PARAMETER", "described", "rebuilt"]

#: What names of arrays begin with.
PARAMETER, OPTION = "parameter/", "option/"


def described(model: Model) -> tuple[dict[str, Any], dict[str, Array]]:
    """A network as plain data.

    Parameters
    ----------
    model : Model
        Of a registered kind.

    Returns
    -------
    description : dict
        As JSON takes it: ``model``, ``options`` (as of the class), ``parameters`` (names in order), ``trainable``.
    arrays : dict of str to ndarray
        ``parameter/<name>``, and ``option/<name>`` of options that are arrays; in float64.

    Raises
    ------
    TypeError
        If its kind is not registered, as a class of the user's is not.
    """
    known = registration_of(model)
    if known is None:
        raise TypeError(f"only {', '.join(registered())} have a description; got {model}")
    large = {name: value for name, value in model.options.items() if isinstance(value, np.ndarray)}
    description = {
        "model": known.name,
        "options": {name: value for name, value in model.options.items() if name not in large},
        "parameters": list(model.parameters),
        "trainable": list(model.trainable),
    }
    arrays = {f"{PARAMETER}{name}": value for name, value in model.parameters.items()}
    return description, arrays | {f"{OPTION}{name}": np.asarray(value, dtype=float) for name, value in large.items()}


def rebuilt(description: Mapping[str, Any], arrays: Mapping[str, Array]) -> Model:
    """The network that `described` described; of the description, ``parameters`` and ``trainable`` may be missing.

    Raises ValueError if something else is missing, or does not fit: what has a default must be there too.
    """
    try:
        known = registered()[description["model"]]
        given = [name.removeprefix(PARAMETER) for name in arrays if name.startswith(PARAMETER)]
        wanted = description.get("parameters", given)
        parameters = {name: arrays[PARAMETER + name] for name in wanted if name in given}
        large = {name.removeprefix(OPTION): value for name, value in arrays.items() if name.startswith(OPTION)}
        options = {**description["options"], **large}
        _require_no_loss(known.name, wanted, parameters)
        kind: Any = known.kind
        model: Model = kind(**parameters, **options, trainable=description.get("trainable"))
        model_is_right = known.describes(model)
    except (KeyError, TypeError) as error:
        raise ValueError(f"the description of a network is incomplete or of another kind: {error}") from error
    _require_no_loss(known.name, [*model.parameters, *model.options], {**parameters, **options})
    left = [name for name in given if name not in parameters]
    if left:
        raise ValueError(f"the description of a network does not know the arrays {', '.join(left)}")
    if not model_is_right:
        raise ValueError(f"the description of a network is of another kind: {known.name} with {options}")
    return model


def _require_no_loss(network: str, wanted: Iterable[str], there: Mapping[str, Any]) -> None:
    """Raise ValueError if a parameter or an option is not there, whether or not the class has a default for it."""
    lost = [name for name in wanted if name not in there]
    if lost:
        raise ValueError(f"the description of a network is incomplete: {network} has {', '.join(lost)} too")
