"""Loss scaling: the gradient of a loss times a number, so that nothing on the way is too small for a narrow format.

Weights of the measure are 1/(B T): of a problem of 16 trials of 90 steps, derivatives of the loss by the states begin
at 7e-4 times the error, and float16 has few bits below 6e-5. So `torch.amp.GradScaler` multiplies the loss by a scale
s, 2^16 at first, and divides what comes by s where numbers are wide again. A backend that does so declares

    loss_scale    s, a power of two: ``gradient`` is ``J^T P^T (s Mu Err) / s``
    unscaled      False where ``gradient`` answers before it is divided by s, as ``p.grad`` is before
                  `GradScaler.unscale_`; by default it answers after

and is judged as the gradient of ``s Err``: the numbers on the way stay in the range of the arithmetic as they are, s
times as large, and so does the error tensor that is asked for. A rounding that loses what is tiny loses s times less.
Only an answer that is divided and then stored in the narrow format loses there what it would without a scale.
"""

from __future__ import annotations

from typing import Any, cast

from kpref._types import Array
from kpref.oracle.backend import Backend

__all__ = ["NOT_SCALED", "ScaledGradient", "scale_of"]

#: What is said of a backend that declares a scale and does without.
NOT_SCALED = "loss scale: numbers are lost that a scale would keep"

#: The gradient, and the other way to it, which no loss is behind.
_GRADIENT, _OTHER_WAY = "gradient", "gradient_T.rmatvec"


def scale_of(backend: Backend, operator: str) -> float:
    """What the argument of an operator is multiplied by, and its answer."""
    return backend.loss_scale if operator == _GRADIENT else 1.0


class ScaledGradient:
    """A backend whose gradient is asked for, and answers, as that of the scaled loss; all else is its own.

    The argument is s times a tensor that the arithmetic holds, which is what the backend is given.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    @staticmethod
    def around(backend: Backend) -> Backend:
        """The same backend where it declares no scale."""
        return cast(Backend, ScaledGradient(backend)) if backend.loss_scale != 1.0 else backend

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def __call__(self, operator: str, tensor: Array) -> Array:
        """See `Backend.__call__`."""
        into, out = self._factors(operator)
        return out * self._backend(operator, tensor / into)

    def answers(self, operator: str, first: Array, second: Array) -> tuple[Array, Array]:
        """See `Backend.answers`."""
        into, out = self._factors(operator)
        one, other = self._backend.answers(operator, first / into, second / into)
        return out * one, out * other

    def _factors(self, operator: str) -> tuple[float, float]:
        """What arguments are divided by and answers multiplied by: powers of two, which round nothing."""
        if operator not in (_GRADIENT, _OTHER_WAY):
            return 1.0, 1.0
        scale = self._backend.loss_scale
        return scale, scale if self._backend.unscaled or operator == _OTHER_WAY else 1.0
