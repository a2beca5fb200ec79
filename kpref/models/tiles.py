"""The array that a compiled function of a unit reads and writes: see `kpref.models.units`."""

from __future__ import annotations

__all__ = ["FIELDS", "ROW", "TILE"]

#: Units of a tile, and the most numbers of one.
TILE, FIELDS = 128, 40

#: Where each row of a tile starts.
ROW = tuple(row * TILE for row in range(FIELDS))
