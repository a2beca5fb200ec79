"""Functions of synapses whose states are as wide as a weight: see `kpref.models.units` for what they read and write.

`kpref.models.multi_plasticity` derives them.
"""

from __future__ import annotations

from kpref.compiled.compilation import kernel, wide_vectors
from kpref.models.tiles import ROW

__all__ = ["modulated", "multiplied"]

_ONE, _TWO, _THREE, _FOUR, _FIVE = ROW[1:6]


@kernel
def modulated(tile, count, full):  # type: ignore[no-untyped-def]
    """In go M, x, W, out ``W (1 + M) x``; coefficient: presynaptic, W x; variable: modulated, ``(1 + M) x``."""
    wide_vectors()
    for i in range(count):
        x, weight = tile[_ONE + i], tile[_TWO + i]
        seen = (1.0 + tile[i]) * x
        tile[_THREE + i] = weight * seen
        if full:
            tile[_FOUR + i], tile[_FIVE + i] = weight * x, seen


@kernel
def multiplied(tile, count, full):  # type: ignore[no-untyped-def]
    """In go a, b, out their product; coefficient: that of a, which is b."""
    wide_vectors()
    for i in range(count):
        b = tile[_ONE + i]
        tile[_TWO + i] = tile[i] * b
        if full:
            tile[_THREE + i] = b
