"""Random parameters of networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from kpref._validate import flag, integer, real_number
from kpref.memory import require_memory

__all__ = ["initial_parameters", "constrained_network"]


def initial_parameters(
    network: str,
    n_inputs: int,
    n_states: int,
    seed: int,
    gain: float,
    bias: bool,
    biases: Sequence[str] = ("bias",),
    blocks: int = 1,
    layers: Sequence[str] = ("",),
) -> dict[str, Any]:
    """Random parameters: recurrent entries N(0, gain**2 / H), others N(0, 1 / columns), zero biases.

    With ``gain`` g > 1 a tanh network of this kind is chaotic at large H (Sompolinsky, Crisanti, Sommers 1988).

    Parameters
    ----------
    network : str
        Its name, for errors.
    n_inputs, n_states : int
        H is the number of states, or of units of a layer.
    seed : int
    gain : float
    bias : bool
    biases : sequence of str
        Their names.
    blocks : int
        Of H rows in each weight.
    layers : sequence of str
        Suffixes of the names of each layer's parameters.
    """
    n_inputs, n_states = integer("n_inputs", n_inputs, 1), integer("n_states", n_states, 1)
    gain, seed = real_number("gain", gain), integer("seed", seed, 0)
    bias = flag("bias", bias)
    entries = blocks * n_states * (n_inputs + n_states * (2 * len(layers) - 1))
    require_memory(8.0 * entries, f"a {network} with n_states = {n_states} and n_inputs = {n_inputs}")
    generator, parameters = np.random.default_rng(seed), {}
    for layer, suffix in enumerate(layers):
        rows, columns = blocks * n_states, n_states if layer else n_inputs
        parameters[f"weight_ih{suffix}"] = generator.normal(size=(rows, columns)) / np.sqrt(columns)
        parameters[f"weight_hh{suffix}"] = generator.normal(size=(rows, n_states)) * (gain / np.sqrt(n_states))
        parameters |= {f"{name}{suffix}": np.zeros(rows) for name in biases if bias}
    return parameters


def constrained_network(
    kind: Any,
    n_inputs: int,
    n_units: int,
    seed: int,
    gain: float = 1.0,
    constrained: bool = False,
    **options: Any,
) -> Any:
    """A random network of a class that may have constraints: if `constrained`, sparse and by Dale's law."""
    if constrained:
        generator = np.random.default_rng(seed)
        options["mask"] = generator.random((n_units, n_units)) < 0.7
        options["dale"] = generator.choice([-1.0, 1.0], n_units)
    return kind.init(n_inputs, n_units, seed, gain, **options)
