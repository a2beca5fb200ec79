"""Trained networks from files, mappings and modules: recurrent layers, their readout, and nothing left over."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kpref._archives import Arrays
from kpref._validate import flag, short
from kpref.checkpoints.composed import put_together
from kpref.checkpoints.foreign import find_foreign, parts_of, with_reset_before
from kpref.checkpoints.heads import HEAD, choose_readout, reads
from kpref.checkpoints.initial_states import initial_shape, initial_states
from kpref.checkpoints.own_names import find_described
from kpref.checkpoints.recurrent import LAYER, Recurrent, find_recurrent, has_layers, place_of, untransposed
from kpref.checkpoints.sources import Source, listed, read_source
from kpref.models import Model
from kpref.models.registry import Registration, registered
from kpref.readout import Readout

if TYPE_CHECKING:
    import torch

__all__ = ["Checkpoint", "load_checkpoint"]

_TEXTS = ("nonlinearity", "leak")
"""Options of a network that are words."""

_KERAS = ["recurrent_kernel"]
"""The last part of the name of a weight whose gates are in another order."""


class Checkpoint(tuple[Model, Readout | None]):
    """A network that was read: ``model, readout = load_checkpoint(path)``, and what else is to be known of it.

    Attributes
    ----------
    model : Model
        RNN, GRU, LSTM, Stacked, LeakyRNN or Rate by the names of PyTorch; any registered one that kpref saved.
    readout : Readout or None
        Of the observed states: all, or the h of the last layer.
    z0 : ndarray, shape (n_states,) or (B, n_states), or None
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
        model: Model,
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
    def model(self) -> Model:
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
    z0: str | Sequence[str] | None = None,
    ignore: str | Sequence[str] = (),
    map: Mapping[str, str] | None = None,
    alpha: ArrayLike | None = None,
    leak: str | None = None,
    reset: str | None = None,
) -> Checkpoint:
    """Read a recurrent network, and its linear readout if it has one.

    Every array of the source is accounted for: it is part of the recurrent layers or the readout, named by `z0`, set
    aside by `ignore`, or refused by name.

    Parameters
    ----------
    source : path, mapping of str to array, or torch.nn.Module
        A safetensors, npz or PyTorch (zip) file, recognised by its content; or in memory a module of PyTorch, its
        ``state_dict``, or any mapping from names to arrays of NumPy, PyTorch or JAX. The mapping may stand under one
        key of a dictionary ("model", "state_dict", ...), beside other things. A PyTorch file needs PyTorch 2.6 or
        later and is read with ``weights_only=True``; an HDF5 file, such as Keras' ``.weights.h5``, needs h5py. Files
        never run code: pickles and Python objects are refused.
    trainable : sequence of str, optional
        Names of the trainable parameters, as the model calls them (``weight_hh``; ``weight_hh_l1`` of several layers);
        all by default.
    nonlinearity : {"tanh", "relu", "identity"} and, for a rate or leaky network, "softplus", "sigmoid", "erf"; optional
        Nonlinearity of an RNN, a leaky or a rate network, which a ``state_dict`` does not tell. By default what the
        module says or `save_checkpoint` recorded in the file, and otherwise "tanh", with a note that it was assumed.
    readout : str, optional
        Name of the readout, with or without ``.weight``, if there are several candidates, or none goes by a name that
        readouts have. Other linear layers of H columns are set aside then, with a note.
    continuous : bool
        Take weights of an RNN's shape as a rate network ``tau dz/dt = -z + W phi(z) + U x + b``, b the sum of the
        biases. A file in which `save_checkpoint` recorded a rate network is read as one in any case.
    tau : float or array_like of shape (H,), optional
        Time constant of a rate network, in the unit of time of the flow. By default what the file recorded, or 1.
    z0 : str or sequence of str, optional
        Name of the learnt initial state: an array (H,), (1, H), (1, 1, H), (B, H) or (1, B, H), and of L layers
        (L, H), (L, 1, H) or (L, B, H). Those of an LSTM are two, h and c, in this order.
    ignore : str or sequence of str
        Names of arrays to set aside, with ``*`` and ``?`` for any letters. A name stands for those below it too:
        ``"critic"`` for ``critic.weight`` and ``critic.bias``.
    map : mapping of str to str, optional
        Which array is which, where the names are not PyTorch's: from ``weight_ih``, ``weight_hh``, ``bias_ih``,
        ``bias_hh`` (``weight_ih_l1``, ... of further layers), ``readout.weight`` or ``readout.bias`` to a name, with
        ``.T`` after it for the transpose: ``{"weight_hh": "cell.kernel.T"}``. Blocks of rows must stand in PyTorch's
        order: reset, update, new of a GRU; input, forget, cell, output of an LSTM. Layers of Keras, Flax and equinox,
        ``input2h`` and ``h2h``, and ``wi``, ``m``, ``n`` of low rank are known by their own names, without it.
    alpha : float or array_like of shape (H,), optional
        Take weights of an RNN's shape as a leaky network of this leak, in (0, 1]; see `kpref.models.LeakyRNN`.
    leak : {"outside", "inside"}, optional
        Of a leaky network: whether its nonlinearity is around the states (default) or around the currents. Beside
        an array ``alpha`` (H,) it says that this is the trained leak, as ``tau`` (H,) is of a rate network.
    reset : {"before", "after"}, optional
        Where the reset gate of a GRU stands: before the product with the recurrent weight (`ResetBeforeGRU`, Keras'
        ``reset_after=False``) or after it. Needed for a GRU of Keras without biases alone; else names or shapes tell.

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
        If the file is of another format or damaged; if there is no recurrent network, or more than one; if it is
        bidirectional, which has no causal flow, or has projections; if a rate network is asked for and the weights are
        of another; if shapes do not match, a parameter is not finite (names tensor and index), the readout is
        ambiguous, or an array is left over that no part of the network accounts for.
    """
    assigned, continuous = _assigned(map), flag("continuous", continuous)
    ignored, starts = _names("ignore", ignore), _names("z0", () if z0 is None else z0)
    if not isinstance(readout, str | None) or readout == "":
        raise TypeError(f"readout must be the name of an array; got {short(readout)}")
    found = read_source(source, ignored, {name.removesuffix(".T") for name in assigned.values()})
    try:
        network, arrays, notes = _network(found, assigned, _where(reset))
        timed = leak is not None and _beside(network, "alpha") in arrays
        leaky = alpha is not None or timed
        kind = registered()[network.kind] if network.kind else _choose_kind(found, network, continuous, leaky)
        if continuous and not kind.is_continuous:
            raise ValueError(f"{network.name!r} is of {kind.in_words}, which is a map in discrete time")
        given = {"nonlinearity": nonlinearity, "tau": tau, "alpha": alpha, "leak": leak}
        times = _time_constants(kind.torch.timed if kind.torch else "", arrays, network, given, starts)
        options, assumed = _options(kind, found, network, given)
        layer = network.layers[0] if kind.torch is None else kind.torch.to_model(network.layers)
        model = kind.kind(**layer, **options, trainable=trainable)  # type: ignore[arg-type]
        rest = {name: array for name, array in arrays.items() if name not in (*network.used, times)}
        initial = initial_states(rest, starts, model) if starts else None
        rest = {name: array for name, array in rest.items() if name not in starts}
        head, explained, about_heads = choose_readout(rest, network, readout, assigned)
        _require_explained({name: array for name, array in rest.items() if name not in explained}, network)
    except ValueError as error:
        raise ValueError(f"{found.origin}: {error}") from error
    if assumed:
        notes.insert(
            0,
            f"the nonlinearity is assumed to be {options['nonlinearity']}, which the weights do not tell: "
            "nonlinearity= (--nonlinearity) says otherwise",
        )
    notes += [*network.notes, *about_heads, *found.notes]
    if starts:
        notes.append(f"the initial state is {' and '.join(starts)}, held fixed")
    if found.ignored:
        notes.append(f"set aside as asked: {listed(found.ignored)}")
    return Checkpoint(model, head, initial, assumed, notes)


