"""Optimisers: how a vector of parameters follows its gradients, in place, with a state of a few arrays.

With g the gradient at a step t = 1, 2, ... and eta the learning rate, all as PyTorch defines them:

    gradient descent    theta -= eta g
    momentum m          v = m v + g,   theta -= eta v,   by Nesterov theta -= eta (g + m v)
    Adam                a = b1 a + (1 - b1) g,   c = b2 c + (1 - b2) g^2,
                        theta -= eta / (1 - b1^t) a / (sqrt(c) / sqrt(1 - b2^t) + eps)
    AdamW               theta *= 1 - eta w first

(Sutskever et al. 2013; Kingma and Ba, arXiv:1412.6980; Loshchilov and Hutter, arXiv:1711.05101.) A state is made of
arrays alone, so that what is saved of it and loaded goes on to the same bits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from kpref._types import Array
from kpref._validate import flag, instance, one_of, real_number, short
from kpref.kernels.updates import adam_step

__all__ = ["OPTIMIZERS", "Adam", "GradientDescent", "Optimizer", "State", "clip_norm", "get_optimizer"]

#: Arrays by name.
State = dict[str, Array]


class Optimizer(Protocol):
    """What training needs of an optimiser."""

    def start(self, vector: Array) -> State:
        """The state before the first step."""

    def update(self, vector: Array, gradient: Array, state: State, learning_rate: float) -> None:
        """Change `vector` and `state` in place; `gradient` is free to be overwritten.

        Raises ValueError or TypeError, before anything is changed, if the three do not belong together.
        """


@dataclass(frozen=True)
class GradientDescent:
    """Gradient descent, with momentum or without.

    Parameters
    ----------
    momentum : float
        In [0, 1).
    nesterov : bool
        Only with momentum.
    """

    momentum: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        momentum = real_number("momentum", self.momentum, least=0, below=1)
        if flag("nesterov", self.nesterov) and not momentum:
            raise ValueError(f"nesterov needs a momentum above 0; got {self.momentum}")

    def start(self, vector: Array) -> State:
        """See `Optimizer`."""
        return {"velocity": np.zeros_like(vector)} if self.momentum else {}

    def update(self, vector: Array, gradient: Array, state: State, learning_rate: float) -> None:
        """See `Optimizer`."""
        _require_rows(vector, gradient=gradient, **state)
        if self.momentum:
            velocity = state["velocity"]
            velocity *= vector.dtype.type(self.momentum)
            velocity += gradient
            if self.nesterov:
                gradient += vector.dtype.type(self.momentum) * velocity
            else:
                gradient = velocity
        vector -= vector.dtype.type(learning_rate) * gradient


@dataclass(frozen=True)
class Adam:
    """Adam; with `decay` AdamW.

    Parameters
    ----------
    beta1, beta2 : float
        In [0, 1).
    epsilon : float
        Positive.
    decay : float
        w, decoupled from the gradient.
    """

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    decay: float = 0.0

    def __post_init__(self) -> None:
        for name in ("beta1", "beta2"):
            real_number(name, getattr(self, name), least=0, below=1)
        real_number("epsilon", self.epsilon, above=0)
        real_number("decay", self.decay, least=0)

    def start(self, vector: Array) -> State:
        """See `Optimizer`."""
        return {
            "step": np.zeros(1, np.int64), "mean": np.zeros_like(vector), "square": np.zeros_like(vector)
        }  # fmt: skip

    def update(self, vector: Array, gradient: Array, state: State, learning_rate: float) -> None:
        """See `Optimizer`."""
        _require_rows(vector, gradient=gradient, mean=state["mean"], square=state["square"])
        state["step"] += 1
        number, kind = int(state["step"][0]), vector.dtype.type
        if self.decay:
            vector *= kind(1 - learning_rate * self.decay)
        adam_step(
            vector, gradient, state["mean"], state["square"],
            kind(self.beta1), kind(1 - self.beta1), kind(self.beta2), kind(1 - self.beta2),
            kind(math.sqrt(1 - self.beta2**number)), kind(self.epsilon),
            kind(learning_rate / (1 - self.beta1**number)),
        )  # fmt: skip


def _require_rows(vector: Array, **others: Array) -> None:
    """See that the others are rows as long as the vector: compiled loops would go on beyond the end of shorter ones."""
    instance("vector", vector, np.ndarray, "an array, which is changed in place")
    if vector.ndim != 1 or vector.dtype.kind != "f" or not vector.flags.writeable:
        raise ValueError(f"vector must be one row of floating-point numbers that may be written; got {short(vector)}")
    for name, array in others.items():
        instance(name, array, np.ndarray, "an array")
        if array.shape != vector.shape:
            raise ValueError(f"{name} must have the shape {vector.shape} of the vector; got {array.shape}")


#: By name, with what each is by default.
OPTIMIZERS: dict[str, Optimizer] = {
    "gradient": GradientDescent(),
    "momentum": GradientDescent(momentum=0.9),
    "nesterov": GradientDescent(momentum=0.9, nesterov=True),
    "adam": Adam(),
    "adamw": Adam(decay=0.01),
}


def get_optimizer(optimizer: str | Optimizer) -> Optimizer:
    """An optimiser by its name, or as it is.

    Raises
    ------
    ValueError
        For another name.
    """
    if isinstance(optimizer, GradientDescent | Adam):
        return optimizer
    one_of("optimizer", optimizer, OPTIMIZERS)
    assert isinstance(optimizer, str)
    return OPTIMIZERS[optimizer]


def clip_norm(gradient: Array, most: float | None) -> float:
    """Scale a gradient in place to a norm of at most `most`, as PyTorch's ``clip_grad_norm_``; returns its norm before.

    None leaves it as it is.

    Raises
    ------
    TypeError, ValueError
        If the gradient is no array of floating-point numbers with one axis, or `most` is not above 0.
    """
    instance("gradient", gradient, np.ndarray, "an array, which is scaled in place")
    if gradient.ndim != 1 or gradient.dtype.kind != "f":
        raise ValueError(f"gradient must be one row of floating-point numbers; got {short(gradient)}")
    if most is not None:
        real_number("most", most, above=0)
    norm = math.sqrt(float(np.einsum("i,i->", gradient, gradient, dtype=np.float64)))
    if most is not None and norm > most:
        gradient *= gradient.dtype.type(most / (norm + 1e-6))
    return norm
