"""Weights that PyTorch keeps in parts: weight normalisation and pruning put together, what else there is refused.

Weight normalisation keeps a direction v and a length g for each slice of the weight, ``W = g v / |v|``; its old form
calls them ``weight_v`` and ``weight_g``, its new one ``parametrizations.weight.original1`` and ``original0``. Pruning
keeps ``weight_orig`` and ``weight_mask``, ``W = weight_orig * weight_mask``.

What a network trains is then not W. Its states do not depend on that, but a kernel of parameters does: the derivative
by v or by the unpruned weight is another one. The notes say so.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from kpref._archives import Arrays
from kpref._validate import finite_array

__all__ = ["not_put_together", "put_together"]

_PARAMETRIZED = re.compile(r"(?P<module>(.*\.)?)parametrizations\.(?P<name>[^.]+)\.(?P<part>.+)")


def put_together(arrays: Arrays) -> tuple[Arrays, list[str]]:
    """Replace the parts of each weight by the weight.

    Returns the arrays, without parts, and with the weights under the names that they would have in a plain network;
    and notes on what was put together.
    Raises ValueError if a weight is made from its parts in another way (spectral normalisation, orthogonal and custom
    parametrizations); the error says how to save the weight itself.
    """
    parts = _weight_parts(arrays)
    whole, notes = dict(arrays), []
    for target, (kind, names) in parts.items():
        if target in whole:
            raise ValueError(f"found {target!r} beside {names[0]!r} and {names[1]!r}, of which it is made")
        first, second = (finite_array(name, arrays[name]) for name in names)
        for name in names:
            del whole[name]
        if kind == "pruning":
            if first.shape != second.shape:
                raise ValueError(f"{names[1]} must have the shape of {names[0]}, {first.shape}; got {second.shape}")
            whole[target] = first * second
            notes.append(
                f"{target} is the product of {names[0]} and {names[1]}: entries that are pruned count as trainable"
            )
        else:
            whole[target] = _weight_norm(names, first, second)
            notes.append(
                f"{target} is put together from {names[0]} and {names[1]} (weight normalisation): what counts as "
                "trainable is the weight, not its parts"
            )
    return whole, notes


def not_put_together(name: str, weight: str) -> ValueError:
    """The error for an array of a parametrization that is not weight normalisation."""
    return ValueError(
        f"{name!r} is part of a parametrization that is not put together here (spectral, orthogonal or custom): save "
        f"the weight itself, torch.nn.utils.parametrize.remove_parametrizations(module, {weight!r}) before state_dict()"
    )


def _weight_parts(arrays: Arrays) -> dict[str, tuple[str, tuple[str, str]]]:
    """Name of the weight -> how it is made, and of what."""
    parts: dict[str, tuple[str, tuple[str, str]]] = {}
    for name in arrays:
        match = _PARAMETRIZED.fullmatch(name)
        if match is not None:
            prefix = f"{match['module']}parametrizations.{match['name']}."
            pair = (f"{prefix}original0", f"{prefix}original1")
            if {other for other in arrays if other.startswith(prefix)} != set(pair):
                raise not_put_together(name, match["name"])
            parts[match["module"] + match["name"]] = ("weight normalisation", pair)
            continue
        stem, suffix = name[:-2], name[-2:]
        if suffix == "_g" and f"{stem}_v" in arrays:
            parts[stem] = ("weight normalisation", (name, f"{stem}_v"))
        stem, _, suffix = name.rpartition("_")
        if suffix == "orig" and f"{stem}_mask" in arrays:
            parts[stem] = ("pruning", (name, f"{stem}_mask"))
        elif suffix == "orig" and f"{stem}_u" in arrays:
            raise ValueError(
                f"{name!r} is part of a spectral normalisation, which is not put together here: save the weight "
                "itself, torch.nn.utils.remove_spectral_norm(module) before state_dict()"
            )
    return parts


def _weight_norm(names: tuple[str, str], length: NDArray[np.float64], direction: NDArray[np.float64]) -> NDArray:
    """``g v / |v|``; the axes along which g has length 1 are those over which the norm is taken."""
    slices = length.ndim == direction.ndim and 1 in length.shape  # of as many lengths as entries it is something else
    if length.ndim and not (slices and np.broadcast_shapes(length.shape, direction.shape) == direction.shape):
        raise ValueError(
            f"{names[0]} must be the length of each slice of {names[1]}, of shape {direction.shape}; got {length.shape}"
        )
    axes = tuple(axis for axis in range(direction.ndim) if length.ndim == 0 or length.shape[axis] == 1)
    norm = np.sqrt((direction**2).sum(axis=axes, keepdims=length.ndim > 0))
    if not norm.all():
        raise ValueError(f"{names[1]} has a slice of zeros, which has no direction")
    weight: NDArray[np.float64] = length * direction / norm
    return weight