def _where(reset: str | None) -> str | None:
    if reset not in (None, "before", "after"):
        raise ValueError(f"reset must be 'before' or 'after' the product; got {short(reset)}")
    return reset


def _network(found: Source, assigned: Mapping[str, str], reset: str | None) -> tuple[Recurrent, Arrays, list[str]]:
    """The network, by the names of kpref, of PyTorch, or of another library; all arrays, put together, and notes."""
    by_map = [key for key in assigned if key not in HEAD]
    network = find_described(found)
    if network is not None:
        if by_map or reset is not None:
            raise ValueError(f"the file says which arrays are what; got {f'map of {by_map[0]}' if by_map else 'reset'}")
        return network, found.arrays, []
    arrays, notes = put_together(found.arrays)
    if not by_map and not has_layers(arrays):
        network = find_foreign(arrays, reset)
    if network is None:
        network = find_recurrent(arrays, assigned)
        of_keras = [name for key, name in assigned.items() if parts_of(untransposed(arrays, name))[-1:] == _KERAS]
        if network.blocks == 3 and of_keras:
            raise ValueError(
                f"{of_keras[0]!r} has the name of a weight of Keras, whose GRU has its gates in the order update, "
                "reset, new, unlike that of map= (--map): it is read without map, beside its kernel and bias"
            )
        if reset == "before":
            network = with_reset_before(network)
    if reset is not None and network.kind != "gru-reset-before" and network.blocks != 3:
        raise ValueError(f"reset= (--reset) is about a GRU; {network.name!r} is of another network")
    return network, arrays, notes


