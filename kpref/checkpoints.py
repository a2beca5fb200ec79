"""Trained networks from files and mappings: recognise a recurrent layer and its readout by names and shapes.

PyTorch's names and layouts are the ones recognised: ``weight_ih``, ``weight_hh``, ``bias_ih``, ``bias_hh`` of a cell,
or the same with ``_l0`` of a layer, after any prefix that ends in a dot (``rnn.weight_ih_l0``, ``a.b.weight_hh_l0``).
How many blocks of H rows the recurrent weight (rows, H) has tells an RNN (1) from a GRU (3) and an LSTM (4). A rate
network in continuous time has the arrays of an RNN; that it is one is recorded beside them, or said by the reader.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import ArrayLike, NDArray

from kpref._archives import Arrays, read_arrays, replacing, tensor_to_numpy
from kpref._validate import check_shape, finite_array, numeric_array
from kpref.models import GRU, RNN, Model, Rate
from kpref.readout import Readout

__all__ = ["load_checkpoint", "save_checkpoint"]

_RECURRENT = re.compile(
    r"(?P<prefix>(.*\.)?)(?P<parameter>weight_ih|weight_hh|weight_hr|bias_ih|bias_hh)(?P<layer>_l\d+)?(?P<reverse>_reverse)?"
)
_RATE = "rate"  # recorded as the "model" of a file that holds a rate network


def load_checkpoint(
    source: str | os.PathLike[str] | Mapping[str, ArrayLike],
    trainable: Sequence[str] | None = None,
    nonlinearity: str | None = None,
    readout: str | None = None,
    continuous: bool = False,
    tau: ArrayLike | None = None,
) -> tuple[RNN | GRU | Rate, Readout | None]:
    """Read a recurrent network, and its linear readout if it has one.

    Parameters
    ----------
    source : path or mapping of str to array
        A safetensors, npz or PyTorch (zip) file, recognised by its content, or a mapping from names to arrays such as
        a PyTorch ``state_dict``. A PyTorch file may hold the ``state_dict`` itself or, in a dictionary, under
        "state_dict" or "model_state_dict"; it needs PyTorch 2.6 or later and is read with ``weights_only=True``.
        Files never run code: a bare pickle and an array of Python objects are refused.
    trainable : sequence of str, optional
        Names of the trainable parameters, as the model calls them (``weight_hh``); all by default.
    nonlinearity : {"tanh", "relu", "identity"} and, for a rate network, "softplus", "sigmoid", "erf"; optional
        Nonlinearity of an RNN or a rate network, which a ``state_dict`` does not tell. By default what
        `save_checkpoint` recorded in the file, and otherwise "tanh".
    readout : str, optional
        Name of the readout, with or without ``.weight``, if there are several candidates. The other candidates and
        their biases are set aside then.
    continuous : bool
        Take weights of an RNN's shape as a rate network ``tau dz/dt = -z + W phi(z) + U x + b``, b the sum of the
        biases. A file in which `save_checkpoint` recorded a rate network is read as one in any case.
    tau : float or array_like of shape (H,), optional
        Time constant of a rate network, in the unit of time of the flow. By default what the file recorded, or 1.

    Returns
    -------
    model : RNN, GRU or Rate
        With H units and, like all parameters, in float64.
    readout : Readout or None
        The only other matrix with H columns (n_out, H) and, next to it, its bias (n_out,).

    Raises
    ------
    OSError
        If the file cannot be opened.
    ImportError
        If it is a PyTorch file and PyTorch 2.6 or later is not installed.
    ValueError
        If the file is of another format or damaged; if there is no recurrent layer, or more than one (stacked,
        bidirectional); if it is an LSTM or has projections; if a rate network is asked for and the weights are of a
        GRU; if shapes do not match, a parameter is not finite (names
        tensor and index), the readout is ambiguous, or an array is left over that no part of the network accounts for.
    """
    if isinstance(source, Mapping):
        origin, arrays = "the checkpoint", _arrays_of(source)
        notes: dict[str, str] = {}
    else:
        origin = os.fspath(source)
        arrays, notes = read_arrays(source)
    try:
        layer = _recurrent_layer(arrays)
        parameters = _recurrent_parameters(arrays, layer)
        if continuous or notes.get("model") == _RATE:
            recorded = _recorded_tau(notes) if tau is None else tau
            model: RNN | GRU | Rate = _build_rate(parameters, layer, trainable, nonlinearity, notes, recorded)
        elif tau is None:
            model = _build_map(parameters, trainable, nonlinearity, notes)
        else:
            raise ValueError(f"tau is for networks in continuous time, and this one is not; got {tau!r}")
        rest = {name: array for name, array in arrays.items() if name not in layer.values()}
        return model, _build_readout(rest, model.n_states, readout)
    except ValueError as error:
        raise ValueError(f"{origin}: {error}") from error


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
        If the model is of a kind that has no PyTorch names.
    ValueError
        If `path` has another suffix.
    OSError
        If it cannot be written.
    """
    path = Path(path)
    if not isinstance(model, RNN | GRU | Rate):
        raise TypeError(f"only RNN, GRU and Rate can be saved under PyTorch's names; got a {type(model).__name__}")
    if path.suffix not in (".safetensors", ".npz"):
        raise ValueError(f"a checkpoint must be called *.safetensors or *.npz; got {path}")
    arrays = {f"rnn.{'bias_ih' if name == 'bias' else name}_l0": array for name, array in model.parameters.items()}
    if readout is not None:
        arrays["Wout.weight"] = readout.weight
        if readout.bias is not None:
            arrays["Wout.bias"] = readout.bias
    notes = {} if isinstance(model, GRU) else {"nonlinearity": model.nonlinearity.name}
    if isinstance(model, Rate):
        notes |= {"model": _RATE, "tau": json.dumps(model.tau.tolist())}
    with replacing(path) as file:
        if path.suffix == ".npz":
            everything: dict[str, Any] = {**arrays, **notes}
            np.savez(file, **everything)
        else:
            contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
            file.write(safetensors.numpy.save(contiguous, metadata=notes or None))


