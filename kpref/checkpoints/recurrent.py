"""The recurrent layers among named arrays, by the names and layouts of PyTorch.

``weight_ih``, ``weight_hh``, ``bias_ih``, ``bias_hh`` are those of a cell; the same with ``_l0``, ``_l1``, ... those of
one layer or of several, one above the other; after any prefix that ends in a dot. How many blocks of H rows the
recurrent weight (rows, H) has tells an RNN (1) from a GRU (3) and an LSTM (4). Equinox names the weights alike, and has
one ``bias``; beside that of its GRU, (3 H,), there is ``bias_n`` (H,): they are PyTorch's ``bias_ih`` and the last
third of its ``bias_hh``, ``n = tanh(c_n + bias + r * (a_n + bias_n))``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kpref._archives import Arrays
from kpref._validate import check_shape, finite_array
from kpref.checkpoints.sources import listed
from kpref.models.registry import Registration, registered

__all__ = ["LAYER", "Recurrent", "find_recurrent", "has_layers", "place_of", "taken", "untransposed"]

LAYER = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
"""Parameters of a recurrent layer, by the names that ``map`` assigns."""

_RECURRENT = re.compile(
    r"(?P<prefix>(.*\.)?)(?P<parameter>weight_ih|weight_hh|weight_hr|bias_ih|bias_hh)(_l(?P<layer>\d+))?(?P<reverse>_reverse)?",
    re.DOTALL,
)
_PLACE = re.compile(r"(weight_ih|weight_hh|bias_ih|bias_hh)(?:_l(\d{1,4}))?")

Place = tuple[str, int]
"""A parameter and the number of its layer."""


@dataclass(frozen=True)
class Recurrent:
    """A recurrent network."""

    layers: tuple[Arrays, ...]  # of each layer: parameter -> array, finite, in float64, of matching shapes
    n_units: int  # of each layer, as readouts see them
    n_inputs: int
    name: str  # of the recurrent weight of the first layer in the checkpoint
    used: frozenset[str]  # names of all arrays that it was made from
    module: str = ""  # the name of the module that it was found in, "" for the outermost
    notes: tuple[str, ...] = ()
    blocks: int = 0  # blocks of H rows of the recurrent weights, where they are PyTorch's
    # by which name it is registered, where that is known: the layer then has the parameters of this kind
    kind: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)  # arguments of it that are known
    wanted: tuple[str, ...] = ()  # and those that may be given
    asked: tuple[str, ...] = ()  # options that have to be given, as nothing tells them


def place_of(key: str) -> Place | None:
    """Parameter and layer that a key of ``map`` means, ``weight_hh`` being that of the first; None if it means none."""
    match = _PLACE.fullmatch(key)
    return None if match is None else (match[1], int(match[2] or 0))


def has_layers(arrays: Arrays) -> bool:
    """Whether any of the names is one of PyTorch's for a recurrent weight."""
    return any((match := _RECURRENT.fullmatch(name)) is not None and "weight" in match["parameter"] for name in arrays)


def find_recurrent(arrays: Arrays, assigned: Mapping[str, str]) -> Recurrent:
    """Find the one recurrent network.

    `assigned`: parameter -> name of an array, ending in ``.T`` if it is to be transposed; goes before what is
    recognised.
    Raises ValueError if there is none, more than one, or it is bidirectional or has projections; if shapes do not match
    or a number is not finite.
    """
    prefix, numbered, names = _recognised(arrays, assigned)
    names |= {place: name for key, name in assigned.items() if (place := place_of(key)) is not None}
    n_layers = _count_layers(arrays, names)
    first = names["weight_hh", 0]
    known = _kind_of(first, taken(arrays, first), turned_name(arrays, first))
    values = {place: taken(arrays, name) for place, name in names.items()}
    rows, n_units = values["weight_hh", 0].shape
    used = {untransposed(arrays, name) for name in names.values()}
    notes: list[str] = []
    for layer in range(n_layers):
        suffix = f"_l{layer}" if numbered else ""
        _add_single_bias(arrays, known, (prefix, suffix, layer), names, values, used, notes)
    driving = names["weight_ih", 0]
    turned = (turned_name(arrays, driving), turned_name(arrays, first))
    _check_driving(driving, values["weight_ih", 0], rows, turned)
    layers = []
    for layer in range(n_layers):
        columns = "n_in" if layer == 0 else n_units
        shapes: dict[str, tuple[int | str, ...]] = {"weight_ih": (rows, columns), "weight_hh": (rows, n_units)}
        layers.append(
            {
                parameter: finite_array(
                    names[parameter, layer], values[parameter, layer], shape=shapes.get(parameter, (rows,))
                )
                for parameter in LAYER
                if (parameter, layer) in names
            }
        )
    assert known.torch is not None
    return Recurrent(
        tuple(layers), n_units, layers[0]["weight_ih"].shape[1], first, frozenset(used), prefix.removesuffix("."),
        tuple(notes), known.torch.blocks,
    )  # fmt: skip


def taken(arrays: Arrays, name: str) -> NDArray:
    """The array of a name; transposed if there is none and the name ends in ``.T``.

    Raises ValueError if there is no such array.
    """
    plain = untransposed(arrays, name)
    if plain not in arrays:
        raise ValueError(f"there is no array {plain!r}; the names are {listed(arrays)}")
    return arrays[plain] if plain == name else arrays[plain].T


def untransposed(arrays: Arrays, name: str) -> str:
    """The name of the array that `taken` takes."""
    return name if name in arrays else name.removesuffix(".T")


def turned_name(arrays: Arrays, name: str) -> str:
    """What `map` calls the transpose of what `taken` takes."""
    plain = untransposed(arrays, name)
    return f"{name}.T" if plain == name else plain