def _names(argument: str, given: Any) -> list[str]:
    """An argument that takes one name or several, as a list."""
    if not isinstance(given, str | list | tuple | set | frozenset):
        raise TypeError(f"{argument} must be the names of arrays, one or several; got {short(given)}")
    names = [given] if isinstance(given, str) else list(given)
    odd = [name for name in names if not isinstance(name, str) or name == ""]
    if odd:
        raise TypeError(f"{argument} must be the name of an array; got {short(odd[0])}")
    return names


def _assigned(map: Mapping[str, str] | None) -> dict[str, str]:
    """The argument `map`, checked."""
    if map is not None and not isinstance(map, Mapping):
        raise TypeError(f"map must be a mapping from {listed((*LAYER, *HEAD))} to names of arrays; got {short(map)}")
    assigned = dict(map or {})
    for key, name in assigned.items():
        if not (isinstance(key, str) and (key in HEAD or place_of(key))) or not isinstance(name, str):
            raise ValueError(
                f"map (--map KEY=NAME) must say of some of {listed((*LAYER, *HEAD))} which arrays they are; got "
                f"{short(key)}: {short(name)}"
            )
    twice = [name for name in assigned.values() if list(assigned.values()).count(name) > 1]
    if twice:
        raise ValueError(f"map (--map KEY=NAME) takes {twice[0]!r} for two things")
    places = [place_of(key) for key in assigned if key not in HEAD]
    if len(set(places)) < len(places):
        raise ValueError(f"map (--map KEY=NAME) says twice what an array of the first layer is; got {listed(assigned)}")
    return assigned


def _choose_kind(found: Source, network: Recurrent, continuous: bool, leaky: bool) -> Registration:
    """What network the arrays are: what was asked for, what the file says, or what their shapes tell."""
    several = len(network.layers) > 1
    kinds = {
        known.name: known
        for known in registered().values()
        if known.torch and known.torch.blocks == network.blocks and known.torch.several >= several
    }
    recorded = kinds.get(found.recorded.get("model", ""))
    if recorded is not None and (recorded.is_continuous or not continuous):
        return recorded
    if leaky and not continuous:
        of_leak = [known for known in kinds.values() if known.torch and "alpha" in known.torch.options]
        if of_leak:
            return of_leak[0]
    (told,) = (known for known in kinds.values() if known.torch and known.torch.told and known.torch.several == several)
    if not continuous:
        return told
    of_fields = [known for known in kinds.values() if known.is_continuous]
    if not of_fields:
        raise ValueError(
            f"a network in continuous time must be a rate network, with a recurrent weight of shape (H, H); got "
            f"{network.name} of shape {network.layers[0]['weight_hh'].shape}, {told.in_words}, which is a map in "
            "discrete time"
        )
    return of_fields[0]


def _beside(network: Recurrent, name: str) -> str:
    """The name of an array of the module that the recurrent layers are in."""
    return f"{network.module}.{name}" if network.module else name


def _time_constants(
    timed: str, arrays: Arrays, network: Recurrent, given: dict[str, Any], starts: Sequence[str]
) -> str | None:
    """Name of the array of trained time constants beside the weights, if there is one; it is what was `given` then."""
    name = _beside(network, timed)
    if not timed or name not in arrays or name in starts or arrays[name].shape != (network.n_units,):
        return None
    if given[timed] is not None:
        raise ValueError(
            f"{timed} is trained in this network, which has the array {name!r}; got {timed}={short(given[timed])} "
            f"beside it: set the array aside with ignore= (--ignore {name})"
        )
    given |= {timed: arrays[name], f"train_{timed}": True}
    return name


