"""Trained networks from files, mappings and modules: a recurrent layer, its readout, and nothing left over."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kpref._archives import Arrays
from kpref._validate import finite_array, flag, short
from kpref.checkpoints.composed import put_together
from kpref.checkpoints.heads import HEAD, choose_readout, reads
from kpref.checkpoints.layers import LAYER, Layer, find_layer
from kpref.checkpoints.save import RATE
from kpref.checkpoints.sources import Source, listed, read_source
from kpref.models import GRU, RNN, Rate
from kpref.readout import Readout

if TYPE_CHECKING:
    import torch

__all__ = ["Checkpoint", "load_checkpoint"]


class Checkpoint(tuple[RNN | GRU | Rate, Readout | None]):
    """A network that was read: ``model, readout = load_checkpoint(path)``, and what else is to be known of it.

    Attributes
    ----------
    model : RNN, GRU or Rate
    readout : Readout or None
    z0 : ndarray, shape (H,) or (B, H), or None
        The learnt initial state, for ``Flow(model, inputs, z0=...)``; None if none was named.
    nonlinearity_assumed : bool
        Whether nothing says which nonlinearity the network has, and tanh was taken.
    notes : tuple of str
        What a reader of results should know, in sentences: what was assumed, set aside or put together.
    """

    z0: NDArray[np.float64] | None
    nonlinearity_assumed: bool
    notes: tuple[str, ...]

    def __new__(
        cls,
        model: RNN | GRU | Rate,
        readout: Readout | None = None,
        z0: NDArray[np.float64] | None = None,
        nonlinearity_assumed: bool = False,
        notes: Iterable[str] = (),
    ) -> Checkpoint:
        """Put a network together."""
        self = super().__new__(cls, (model, readout))
        self.z0, self.nonlinearity_assumed, self.notes = z0, nonlinearity_assumed, tuple(notes)
        return self

    def __getnewargs__(self) -> tuple[Any, ...]:
        return (*self, self.z0, self.nonlinearity_assumed, self.notes)

    @property
    def model(self) -> RNN | GRU | Rate:
        """The network."""
        return self[0]

    @property
    def readout(self) -> Readout | None:
        """Its linear readout."""
        return self[1]

    def __repr__(self) -> str:
        z0 = "" if self.z0 is None else f", z0 of shape {self.z0.shape}"
        return f"Checkpoint({self.model}, {self.readout}{z0}, {len(self.notes)} notes)"


def load_checkpoint(
    source: str | os.PathLike[str] | Mapping[str, Any] | torch.nn.Module,
    trainable: Sequence[str] | None = None,
    nonlinearity: str | None = None,
    readout: str | None = None,
    continuous: bool = False,
    tau: ArrayLike | None = None,
    *,
    z0: str | None = None,
    ignore: str | Sequence[str] = (),
    map: Mapping[str, str] | None = None,
) -> Checkpoint:
    """Read a recurrent network, and its linear readout if it has one.

    Every array of the source is accounted for: it is part of the recurrent layer or the readout, named by `z0`, set
    aside by `ignore`, or refused by name.

    Parameters
    ----------
    source : path, mapping of str to array, or torch.nn.Module
        A safetensors, npz or PyTorch (zip) file, recognised by its content; or in memory a module of PyTorch, its
        ``state_dict``, or any mapping from names to arrays of NumPy, PyTorch or JAX. The mapping may stand under one
        key of a dictionary ("model", "state_dict", ...), beside other things. A PyTorch file needs PyTorch 2.6 or
        later and is read with ``weights_only=True``. Files never run code: pickles and Python objects are refused.
    trainable : sequence of str, optional
        Names of the trainable parameters, as the model calls them (``weight_hh``); all by default.
    nonlinearity : {"tanh", "relu", "identity"} and, for a rate network, "softplus", "sigmoid", "erf"; optional
        Nonlinearity of an RNN or a rate network, which a ``state_dict`` does not tell. By default what the module
        says or `save_checkpoint` recorded in the file, and otherwise "tanh", with a note that it was assumed.
    readout : str, optional
        Name of the readout, with or without ``.weight``, if there are several candidates, or none goes by a name that
        readouts have. Other linear layers of H columns are set aside then, with a note.
    continuous : bool
        Take weights of an RNN's shape as a rate network ``tau dz/dt = -z + W phi(z) + U x + b``, b the sum of the
        biases. A file in which `save_checkpoint` recorded a rate network is read as one in any case.
    tau : float or array_like of shape (H,), optional
        Time constant of a rate network, in the unit of time of the flow. By default what the file recorded, or 1.
    z0 : str, optional
        Name of the learnt initial state, an array (H,), (1, H), (1, 1, H), (B, H) or (1, B, H).
    ignore : str or sequence of str
        Names of arrays to set aside, with ``*`` and ``?`` for any letters. A name stands for those below it too:
        ``"critic"`` for ``critic.weight`` and ``critic.bias``.
    map : mapping of str to str, optional
        Which array is which, where the names are not PyTorch's: from ``weight_ih``, ``weight_hh``, ``bias_ih``,
        ``bias_hh``, ``readout.weight`` or ``readout.bias`` to a name, with ``.T`` after it for the transpose:
        ``{"weight_hh": "cell.kernel.T"}``. Blocks of rows of a GRU must stand in PyTorch's order: reset, update, new.

    Returns
    -------
    Checkpoint
        Unpacks into the model and its readout (or None), in float64, and has the initial state as ``z0`` and
        sentences on what was assumed, set aside or put together as ``notes``.

    Raises
    ------
    TypeError
        If `source` is neither a path nor a mapping nor a module.
    OSError
        If the file cannot be opened, or is a folder, a pipe or a device.
    ImportError
        If it is a PyTorch file and PyTorch 2.6 or later is not installed.
    MemoryError
        If the file declares more than there is memory for.
    ValueError
        If the file is of another format or damaged; if there is no recurrent layer, or more than one (stacked,
        bidirectional); if it is an LSTM or has projections; if a rate network is asked for and the weights are of a
        GRU; if shapes do not match, a parameter is not finite (names tensor and index), the readout is ambiguous, or
        an array is left over that no part of the network accounts for.
    """
    assigned, continuous = _assigned(map), flag("continuous", continuous)
    if not isinstance(ignore, str | list | tuple | set | frozenset):
        raise TypeError(f"ignore must be the names of arrays, one or several; got {short(ignore)}")
    ignored = [ignore] if isinstance(ignore, str) else list(ignore)
    for argument, name in (("readout", readout), ("z0", z0), *(("ignore", pattern) for pattern in ignored)):
        if not isinstance(name, str | None) or name == "":
            raise TypeError(f"{argument} must be the name of an array; got {short(name)}")
    found = read_source(source, ignored, {name.removesuffix(".T") for name in assigned.values()})
    try:
        arrays, notes = put_together(found.arrays)
        layer = find_layer(arrays, assigned)
        kind, phi, assumed = _nonlinearity(found, layer, nonlinearity, continuous)
        model = _build(kind, layer, phi, trainable, tau, found.recorded)
        rest = {name: array for name, array in arrays.items() if name not in layer.used}
        initial = None if z0 is None else _initial_state(rest, z0, model.n_states)
        rest = {name: array for name, array in rest.items() if name != z0}
        head, explained, about_heads = choose_readout(rest, layer, readout, assigned)
        _require_explained({name: array for name, array in rest.items() if name not in explained}, layer)
    except ValueError as error:
        raise ValueError(f"{found.origin}: {error}") from error
    if assumed:
        notes.insert(
            0,
            f"the nonlinearity is assumed to be {phi}, which the weights do not tell: nonlinearity= (--nonlinearity) "
            "says otherwise",
        )
    notes += [*layer.notes, *about_heads, *found.notes]
    if z0 is not None:
        notes.append(f"the initial state is {z0}, held fixed")
    if found.ignored:
        notes.append(f"set aside as asked: {listed(found.ignored)}")
    return Checkpoint(model, head, initial, assumed, notes)


def _assigned(map: Mapping[str, str] | None) -> dict[str, str]:
    """The argument `map`, checked."""
    keys = (*LAYER, *HEAD)
    if map is not None and not isinstance(map, Mapping):
        raise TypeError(f"map must be a mapping from {listed(keys)} to names of arrays; got {short(map)}")
    assigned = dict(map or {})
    for key, name in assigned.items():
        if key not in keys or not isinstance(name, str):
            raise ValueError(
                f"map (--map KEY=NAME) must say of some of {listed(keys)} which arrays they are; got {short(key)}: "
                f"{short(name)}"
            )
    twice = [name for name in assigned.values() if list(assigned.values()).count(name) > 1]
    if twice:
        raise ValueError(f"map (--map KEY=NAME) takes {twice[0]!r} for two things")
    return assigned


def _nonlinearity(
    found: Source, layer: Layer, given: str | None, continuous: bool
) -> tuple[type[RNN] | type[GRU] | type[Rate], str | None, bool]:
    """Kind of the network, its nonlinearity, and whether that is an assumption."""
    weight = layer.parameters["weight_hh"]
    is_square = weight.shape[0] == weight.shape[1]
    if continuous or found.recorded.get("model") == RATE:
        if not is_square:
            raise ValueError(
                f"a network in continuous time must be a rate network, with a recurrent weight of shape (H, H); got "
                f"{layer.names['weight_hh']} of shape {weight.shape}, a GRU, which is a map in discrete time"
            )
        kind: type[RNN] | type[GRU] | type[Rate] = Rate
    elif is_square:
        kind = RNN
    elif given is not None:
        raise ValueError(f"a GRU has no nonlinearity to choose; got {given!r}")
    else:
        return GRU, None, False
    sources = (given, found.nonlinearities.get(layer.module), found.recorded.get("nonlinearity"))
    said = next((name for name in sources if name is not None), None)
    return kind, "tanh" if said is None else said, said is None


def _build(
    kind: type[RNN] | type[GRU] | type[Rate],
    layer: Layer,
    nonlinearity: str | None,
    trainable: Sequence[str] | None,
    tau: ArrayLike | None,
    recorded: Mapping[str, str],
) -> RNN | GRU | Rate:
    parameters = layer.parameters
    if kind is not Rate and tau is not None:
        raise ValueError(f"tau is for networks in continuous time, and this one is not; got {tau!r}")
    if kind is GRU:
        return GRU(**parameters, trainable=trainable)
    assert nonlinearity is not None
    if kind is RNN:
        return RNN(**parameters, nonlinearity=nonlinearity, trainable=trainable)
    biases = [parameters[name] for name in ("bias_ih", "bias_hh") if name in parameters]
    bias = biases[0] + biases[1] if len(biases) == 2 else biases[0] if biases else None
    constant = _recorded_tau(recorded) if tau is None else tau
    return Rate(parameters["weight_ih"], parameters["weight_hh"], bias, constant, nonlinearity, trainable)


def _recorded_tau(recorded: Mapping[str, str]) -> ArrayLike:
    """The time constant that `save_checkpoint` recorded, as it wrote it; 1 if this is not a rate network's file."""
    if recorded.get("model") != RATE:
        return 1.0
    try:
        tau: ArrayLike = json.loads(recorded["tau"])
    except (KeyError, ValueError, RecursionError):
        raise ValueError(
            f"the recorded tau must be a number or a list of numbers; got {short(recorded.get('tau'))}"
        ) from None
    return tau


