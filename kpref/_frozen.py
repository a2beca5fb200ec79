"""Objects whose arrays nobody can write: their copies and what is unpickled of them neither.

NumPy makes the arrays of a deep copy, and those that it unpickles, writeable.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, NoReturn, Self

import numpy as np

__all__ = ["Frozen", "FrozenDict", "MadeOfFunctions", "freeze"]


class Frozen:
    """Base of objects with read-only arrays among their attributes, or in mappings among these."""

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        for value in state.values():
            freeze(value)
        self.__dict__.update(state)


class MadeOfFunctions(Frozen):
    """Base of objects that hold functions without a name: they can be copied, but a pickle cannot hold them."""

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError(
            f"a {type(self).__name__} cannot be pickled, as it is made of functions: pickle the model, the inputs and "
            "the initial states, and make it again from them"
        )

    def __copy__(self) -> Self:
        return self._with_state(dict(self.__dict__))

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self._with_state(copy.deepcopy(self.__dict__, memo))

    def _with_state(self, state: Mapping[str, Any]) -> Self:
        other = object.__new__(type(self))
        other.__setstate__(state)
        return other


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
