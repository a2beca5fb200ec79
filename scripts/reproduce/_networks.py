"""Networks as the sources draw them, and how many dimensions their states have."""

from __future__ import annotations

from typing import Any

import numpy as np

from kpref import Readout
from kpref.models import GRU, RNN


def pytorch_network(kind: type[GRU] | type[RNN], n_inputs: int, units: int, gain: float, seed: int) -> Any:
    """Parameters uniform in +-H^(-1/2), as PyTorch draws them, without biases; the recurrent ones times the gain."""
    model = kind.init(n_inputs, units, seed, bias=False)
    rng = np.random.default_rng([seed, units])
    drawn = {name: rng.uniform(-1, 1, value.shape) / units**0.5 for name, value in model.parameters.items()}
    return model.with_parameters({**drawn, "weight_hh": gain * drawn["weight_hh"]})


def pytorch_readout(n_outputs: int, units: int, seed: int) -> Readout:
    """As torch.nn.Linear."""
    rng = np.random.default_rng([seed, units, 1])
    return Readout(*(rng.uniform(-1, 1, shape) / units**0.5 for shape in ((n_outputs, units), (n_outputs,))))


def dimension(tensor: Any) -> float:
    """Participation ratio of the principal components of a tensor (B, T, H) over trials and time."""
    rows = np.asarray(tensor).reshape(-1, tensor.shape[-1])
    rows = rows - rows.mean(axis=0)
    gram = rows.T @ rows if rows.shape[1] < rows.shape[0] else rows @ rows.T
    return float(np.trace(gram) ** 2 / np.square(gram).sum())