def _initial_state(rest: Arrays, name: str, n_states: int) -> NDArray[np.float64]:
    """The learnt initial state (H,) or (B, H)."""
    if name not in rest:
        raise ValueError(f"there is no array {name!r} for z0= (--z0) beside the recurrent layer; got {listed(rest)}")
    array = finite_array(name, rest[name])
    shape = _initial_shape(array, n_states)
    if shape is None:
        raise ValueError(
            f"{name} must have shape ({n_states},), or (B, {n_states}) for one initial state a trial, with or without "
            f"an axis of length 1 before it; got {array.shape}"
        )
    return finite_array(name, array.reshape(shape))


def _initial_shape(array: NDArray[Any], n_states: int) -> tuple[int, ...] | None:
    """The shape without axes of layers or of one trial, if the array can hold initial states."""
    shape = array.shape[1:] if array.ndim == 3 and array.shape[0] == 1 else array.shape
    shape = shape[1:] if len(shape) == 2 and shape[0] == 1 else shape
    return shape if len(shape) in (1, 2) and shape[-1] == n_states and 0 not in shape else None


def _require_explained(left: Arrays, layer: Layer) -> None:
    """Raise ValueError, with the ways out, if an array is left that no part of the network accounts for."""
    if not left:
        return
    n_states, rows = layer.n_states, len(layer.parameters["weight_hh"])
    first = next(iter(left))
    ways = [f"set aside with ignore= (--ignore {first}) if no weight depends on it"]
    numbers = {name: array for name, array in left.items() if array.dtype.kind != "b"}
    if any(reads(array, n_states) for array in numbers.values()):
        ways.insert(0, "named as the readout with readout= (--readout)")
    if any(_initial_shape(array, n_states) is not None for array in numbers.values()):
        ways.insert(0, "named as the initial state with z0= (--z0)")
    biases = [name for name, array in numbers.items() if array.shape == (rows,)]
    free = [parameter for parameter in ("bias_ih", "bias_hh") if parameter not in layer.parameters]
    if biases and free:
        ways.insert(0, f"read as a bias with map= (--map {free[0]}={biases[0]})")
    turned = [name for name, array in left.items() if array.ndim == 2 and len(array) == n_states != array.shape[1]]
    if turned:
        ways.insert(0, f"read as the readout, transposed, with map= (--map readout.weight={turned[0]}.T)")
    described = [f"{name!r} {array.shape}" for name, array in left.items()]
    more = f" and {len(described) - 8} more" if len(described) > 8 else ""
    raise ValueError(
        f"found {', '.join(described[:8])}{more} beside the recurrent layer, which no part of a network of {n_states} "
        f"units with a linear readout (a weight of {n_states} columns, and its bias) accounts for; each must be "
        f"{', or '.join(ways)}"
    )
