"""Memory for temporary arrays along a linearisation, kept from one product to the next.

A large array that is allocated anew costs a page fault for every few KiB, a tenth of the time of a product or more:
the memory of the last one goes back to the system when it is freed. What is kept here belongs to the linearisation and
goes with it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from kpref.linearize import DenseForm, SiteForm

__all__ = ["scratch"]

Array = npt.NDArray[Any]

#: Buffers that are kept for a linearisation; those for many vectors at once, larger than two tensors, are not.
_MOST_BUFFERS, _MOST_TENSORS = 2, 2
_spare: WeakKeyDictionary[SiteForm | DenseForm, list[Array]] = WeakKeyDictionary()


@contextmanager
def scratch(form: SiteForm | DenseForm, shape: tuple[int, ...]) -> Iterator[Array]:
    """An array in the precision of `form`, of any content, that nobody may use after the with block.

    Threads may ask for as many at once as they like: no two get the same memory.
    """
    needed = math.prod(shape) * form.dtype.itemsize
    buffers = _spare.setdefault(form, [])
    try:
        buffer = buffers.pop()
    except IndexError:
        buffer = np.empty(0, np.uint8)
    if buffer.nbytes < needed:
        buffer = np.empty(needed, np.uint8)
    try:
        yield buffer[:needed].view(form.dtype).reshape(shape)
    finally:
        tensor = form.n_trials * form.n_steps * form.n_states * form.dtype.itemsize
        if len(buffers) < _MOST_BUFFERS and buffer.nbytes <= _MOST_TENSORS * tensor:
            buffers.append(buffer)
