"""A tensor over trials, time and units as one number for each trial and time, to be drawn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kpref._reprs import short_repr
from kpref._types import Array
from kpref.space import TrajectorySpace

__all__ = ["Profile", "leading_profile"]


@dataclass(frozen=True, eq=False)
class Profile:
    """The best one-dimensional picture of a tensor (B, T, H)."""

    amplitude: Array  # (B, T): its component along `direction`
    # (H,): the unit vector of state space that holds most of it (the leading right singular vector of the (B T, H)
    # matrix)
    direction: Array
    share: float  # share of the squared norm that lies along `direction`

    __repr__ = short_repr


def leading_profile(tensor: Array, space: TrajectorySpace) -> Profile:
    """The direction of state space that holds most of a tensor (B, T, H), and the component along it."""
    weighted = space.weigh(tensor).reshape(-1, tensor.shape[2])
    values, vectors = np.linalg.eigh(weighted.T @ tensor.reshape(weighted.shape))
    amplitude = tensor @ vectors[:, -1]
    sign = np.sign(amplitude.flat[np.abs(amplitude).argmax()]) or 1.0
    total = values.sum()
    return Profile(sign * amplitude, sign * vectors[:, -1], float(values[-1] / total) if total > 0 else 0.0)
