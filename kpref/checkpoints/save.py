"""Networks into files, under PyTorch's names where they have such, with what the arrays do not tell beside them."""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.numpy

from kpref._archives import replacing
from kpref._types import Array
from kpref._validate import finite_array, path_like, short
from kpref.models import Model
from kpref.models.described import described
from kpref.models.registry import TorchLayout, registered, registration_of
from kpref.readout import Readout

__all__ = ["save_checkpoint"]


def save_checkpoint(
    path: str | os.PathLike[str], model: Model, readout: Readout | None = None, z0: npt.ArrayLike | None = None
) -> None:
    """Write a network, so that `load_checkpoint` returns it bit by bit.

    A network of a kind that PyTorch has names for (RNN, GRU, LSTM, Stacked, LeakyRNN, Rate) is written under these: the
    recurrent layers are called ``rnn``, the bias of a leaky or a rate network ``bias_ih``, trained time constants
    ``alpha`` or ``tau``. Any other has ``parameter/NAME`` for each parameter, and ``option/NAME`` for each option that
    is an array, none of which may be lost. The readout is called ``Wout``. What kind of network it is, by the name that
    it is registered by, its other options and the names of its parameters are recorded beside the tensors (as metadata,
    or texts of an npz file); which parameters are trainable is not.

    Parameters
    ----------
    path : path
        Ends in ``.safetensors`` or ``.npz``; appears whole or not at all, and replaces what was there.
    model : Model
        Of a registered kind: all networks of `kpref.models`.
    readout : Readout, optional
    z0 : array_like, shape (H,), optional
        A learnt initial state, which is called ``z0``: ``load_checkpoint(path, z0="z0")`` reads it.

    Raises
    ------
    TypeError
        If the model is of no registered kind, as a class of the user's is, or an argument is something else altogether.
    ValueError
        If `path` has another suffix.
    OSError
        If it cannot be written.
    """
    path = path_like("path", path)
    known = registration_of(model) if isinstance(model, Model) else None
    if known is None:
        raise TypeError(f"only a network of kpref.models ({', '.join(registered())}) can be saved; got {short(model)}")
    if readout is not None and not isinstance(readout, Readout):
        raise TypeError(f"readout must be a kpref.Readout; got {short(readout)}")
    if path.suffix not in (".safetensors", ".npz"):
        raise ValueError(f"a checkpoint must be called *.safetensors or *.npz; got {path}")
    arrays, notes = _of_pytorch(model, known.torch) if known.torch is not None else _own(model)
    notes = {"model": known.name, **notes}
    if readout is not None:
        arrays["Wout.weight"] = readout.weight
        if readout.bias is not None:
            arrays["Wout.bias"] = readout.bias
    if z0 is not None:
        arrays["z0"] = finite_array("z0", z0, shape=(model.n_states,))
    with replacing(path) as file:
        if path.suffix == ".npz":
            everything: dict[str, Any] = {**arrays, **notes}
            np.savez(file, **everything)
        else:
            contiguous = {name: np.require(array, requirements="C") for name, array in arrays.items()}
            file.write(safetensors.numpy.save(contiguous, metadata=notes))


def _of_pytorch(model: Model, layout: TorchLayout) -> tuple[dict[str, Array], dict[str, str]]:
    """Arrays under PyTorch's names, and options by name."""
    notes = {}
    for name in (*layout.options, *layout.optional):
        value = model.options.get(name)  # what is trained is among the arrays
        if value is not None:
            notes[name] = value if isinstance(value, str) else json.dumps(np.asarray(value).tolist())
    return {f"rnn.{name}": array for name, array in layout.from_model(model.parameters).items()}, notes


def _own(model: Model) -> tuple[dict[str, Array], dict[str, str]]:
    """Arrays under the names of the model; all options that are none, and the names of parameters, as texts."""
    description, arrays = described(model)
    return arrays, {name: json.dumps(description[name]) for name in ("options", "parameters")}
