"""The networks that kpref knows, each registered by its own file: what loaders, commands, oracle and tests ask of one.

Whoever needs to go from a name to a network, from a file to a network, or over all of them, reads this list; nobody
else keeps one. A network that registers itself is read from checkpoints, timed, verified, and tested.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from kpref.models.base import Array, Field, Model

__all__ = ["Registration", "TorchLayout", "register", "registered", "registration_of"]


@dataclass(frozen=True)
class TorchLayout:
    """How a network is kept under PyTorch's names: ``weight_ih``, ``weight_hh``, ``bias_ih``, ``bias_hh`` by layer.

    Attributes
    ----------
    blocks : int
        Blocks of H rows that the recurrent weight of a layer has.
    biases : {"apart", "summed", "one"}
        Whether the two biases enter apart; or by their sum alone, so that the only one of a network may stand for
        either; or whether the model has one, called ``bias``, for their sum.
    options : tuple of str
        Arguments of the model that the arrays do not tell, such as "nonlinearity".
    optional : tuple of str
        More of them, which a network need not have.
    timed : str
        One of the options that may be an array beside the weights, one number a unit, because it is trained; empty if
        none may.
    several : bool
        Whether the model has layers one above the other, and arrays ``weight_ih_l0``, ``weight_ih_l1``, ...
    told : bool
        Whether the shapes of the arrays tell that it is this network; if not, it is read where a file says so or the
        reader is asked for it.
    """

    blocks: int
    biases: Literal["apart", "summed", "one"] = "apart"
    options: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    timed: str = ""
    several: bool = False
    told: bool = True

    def to_model(self, layers: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
        """Parameters of the model, by its own names, of the arrays of each layer."""
        if self.several:
            return {f"{name}_l{number}": array for number, layer in enumerate(layers) for name, array in layer.items()}
        (layer,) = layers
        if self.biases != "one":
            return dict(layer)
        biases = [layer[name] for name in ("bias_ih", "bias_hh") if name in layer]
        weights = {name: layer[name] for name in ("weight_ih", "weight_hh")}
        return {**weights, "bias": sum(biases[1:], biases[0])} if biases else weights

    def from_model(self, parameters: Mapping[str, Array]) -> dict[str, Array]:
        """The parameters of a model under PyTorch's names, ``weight_ih_l0`` and so on."""
        if self.several:
            return dict(parameters)
        names = {name: f"{'bias_ih' if name == 'bias' else name}_l0" for name in parameters if name != self.timed}
        return {names.get(name, name): array for name, array in parameters.items()}


@dataclass(frozen=True)
class Registration:
    """A kind of network.

    Attributes
    ----------
    name : str
        By which commands and files call it.
    kind : type of Model
    init : callable
        ``init(n_inputs, n_units, seed, gain=1.0)``: a random network.
    fixed : mapping of str to object
        Options of the model that tell this kind from others of the same class.
    variants : tuple of mappings
        Further arguments of `init`; the networks that they make take all ways through the model's file.
    torch : TorchLayout or None
        None for a network that PyTorch has no names for.
    dt : float
        Of a field, a step that the classical Runge-Kutta method resolves it with, in its unit of time.
    """

    name: str
    kind: type[Model]
    init: Callable[..., Model]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    variants: tuple[Mapping[str, Any], ...] = ({},)
    torch: TorchLayout | None = None
    dt: float = 0.2

    @property
    def in_words(self) -> str:
        """The class with an article: an RNN, a GRU."""
        name = self.kind.__name__
        return f"{'an' if re.match('[AEIO]|[FLMNRSX][A-Z]', name) else 'a'} {name}"

    @property
    def is_continuous(self) -> bool:
        """Whether it is a field, and no map."""
        return issubclass(self.kind, Field)

    def describes(self, model: Model) -> bool:
        """Whether a model is of this kind."""
        return type(model) is self.kind and all(model.options[key] == value for key, value in self.fixed.items())


_REGISTERED: dict[str, Registration] = {}


def register(name: str, kind: type[Model], init: Callable[..., Model], **about: Any) -> None:
    """Make a kind of network known; `about` are further attributes of `Registration`.

    Raises
    ------
    ValueError
        If another one has this name.
    """
    if name in _REGISTERED:
        raise ValueError(f"there are two networks called {name!r}: {_REGISTERED[name].kind.__name__}, {kind.__name__}")
    _REGISTERED[name] = Registration(name, kind, init, **about)


def registered() -> dict[str, Registration]:
    """All kinds by name."""
    return dict(_REGISTERED)


def registration_of(model: Model) -> Registration | None:
    """The kind that a model is of; None if it is not registered, as a user's is not."""
    return next((known for known in _REGISTERED.values() if known.describes(model)), None)