def _options(
    kind: Registration, found: Source, network: Recurrent, given: Mapping[str, Any]
) -> tuple[dict[str, Any], bool]:
    """Arguments of the model that its arrays do not tell, and whether its nonlinearity is an assumption."""
    wanted = kind.torch.options if kind.torch is not None and not network.kind else network.wanted
    missing = [name for name in network.asked if given[name] is None and not kind.is_continuous]
    if missing:
        ways = ", ".join(f"{name}= (--{name})" for name in missing)
        raise ValueError(
            f"{network.name!r} is of a network whose {' and '.join(missing)} nothing tells: say so with {ways}; where "
            "there is no leak, alpha is 1"
        )
    for name, value in given.items():
        if value is None or name in wanted or name.startswith("train_"):
            continue
        if network.options:
            raise ValueError(f"the file says what network it holds, {kind.in_words}; got {name}={short(value)}")
        if name == "tau" and not kind.is_continuous:
            raise ValueError(f"tau is for networks in continuous time, and this one is not; got {value!r}")
        raise ValueError(f"{kind.in_words} has no {name} to choose; got {value!r}")
    options = {**kind.fixed, **network.options, **{name: value for name, value in given.items() if value is not None}}
    if found.recorded.get("model") == kind.name and kind.torch is not None:
        there = [name for name in kind.torch.optional if name in found.recorded]
        for name in (*wanted, *there):
            if name not in options and name not in _TEXTS:
                options[name] = _recorded_number(found.recorded, name)
        if "leak" in wanted and "leak" in found.recorded:
            options["leak"] = found.recorded["leak"]
    if "nonlinearity" not in wanted or "nonlinearity" in options:
        return options, False
    said = (found.nonlinearities.get(network.module), found.recorded.get("nonlinearity"))
    nonlinearity = next((name for name in said if name is not None), None)
    return {**options, "nonlinearity": "tanh" if nonlinearity is None else nonlinearity}, nonlinearity is None


def _recorded_number(recorded: Mapping[str, str], name: str) -> ArrayLike:
    """A number, or one for each unit, that `save_checkpoint` recorded, as it wrote it."""
    try:
        number: ArrayLike = json.loads(recorded[name])
    except (KeyError, ValueError, RecursionError):
        raise ValueError(
            f"the recorded {name} must be a number or a list of numbers; got {short(recorded.get(name))}"
        ) from None
    return number


def _require_explained(left: Arrays, network: Recurrent) -> None:
    """Raise ValueError, with the ways out, if an array is left that no part of the network accounts for."""
    if not left:
        return
    n_units, rows, n_layers = network.n_units, network.blocks * network.n_units, len(network.layers)
    first = next(iter(left))
    ways = [f"set aside with ignore= (--ignore {first}) if no weight depends on it"]
    numbers = {name: array for name, array in left.items() if array.dtype.kind != "b"}
    if any(reads(array, n_units) for array in numbers.values()):
        ways.insert(0, "named as the readout with readout= (--readout)")
    if any(initial_shape(array, n_units, n_layers) is not None for array in numbers.values()):
        ways.insert(0, "named as the initial state with z0= (--z0)")
    biases = [name for name, array in numbers.items() if array.shape == (rows,)]
    free = [key for key in ("bias_ih", "bias_hh") if network.blocks and key not in network.layers[0]]
    if biases and free:
        ways.insert(0, f"read as a bias with map= (--map {free[0]}={biases[0]})")
    turned = [name for name, array in left.items() if array.ndim == 2 and len(array) == n_units != array.shape[1]]
    if turned:
        ways.insert(0, f"read as the readout, transposed, with map= (--map readout.weight={turned[0]}.T)")
    described = [f"{name!r} {array.shape}" for name, array in left.items()]
    more = f" and {len(described) - 8} more" if len(described) > 8 else ""
    raise ValueError(
        f"found {', '.join(described[:8])}{more} beside the recurrent layer, which no part of a network of {n_units} "
        f"units with a linear readout (a weight of {n_units} columns, and its bias) accounts for; each must be "
        f"{', or '.join(ways)}"
    )
