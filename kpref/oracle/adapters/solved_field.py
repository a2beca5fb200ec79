"""What the adapters of solvers of differential equations have in common: their arguments, and what they offer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from kpref._types import Array
from kpref._validate import function, short

__all__ = ["SolvedField", "check_request", "check_shapes"]


def check_request(
    field: Any, parameters: Any, adjoint: str, adjoints: Sequence[str], step: float | None, tolerance: float | None
) -> None:
    """Raise TypeError or ValueError for arguments that no solver can take."""
    function("field", field, "(parameters, z, x)")
    if not isinstance(parameters, Mapping) or not parameters:
        raise TypeError(f"parameters must be a mapping from names to arrays, at least one; got {short(parameters)}")
    if adjoint not in adjoints:
        raise ValueError(f"adjoint must be {' or '.join(f'{name!r}' for name in adjoints)}; got {short(adjoint)}")
    if step is not None and tolerance is not None:
        raise ValueError("steps are of one size or chosen by a tolerance; got both step and tolerance")


def check_shapes(inputs: Any, z0: Any, times: Any) -> None:
    """Raise ValueError unless arrays, or tensors, are those of trials on one grid."""
    x, start, grid = (tuple(array.shape) for array in (inputs, z0, times))
    if len(x) != 3 or len(start) != 2 or start[0] != x[0] or grid != x[1:2]:
        raise ValueError(
            f"inputs, z0 and times must have shapes (B, N + 1, n_in), (B, H) and (N + 1,); got {x}, {start} and {grid}"
        )


class SolvedField(ABC):
    """The transpose of the derivative of a trajectory, in the forms that the oracle asks for.

    `states`: shape (B, N + 1, H).
    """

    _mu: Array  # (B, N + 1, 1)
    states: Any

    @abstractmethod
    def _gradients(self, g: npt.ArrayLike) -> tuple[Any, Any]:
        """``g . dZ`` by the parameters, (M,), and by the initial states, (B, H)."""

    def D_T(self, g: npt.ArrayLike) -> Any:
        """``D^T g``, D the derivative of the states by the parameters."""
        return self._gradients(g)[0]

    def gradient(self, err: npt.ArrayLike) -> Any:
        """``D^T Mu Err``."""
        return self._gradients(self._mu * np.asarray(err))[0]

    def gradient_z0(self, err: npt.ArrayLike) -> Any:
        """``D_z0^T Mu Err``."""
        return self._gradients(self._mu * np.asarray(err))[1]
