"""What errors of a factor do to the dimension of its Gram operator beyond first order.

Of ``ln(tr(G)^2 / |G|^2)``, G = D D^T, errors of D that all conspire may move the second order by a multiple of
``|dD|^2 / |G|``, as great as if all of them stood along the leading eigenvector. Random ones do not: what they do is
what both signs do on average, ``(D + dD)(D + dD)^T = G + B + B^T + C`` with B = D dD^T and C = dD dD^T.
"""

from __future__ import annotations

import numpy as np

from kpref._types import Array
from kpref.threads import serial_blas

__all__ = ["beyond_first_order"]


@serial_blas
def beyond_first_order(factor: Array, errors: Array | None, size: float) -> float:
    """Root mean square of what random errors of this size do to the logarithm of a dimension beyond first order.

    `factor`: (M, n). `errors`: those of it, first axis, of any size; without them it is infinite.
    """
    if errors is None:
        return np.inf
    drawn = errors.reshape(len(errors), *factor.shape)
    if len(factor) > factor.shape[1]:
        factor, drawn = factor.T, drawn.swapaxes(1, 2)
    length = np.sqrt(np.square(drawn).sum() / len(drawn))
    if not 0 < length < np.inf:
        return np.inf
    right, found = factor @ factor.T, []
    for error in drawn:
        error = size / length * error
        first, second = factor @ error.T, error @ error.T
        grams = (right + sign * (first + first.T) + second for sign in (-1.0, 1.0))
        found.append(np.mean([_log_dimension(gram) for gram in grams]) - _log_dimension(right))
    return float(np.sqrt(np.mean(np.square(found))))


def _log_dimension(gram: Array) -> float:
    """``ln(tr^2 / |.|^2)``."""
    return float(2 * np.log(np.trace(gram) / np.linalg.norm(gram)))
