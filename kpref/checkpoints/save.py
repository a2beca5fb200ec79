"""Networks into files under PyTorch's names, with what these names do not tell recorded beside them."""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.numpy

from kpref._archives import replacing
from kpref._validate import finite_array, path_like, short
from kpref.models import Model
from kpref.models.registry import registered, registration_of
from kpref.readout import Readout

__all__ = ["save_checkpoint"]


def save_checkpoint(
    path: str | os.PathLike[str], model: Model, readout: Readout | None = None, z0: npt.ArrayLike | None = None
) -> None:
    """Write a network under PyTorch's names, so that `load_checkpoint` returns it bit by bit.

    The recurrent layers are called ``rnn``, the readout ``Wout``. What kind of network it is, its nonlinearity, leak or
    time constant, mask and signs of units are recorded beside the tensors; which parameters are trainable is not. The
    bias of a leaky or a rate network is called ``bias_ih``, its trained time constants ``alpha`` or ``tau``.

    Parameters
    ----------
    path : path
        Ends in ``.safetensors`` or ``.npz``; appears whole or not at all, and replaces what was there.
    model : RNN, GRU, LSTM, Stacked, LeakyRNN or Rate
    readout : Readout, optional
    z0 : array_like, shape (H,), optional
        A learnt initial state, which is called ``z0``: ``load_checkpoint(path, z0="z0")`` reads it.

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
    known = registration_of(model) if isinstance(model, Model) else None
    if known is None or known.torch is None:
        kinds = dict.fromkeys(other.kind.__name__ for other in registered().values() if other.torch)
        raise TypeError(f"only {', '.join(kinds)} can be saved under PyTorch's names; got a {type(model).__name__}")
    if readout is not None and not isinstance(readout, Readout):
        raise TypeError(f"readout must be a kpref.Readout; got {short(readout)}")
    if path.suffix not in (".safetensors", ".npz"):
        raise ValueError(f"a checkpoint must be called *.safetensors or *.npz; got {path}")
    arrays = {f"rnn.{name}": array for name, array in known.torch.from_model(model.parameters).items()}
    if readout is not None:
        arrays["Wout.weight"] = readout.weight
        if readout.bias is not None:
            arrays["Wout.bias"] = readout.bias
    if z0 is not None:
        arrays["z0"] = finite_array("z0", z0, shape=(model.n_states,))
    notes = {"model": known.name}
    for name in (*known.torch.options, *known.torch.optional):
        value = model.options.get(name)  # what is trained is among the arrays
        if value is not None:
            notes[name] = value if isinstance(value, str) else json.dumps(np.asarray(value).tolist())
    with replacing(path) as file:
        if path.suffix == ".npz":
            everything: dict[str, Any] = {**arrays, **notes}
            np.savez(file, **everything)
        else:
            contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
            file.write(safetensors.numpy.save(contiguous, metadata=notes))