def _arrays_of(source: Mapping[str, ArrayLike]) -> Arrays:
    """Arrays of a mapping whose values may be tensors of PyTorch, told by their `detach`."""
    arrays: Arrays = {}
    for name, value in source.items():
        if not isinstance(name, str):
            raise ValueError(f"a checkpoint must map names to arrays; got the key {name!r}")
        arrays[name] = tensor_to_numpy(value) if hasattr(value, "detach") else numeric_array(name, value, "biuf")
    return arrays


def _recurrent_layer(arrays: Arrays) -> dict[str, str]:
    """Find the one recurrent layer: parameter of the model -> name in the checkpoint."""
    layers: dict[tuple[str, str | None], dict[str, str]] = {}
    for name in arrays:
        match = _RECURRENT.fullmatch(name)
        if match is None:
            continue
        if match["reverse"]:
            raise ValueError(f"bidirectional networks are not supported; found {name!r}")
        if match["layer"] not in (None, "_l0"):
            raise ValueError(f"stacked layers are not supported; found {name!r}")
        if match["parameter"] == "weight_hr":
            raise ValueError(f"networks with projections are not supported; found {name!r}")
        layers.setdefault((match["prefix"], match["layer"]), {})[match["parameter"]] = name
    if len(layers) > 1:
        names = ", ".join(repr(f"{prefix}*{layer or ''}") for prefix, layer in layers)
        raise ValueError(f"several recurrent layers are not supported; found {names}")
    if not layers:
        raise ValueError(
            "found no recurrent layer, which has 'weight_ih' and 'weight_hh' (or 'weight_ih_l0' and 'weight_hh_l0'), "
            f"with or without a prefix; the names are {_listed(arrays)}"
        )
    (layer,) = layers.values()
    missing = {"weight_ih", "weight_hh"} - layer.keys()
    if missing:
        raise ValueError(f"the recurrent layer has {_listed(layer.values())} but no {' and no '.join(sorted(missing))}")
    return layer


def _recurrent_parameters(arrays: Arrays, layer: Mapping[str, str]) -> Arrays:
    """Arrays of the recurrent layer by the names of parameters, with shapes that are those of an RNN or of a GRU."""
    name = layer["weight_hh"]
    check_shape(name, arrays[name], ndim=2)
    rows, n_states = arrays[name].shape
    if n_states and rows == 4 * n_states:
        raise ValueError(f"an LSTM is not supported yet; found {name!r} of shape {(rows, n_states)}")
    if n_states == 0 or rows not in (n_states, 3 * n_states):
        raise ValueError(
            f"{name} must have shape (H, H) for an RNN or (3 H, H) for a GRU, H at least 1; got {(rows, n_states)}"
        )
    shapes: dict[str, tuple[int | str, ...]] = {"weight_ih": (rows, "n_in"), "weight_hh": (rows, n_states)}
    return {
        parameter: finite_array(name, arrays[name], shape=shapes.get(parameter, (rows,)))
        for parameter, name in layer.items()
    }