def _recognised(arrays: Arrays, assigned: Mapping[str, str]) -> tuple[str, bool, dict[Place, str]]:
    """Prefix of the network, whether its layers are numbered, and names of its parameters; empty if there is none."""
    found: dict[tuple[str, bool], dict[Place, str]] = {}
    elsewhere = {untransposed(arrays, name) for name in assigned.values()}
    for name in arrays:
        match = _RECURRENT.fullmatch(name)
        if match is None or name in elsewhere:
            continue
        if match["reverse"]:
            raise ValueError(
                f"a bidirectional network has no causal flow, because its states depend on later inputs; found {name!r}"
                ": ignore= (--ignore '*_reverse') reads its forward half alone"
            )
        if match["parameter"] == "weight_hr":
            raise ValueError(
                f"an LSTM with projections (proj_size) is not supported, because its h has fewer columns than its c; "
                f"found {name!r}"
            )
        layers = found.setdefault((match["prefix"], match["layer"] is not None), {})
        layers[match["parameter"], int(match["layer"] or 0)] = name
    if len(found) > 1:
        names = [name for layers in found.values() for name in layers.values()]
        raise ValueError(
            f"several recurrent networks are not supported; found {listed(names)}: set others aside with ignore= "
            "(--ignore), or, if one stands above the other, say so with map= (--map weight_ih_l1=NAME)"
        )
    return next(((*where, layers) for where, layers in found.items()), ("", False, {}))


def _count_layers(arrays: Arrays, names: Mapping[Place, str]) -> int:
    """Number of layers, all of which have both weights."""
    if not names:
        raise ValueError(
            "found no recurrent layer, which has 'weight_ih' and 'weight_hh' (or 'weight_ih_l0' and 'weight_hh_l0'), "
            "with or without a prefix: say which arrays they are with map= (--map weight_hh=NAME); the names are "
            f"{listed(arrays)}"
        )
    n_layers = 1 + max(layer for _, layer in names)
    wanted = [(parameter, layer) for layer in range(n_layers) for parameter in ("weight_ih", "weight_hh")]
    missing = [f"{parameter}_l{layer}" if layer else parameter for parameter, layer in wanted
               if (parameter, layer) not in names]  # fmt: skip
    if missing:
        raise ValueError(
            f"the recurrent layer has {listed(names.values())} but no {' and no '.join(missing)}: say which arrays "
            f"they are with map= (--map {missing[0]}=NAME)"
        )
    return n_layers


def _kind_of(name: str, weight: NDArray, turned_name: str) -> Registration:
    """The network of one layer that a recurrent weight is of; `turned_name`: that of its transpose, for `map`."""
    check_shape(name, weight, ndim=2)
    rows, n_units = weight.shape
    layouts = ((known.torch, known) for known in registered().values() if known.torch is not None)
    kinds = {layout.blocks: known for layout, known in layouts if layout.told and not layout.several}
    if n_units and rows % n_units == 0 and rows // n_units in kinds:
        return kinds[rows // n_units]
    turned = rows > 0 and n_units % rows == 0 and n_units // rows in kinds
    shapes = [
        f"({'' if blocks == 1 else f'{blocks} '}H, H) for {kind.in_words}" for blocks, kind in sorted(kinds.items())
    ]
    raise ValueError(
        f"{name} must have shape {', '.join(shapes[:-1])} or {shapes[-1]}, H at least 1; got {(rows, n_units)}"
        + (f", which is that of a transpose: map= (--map weight_hh={turned_name}) reads it as one" if turned else "")
    )


def _check_driving(name: str, weight: NDArray, rows: int, turned: tuple[str, str]) -> None:
    """The weight of the inputs has the rows of the recurrent one; `turned`: names of the transposes of both."""
    if weight.ndim == 2 and weight.shape[0] != rows == weight.shape[1]:
        raise ValueError(
            f"{name} must have shape ({rows}, n_in); got {weight.shape}, which is that of a transpose: map= (--map "
            f"weight_ih={turned[0]}) reads it as one, and --map weight_hh={turned[1]} the recurrent weight, whose "
            "shape does not tell"
        )


def _add_single_bias(
    arrays: Arrays,
    known: Registration,
    where: tuple[str, str, int],
    names: dict[Place, str],
    values: dict[Place, NDArray],
    used: set[str],
    notes: list[str],
) -> None:
    """Where no other is there, take ``bias`` if only the sum counts, and ``bias`` and ``bias_n`` of Equinox's GRU."""
    prefix, suffix, layer = where
    single, third = f"{prefix}bias{suffix}", f"{prefix}bias_n{suffix}"
    has_others = any((name, layer) in names for name in ("bias_ih", "bias_hh"))
    if single not in arrays or has_others or f"{prefix}weight" in arrays:
        return
    assert known.torch is not None
    if known.torch.biases == "summed":
        names["bias_ih", layer], values["bias_ih", layer] = single, arrays[single]
        used.add(single)
        return
    if third not in arrays:
        return  # whether it stands inside the product with the reset gate or outside, nobody knows
    n_units = values["weight_hh", 0].shape[1]
    check_shape(third, arrays[third], shape=(n_units,))
    names |= {("bias_ih", layer): single, ("bias_hh", layer): third}
    values["bias_ih", layer] = arrays[single]
    values["bias_hh", layer] = np.concatenate([np.zeros(2 * n_units), arrays[third]])
    used |= {single, third}
    notes.append(
        f"{third} is the last third of bias_hh, the rest of which is zero: as bias_hh is trainable as a whole, kernels "
        f"and gradients count {2 * n_units} parameters that this network does not have"
    )
