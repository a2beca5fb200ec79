"""Networks that `save_checkpoint` wrote under the names of kpref: kind, options and arrays, all of them in the file."""

from __future__ import annotations

import json

from kpref.checkpoints.recurrent import Recurrent
from kpref.checkpoints.sources import Source
from kpref.models.described import OPTION, PARAMETER, rebuilt
from kpref.models.registry import registered

__all__ = ["find_described"]


def find_described(found: Source) -> Recurrent | None:
    """The network of such a file; None if it is none.

    Raises ValueError if it is damaged, or of a kind that is not registered.
    """
    name, options = found.recorded.get("model", ""), found.recorded.get("options")
    arrays = {key: array for key, array in found.arrays.items() if key.startswith((PARAMETER, OPTION))}
    if options is None or not arrays:
        return None
    if name not in registered():
        raise ValueError(f"the recorded model {name!r} is none of {', '.join(registered())}")
    try:
        description = {"model": name, "options": dict(json.loads(options))}
    except (ValueError, TypeError, RecursionError):
        raise ValueError(f"the recorded options must be an object of JSON; got {options[:80]!r}") from None
    if "parameters" in found.recorded:
        description["parameters"] = _names(found.recorded["parameters"])
    model = rebuilt(description, arrays)
    return Recurrent(
        layers=(dict(model.parameters),),
        n_units=model.observed.stop - model.observed.start,
        n_inputs=model.n_inputs,
        name=next(iter(arrays)),
        used=frozenset(arrays),
        kind=name,
        options=model.options,
    )


def _names(recorded: str) -> list[str]:
    """The names of parameters, as they are recorded."""
    try:
        names = json.loads(recorded)
    except (ValueError, RecursionError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"the recorded parameters must be a list of names in JSON; got {recorded[:80]!r}")
    return names