def _build_map(
    parameters: Arrays, trainable: Sequence[str] | None, nonlinearity: str | None, notes: Mapping[str, str]
) -> RNN | GRU:
    rows, n_states = parameters["weight_hh"].shape
    if rows == n_states:
        return RNN(**parameters, nonlinearity=nonlinearity or notes.get("nonlinearity", "tanh"), trainable=trainable)
    if nonlinearity is not None:
        raise ValueError(f"a GRU has no nonlinearity to choose; got {nonlinearity!r}")
    return GRU(**parameters, trainable=trainable)


def _build_rate(
    parameters: Arrays,
    layer: Mapping[str, str],
    trainable: Sequence[str] | None,
    nonlinearity: str | None,
    notes: Mapping[str, str],
    tau: ArrayLike,
) -> Rate:
    weight = parameters["weight_hh"]
    if weight.shape[0] != weight.shape[1]:
        raise ValueError(
            f"a network in continuous time must be a rate network, with a recurrent weight of shape (H, H); got "
            f"{layer['weight_hh']} of shape {weight.shape}, a GRU, which is a map in discrete time"
        )
    biases = [parameters[name] for name in ("bias_ih", "bias_hh") if name in parameters]
    bias = biases[0] + biases[1] if len(biases) == 2 else biases[0] if biases else None
    return Rate(
        parameters["weight_ih"],
        weight,
        bias,
        tau,
        nonlinearity or notes.get("nonlinearity", "tanh"),
        trainable,
    )


def _recorded_tau(notes: Mapping[str, str]) -> ArrayLike:
    """The time constant that `save_checkpoint` recorded, as it wrote it; 1 if this is not a rate network's file."""
    if notes.get("model") != _RATE:
        return 1.0
    try:
        tau: ArrayLike = json.loads(notes["tau"])
    except (KeyError, json.JSONDecodeError):
        raise ValueError(f"the recorded tau must be a number or a list of numbers; got {notes.get('tau')!r}") from None
    return tau


def _build_readout(rest: Arrays, n_states: int, wanted: str | None) -> Readout | None:
    """Take the readout from the arrays outside the recurrent layer, and see that nothing else is left."""
    candidates = [name for name, array in rest.items() if array.ndim == 2 and array.shape[1] == n_states]
    if wanted is not None:
        chosen = [name for name in candidates if name in (wanted, f"{wanted}.weight")]
        if not chosen:
            raise ValueError(f"there is no readout {wanted!r}; the candidates are {_listed(candidates)}")
        explained = [*candidates, *map(_bias_of, candidates)]
    elif len(candidates) > 1:
        raise ValueError(f"the readout is ambiguous: pick one of {_listed(candidates)} with the argument readout")
    else:
        chosen = candidates
        explained = [*chosen, *map(_bias_of, chosen)]
    unknown = [name for name in rest if name not in explained]
    if unknown:
        raise ValueError(
            f"found {_listed(unknown)} beside the recurrent layer, and no part of a network of {n_states} units with a "
            f"linear readout (a weight with {n_states} columns, and its bias) accounts for it"
        )
    if not chosen:
        return None
    weight = finite_array(chosen[0], rest[chosen[0]])
    if len(weight) == 0:
        raise ValueError(f"{chosen[0]} must have at least one output; got shape {weight.shape}")
    bias: NDArray[Any] | None = rest.get(_bias_of(chosen[0]))
    if bias is not None:
        bias = finite_array(_bias_of(chosen[0]), bias, shape=(len(weight),))
    return Readout(weight, bias)


def _bias_of(weight: str) -> str:
    """Name of the bias beside a weight: ``fc.weight`` -> ``fc.bias``, and ``Wout`` -> ``Wout.bias``."""
    return weight.removesuffix("weight") + "bias" if weight.endswith("weight") else f"{weight}.bias"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names)) or "none"
