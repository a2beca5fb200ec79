"""Objects whose arrays nobody can write: their copies and what is unpickled of them neither.

NumPy makes the arrays of a deep copy, and those that it unpickles, writeable.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterable, Mapping
from functools import partial
from types import FunctionType
from typing import Any, Self

import numpy as np

__all__ = ["Frozen", "FrozenDict", "MadeOfFunctions", "freeze"]


class Frozen:
    """Base of objects with read-only arrays among their attributes, or in mappings among these."""

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        for value in state.values():
            freeze(value)
        self.__dict__.update(state)


class MadeOfFunctions(Frozen):
    """Base of objects that hold functions of the user's: they pickle if a pickle can tell them by their names.

    Copies share functions, which need no name for that.
    """

    def __getstate__(self) -> dict[str, Any]:
        for attribute, value in vars(self).items():
            nameless = _nameless(value)
            if nameless is not None:
                raise TypeError(
                    f"{self._called} cannot be pickled, as its {attribute.strip('_')} is made of {nameless}, which is "
                    "not found under this name: define it by def at the top level of a module"
                )
        return dict(vars(self))

    @property
    def _called(self) -> str:
        """What the error calls it."""
        return f"a {type(self).__name__}"

    def __copy__(self) -> Self:
        return self._with_state(dict(vars(self)))

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self._with_state(copy.deepcopy(vars(self), memo))

    def _with_state(self, state: Mapping[str, Any]) -> Self:
        other = object.__new__(type(self))
        other.__setstate__(state)
        return other


def _nameless(value: Any) -> str | None:
    """The function in a value that cannot be found by its name, if there is one; cloudpickle needs no names."""
    if "cloudpickle" in sys.modules:
        return None
    if isinstance(value, partial):
        parts: Iterable[Any] = (value.func, *value.args, *value.keywords.values())
    elif isinstance(value, Mapping):
        parts = value.values()
    elif isinstance(value, tuple | list):
        parts = value
    elif isinstance(value, FunctionType):
        found: Any = sys.modules.get(value.__module__)
        for name in value.__qualname__.split("."):
            found = getattr(found, name, None)
        return None if found is value else f"{value.__module__}.{value.__qualname__}"
    else:
        return None
    return next((name for name in map(_nameless, parts) if name is not None), None)


class FrozenDict(dict[str, Any]):
    """A dict of read-only arrays that cannot be changed in place; unlike a mapping proxy it can be pickled."""

    def __init__(self, items: Mapping[str, Any]) -> None:
        super().__init__(items)
        freeze(self)

    def _refuse(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("parameters cannot be changed in place; with_parameters makes a model with others")

    __setitem__ = __delitem__ = __ior__ = _refuse  # type: ignore[assignment]
    clear = pop = popitem = setdefault = update = _refuse  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (dict(self),)


def freeze(value: Any) -> None:
    """Make an array, or the arrays in a mapping, read-only."""
    if isinstance(value, np.ndarray):
        value.flags.writeable = False
    elif isinstance(value, Mapping):
        for item in value.values():
            freeze(item)
