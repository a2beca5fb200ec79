"""The recurrent layer among named arrays, by the names and layouts of PyTorch.

``weight_ih``, ``weight_hh``, ``bias_ih``, ``bias_hh`` are those of a cell, the same with ``_l0`` those of a layer,
after any prefix that ends in a dot. How many blocks of H rows the recurrent weight (rows, H) has tells an RNN (1) from
a GRU (3) and an LSTM (4). Equinox names the weights alike, but its GRU has ``bias`` (3 H,) and ``bias_n`` (H,), which
are PyTorch's ``bias_ih`` and the last third of its ``bias_hh``: ``n = tanh(c_n + bias + r * (a_n + bias_n))``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kpref._archives import Arrays
from kpref._validate import check_shape, finite_array
from kpref.checkpoints.sources import listed

__all__ = ["LAYER", "Layer", "find_layer", "taken", "untransposed"]

LAYER = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
"""Parameters of a recurrent layer, by the names that ``map`` assigns."""

_RECURRENT = re.compile(
    r"(?P<prefix>(.*\.)?)(?P<parameter>weight_ih|weight_hh|weight_hr|bias_ih|bias_hh)(?P<layer>_l\d+)?(?P<reverse>_reverse)?",
    re.DOTALL,
)


@dataclass(frozen=True)
class Layer:
    """A recurrent layer.

    Attributes
    ----------
    parameters : dict
        Parameter of the model -> array, finite, in float64, of matching shapes.
    names : dict
        Parameter of the model -> name in the checkpoint, as errors call it.
    used : frozenset of str
        Names of all arrays that it was made from.
    module : str
        The name of the module that it was found in, "" for the outermost.
    notes : tuple of str
    """

    parameters: Arrays
    names: dict[str, str]
    used: frozenset[str]
    module: str
    notes: tuple[str, ...] = ()

    @property
    def n_states(self) -> int:
        """Number H of units."""
        return int(self.parameters["weight_hh"].shape[1])

    @property
    def n_inputs(self) -> int:
        """Number of inputs."""
        return int(self.parameters["weight_ih"].shape[1])


def find_layer(arrays: Arrays, assigned: Mapping[str, str]) -> Layer:
    """Find the one recurrent layer.

    Parameters
    ----------
    arrays : dict
    assigned : mapping
        Parameter -> name of an array, ending in ``.T`` if it is to be transposed; goes before what is recognised.

    Raises
    ------
    ValueError
        If there is none, more than one (stacked, bidirectional), an LSTM or one with projections; if shapes do not
        match or a number is not finite.
    """
    prefix, suffix, names = _recognised(arrays, assigned)
    names |= {parameter: name for parameter, name in assigned.items() if parameter in LAYER}
    missing = [parameter for parameter in ("weight_ih", "weight_hh") if parameter not in names]
    if len(missing) == 2 and not names:
        raise ValueError(
            "found no recurrent layer, which has 'weight_ih' and 'weight_hh' (or 'weight_ih_l0' and 'weight_hh_l0'), "
            "with or without a prefix: say which arrays they are with map= (--map weight_hh=NAME); the names are "
            f"{listed(arrays)}"
        )
    if missing:
        raise ValueError(
            f"the recurrent layer has {listed(names.values())} but no {' and no '.join(missing)}: say which arrays "
            f"they are with map= (--map {missing[0]}=NAME)"
        )
    rows, n_states = _check_kind(names["weight_hh"], taken(arrays, names["weight_hh"]))
    notes: list[str] = []
    values = {parameter: taken(arrays, name) for parameter, name in names.items()}
    used = {untransposed(arrays, name) for name in names.values()}
    _add_single_bias(arrays, prefix, suffix, names, values, used, notes)
    _check_driving(names["weight_ih"], values["weight_ih"], names["weight_hh"], rows)
    shapes: dict[str, tuple[int | str, ...]] = {"weight_ih": (rows, "n_in"), "weight_hh": (rows, n_states)}
    parameters = {
        parameter: finite_array(names[parameter], values[parameter], shape=shapes.get(parameter, (rows,)))
        for parameter in LAYER
        if parameter in names
    }
    return Layer(parameters, names, frozenset(used), prefix.removesuffix("."), tuple(notes))


def taken(arrays: Arrays, name: str) -> NDArray:
    """The array of a name; transposed if there is none and the name ends in ``.T``.

    Raises
    ------
    ValueError
        If there is no such array.
    """
    plain = untransposed(arrays, name)
    if plain not in arrays:
        raise ValueError(f"there is no array {plain!r}; the names are {listed(arrays)}")
    return arrays[plain] if plain == name else arrays[plain].T


def untransposed(arrays: Arrays, name: str) -> str:
    """The name of the array that `taken` takes."""
    return name if name in arrays else name.removesuffix(".T")


def _recognised(arrays: Arrays, assigned: Mapping[str, str]) -> tuple[str, str, dict[str, str]]:
    """Prefix and suffix of the layer, and its parameters -> names; all empty if there is none."""
    layers: dict[tuple[str, str], dict[str, str]] = {}
    elsewhere = {untransposed(arrays, name) for name in assigned.values()}
    for name in arrays:
        match = _RECURRENT.fullmatch(name)
        if match is None or name in elsewhere:
            continue
        if match["reverse"]:
            raise ValueError(f"bidirectional networks are not supported; found {name!r}")
        if match["layer"] not in (None, "_l0"):
            raise ValueError(f"stacked layers are not supported; found {name!r}")
        if match["parameter"] == "weight_hr":
            raise ValueError(f"networks with projections are not supported; found {name!r}")
        layers.setdefault((match["prefix"], match["layer"] or ""), {})[match["parameter"]] = name
    if len(layers) > 1:
        found = [name for names in layers.values() for name in names.values()]
        raise ValueError(
            f"several recurrent layers are not supported; found {listed(found)}: set others aside with ignore= "
            "(--ignore)"
        )
    return next(((*where, names) for where, names in layers.items()), ("", "", {}))


def _check_kind(name: str, weight: NDArray) -> tuple[int, int]:
    """Rows and columns of a recurrent weight of an RNN or a GRU."""
    check_shape(name, weight, ndim=2)
    rows, n_states = weight.shape
    if n_states and rows == 4 * n_states:
        raise ValueError(f"an LSTM is not supported yet; found {name!r} of shape {(rows, n_states)}")
    if n_states == 0 or rows not in (n_states, 3 * n_states):
        turned = rows > 0 and n_states in (3 * rows, 4 * rows)
        raise ValueError(
            f"{name} must have shape (H, H) for an RNN or (3 H, H) for a GRU, H at least 1; got {(rows, n_states)}"
            + (f", which is that of a transpose: map= (--map weight_hh={name}.T) reads it as one" if turned else "")
        )
    return rows, n_states


def _check_driving(name: str, weight: NDArray, recurrent: str, rows: int) -> None:
    """The weight of the inputs has the rows of the recurrent one."""
    if weight.ndim == 2 and weight.shape[0] != rows == weight.shape[1]:
        raise ValueError(
            f"{name} must have shape ({rows}, n_in); got {weight.shape}, which is that of a transpose: map= (--map "
            f"weight_ih={name}.T) reads it as one, and --map weight_hh={recurrent}.T the recurrent weight, whose shape "
            "does not tell"
        )


def _add_single_bias(
    arrays: Arrays, prefix: str, suffix: str, names: dict[str, str], values: Arrays, used: set[str], notes: list[str]
) -> None:
    """Take ``bias`` of an RNN, and ``bias`` and ``bias_n`` of a GRU of Equinox, where no other bias is there."""
    single, third = f"{prefix}bias{suffix}", f"{prefix}bias_n{suffix}"
    rows, n_states = values["weight_hh"].shape
    if single not in arrays or {"bias_ih", "bias_hh"} & names.keys() or f"{prefix}weight" in arrays:
        return
    if rows == n_states:
        names["bias_ih"], values["bias_ih"] = single, arrays[single]
        used.add(single)
        return
    if third not in arrays:
        return  # whether it stands inside the product with the reset gate or outside, nobody knows
    check_shape(third, arrays[third], shape=(n_states,))
    names |= {"bias_ih": single, "bias_hh": third}
    values |= {"bias_ih": arrays[single], "bias_hh": np.concatenate([np.zeros(2 * n_states), arrays[third]])}
    used |= {single, third}
    notes.append(
        f"{third} is the last third of bias_hh, the rest of which is zero: as bias_hh is trainable as a whole, kernels "
        f"and gradients count {2 * n_states} parameters that this network does not have"
    )
