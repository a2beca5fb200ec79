"""Networks into files under PyTorch's names, with what these names do not tell recorded beside them."""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np
import safetensors.numpy

from kpref._archives import replacing
from kpref._validate import path_like, short
from kpref.models import GRU, RNN, Model, Rate
from kpref.readout import Readout

__all__ = ["RATE", "save_checkpoint"]

RATE = "rate"
"""Recorded as the "model" of a file that holds a rate network."""


def save_checkpoint(path: str | os.PathLike[str], model: Model, readout: Readout | None = None) -> None:
    """Write a network under PyTorch's names, so that `load_checkpoint` returns it bit by bit.

    The recurrent layer is called ``rnn``, the readout ``Wout``. The nonlinearity of an RNN is recorded beside the
    tensors, and of a rate network its kind, time constant and nonlinearity; which parameters are trainable is not.
    The bias of a rate network is called ``bias_ih``.

    Parameters
    ----------
    path : path
        Ends in ``.safetensors`` or ``.npz``; appears whole or not at all, and replaces what was there.
    model : RNN, GRU or Rate
    readout : Readout, optional

    Raises
    ------
    TypeError
        If the model is of a kind that has no PyTorch names, or an argument is something else altogether.
    ValueError
        If `path` has another suffix.
    OSError
        If it cannot be written.
    """
    path = path_like("path", path)
    if not isinstance(model, RNN | GRU | Rate):
        raise TypeError(f"only RNN, GRU and Rate can be saved under PyTorch's names; got a {type(model).__name__}")
    if readout is not None and not isinstance(readout, Readout):
        raise TypeError(f"readout must be a kpref.Readout; got {short(readout)}")
    if path.suffix not in (".safetensors", ".npz"):
        raise ValueError(f"a checkpoint must be called *.safetensors or *.npz; got {path}")
    arrays = {f"rnn.{'bias_ih' if name == 'bias' else name}_l0": array for name, array in model.parameters.items()}
    if readout is not None:
        arrays["Wout.weight"] = readout.weight
        if readout.bias is not None:
            arrays["Wout.bias"] = readout.bias
    notes = {} if isinstance(model, GRU) else {"nonlinearity": model.nonlinearity.name}
    if isinstance(model, Rate):
        notes |= {"model": RATE, "tau": json.dumps(model.tau.tolist())}
    with replacing(path) as file:
        if path.suffix == ".npz":
            everything: dict[str, Any] = {**arrays, **notes}
            np.savez(file, **everything)
        else:
            contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
            file.write(safetensors.numpy.save(contiguous, metadata=notes or None))
