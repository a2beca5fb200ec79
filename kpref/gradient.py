"""What gradient descent would do: to the parameters, to the dynamics, to the states; predicted and realised.

    grad_theta = D^T Mu Err,    df = -J grad_theta = -K P* Err,    dz = -D grad_theta = -P K P* Err

per unit learning rate, and the loss falls at the rate ``<Err, NTK Err>_X = |grad_theta|^2`` (Hazelden et al.,
arXiv:2507.06381).
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from kpref._validate import real_number
from kpref.loss import LossValue

if TYPE_CHECKING:
    from kpref.flow import Flow

__all__ = ["GradientFlow"]

Array = npt.NDArray[Any]


class GradientFlow:
    """Gradient descent on a loss, seen in parameters, dynamics and states. Made by `Flow.gradient_flow`.

    Attributes
    ----------
    flow : Flow
    loss_value : LossValue
    """

    def __init__(self, flow: Flow, loss_value: LossValue) -> None:
        self.flow, self.loss_value = flow, loss_value

    def __repr__(self) -> str:
        return f"GradientFlow({self.flow!r}, loss={self.loss:.6g})"

    @property
    def loss(self) -> float:
        """The loss L."""
        return self.loss_value.value

    @property
    def err(self) -> Array:
        """``Err``, shape (B, T, H): the derivative of the loss density by the states."""
        return self.loss_value.err

    @cached_property
    def grad_theta(self) -> Array:
        """Gradient of the loss by the trainable parameters, ``D^T Mu Err``, shape (M,), the readout held fixed."""
        return np.asarray(self.flow.D.T(self.flow.space.weigh(self.err)))

    @cached_property
    def df(self) -> Array:
        """Change of the dynamics per unit learning rate, ``-K P* Err``, shape (B, T, H)."""
        return np.asarray(-self.flow.J(self.grad_theta))

    @cached_property
    def dz(self) -> Array:
        """Predicted change of the states per unit learning rate, ``-P K P* Err``, shape (B, T, H)."""
        return np.asarray(-self.flow.D(self.grad_theta))

    @property
    def loss_rate(self) -> float:
        """Predicted change of the loss per unit learning rate, ``-|grad_theta|^2``."""
        return -self.flow.D.space_in.inner(self.grad_theta, self.grad_theta)

    def realised(self, eta: float) -> Array:
        """Change of the states, shape (B, T, H), after the parameter step ``-eta grad_theta``.

        It differs from ``eta * dz`` by O(eta^2). Costs a forward pass.

        Raises
        ------
        ValueError
            If `eta` is not finite, or the trajectory overflows after the step.
        """
        eta = real_number("eta", eta)
        model = self.flow.model
        after = self.flow.rerun(model.with_vector(model.vector - eta * self.grad_theta))
        return np.asarray(after - self.flow.states)
